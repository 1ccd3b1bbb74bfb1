"""Muon: orthogonal steps, torch's own where it has them, AdamW for the rest."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from minusface.config import OptimizerConfig
from minusface.train.muon import Muon, orthogonal
from minusface.train.schedule import build_optimizer


def _gradients(*shape: int, steps: int = 4) -> list[Tensor]:
    random = torch.Generator().manual_seed(7)
    return [torch.randn(shape, generator=random) for _ in range(steps)]


def _moved(
    optimizer: torch.optim.Optimizer, weight: nn.Parameter, gradients: list[Tensor]
) -> Tensor:
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach()


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (12, 12)])
def test_singular_values_are_about_one(shape: tuple[int, int]) -> None:
    matrix = 1e-3 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    exact_u, _, exact_v = torch.linalg.svd(matrix, full_matrices=False)
    turned = orthogonal(matrix, torch.float32)
    values = torch.linalg.svdvals(turned)
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.3
    # Along the nearest orthogonal matrix, not any.
    assert torch.cosine_similarity(turned.flatten(), (exact_u @ exact_v).flatten(), dim=0) > 0.97
    rough = orthogonal(matrix)
    assert rough.dtype is torch.bfloat16
    assert torch.cosine_similarity(turned.flatten(), rough.float().flatten(), dim=0) > 0.999


def test_of_zeros_zeros() -> None:
    assert not orthogonal(torch.zeros(3, 5)).any()


@pytest.mark.parametrize("shape", [(8, 30), (30, 8)])
def test_a_matrix_moves_as_torch_moves_it(shape: tuple[int, int]) -> None:
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    start = _gradients(*shape, steps=1)[0]
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    config = OptimizerConfig("muon", lr=0.1, momentum=0.95, weight_decay=0.2)
    first = build_optimizer(config, {"recognizer": [ours]})
    other = torch.optim.Muon(
        [theirs], lr=0.1, momentum=0.95, weight_decay=0.2, adjust_lr_fn="match_rms_adamw"
    )
    gradients = _gradients(*shape)
    torch.testing.assert_close(
        _moved(first, ours, gradients), _moved(other, theirs, gradients), rtol=1e-5, atol=1e-6
    )


def test_a_filter_moves_as_its_matrix() -> None:
    start = _gradients(6, 4, 3, 3, steps=1)[0]
    filters = nn.Parameter(start.clone().contiguous(memory_format=torch.channels_last))
    matrix = nn.Parameter(start.flatten(1).clone())
    config = OptimizerConfig("muon", lr=0.1, momentum=0.9, weight_decay=0.2)
    gradients = _gradients(6, 4, 3, 3)
    one = _moved(build_optimizer(config, {"recognizer": [filters]}), filters, gradients)
    flat = [gradient.flatten(1) for gradient in gradients]
    other = _moved(build_optimizer(config, {"recognizer": [matrix]}), matrix, flat)
    torch.testing.assert_close(one.flatten(1), other)
    assert filters.is_contiguous(memory_format=torch.channels_last)


def test_centres_and_vectors_move_as_adamw_moves_them() -> None:
    start = _gradients(5, 7, steps=1)[0]
    centres, bias = nn.Parameter(start.clone()), nn.Parameter(start[0].clone())
    ours = build_optimizer(
        OptimizerConfig("muon", lr=0.1, weight_decay=0.2),
        {"recognizer": [centres, bias]},
        [centres],
    )
    for weight, decay in ((centres, 0.2), (bias, 0.0)):
        plain = nn.Parameter(weight.detach().clone())
        theirs = torch.optim.AdamW([plain], lr=0.1, weight_decay=decay)
        gradients = _gradients(*weight.shape)
        centres.grad = bias.grad = None
        torch.testing.assert_close(
            _moved(ours, weight, gradients), _moved(theirs, plain, gradients)
        )


def test_groups_say_what_is_turned() -> None:
    hidden, centres, bias = (nn.Parameter(torch.ones(s)) for s in ((4, 3), (9, 3), (4,)))
    made = build_optimizer(
        OptimizerConfig("muon"), {"recognizer": [hidden, centres, bias]}, [centres]
    )
    assert isinstance(made, Muon)
    told = {id(p): g["orthogonal"] for g in made.param_groups for p in g["params"]}
    assert told == {id(hidden): True, id(centres): False, id(bias): False}
    # The other optimisers' groups, and so their checkpoints, are as they were.
    sgd = build_optimizer(
        OptimizerConfig("sgd"), {"recognizer": [hidden, centres, bias]}, [centres]
    )
    assert [len(group["params"]) for group in sgd.param_groups] == [2, 1]


def test_a_closure_sees_gradients_on() -> None:
    weight = nn.Parameter(torch.eye(3))
    made = build_optimizer(OptimizerConfig("muon", lr=0.1), {"recognizer": [weight]})

    def closure() -> float:
        made.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return float(loss.detach())

    assert made.step(closure) == 3.0
    assert weight.diagonal().max() < 1

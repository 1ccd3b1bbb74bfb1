"""Margin heads against the loops of tests/reference/heads.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from minusface.config import HeadConfig
from minusface.errors import MinusfaceError
from minusface.recognize.heads import (
    HEADS,
    AdaFace,
    ArcFace,
    CosFace,
    CurricularFace,
    MarginHead,
    add_angle,
    arcface_margin,
    build_head,
    head_loss,
)
from tests.reference import heads as oracle

CLASSES, SIZE, SCALE = 7, 5, 64.0


def batch(seed: int) -> tuple[Tensor, Tensor]:
    """Embeddings of widely different length, some past pi - m from their centre, and labels."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([0.0005, 1.0, 5.0, 20.0, 60.0, 300.0, 21.0, 19.0])[:, None]
    vectors = torch.randn(8, SIZE, generator=generator, dtype=torch.float64) * lengths
    return vectors, torch.randint(0, CLASSES, (8,), generator=generator)


def head_with(kind: type[MarginHead], vectors: Tensor, labels: Tensor, margin: float) -> MarginHead:
    """A float64 head whose first centres make for extreme angles."""
    torch.manual_seed(3)
    head = kind(SIZE, CLASSES, SCALE, margin).double()
    with torch.no_grad():
        head.centres[labels[1]] = -vectors[1] + 0.01  # almost opposite: past pi - m
        head.centres[labels[4]] = 3.0 * vectors[4] + 0.5  # almost the same
    return head


def arrays(vectors: Tensor, head: MarginHead) -> tuple[oracle.Array, oracle.Array]:
    return vectors.numpy(), head.centres.detach().numpy()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("margin", [0.0, 0.3, 0.5])
def test_arcface_and_cosface_match_the_loops(seed: int, margin: float) -> None:
    vectors, labels = batch(seed)
    arc = head_with(ArcFace, vectors, labels, margin)
    wanted = oracle.arcface(*arrays(vectors, arc), labels.tolist(), SCALE, margin)
    np.testing.assert_allclose(arc(vectors, labels).detach(), wanted, rtol=1e-9, atol=1e-7)
    cos = head_with(CosFace, vectors, labels, margin)
    wanted = oracle.cosface(*arrays(vectors, cos), labels.tolist(), SCALE, margin)
    np.testing.assert_allclose(cos(vectors, labels).detach(), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_curricularface_matches_the_loops_over_several_batches(seed: int) -> None:
    vectors, labels = batch(seed)
    head = head_with(CurricularFace, vectors, labels, 0.5)
    assert isinstance(head, CurricularFace)
    head.t.fill_(0.4)
    t = 0.4
    for step in range(3):
        vectors = vectors.roll(step, 1)
        found = head(vectors, labels).detach()
        wanted, t = oracle.curricularface(*arrays(vectors, head), labels.tolist(), SCALE, 0.5, t)
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-7)
        assert float(head.t) == pytest.approx(t)
    plain = oracle.arcface(*arrays(vectors, head), labels.tolist(), SCALE, 0.5)
    assert not np.allclose(found, plain), "no hard negative in the batch: the test shows nothing"


@pytest.mark.parametrize("seed", range(4))
def test_adaface_matches_the_loops_over_several_batches(seed: int) -> None:
    vectors, labels = batch(seed)
    head = head_with(AdaFace, vectors, labels, 0.4)
    assert isinstance(head, AdaFace)
    head.norm_std.fill_(8.0)
    mean, std = 20.0, 8.0
    for _ in range(3):
        found = head(vectors, labels).detach()
        wanted, mean, std = oracle.adaface(
            *arrays(vectors, head), labels.tolist(), SCALE, 0.4, mean, std
        )
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
        assert float(head.norm_mean) == pytest.approx(mean)
        assert float(head.norm_std) == pytest.approx(std)
    assert float(head.quality(vectors).abs().max()) == 1.0, "a norm beyond three deviations"


def test_arcface_margin_falls_all_the_way() -> None:
    cos = torch.linspace(1.0, -1.0, 2001, dtype=torch.float64)
    margin = arcface_margin(cos, 0.5)
    assert bool((margin.diff() < 0).all())
    assert bool((margin <= cos + 1e-12).all())
    torch.testing.assert_close(
        add_angle(cos, 0.5), torch.cos(torch.acos(cos) + 0.5), atol=1e-5, rtol=0
    )


def test_arcface_gradient() -> None:
    vectors, labels = batch(5)
    vectors = vectors[1:5].clone().requires_grad_()
    head = ArcFace(SIZE, CLASSES, 2.0, 0.5).double()
    centres = head.centres.detach().clone().requires_grad_()

    def logits(e: Tensor, w: Tensor) -> Tensor:
        return torch.func.functional_call(head, {"centres": w}, (e, labels[1:5]))

    assert torch.autograd.gradcheck(logits, (vectors, centres))


@pytest.mark.parametrize("name", sorted(HEADS))
def test_gradients_stay_finite_at_the_ends(name: str) -> None:
    head = HEADS[name](SIZE, 3, SCALE, 0.4)
    with torch.no_grad():
        head.centres[1] = -head.centres[0]
    e = torch.stack([head.centres[0], head.centres[0], torch.zeros(SIZE)]).detach().requires_grad_()
    head_loss(head(e, torch.tensor([0, 1, 2])), torch.tensor([0, 1, 2])).backward()
    assert e.grad is not None
    assert bool(e.grad.isfinite().all())
    assert head.centres.grad is not None
    assert bool(head.centres.grad.isfinite().all())


@pytest.mark.parametrize("name", sorted(HEADS))
def test_logits_are_float32_under_autocast(name: str) -> None:
    vectors, labels = batch(1)
    head = HEADS[name](SIZE, CLASSES, SCALE, 0.4).eval()
    exact = head(vectors.float(), labels)
    with torch.autocast("cpu", torch.bfloat16):
        found = head(vectors.float(), labels)
        loss = head_loss(found, labels)
        coarse = head(vectors.bfloat16(), labels)
    assert found.dtype == loss.dtype == coarse.dtype == torch.float32
    assert torch.equal(found, exact)


@pytest.mark.parametrize("kind", [CurricularFace, AdaFace])
def test_running_statistics_move_in_training_only(kind: type[MarginHead]) -> None:
    vectors, labels = batch(2)
    head = kind(SIZE, CLASSES, SCALE, 0.4)
    before = {name: b.clone() for name, b in head.named_buffers()}
    assert before
    head.eval()(vectors.float(), labels)
    assert all(torch.equal(b, before[name]) for name, b in head.named_buffers())
    head.train()(vectors.float(), labels)
    assert all(not torch.equal(b, before[name]) for name, b in head.named_buffers())


@pytest.mark.parametrize("kind", [CurricularFace, AdaFace])
def test_two_forwards_before_a_backward(kind: type[MarginHead]) -> None:
    vectors, labels = batch(2)
    head = kind(SIZE, CLASSES, SCALE, 0.4)
    losses = [head_loss(head(vectors.float(), labels), labels) for _ in range(2)]
    torch.stack(losses).sum().backward()
    assert head.centres.grad is not None


def test_adaface_gives_worse_images_arcfaces_margin() -> None:
    cos = torch.tensor([0.3], dtype=torch.float64)
    from minusface.recognize.heads import adaface_margin, cosface_margin

    low = adaface_margin(cos, torch.tensor([-1.0]), 0.4)
    torch.testing.assert_close(low, arcface_margin(cos, 0.4), check_dtype=False)
    middle = adaface_margin(cos, torch.tensor([0.0]), 0.4)
    torch.testing.assert_close(middle, cosface_margin(cos, 0.4), check_dtype=False)


def test_single_sample_keeps_adafaces_deviation_finite() -> None:
    head = AdaFace(SIZE, CLASSES, SCALE)
    out = head(torch.ones(1, SIZE), torch.tensor([0]))
    assert bool(out.isfinite().all())
    assert float(head.norm_std) == 100.0


def test_build_head_and_refusals() -> None:
    head = build_head(HeadConfig("cosface", 30.0, 0.35), 16, 9)
    assert isinstance(head, CosFace)
    assert (head.scale, head.margin, head.centres.shape) == (30.0, 0.35, (9, 16))
    with pytest.raises(MinusfaceError, match=r"unknown head 'arc'.*curricularface"):
        build_head(HeadConfig("arc"), 16, 9)  # type: ignore[arg-type]
    with pytest.raises(MinusfaceError, match="0 classes"):
        build_head(HeadConfig(), 16, 0)
    with pytest.raises(MinusfaceError, match="scale"):
        build_head(HeadConfig(scale=math.nan), 16, 9)
    with pytest.raises(MinusfaceError, match="margin"):
        build_head(HeadConfig(margin=4.0), 16, 9)


def test_head_loss_is_the_cross_entropy() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    wanted = (math.log(1 + math.exp(-2.0)) + math.log(2.0)) / 2
    assert float(head_loss(logits, torch.tensor([0, 1]))) == pytest.approx(wanted)

"""Optimisers: the fused step equals the plain one whatever the layout of weights, gradients, moments."""

from __future__ import annotations

import pytest
import torch

from minusface.config import OptimizerConfig
from minusface.train.schedule import build_optimizer


def _weight() -> torch.nn.Parameter:
    torch.manual_seed(1)
    return torch.nn.Parameter(torch.randn(6, 4, 3, 3).contiguous(memory_format=torch.channels_last))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_step_is_the_plain_one_for_any_layout(name: str) -> None:
    config = OptimizerConfig(name=name, lr=0.1, weight_decay=0.01)  # type: ignore[arg-type]
    ours, plain = _weight(), _weight()
    first = build_optimizer(config, {"recognizer": [ours]})
    if name == "sgd":
        other: torch.optim.Optimizer = torch.optim.SGD(
            [plain], lr=0.1, momentum=0.9, weight_decay=0.01
        )
    else:
        other = torch.optim.AdamW([plain], lr=0.1, betas=(0.9, 0.999), weight_decay=0.01)
    for step in range(4):
        # Contiguous gradients for channels_last weights: what a fused step gets wrong by itself.
        gradient = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(step))
        ours.grad, plain.grad = gradient.clone(), gradient.clone()
        first.step()
        other.step()
        if step == 1:  # as a checkpoint brings them back: contiguous
            for values in first.state.values():
                for key, value in values.items():
                    values[key] = value.contiguous()
    assert torch.allclose(ours, plain, atol=1e-6)
    assert ours.is_contiguous(memory_format=torch.channels_last)

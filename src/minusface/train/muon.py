"""Muon: the momentum of a matrix made orthogonal before it moves the weights. No part of the paper.

Jordan et al., 2024, with the step of Liu et al. (arXiv 2502.16982): as long as AdamW's at the same rate.
Filters (O, I, h, w) are matrices (O, I h w), which torch.optim.Muon refuses; for matrices both are the same
(tests/train/test_muon.py). What a group does not call orthogonal is moved by AdamW in the same optimiser, so
that a checkpoint holds one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Newton-Schulz of the fifth degree: singular values from 0.002 of the norm on end between 0.68 and 1.2.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
# Root mean square of AdamW's steps, by Liu et al.
RMS = 0.2
BETAS, EPS = (0.9, 0.999), 1e-8


def orthogonal(matrix: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Roughly the nearest matrix whose rows (or columns, if they are fewer) are orthonormal.

    Args:
        matrix: (m, n), of any scale.
        dtype: of the products; the iteration forgives rounding.

    Returns:
        (m, n) of ``dtype``, singular values about 1. Of zeros, zeros.
    """
    a, b, c = COEFFICIENTS
    x = matrix.to(dtype)
    tall = x.shape[0] > x.shape[1]
    # The smaller side's products.
    x = x.T if tall else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """See the module.

    Args:
        groups: parameter groups; each says ``lr``, ``weight_decay`` and whether it is ``orthogonal``.
        momentum: Nesterov's, of orthogonal groups, between 0 and 1. The others have AdamW's own betas.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float) -> None:
        super().__init__(groups, {"momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move all weights that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            move = self._turned if group["orthogonal"] else self._adamw
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    move(group, weight, weight.grad)
        return loss

    def _turned(self, group: dict[str, Any], weight: Tensor, gradient: Tensor) -> None:
        state = self.state[weight]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        mean = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        rows = orthogonal(gradient.lerp(mean, group["momentum"]).flatten(1))
        length = RMS * max(rows.shape) ** 0.5
        weight.add_(rows.reshape(weight.shape), alpha=-group["lr"] * length)

    def _adamw(self, group: dict[str, Any], weight: Tensor, gradient: Tensor) -> None:
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = (
                torch.zeros_like(weight),
                torch.zeros_like(weight),
            )
        state["step"] += 1
        count, (first, second) = float(state["step"]), BETAS
        mean = state["exp_avg"].lerp_(gradient, 1 - first)
        square = state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        divisor = (square / (1 - second**count)).sqrt_().add_(EPS)
        weight.addcdiv_(mean, divisor, value=-group["lr"] / (1 - first**count))

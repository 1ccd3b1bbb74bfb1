"""PReLU with a backward pass of a few plain passes over memory.

torch's own kernel broadcasts the slopes element by element; with channels innermost on a CPU its backward
takes
ten times longer than reading and writing its tensors. Same function, same parameter, same state dict.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn


class _PReLU(torch.autograd.Function):
    """max(0, x) + slope * min(0, x), a slope a channel: x (B, K, H, W), slope (K,)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return nnf.prelu(x, slope.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, slope = ctx.saved_tensors
        grad = grads[0]
        wide = slope.to(x.dtype).view(-1, *[1] * (x.ndim - 2))
        # threshold_backward keeps the gradient where x > 0: a vectorised kernel for every dtype, which
        # torch.where is not. At 0 the slope is the negative side's, as in torch.
        above = torch.ops.aten.threshold_backward(grad, x, 0)
        below = grad - above
        grad_slope = (x * below).sum((0, *range(2, x.ndim)), dtype=slope.dtype)
        return torch.addcmul(above, below, wide), grad_slope


class PReLU(nn.PReLU):
    """``nn.PReLU`` with a slope a channel, for (B, K, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        """Elementwise; the same shape."""
        if input.device.type != "cpu" or self.num_parameters == 1:
            return super().forward(input)
        result: Tensor = _PReLU.apply(input, self.weight)  # type: ignore[no-untyped-call]
        return result

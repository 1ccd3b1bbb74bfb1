"""PReLU with a backward pass of a few plain passes over memory.

torch's own kernel broadcasts the slopes element by element; with channels innermost on a CPU its backward
takes ten times longer than reading and writing its tensors. Same function, same parameter, same state dict.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from minusface.devices import autocast_type

# Elements a pass: few enough that what is in between stays in the cache, enough that threads are seldom
# woken.
CHUNK = 1 << 20


class _PReLU(torch.autograd.Function):
    """max(0, x) + slope * min(0, x), a slope a channel: x (B, K, H, W), slope (K,)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return nnf.prelu(x, slope.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, slope = ctx.saved_tensors
        wide = slope.to(x.dtype).view(-1, *[1] * (x.ndim - 2))
        grad_x = torch.empty_like(x)
        grad_slope = torch.zeros_like(slope)
        count = max(1, len(x) * CHUNK // max(1, x.numel()))
        parts = (torch.split(tensor, count) for tensor in (x, grads[0], grad_x))
        for some, grad, into in zip(*parts, strict=True):
            # threshold_backward keeps the gradient where x > 0: a vectorised kernel for every dtype,
            # which torch.where is not. At 0 the slope is the negative side's, as in torch.
            above = torch.ops.aten.threshold_backward(grad, some, 0)
            torch.lerp(above, grad, wide, out=into)
            below = torch.clamp_max(some, 0, out=above)
            grad_slope += channel_dot(grad, below, slope)
        return grad_x, grad_slope


def channel_dot(a: Tensor, b: Tensor, like: Tensor) -> Tensor:
    """The sum of a * b over all but the channels: (B, K, ...) twice to (K,), of ``like``'s type.

    It is what a batch norm computes for its weight's gradient at mean 0 and deviation 1: there torch has one
    pass over memory with wide sums, where a product and its sum are three.
    """
    one, zero = torch.ones_like(like), torch.zeros_like(like)
    wanted = [False, True, False]
    dot: Tensor = torch.ops.aten.native_batch_norm_backward(
        a, b, one, zero, one, zero, one, True, 0.0, wanted
    )[1]
    return dot


class PReLU(nn.PReLU):
    """``nn.PReLU`` with a slope a channel, for (B, K, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        """Elementwise; the same shape."""
        plain = input.device.type != "cpu" or self.num_parameters == 1
        # A compiler makes one pass of the plain form and of what is around it.
        if plain or torch.compiler.is_compiling() or not torch.is_grad_enabled():
            if autocast_type(input.device.type) is not None:
                return super().forward(input)
            return nnf.prelu(input, self.weight.to(input.dtype))
        result: Tensor = _PReLU.apply(input, self.weight)  # type: ignore[no-untyped-call]
        return result

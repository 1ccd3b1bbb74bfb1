"""Strided depthwise convolutions in bfloat16 whose gradients are computed in float32.

oneDNN's bfloat16 kernels for those gradients take 6 to 35 times as long as its float32 ones. Forward, and
without a stride, bfloat16 is the faster, as nothing has to change its type.

Legend: B batch, K channels, H, W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

# Elements whose wide copies exist at a time: they stay in the cache.
CHUNK = 1 << 19


class _WideBackward(torch.autograd.Function):
    """(B, K, H, W) bfloat16 and filters (K, 1, h, w) of any float type, to (B, K, H/stride, W/stride)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        with torch.autocast("cpu", enabled=False):
            return nnf.conv2d(x, weight.to(x.dtype), None, stride, padding, groups=weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight = ctx.saved_tensors
        wide = weight.float()
        grad_x, grad_weight = torch.empty_like(x), torch.zeros_like(wide)
        count = max(1, len(x) * CHUNK // max(1, x.numel()))
        parts = (torch.split(tensor, count) for tensor in (x, grads[0], grad_x))
        for some, grad, into in zip(*parts, strict=True):
            grad_some, grad_filters, _ = torch.ops.aten.convolution_backward(
                grad.float(), some.float(), wide, None, ctx.stride, ctx.padding, (1, 1), False,
                (0, 0), len(wide), (True, True, False),
            )  # fmt: skip
            into.copy_(grad_some)
            grad_weight += grad_filters
        return grad_x, grad_weight.to(weight.dtype), None, None


def strided_depthwise(
    x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """A depthwise convolution of bfloat16 maps.

    Args:
        x: (B, K, H, W).
        weight: (K, 1, h, w), of any float type.
        stride: of the filters.
        padding: of the maps, with zeros.
    """
    result: Tensor = _WideBackward.apply(x, weight, stride, padding)  # type: ignore[no-untyped-call]
    return result

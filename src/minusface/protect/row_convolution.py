"""A 3x3 convolution of features as products of the lines of five rows, and its gradient.

Legend: B batch, N crop side, s stride, L numbers a pixel of the lines, O channels a convolution makes; see
:mod:`minusface.protect.rows`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Rows of the crop that three rows of features depend on.
AROUND = 5


class RowConvolution(torch.autograd.Function):
    """A convolution as five products a row, (B, N/s, N/s, O); only filters have gradients."""

    @staticmethod
    def forward(
        ctx: Any, lines: Tensor, steps: Tensor, matrices: Tensor, bias: Tensor | None, stride: int
    ) -> Tensor:
        """Lines (N, B, N, L), steps between their rows and filters a row -> (B, N/s, N/s, O)."""
        # lines (N, B, N, L), steps (N + 3, B, N, L), matrices (N/s, AROUND, L, 3, O)
        ctx.save_for_backward(lines, steps, matrices)
        ctx.stride, ctx.biased = stride, bias is not None
        parts: list[Tensor] = []
        for phase, taps in _phases(stride):
            rows = _rows(lines, steps, phase, stride)
            filters = matrices[:, :, :, _of(taps)].flatten(3)
            # The row itself last: its response is the largest, and rounds what was there before.
            out = torch.bmm(rows[-1], filters[:, -1])
            for j in reversed(range(AROUND - 1)):
                out.baddbmm_(rows[j], filters[:, j])
            height, outside = len(matrices), matrices.shape[-1]
            shape = (height, lines.shape[1], height, len(taps), outside)
            parts.extend(out.view(shape).unbind(3))
        before, at, after = parts if stride == 1 else (parts[1], parts[0], parts[2])
        return _summed(before, at, after, bias, stride)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, Tensor, Tensor | None, None]:
        """Gradients of filters and bias."""
        lines, steps, matrices = ctx.saved_tensors
        stride = ctx.stride
        grad = grads[0].transpose(0, 1).to(lines.dtype).contiguous()
        height, batch, width, outside = grad.shape
        into = matrices.new_empty(matrices.shape)
        for phase, taps in _phases(stride):
            spread = grad.new_zeros(height, batch, width, len(taps), outside)
            for place, tap in enumerate(taps):
                shift = (tap - 1 - phase) // stride
                if shift < 0:
                    spread[:, :, :-1, place] = grad[:, :, 1:]
                elif shift > 0:
                    spread[:, :, 1:, place] = grad[:, :, :-1]
                else:
                    spread[:, :, :, place] = grad
            rows = _rows(lines, steps, phase, stride)
            wide = spread.view(height, batch * width, -1)
            for j in range(AROUND):
                part = torch.bmm(rows[j].transpose(1, 2), wide)
                into[:, j, :, _of(taps)] = part.view(height, -1, len(taps), outside)
        bias = grads[0].sum((0, 1, 2), dtype=torch.float32) if ctx.biased else None
        return None, None, into, bias, None


def _summed(before: Tensor, at: Tensor, after: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """What three taps along a row make, each (N/s, B, N/s, O), summed: (B, N/s, N/s, O).

    Image by image, so that it stays in the cache, and in float32: of bfloat16 torch adds so few channels
    one number at a time.
    """
    height, batch, width, outside = at.shape
    response = at.new_empty(batch, height, width, outside)
    for image, out in enumerate(response):
        sums = at[:, image].to(torch.float32, copy=True)
        if bias is not None:
            sums += bias
        sums[:, 1:] += before[:, image, :-1]
        if stride == 1:
            sums[:, :-1] += after[:, image, 1:]
        else:
            sums += after[:, image]
        out.copy_(sums)
    return response


def _phases(stride: int) -> list[tuple[int, range]]:
    """Which columns (modulo the stride) meet which taps."""
    return [(0, range(3))] if stride == 1 else [(0, range(1, 2)), (1, range(0, 3, 2))]


def _of(taps: range) -> slice:
    return slice(taps.start, taps.stop, taps.step)


def _rows(lines: Tensor, steps: Tensor, phase: int, stride: int) -> list[Tensor]:
    """At every stride-th row and column, the row and the steps around it: AROUND of (N/s, B * N/s, L)."""
    size, batch, _, across = lines.shape
    parts = [lines, *(steps[j : j + size] for j in range(AROUND - 1))]
    shape = (size // stride, batch * size // stride, stride, across)
    return [part[::stride].view(shape)[:, :, phase] for part in parts]

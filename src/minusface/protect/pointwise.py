"""A small linear map of its own at every pixel: forward and backward each read their tensors once.

Legend: B batch, P pixels, M input channels, C outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Images whose wide copies exist at a time.
SOME = 8


class _PointwiseMap(torch.autograd.Function):
    """``out[b, p, c] = sum_m hidden[b, p, m] map[p, m, c]``, one small matrix product a pixel."""

    @staticmethod
    def forward(ctx: Any, hidden_bpm: Tensor, map_pmc: Tensor) -> Tensor:
        # The narrow tensor is kept, not its float32 copy: it is the largest of the backward pass.
        ctx.save_for_backward(hidden_bpm, map_pmc)
        return torch.cat([_apply(some, map_pmc) for some in torch.split(hidden_bpm, SOME)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        hidden_bpm, map_pmc = ctx.saved_tensors
        grad_hidden, grad_map = torch.empty_like(hidden_bpm), torch.zeros_like(map_pmc)
        parts = (torch.split(t, SOME) for t in (hidden_bpm, grads[0], grad_hidden))
        for some, grad, into in zip(*parts, strict=True):
            # Batched products of strided small matrices take torch's slowest path on a CPU: ten times the
            # whole map. One copy of the gradient, three numbers a pixel, avoids it.
            grad_pbc = grad.transpose(0, 1).contiguous()
            into.copy_(torch.bmm(grad_pbc, map_pmc.transpose(1, 2)).transpose(0, 1))
            wide_pbm = some.to(map_pmc.dtype).transpose(0, 1)
            grad_map += torch.bmm(grad_pbc.transpose(1, 2), wide_pbm).transpose(1, 2)
        return grad_hidden, grad_map


def _apply(hidden_bpm: Tensor, map_pmc: Tensor) -> Tensor:
    return torch.bmm(hidden_bpm.to(map_pmc.dtype).transpose(0, 1), map_pmc).transpose(0, 1)


def pointwise_map(hidden: Tensor, map_pmc: Tensor) -> Tensor:
    """Apply a matrix of its own at each pixel.

    Args:
        hidden: (B, M, H, W), any float type; channels_last is not copied.
        map_pmc: (H*W, M, C) float32.

    Returns:
        (B, H*W, C) in the map's type.
    """
    hidden_bpm = hidden.permute(0, 2, 3, 1).flatten(1, 2)
    result: Tensor = _PointwiseMap.apply(hidden_bpm, map_pmc)  # type: ignore[no-untyped-call]
    return result

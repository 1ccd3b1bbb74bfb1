"""Block-DCT channels in a fixed range, which several published protections start from.

Legend: B batch, N side of a crop, S = 8 side of a block, K = 64 frequencies, F = 3K channels.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from minusface.protect.bases import analysis, dct_basis
from minusface.protect.codec import DCTCodec

SIDE = 8
FREQUENCIES = SIDE * SIDE
HALF_RANGE = 127.5


@functools.lru_cache(maxsize=4)
def _codec(size: int) -> DCTCodec:
    return DCTCodec(size, SIDE)


@functools.lru_cache(maxsize=4)
def bounds(size: int) -> Tensor:
    """(64,): how large a coefficient of each frequency can get for pixels in [0, 255], level shifted.

    Of a separable transform it is the largest sum of absolute weights down, times the same across. No
    photo is needed for it, so that it may scale noise without telling of anybody.
    """
    reach_s = analysis(dct_basis(SIDE), size).abs().sum(2).amax(1)
    return (HALF_RANGE * reach_s[:, None] * reach_s).flatten().float() * 1.01


def zigzag() -> Tensor:
    """(64,) int64: frequencies u*8 + v from low to high."""
    places = torch.arange(FREQUENCIES)
    return (places // SIDE + places % SIDE).argsort(stable=True)


def frequencies(crops: Tensor) -> Tensor:
    """Crops (B, 3, N, N) in [-1, 1] to (B, 3, 64, N, N) in [0, 1], 1/2 where a coefficient is 0."""
    size = crops.shape[-1]
    codec = _codec(size).to(crops.device)
    split = (-1, 3, FREQUENCIES, size, size)
    found = codec.encode(crops).view(split)
    # Luminance was not level shifted by the codec where its DC stands: its middle is that of grey.
    middle = codec.encode(torch.zeros_like(crops[:1])).view(split)
    reach = 2 * bounds(size).to(crops)[:, None, None]
    scaled: Tensor = ((found - middle) / reach + 0.5).clamp(0, 1)
    return scaled


def laplace(shape: torch.Size | tuple[int, ...], random: torch.Generator) -> Tensor:
    """Laplace noise of scale 1, drawn on the CPU; no value is beyond 17, which one in 2**24 would be."""
    place = torch.rand(shape, generator=random).mul_(2).sub_(1)
    return place.abs().neg_().log1p_().clamp_(min=-17).copysign_(place)

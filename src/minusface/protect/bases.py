"""The fixed matrices of the codecs: bases, and resampling folded into them.

Legend: S ratio, N side of a crop, M = N*S side of the upsampled image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from minusface.errors import MinusfaceError


def dct_basis(size: int) -> Tensor:
    """Orthonormal DCT-II, (frequency, sample), float64."""
    u = torch.arange(size, dtype=torch.float64)[:, None]
    k = torch.arange(size, dtype=torch.float64)[None, :]
    basis = torch.cos(math.pi * (2 * k + 1) * u / (2 * size)) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis


def haar_packet_basis(size: int) -> Tensor:
    """Orthonormal Haar wavelet packet, every band split down to one sample; (band, sample), float64.

    Raises:
        MinusfaceError: size is no power of two.
    """
    if size < 1 or size & (size - 1):
        raise MinusfaceError(f"codec ratio {size}: the dwt codec needs a power of two")
    split = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64) / math.sqrt(2)
    basis = torch.ones(1, 1, dtype=torch.float64)
    while len(basis) < size:
        basis = torch.cat([torch.kron(basis, split[:1]), torch.kron(basis, split[1:])])
    return basis


def _positions(count: int, source: int) -> tuple[Tensor, Tensor]:
    """Where ``count`` samples fall among ``source`` pixels, corners aligned: (left neighbour, weight right).

    Rounded to float32 as torch's own interpolation rounds them, so that features agree with the reference
    to the last digits; exact positions differ from it by up to 3e-5 of a pixel.
    """
    scale = torch.tensor((source - 1) / (count - 1), dtype=torch.float32)
    position = torch.arange(count, dtype=torch.float32) * scale
    left = position.floor().long().clamp(max=source - 2)
    return left, (position - left).double()


def analysis(basis_ss: Tensor, size: int) -> Tensor:
    """A (S, N, N): frequency u of block i from pixel p; upsampling and transform in one."""
    ratio = len(basis_ss)
    left_m, right_m = _positions(size * ratio, size)
    rows = torch.arange(size * ratio)
    upsample_mp = torch.zeros(size * ratio, size, dtype=torch.float64)
    upsample_mp[rows, left_m] = 1 - right_m
    upsample_mp[rows, left_m + 1] += right_m
    return torch.einsum("uk,ikp->uip", basis_ss, upsample_mp.view(size, ratio, size))


def synthesis(basis_ss: Tensor, size: int) -> Tensor:
    """a (S, N): weight of frequency u in pixel p; inverse transform and downsampling in one."""
    ratio = len(basis_ss)
    left_n, right_n = _positions(size, size * ratio)
    # Pixel p samples the large image at p * (N*S - 1) / (N - 1), which lies inside block p: both
    # neighbours are its samples, but where the weight of the right one is nothing.
    start_n = torch.arange(size) * ratio
    low_n = left_n - start_n
    high_n = (low_n + 1).clamp(0, ratio - 1)
    low_n = low_n.clamp(0, ratio - 1)
    return basis_ss[:, low_n] * (1 - right_n) + basis_ss[:, high_n] * right_n

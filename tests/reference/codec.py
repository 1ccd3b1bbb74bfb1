"""The literal DCT and DWT codecs, as the paper tells them: upsample, colour, cut into blocks, transform.

Slow and obvious on purpose: the oracle of the fast codec and the baseline of the benchmarks.
Legend: B batch, C = 3 colours, F = 192 frequency channels, H, W pixels, S = ratio (8).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as nnf
from torch import Tensor

# JPEG (JFIF) full-range colour transform: rows Y, Cb, Cr; columns R, G, B, all in [0, 255].
RGB_TO_YCBCR = torch.tensor(
    [
        [0.299, 0.587, 0.114],
        [-0.168736, -0.331264, 0.5],
        [0.5, -0.418688, -0.081312],
    ],
    dtype=torch.float64,
)


def dct_matrix(size: int) -> Tensor:
    """Orthonormal DCT-II: row u holds the samples of frequency u."""
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for u in range(size):
        for k in range(size):
            scale = math.sqrt((1 if u == 0 else 2) / size)
            matrix[u, k] = scale * math.cos(math.pi * (2 * k + 1) * u / (2 * size))
    return matrix


def haar_packet_matrix(size: int) -> Tensor:
    """Haar wavelet packet by its definition: every band is split into sums and differences again."""

    def bands(signal: list[Tensor]) -> list[Tensor]:
        if len(signal) == 1:
            return signal
        pairs = list(zip(signal[::2], signal[1::2], strict=True))
        low = [(a + b) / math.sqrt(2) for a, b in pairs]
        high = [(a - b) / math.sqrt(2) for a, b in pairs]
        return bands(low) + bands(high)

    return torch.stack(bands(list(torch.eye(size, dtype=torch.float64))))


def encode(images: Tensor, ratio: int = 8, basis: Tensor | None = None) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> (B, 3*S*S, H, W), by way of the S times larger image."""
    basis_ss = (dct_matrix(ratio) if basis is None else basis).to(images)
    batch, colours, height, width = images.shape
    large = nnf.interpolate(
        (images + 1) / 2,
        size=(height * ratio, width * ratio),
        mode="bilinear",
        align_corners=True,
    )
    ycc = torch.einsum("kc,bchw->bkhw", RGB_TO_YCBCR.to(images), large * 255)
    offset = torch.tensor([0.0, 128.0, 128.0]).to(images).view(1, 3, 1, 1)
    shifted = ycc + offset - 128
    columns = nnf.unfold(shifted, kernel_size=ratio, stride=ratio)
    blocks = columns.view(batch, colours, ratio, ratio, height * width)
    coefficients = torch.einsum("uk,vl,bcklp->bcuvp", basis_ss, basis_ss, blocks)
    return coefficients.reshape(batch, colours * ratio * ratio, height, width)


def decode(features: Tensor, ratio: int = 8, basis: Tensor | None = None) -> Tensor:
    """(B, 3*S*S, H, W) -> (B, 3, H, W) in [0, 1], by way of the S times larger image."""
    basis_ss = (dct_matrix(ratio) if basis is None else basis).to(features)
    batch, channels, height, width = features.shape
    coefficients = features.reshape(batch, 3, ratio, ratio, height * width)
    blocks = torch.einsum("uk,vl,bcuvp->bcklp", basis_ss, basis_ss, coefficients)
    columns = blocks.reshape(batch, channels, height * width)
    shifted = nnf.fold(columns, (height * ratio, width * ratio), ratio, stride=ratio)
    offset = torch.tensor([0.0, 128.0, 128.0]).to(features).view(1, 3, 1, 1)
    ycc = shifted + 128 - offset
    inverse = torch.linalg.inv(RGB_TO_YCBCR).to(features)
    large = torch.einsum("kc,bchw->bkhw", inverse, ycc) / 255
    small = nnf.interpolate(large, size=(height, width), mode="bilinear", align_corners=True)
    return small.clamp(0, 1)


def shuffle(features: Tensor, permutation: Tensor) -> Tensor:
    """Sample by sample: channel k of the result is channel permutation[k] of the input."""
    return torch.stack([one[order] for one, order in zip(features, permutation, strict=True)])

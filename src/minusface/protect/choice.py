"""Which of several permutations a client sends. No part of the paper.

How much of a face an eye makes out in a protected image is a matter of the draw: under one permutation eyes
and mouth stand out, under another hardly the outline. A client holds the photo, so that it can try a few and
send the one that shows least. The measure is the audits' own for an eye: by how much the edges of the
image, its contrast stretched, correlate with the photo's.

The permutation sent is then no longer uniform: of K tries, log2(K) bits of its 1,184 are given away. What
attackers who learn make of images so chosen must be measured like everything else (docs/audit_default.md).

Legend: B batch, n images a crop, K tries, F channels, C colours, N side of a crop.
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor

from minusface.errors import MinusfaceError

MOST_TRIES = 64
# Gaussian of one pixel, cut off at four, and Sobel's two filters.
REACH = 4
# A colour's spread that fills the range once stretched, as for the audits' eye; what lies beyond is cut off.
SPREAD = 0.5
FLAT = 1e-4


def check_tries(tries: int) -> int:
    """``tries``, where it is a number of tries.

    Raises:
        MinusfaceError: fewer than 1, more than MOST_TRIES.
    """
    if not 1 <= tries <= MOST_TRIES:
        raise MinusfaceError(f"tries {tries}: expected 1 to {MOST_TRIES}")
    return tries


def edges(images: Tensor) -> Tensor:
    """The largest slope of the colours at each pixel, after a slight blur: (B, C, N, N) to (B, N, N)."""
    smooth, rise = _filters(images)
    flat = nnf.pad(images.flatten(0, 1)[:, None], [REACH + 1] * 4, mode="reflect")
    across = nnf.conv2d(nnf.conv2d(flat, rise[None, None, None]), smooth[None, None, :, None])
    down = nnf.conv2d(nnf.conv2d(flat, smooth[None, None, None]), rise[None, None, :, None])
    return (across.square() + down.square()).view(images.shape).amax(1).sqrt()


def shown(crops: Tensor, images: Tensor) -> Tensor:
    """How much of a crop's outlines images of it show: correlation of the edges, (B, K).

    Args:
        crops: (B, 3, N, N) floats, RGB.
        images: (B, K, 3, N, N) floats.

    Returns:
        Near 0 where edges lie elsewhere, 1 where they lie alike; 0 where an image has none.
    """
    batch, tries = images.shape[:2]
    pixels = images.flatten(0, 1).float()
    centred = pixels - pixels.mean((2, 3), keepdim=True)
    variance = centred.square().mean((2, 3), keepdim=True) + FLAT**2
    stretched = (centred * (SPREAD * variance.rsqrt())).clamp_(-1.0, 1.0)
    seen = _centred(edges(stretched)).view(batch, tries, images.shape[3] * images.shape[4])
    truth = _centred(edges(crops.float()))
    lengths = seen.norm(dim=2) * truth.norm(dim=1, keepdim=True)
    found: Tensor = torch.einsum("bkp,bp->bk", seen, truth) / lengths.clamp_min(1e-12)
    return found


def least_shown(crops: Tensor, images: Tensor) -> Tensor:
    """Which of K images of each crop shows least: (B,) int64. See :func:`shown`."""
    return shown(crops, images).argmin(1)


def _filters(images: Tensor) -> tuple[Tensor, Tensor]:
    """One row each: blurred and then averaged, blurred and then sloping (1, 2, 1 and -1, 0, 1)."""
    place = torch.arange(-REACH, REACH + 1, dtype=torch.float64)
    blur = torch.exp(-(place**2) / 2)
    blur = nnf.pad(blur / blur.sum(), (1, 1))
    wide = nnf.pad(blur, (1, 1))
    before, after = wide[:-2], wide[2:]
    return (before + 2 * blur + after).to(images), (before - after).to(images)


def _centred(maps: Tensor) -> Tensor:
    rows = maps.flatten(1)
    return rows - rows.mean(1, keepdim=True)

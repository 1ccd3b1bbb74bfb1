"""Colours brought to one mean and one spread, a sample at a time."""

from __future__ import annotations

import torch
from torch import Tensor

STANDARD_DEVIATION = 0.5
# Well under one step of an 8-bit image, so that only constant channels are held down.
STANDARDIZE_EPS = 1e-4


def standardize(pixels: Tensor) -> Tensor:
    """Every channel of every sample to mean 0 and standard deviation 0.5: (B, C, H, W) to the same.

    A constant channel becomes 0. Computed in float32 or wider.
    """
    wide = pixels.to(torch.promote_types(pixels.dtype, torch.float32))
    centred = wide - wide.mean((2, 3), keepdim=True)
    # Inside the root, where it also keeps the gradient of a constant channel finite.
    variance = centred.square().mean((2, 3), keepdim=True) + STANDARDIZE_EPS**2
    return centred * (STANDARD_DEVIATION * variance.rsqrt())

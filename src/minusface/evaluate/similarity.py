"""How alike two images are: PSNR and SSIM. They say nothing of identity.

Legend: B batch, C channels, H, W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor

from minusface.errors import MinusfaceError

WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03


def _check(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.ndim != 4:
        raise MinusfaceError(
            f"images {tuple(a.shape)} and {tuple(b.shape)}: expected the same (B, C, H, W)"
        )


def psnr(a: Tensor, b: Tensor, data_range: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio in dB, an image each: (B, C, H, W) twice -> (B,); infinite when equal."""
    _check(a, b)
    error = (a.double() - b.double()).square().mean((1, 2, 3))
    return (10 * torch.log10(data_range**2 / error)).to(torch.float32)


def ssim(a: Tensor, b: Tensor, data_range: float = 1.0) -> Tensor:
    """Structural similarity with a Gaussian window (11x11, sigma 1.5), the mean over colours.

    Args:
        a: (B, C, H, W) in [0, data_range], H, W of at least 11.
        b: the same.
        data_range: span of the values.

    Returns:
        (B,), 1 for equal images; Wang et al. 2004, borders left out.
    """
    _check(a, b)
    if min(a.shape[-2:]) < WINDOW:
        raise MinusfaceError(
            f"ssim: images of {a.shape[-2]}x{a.shape[-1]}, expected at least {WINDOW}"
        )
    x, y = a.double(), b.double()
    mean_x, mean_y = _blur(x), _blur(y)
    var_x = _blur(x * x) - mean_x.square()
    var_y = _blur(y * y) - mean_y.square()
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    bottom = (mean_x.square() + mean_y.square() + c1) * (var_x + var_y + c2)
    return (top / bottom).mean((1, 2, 3)).to(torch.float32)


def _blur(images: Tensor) -> Tensor:
    """Gaussian window, valid places only."""
    offsets = torch.arange(WINDOW, dtype=images.dtype) - WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    weights = (weights / weights.sum()).to(images.device)
    batch, channels, height, width = images.shape
    flat = images.reshape(batch * channels, 1, height, width)
    flat = nnf.conv2d(nnf.conv2d(flat, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
    return flat.view(batch, channels, *flat.shape[-2:])

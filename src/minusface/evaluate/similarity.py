"""How alike two images look, pixel by pixel: PSNR and SSIM. They say nothing of identity.

Legend: B batch, C colours, H, W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from minusface.errors import MinusfaceError
from minusface.types import RANGE_SLACK

WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03


def psnr(a: Tensor, b: Tensor, data_range: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio an image: 10 log10(data_range^2 / mean squared difference).

    Args:
        a: (B, C, H, W) floats in [0, data_range].
        b: the same.
        data_range: the brightest value possible.

    Returns:
        (B,) float64 decibels; infinity for equal images.

    Raises:
        MinusfaceError: shapes that differ, or values outside [0, data_range].
    """
    x, y = _check(a, b, data_range)
    error = (x - y).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(data_range**2 / error)


def ssim(a: Tensor, b: Tensor, data_range: float = 1.0) -> Tensor:
    """Structural similarity an image (Wang et al. 2004): 11x11 Gaussian window of sigma 1.5.

    The mean over all windows that lie in the image whole, and over colours. Differentiable.

    Args:
        a: (B, C, H, W) floats in [0, data_range], H and W at least 11.
        b: the same.
        data_range: the brightest value possible.

    Returns:
        (B,) float64 in [-1, 1]; 1 for equal images.

    Raises:
        MinusfaceError: shapes that differ, images smaller than the window, or values outside
            [0, data_range].
    """
    x, y = _check(a, b, data_range)
    if min(x.shape[2:]) < WINDOW:
        raise MinusfaceError(
            f"SSIM of {x.shape[3]}x{x.shape[2]} pixels, expected {WINDOW}x{WINDOW} or more"
        )
    mean_x, mean_y = _blur(x), _blur(y)
    var_x = _blur(x * x) - mean_x * mean_x
    var_y = _blur(y * y) - mean_y * mean_y
    cov = _blur(x * y) - mean_x * mean_y
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x * mean_x + mean_y * mean_y + c1)
    structure = (2 * cov + c2) / (var_x + var_y + c2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def _check(a: Tensor, b: Tensor, data_range: float) -> tuple[Tensor, Tensor]:
    if a.ndim != 4 or a.shape != b.shape or a.numel() == 0:
        raise MinusfaceError(
            f"images of shapes {tuple(a.shape)} and {tuple(b.shape)}, expected (B, C, H, W) twice"
        )
    for image in (a, b):
        least, most = (float(v) for v in torch.aminmax(image.detach()))
        slack = RANGE_SLACK * data_range
        if not (least >= -slack and most <= data_range + slack):
            raise MinusfaceError(
                f"image with values in [{least:.3g}, {most:.3g}], expected [0, {data_range:g}]"
            )
    # Variances are small differences of large sums.
    return a.to(torch.float64), b.to(torch.float64)


def _blur(x: Tensor) -> Tensor:
    """Weighted mean of every whole window: (B, C, H, W) to (B, C, H - 10, W - 10)."""
    positions = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    weights = torch.exp(-0.5 * (positions / SIGMA).square())
    weights = weights / weights.sum()
    batch, colours, height, width = x.shape
    flat = x.reshape(batch * colours, 1, height, width)
    rows = F.conv2d(flat, weights.reshape(1, 1, WINDOW, 1))
    both = F.conv2d(rows, weights.reshape(1, 1, 1, WINDOW))
    return both.reshape(batch, colours, *both.shape[2:])

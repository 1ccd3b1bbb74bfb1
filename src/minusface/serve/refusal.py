"""Does a picture look like a face photo? Then somebody forgot to protect it, and it is refused.

The colours of a photo lie near a line, or a plane, of the colour cube, and hardly ever around mid-grey;
those of a protected image fill all three dimensions around it. A linear rule on two such numbers was fitted
(logistic regression) on 1,000 LFW crops, 300 drawn faces and their protected images; benchmarks/refusal.py
measures its errors on others.

It guards against mistakes of honest clients. Whoever wants to smuggle a photo past it can.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

# Of: how far a colour's mean is from mid-grey, in tens; the log of the least part of the colours' variance.
WEIGHTS = np.array([4.6, -9.82])
# In the middle of the gap between the photos' and the protected images' extremes, not the fitted one.
LIMIT = 38.2
MID_GREY = 127.5


def naturalness(image: Bytes) -> float:
    """How much a picture (H, W, 3), RGB, looks like a photo: above :data:`LIMIT` it is taken for one."""
    pixels = image.reshape(-1, 3).astype(np.float64)
    mean = pixels.mean(0)
    centred = pixels - mean
    # The one holds down what noise does to pictures without contrast.
    variances = np.linalg.eigvalsh(centred.T @ centred / len(pixels)) + 1.0
    away = float(np.abs(mean - MID_GREY).max()) / 10
    return float(WEIGHTS @ (away, np.log(variances[0] / variances.sum())))


def looks_natural(image: Bytes) -> bool:
    """Whether any square of a column of squares (n*N, N, 3) looks like a photo."""
    side = image.shape[1]
    return any(
        naturalness(image[top : top + side]) >= LIMIT for top in range(0, image.shape[0], side)
    )

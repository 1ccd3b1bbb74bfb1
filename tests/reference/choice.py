"""How much of a photo's outlines an image shows: with OpenCV and NumPy, one image after the other."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def edges(picture: Array) -> Array:
    """Of (N, N, 3), any range: blurred by a pixel, the largest Sobel slope of the three colours."""
    slopes = []
    for colour in range(3):
        plane = np.ascontiguousarray(picture[:, :, colour])
        smooth = cv2.GaussianBlur(plane, (9, 9), 1.0)
        across, down = cv2.Sobel(smooth, cv2.CV_64F, 1, 0), cv2.Sobel(smooth, cv2.CV_64F, 0, 1)
        slopes.append(np.sqrt(across**2 + down**2))
    return np.asarray(np.max(slopes, axis=0))


def stretched(picture: Array) -> Array:
    """Each colour brought to mean 0 and standard deviation 0.5, cut off at -1 and 1."""
    found = np.zeros_like(picture)
    for colour in range(3):
        plane = picture[:, :, colour]
        if plane.std() > 0:
            found[:, :, colour] = (plane - plane.mean()) / plane.std() * 0.5
    return np.clip(found, -1, 1)


def shown(photo: Array, picture: Array) -> float:
    """Correlation of the edges of both, 0 where one has none."""
    a, b = edges(photo).ravel(), edges(stretched(picture)).ravel()
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])

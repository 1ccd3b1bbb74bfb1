"""Faces cut out, turned upright and scaled to the ArcFace template.

Coordinates are pixels, x to the right and y down. Legend: H, W photo pixels, N crop side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from minusface.errors import MinusfaceError
from minusface.faces.detector import Detector, Face, NoFaceError, choose, default_detector
from minusface.faces.photos import read_photo
from minusface.pixels import UInt8

# Left eye, right eye, nose, mouth left, mouth right in a 112x112 crop (ArcFace, arXiv 1801.07698).
TEMPLATE_SIZE = 112
TEMPLATE_112 = np.array(
    [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ],
    np.float64,
)


class AlignedFace(NamedTuple):
    """A face cut out of a photo."""

    crop: UInt8
    """(N, N, 3), RGB."""
    face: Face
    """Where it was."""


def similarity(landmarks: npt.ArrayLike, size: int = TEMPLATE_SIZE) -> npt.NDArray[np.float64]:
    """The rotation, scale and shift that bring landmarks nearest to the template, by least squares.

    Umeyama's closed form (1991) without reflections.

    Args:
        landmarks: (5, 2) x, y in photo pixels, in the template's order.
        size: side of the crop.

    Returns:
        (2, 3): crop = matrix @ (x, y, 1).

    Raises:
        MinusfaceError: another shape, values that are not finite, or five equal points.
    """
    points = np.asarray(landmarks, np.float64)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise MinusfaceError(f"landmarks: {points.shape}, expected five finite points (5, 2)")
    target = TEMPLATE_112 * (size / TEMPLATE_SIZE)
    centre, target_centre = points.mean(0), target.mean(0)
    spread = points - centre
    variance = float((spread**2).sum())
    if variance < 1e-6:
        raise MinusfaceError("landmarks: all five are the same point")
    u, singular, vt = np.linalg.svd((target - target_centre).T @ spread)
    signs = np.array([1.0, np.sign(np.linalg.det(u @ vt)) or 1.0])
    rotation = u @ np.diag(signs) @ vt
    linear = rotation * float((singular * signs).sum()) / variance
    shift = target_centre - linear @ centre
    return np.hstack([linear, shift[:, None]])


def warp(image: UInt8, landmarks: npt.ArrayLike, size: int = TEMPLATE_SIZE) -> UInt8:
    """Cut a face out: (H, W, 3) uint8 RGB to (size, size, 3), black outside the photo.

    Bilinear; where the photo shrinks by two or more it is averaged down first, so that fine texture does
    not turn into false patterns.
    """
    matrix = similarity(landmarks, size)
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if scale < 0.5:
        factor = 2 * scale
        height, width = image.shape[:2]
        small = (max(1, round(width * factor)), max(1, round(height * factor)))
        shrunk = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        # Pixel centres: x_small + 0.5 = (x + 0.5) * factor, for each axis as it was rounded.
        ratio = np.array([small[0] / width, small[1] / height])
        matrix = matrix.copy()
        linear = matrix[:, :2] / ratio
        matrix[:, 2] += linear @ (0.5 - 0.5 * ratio)
        matrix[:, :2] = linear
        image = np.asarray(shrunk, np.uint8)
    crop = cv2.warpAffine(
        image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderValue=(0, 0, 0)
    )
    return np.asarray(crop, np.uint8)


def align_photo(
    image: UInt8,
    detector: Detector | None = None,
    *,
    all_faces: bool = False,
    size: int = TEMPLATE_SIZE,
) -> list[AlignedFace]:
    """The faces of a photo, aligned.

    Args:
        image: (H, W, 3) uint8, RGB.
        detector: by default the shipped one.
        all_faces: every face from left to right; otherwise one, the largest and most central.
        size: side of the crops.

    Raises:
        NoFaceError: there is none.
    """
    faces = (detector or default_detector()).detect(image)
    if not faces:
        height, width = image.shape[:2]
        raise NoFaceError(f"no face found in the {width}x{height} photo")
    chosen = sorted(faces, key=lambda f: f.box[0]) if all_faces else [choose(faces, image.shape)]
    return [AlignedFace(warp(image, face.landmarks, size), face) for face in chosen]


def is_crop(image: UInt8, size: int = TEMPLATE_SIZE) -> bool:
    """Whether an image is taken for a crop as it is: exactly size x size pixels."""
    return image.shape[:2] == (size, size)


def crops_from_files(
    paths: Sequence[Path | str],
    *,
    size: int = TEMPLATE_SIZE,
    all_faces: bool = False,
    detector: Detector | None = None,
) -> Iterator[tuple[str, UInt8]]:
    """Crops of image files: photos are searched and aligned, images of exactly the size taken as crops.

    Yields:
        (name, (size, size, 3) uint8 RGB); the name is the file's stem, with ``_face1`` and so on where
        ``all_faces`` finds several.

    Raises:
        MinusfaceError: an unreadable file, or one without a face, named.
    """
    for path in map(Path, paths):
        image = read_photo(path)
        if is_crop(image, size):
            yield path.stem, image
            continue
        try:
            faces = align_photo(image, detector, all_faces=all_faces, size=size)
        except NoFaceError as error:
            raise NoFaceError(f"{path}: {error}") from error
        for number, aligned in enumerate(faces, 1):
            suffix = f"_face{number}" if len(faces) > 1 else ""
            yield path.stem + suffix, aligned.crop

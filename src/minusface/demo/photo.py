"""The demo's photo and the face in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minusface.errors import MinusfaceError
from minusface.faces import NoFaceError, align_photo, is_crop, read_photo
from minusface.types import UInt8

ASTRONAUT = "Eileen Collins, astronaut (NASA, in the public domain; from scikit-image)"


@dataclass(frozen=True, eq=False)
class Portrait:
    """A photo (H, W, 3), RGB, and the aligned crop (112, 112, 3) of the face in ``box``."""

    photo: UInt8
    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 in photo pixels."""
    crop: UInt8
    words: str
    """What to call the photo."""


def open_portrait(path: str | None) -> Portrait:
    """The photo of a file, or scikit-image's astronaut; a file of crop size is taken for a crop.

    Raises:
        MinusfaceError: unreadable, no face in it, or an extra is missing.
    """
    photo = astronaut() if path is None else read_photo(path)
    words = ASTRONAUT if path is None else Path(path).name
    if is_crop(photo):
        return Portrait(photo, (0.0, 0.0, photo.shape[1] - 1.0, photo.shape[0] - 1.0), photo, words)
    try:
        found = align_photo(photo)[0]
    except NoFaceError as error:
        raise NoFaceError(f"{path or 'photo'}: {error}") from error
    return Portrait(photo, found.face.box, found.crop, words)


def astronaut() -> UInt8:
    """scikit-image's photo of an astronaut: (512, 512, 3), RGB.

    Raises:
        MinusfaceError: scikit-image is not installed.
    """
    try:
        from skimage.data import astronaut as photo
    except ImportError as error:
        raise MinusfaceError(
            'the default photo comes with scikit-image: pip install "minusface[report]", or give --photo'
        ) from error
    return np.asarray(photo(), np.uint8)  # type: ignore[no-untyped-call]

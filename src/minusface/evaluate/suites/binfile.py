"""InsightFace's ``.bin`` benchmarks: a pickle of (encoded images, same or not), two images a pair.

Pickles are programs; see ``pickled`` for how they are read as data.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from minusface.data import decode_image
from minusface.errors import MinusfaceError
from minusface.evaluate.pairs import FOLDS, Pair, PairList
from minusface.evaluate.suites.pickled import kind_of, read_pickle
from minusface.types import UInt8

EXPECTED = "expected a pickle of (encoded images, booleans), two images a pair"


@dataclass(frozen=True)
class BinPairs:
    """A benchmark held in memory."""

    pairs: PairList
    """Keys are ``NAME.bin#0`` and so on: the image's place in the file, the first of equal images."""
    images: dict[str, bytes] = field(repr=False)
    """Encoded, by key."""
    size: int
    """Side of the crops in pixels."""

    def read(self, key: str) -> UInt8:
        """An image as (size, size, 3) bytes, RGB; squares of another size are resampled.

        Raises:
            MinusfaceError: no such key, a damaged image, or one that is no square.
        """
        if key not in self.images:
            raise MinusfaceError(f"{key}: no such image, expected a key of this benchmark")
        image = decode_image(self.images[key], key)
        height, width = image.shape[:2]
        if height != width:
            raise MinusfaceError(f"{key}: {width}x{height} pixels, expected a square crop")
        if width == self.size:
            return image
        method = cv2.INTER_AREA if width > self.size else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(image, (self.size, self.size), interpolation=method), np.uint8)


def read_bin(path: Path | str, size: int = 112) -> BinPairs:
    """Read a ``.bin`` benchmark, of Python 3 or 2. The folds are ten runs of the file in its order, as usual.

    Args:
        path: the file; its images are bytes or uint8 arrays, each an encoded JPEG or PNG.
        size: side of the crops in pixels.

    Raises:
        MinusfaceError: missing, truncated, another pickle, one that holds code, or numbers that do not fit.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MinusfaceError(f"{path}: cannot read ({error.strerror or error})") from error
    try:
        held = read_pickle(data)
    except MinusfaceError as error:
        raise MinusfaceError(f"{path}: {error}; {EXPECTED}") from error
    except Exception as error:
        # A broken pickle trips over whatever it happens to hit.
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise MinusfaceError(f"{path}: damaged or truncated ({reason}); {EXPECTED}") from error
    try:
        images, same = _contents(held)
    except MinusfaceError as error:
        raise MinusfaceError(f"{path}: {error}") from error
    # The lists repeat images: each is kept, and embedded, once.
    known: dict[bytes, str] = {}
    keys = [known.setdefault(image, f"{path.name}#{n}") for n, image in enumerate(images)]
    listed = [Pair(keys[2 * n], keys[2 * n + 1], one) for n, one in enumerate(same)]
    folds = [number * FOLDS // len(listed) for number in range(len(listed))]
    by_key = {key: image for image, key in known.items()}
    return BinPairs(PairList.from_pairs(listed, folds), by_key, size)


def _contents(held: Any) -> tuple[list[bytes], list[bool]]:
    if not isinstance(held, tuple | list) or len(held) != 2:
        raise MinusfaceError(f"holds {kind_of(held)}; {EXPECTED}")
    images, same = held
    for part in held:
        if not isinstance(part, list | tuple | np.ndarray) or getattr(part, "ndim", 1) == 0:
            raise MinusfaceError(f"holds {kind_of(part)} where a list should be; {EXPECTED}")
    if len(images) != 2 * len(same) or not len(same):
        raise MinusfaceError(f"{len(images)} images for {len(same)} pairs; {EXPECTED}")
    return (
        [_bytes(image, number) for number, image in enumerate(images)],
        [_truth(value, number) for number, value in enumerate(same)],
    )


def _bytes(image: Any, number: int) -> bytes:
    # One row or one column of bytes will do: both are about.
    if (
        isinstance(image, np.ndarray)
        and image.dtype == np.uint8
        and max(image.shape, default=0) == image.size
    ):
        return image.tobytes()
    if isinstance(image, bytes):
        return bytes(image)
    raise MinusfaceError(f"image {number}: {kind_of(image)}, expected bytes of an encoded image")


def _truth(value: Any, number: int) -> bool:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    raise MinusfaceError(f"pair {number}: {kind_of(value)}, expected true or false")

"""Photos from disk, whatever they are: upright, three colours, eight bits.

Legend: H, W photo pixels.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from minusface.errors import MinusfaceError
from minusface.pixels import UInt8

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MIN_SIDE = 16
MAX_PIXELS = 100_000_000
GREY = 127  # what shows through transparent pixels


def read_photo(path: Path | str) -> UInt8:
    """A photo as (H, W, 3) bytes, RGB.

    A rotation noted in EXIF is applied. Grey images get three equal colours, sixteen bits become eight,
    transparent pixels lie on mid-grey.

    Raises:
        MinusfaceError: missing, empty, a folder, damaged or cut short, under 16 pixels a side, or over
            100 megapixels.
    """
    path = Path(path)
    if path.is_dir():
        raise MinusfaceError(f"{path}: is a folder, expected an image file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MinusfaceError(f"{path}: cannot read ({error.strerror or error})") from error
    return decode_photo(data, str(path))


def decode_photo(data: bytes, where: str) -> UInt8:
    """The bytes of an image file as a photo; see :func:`read_photo`."""
    if not data:
        raise MinusfaceError(f"{where}: empty file, expected an image")
    _check_header(data, where)
    image = None
    if _is_whole(data):
        flags = cv2.IMREAD_UNCHANGED if data.startswith(b"\x89PNG") else cv2.IMREAD_COLOR
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error:
            image = None
    if image is None:
        raise MinusfaceError(f"{where}: not a readable image, or cut short")
    height, width = image.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise MinusfaceError(
            f"{where}: {width}x{height} pixels, expected {MIN_SIDE} or more a side"
        )
    _check_pixels(width, height, where)
    return _three_colours(image)


def list_photos(paths: Sequence[Path | str]) -> list[Path]:
    """Files as given, and the images in folders (subfolders too), sorted by name.

    Raises:
        MinusfaceError: a path that is not there, or a folder without an image.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            if not path.exists():
                raise MinusfaceError(f"{path}: no such file or folder")
            found.append(path)
            continue
        inside = sorted(
            file for file in path.rglob("*") if file.suffix.lower() in ENDINGS and file.is_file()
        )
        if not inside:
            raise MinusfaceError(f"{path}: no image in this folder ({', '.join(ENDINGS)})")
        found += inside
    return found


def _check_pixels(width: int, height: int, where: str) -> None:
    if width * height > MAX_PIXELS:
        raise MinusfaceError(
            f"{where}: {width}x{height} pixels, expected at most {MAX_PIXELS // 10**6} megapixels"
        )


def _check_header(data: bytes, where: str) -> None:
    """Refuse huge images by what their headers say, before memory is asked for them."""
    if data.startswith(b"\x89PNG") and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        _check_pixels(width, height, where)
    for marker, position in _jpeg_segments(data):
        if (
            0xC0 <= marker <= 0xCF
            and marker not in (0xC4, 0xC8, 0xCC)
            and position + 9 <= len(data)
        ):
            height, width = struct.unpack(">HH", data[position + 5 : position + 9])
            _check_pixels(width, height, where)


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker and position of a JPEG's segments up to its first scan; thumbnails inside are skipped."""
    position = 2 if data.startswith(b"\xff\xd8") else len(data)
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        yield marker, position
        if marker == 0xDA:
            return
        position += 2 + int.from_bytes(data[position + 2 : position + 4])


def _is_whole(data: bytes) -> bool:
    """False where a JPEG or PNG lacks its end: decoders fill the rest with grey, without a word.

    What follows the end (phones append short films) is no concern.
    """
    if data.startswith(b"\xff\xd8"):
        scans = [position for marker, position in _jpeg_segments(data) if marker == 0xDA]
        return bool(scans) and data.find(b"\xff\xd9", scans[0]) >= 0
    if data.startswith(b"\x89PNG"):
        return b"IEND" in data
    return True


def _three_colours(image: np.ndarray) -> UInt8:
    """What OpenCV decoded (BGR, BGRA or grey, eight or sixteen bits) as RGB bytes."""
    if image.dtype == np.uint16:
        image = (image // 257).astype(np.uint8)
    if image.dtype != np.uint8:
        image = np.clip(image * 255.0, 0, 255).round().astype(np.uint8)
    if image.ndim == 2:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), np.uint8)
    if image.shape[2] == 4:
        alpha = image[:, :, 3:].astype(np.float32) / 255.0
        mixed = image[:, :, :3] * alpha + GREY * (1 - alpha)
        image = mixed.round().astype(np.uint8)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)

"""Photos from disk, whatever they are: upright, three colours, eight bits.

Legend: H, W photo pixels.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from minusface.errors import MinusfaceError
from minusface.faces.sizes import is_webp, jpeg_segments, stated_sizes
from minusface.pixels import UInt8

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MIN_SIDE = 16
MAX_PIXELS = 100_000_000
ORIENTATION = 0x0112  # EXIF's tag
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
        # With their transparency, they come as they are stored: neither upright nor in three colours.
        stored = data.startswith(b"\x89PNG") or is_webp(data)
        flags = cv2.IMREAD_UNCHANGED if stored else cv2.IMREAD_COLOR
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
    return _three_colours(_upright(image, _orientation(data)) if stored else image)


def list_photos(paths: Sequence[Path | str]) -> list[Path]:
    """Files as given, and the images in folders, sorted by name.

    Subfolders are searched too, and folders that are linked to; a link back to a folder above it is not.

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
        inside = sorted(_images_in(path, frozenset()))
        if not inside:
            raise MinusfaceError(f"{path}: no image in this folder ({', '.join(ENDINGS)})")
        found += inside
    return found


def _images_in(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    """Images below a folder; ``above`` are the real paths of the folders that led there."""
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        with os.scandir(folder) as found:
            entries = list(found)
    except OSError:
        return
    for entry in entries:
        path = folder / entry.name
        if entry.is_dir():
            yield from _images_in(path, above | {real})
        elif path.suffix.lower() in ENDINGS and entry.is_file():
            yield path


def _check_pixels(width: int, height: int, where: str) -> None:
    if width * height > MAX_PIXELS:
        raise MinusfaceError(
            f"{where}: {width}x{height} pixels, expected at most {MAX_PIXELS // 10**6} megapixels"
        )


def _check_header(data: bytes, where: str) -> None:
    """Refuse huge images by what their headers say, before memory is asked for them."""
    for width, height in stated_sizes(data):
        _check_pixels(width, height, where)


def _is_whole(data: bytes) -> bool:
    """False where a JPEG or PNG lacks its end: decoders fill the rest with grey, without a word.

    What follows the end (phones append short films) is no concern.
    """
    if data.startswith(b"\xff\xd8"):
        scans = [position for marker, position in jpeg_segments(data) if marker == 0xDA]
        return bool(scans) and data.find(b"\xff\xd9", scans[0]) >= 0
    if data.startswith(b"\x89PNG"):
        return b"IEND" in data
    return True


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and content of a PNG's or WebP's chunks."""
    webp = is_webp(data)
    position = 12 if webp else 8
    while position + 8 <= len(data):
        head = data[position : position + 8]
        kind, length = struct.unpack("<4sI", head) if webp else struct.unpack(">I4s", head)[::-1]
        yield kind, data[position + 8 : position + 8 + length]
        position += 8 + length + (length % 2 if webp else 4)


def _orientation(data: bytes) -> int:
    """The orientation that EXIF notes in a PNG or WebP; 1, upright, where there is none."""
    exif = next((body for kind, body in _chunks(data) if kind in (b"eXIf", b"EXIF")), b"")
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 8:
        return 1
    start = struct.unpack(order + "I", exif[4:8])[0] + 2
    for position in range(start, len(exif) - 9, 12):
        tag, _, _, value = struct.unpack(order + "HHIH", exif[position : position + 10])
        if tag == ORIENTATION:
            return int(value)
    return 1


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """An image turned and mirrored as EXIF's orientations 1 to 8 say."""
    if 5 <= orientation <= 8:
        image = image.swapaxes(0, 1)
    rows, columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(image[:: -1 if rows else 1, :: -1 if columns else 1])


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

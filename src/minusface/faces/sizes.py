"""Widths and heights of image files as their headers state them: nothing is decoded."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from minusface.errors import MinusfaceError

WIDTH, HEIGHT = 0x0100, 0x0101  # TIFF's tags


def is_webp(data: bytes) -> bool:
    """By its first bytes."""
    return data.startswith(b"RIFF") and data[8:12] == b"WEBP"


def stated_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    """(width, height) of a PNG, JPEG, WebP, BMP or TIFF; nothing of what is none, or is cut short."""
    try:
        if data.startswith(b"\x89PNG"):
            yield struct.unpack_from(">II", data, 16)
        elif data.startswith(b"\xff\xd8"):
            yield from _jpeg_sizes(data)
        elif is_webp(data):
            yield from _webp_sizes(data)
        elif data.startswith(b"BM"):
            yield _bmp_size(data)
        elif data.startswith((b"II*\0", b"MM\0*")):
            yield from _tiff_sizes(data)
    except struct.error:
        return


def jpeg_size(path: Path) -> tuple[int, int] | None:
    """Width and height of a JPEG by its first 64 KiB; None where they do not tell."""
    try:
        with path.open("rb") as file:
            data = file.read(1 << 16)
    except OSError as error:
        raise MinusfaceError(f"{path}: cannot read ({error.strerror or error})") from error
    return next(_jpeg_sizes(data), None)


def _jpeg_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    """(width, height) as a JPEG's frame says, before its first scan."""
    for marker, position in jpeg_segments(data):
        if (
            0xC0 <= marker <= 0xCF
            and marker not in (0xC4, 0xC8, 0xCC)
            and position + 9 <= len(data)
        ):
            height, width = struct.unpack(">HH", data[position + 5 : position + 9])
            yield width, height


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker and position of a JPEG's segments up to its first scan; thumbnails inside are skipped."""
    position = 2 if data.startswith(b"\xff\xd8") else len(data)
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:
            # Filling, of which a marker may have any number before it.
            position += 1
            continue
        yield marker, position
        if marker == 0xDA:
            return
        position += 2 + int.from_bytes(data[position + 2 : position + 4])


def _webp_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
        yield width + 1, height + 1
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        yield (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        yield width & 0x3FFF, height & 0x3FFF


def _bmp_size(data: bytes) -> tuple[int, int]:
    (header,) = struct.unpack_from("<I", data, 14)
    # The oldest header has half as wide numbers; in the others rows from above have a negative count.
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return abs(width), abs(height)


def _tiff_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    """Of the first page, which is the one that is read."""
    order = "<" if data.startswith(b"II") else ">"
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    found = {}
    for entry in range(count):
        at = start + 2 + 12 * entry
        tag, kind = struct.unpack_from(order + "HH", data, at)
        if tag in (WIDTH, HEIGHT):
            (found[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, at + 8)
    if len(found) == 2:
        yield found[WIDTH], found[HEIGHT]

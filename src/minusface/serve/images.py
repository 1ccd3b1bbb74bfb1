"""From the bytes of a request to a protected image: everything is checked before anything is decoded.

Only PNGs of exactly the model's size come in, three colours of eight bits, without notes in them: so that a
picture can be no larger than expected, and has no room for a text beside its pixels.
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

from minusface.errors import MinusfaceError
from minusface.serve.refusal import looks_natural

Bytes = npt.NDArray[np.uint8]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# What a browser's canvas writes on colour beside the three that every PNG needs: once each, so many bytes.
NOTES = {b"sRGB": (1,), b"gAMA": (4,), b"cHRM": (32,), b"sBIT": (3, 4), b"pHYs": (9,)}
CHUNKS = {b"IHDR", b"IDAT", b"IEND", *NOTES}
RGB, RGBA = 2, 6
OVERHEAD = 65_536
# Standard deviation of a colour's levels; the palest generator seen (docs/audit_trials.md) leaves ten. All
# blank pictures have one template, which would be anybody's who enrolled it.
BLANK = 2.0


class ImageError(MinusfaceError):
    """A picture that is not a protected image of this model's."""


class NaturalImageError(ImageError):
    """A picture that looks like a photo."""


def decode_image(text: str, size: int, copies: int) -> Bytes:
    """Base64 of a PNG to a protected image (n*N, N, 3), RGB.

    Args:
        text: what the client sent.
        size: N.
        copies: n.

    Raises:
        NaturalImageError: it looks like a photo; it has not been kept.
        ImageError: anything but a PNG of this model's protected images.
    """
    # Four characters carry three bytes; longer can be no PNG of this size.
    if len(text) > (most_bytes(size, copies) + 2) * 4 // 3 + 4:
        raise ImageError(f"image: larger than a PNG of {size}x{size * copies} pixels can be")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError("image: not base64") from error
    return decode_png(data, size, copies)


def decode_png(data: bytes, size: int, copies: int) -> Bytes:
    """As :func:`decode_image`, of the PNG's bytes."""
    check_png(data, size, copies)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        image = None
    if image is None or image.dtype != np.uint8 or image.shape[:2] != (size * copies, size):
        raise ImageError("image: a damaged PNG")
    if image.shape[2] == 4:
        if not (image[:, :, 3] == 255).all():
            raise ImageError("image: transparent pixels, expected none")
        image = image[:, :, :3]
    picture = np.ascontiguousarray(image[:, :, ::-1], np.uint8)
    if cv2.meanStdDev(picture)[1].max() < BLANK:
        raise ImageError("image: blank, expected a protected image")
    if looks_natural(picture):
        raise NaturalImageError(
            "image: looks like a photo; photos are never accepted: protect it on the client first"
        )
    return picture


def most_bytes(size: int, copies: int) -> int:
    """The longest PNG that is looked at: stored, not compressed, with alpha."""
    return size * size * copies * 4 + OVERHEAD


def check_png(data: bytes, size: int, copies: int) -> None:
    """Refuse by header and structure alone.

    Raises:
        ImageError: what is wrong.
    """
    if len(data) > most_bytes(size, copies):
        raise ImageError(f"image: {len(data)} bytes, expected at most {most_bytes(size, copies)}")
    if not data.startswith(SIGNATURE):
        raise ImageError("image: not a PNG")
    kinds: list[bytes] = []
    pixels = bytearray()
    bytes_a_pixel = 0
    for kind, body in _chunks(data):
        if not kinds:
            bytes_a_pixel = _check_header(kind, body, size, copies)
        elif kind == b"IDAT":
            if kind in kinds and kinds[-1] != kind:
                raise ImageError("image: a damaged PNG")
            pixels += body
        else:
            _check_note(kind, body, kinds)
        kinds.append(kind)
    if not kinds or kinds[-1] != b"IEND":
        raise ImageError("image: a damaged PNG")
    # Each row begins with the name of its filter.
    _check_pixels(bytes(pixels), size * copies * (1 + size * bytes_a_pixel))


def _check_note(kind: bytes, body: bytes, before: list[bytes]) -> None:
    """A chunk without pixels must be known, the only one of its kind, and of its kind's length."""
    lengths = {**NOTES, b"IEND": (0,)}
    if kind not in lengths or kind in before or len(body) not in lengths[kind]:
        raise ImageError("image: a PNG with notes in it, expected pixels only")


def _check_pixels(packed: bytes, length: int) -> None:
    """What is packed must unpack to so many bytes, and end there."""
    unpack = zlib.decompressobj()
    try:
        # One more than expected is enough to see that there is more.
        found = len(unpack.decompress(packed, length + 1))
    except zlib.error as error:
        raise ImageError("image: a damaged PNG") from error
    if found != length or not unpack.eof or unpack.unused_data:
        raise ImageError("image: a damaged PNG, or one with something behind its pixels")


def _check_header(kind: bytes, body: bytes, size: int, copies: int) -> int:
    """Bytes a pixel."""
    if kind != b"IHDR" or len(body) != 13:
        raise ImageError("image: a damaged PNG")
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", body)
    if (width, height) != (size, size * copies):
        raise ImageError(f"image: {width}x{height} pixels, expected {size}x{size * copies}")
    if depth != 8 or colour not in (RGB, RGBA):
        raise ImageError("image: expected three colours of eight bits")
    if any(rest):
        raise ImageError("image: expected a PNG that is not interlaced")
    return 3 if colour == RGB else 4


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and body of a PNG's chunks; nothing may follow the last."""
    position = len(SIGNATURE)
    while position < len(data):
        if position + 12 > len(data):
            raise ImageError("image: a damaged PNG")
        length = int.from_bytes(data[position : position + 4])
        kind = data[position + 4 : position + 8]
        end = position + 12 + length
        if end > len(data) or (kind == b"IEND" and end != len(data)):
            raise ImageError("image: a damaged PNG, or one with something behind it")
        body = data[position + 8 : end - 4]
        if binascii.crc32(kind + body) != int.from_bytes(data[end - 4 : end]):
            raise ImageError("image: a damaged PNG")
        yield kind, body
        position = end

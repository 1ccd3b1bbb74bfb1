"""A permutation derived from a secret and the crop: one photo then always becomes one protected image.

Whoever sees one photo protected many times, each time shuffled anew, can average the shuffling away. With
a permutation that depends on the photo and a secret of the client's, every repetition gives the same image
and nothing is there to average. The price: whoever holds two protected images of one photo sees that
they are equal.

Legend: B batch, n images a crop, F channels.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from minusface.errors import MinusfaceError
from minusface.types import FaceCrop

LABEL = b"minusface permutation v1"
# Half of what HMAC-SHA256 can hold: guessing it is out of reach.
LEAST_SECRET = 16


def permutation_from_secret(
    secret: bytes, crops: FaceCrop | Tensor, channels: int = 192, copies: int | None = None
) -> Tensor:
    """Permutations that depend on the secret and on each crop's 8-bit pixels alone.

    The key of a crop is HMAC-SHA256(secret, label, shape and bytes); a counter under that key gives a
    stream of numbers for a Fisher-Yates shuffle, each drawn without bias by rejection.

    Args:
        secret: 16 bytes or more, kept by the client.
        crops: (B, 3, N, N) in [-1, 1], RGB; what rounds to the same bytes is the same photo.
        channels: F.
        copies: n; by default one, without a dimension of its own.

    Returns:
        (B, F) int64, or (B, n, F) where copies are asked for.

    Raises:
        MinusfaceError: a secret too short to be one.
    """
    _check(secret)
    faces = crops if isinstance(crops, FaceCrop) else FaceCrop(crops.detach().cpu())
    pictures = faces.to_uint8()
    rows = []
    for picture in pictures:
        said = LABEL + repr(picture.shape).encode() + picture.tobytes()
        key = hmac.digest(secret, said, hashlib.sha256)
        rows.append([_shuffled(key, copy, channels) for copy in range(copies or 1)])
    orders = torch.tensor(rows, dtype=torch.int64).view(len(pictures), copies or 1, channels)
    return orders if copies is not None else orders[:, 0]


def read_secret(path: str | Path) -> bytes:
    """A secret from a file: its bytes, without the newline that editors add.

    Raises:
        MinusfaceError: an unreadable file, or one too short.
    """
    try:
        secret = Path(path).read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise MinusfaceError(f"{path}: cannot read ({error.strerror or error})") from error
    try:
        _check(secret)
    except MinusfaceError as error:
        raise MinusfaceError(f"{path}: {error}") from error
    return secret


def _check(secret: bytes) -> None:
    if len(secret) < LEAST_SECRET:
        raise MinusfaceError(
            f"secret of {len(secret)} bytes, expected {LEAST_SECRET} or more "
            "(say: head -c 32 /dev/urandom > FILE)"
        )


def _words(key: bytes, copy: int) -> Iterator[int]:
    """An endless stream of 32-bit numbers: HMAC of a counter, as HKDF expands a key."""
    block = 0
    while True:
        digest = hmac.digest(
            key, copy.to_bytes(4, "big") + block.to_bytes(8, "big"), hashlib.sha256
        )
        for start in range(0, len(digest), 4):
            yield int.from_bytes(digest[start : start + 4], "big")
        block += 1


def _shuffled(key: bytes, copy: int, channels: int) -> list[int]:
    """Fisher-Yates: every order is as likely as any other, as far as the stream is random."""
    order, words = list(range(channels)), _words(key, copy)
    for last in range(channels - 1, 0, -1):
        other = _below(words, last + 1)
        order[last], order[other] = order[other], order[last]
    return order


def _below(words: Iterator[int], bound: int) -> int:
    """A number from 0 to ``bound`` - 1; words in the last, incomplete run of ``bound`` are passed over."""
    limit = (1 << 32) - (1 << 32) % bound
    while True:
        word = next(words)
        if word < limit:
            return word % bound

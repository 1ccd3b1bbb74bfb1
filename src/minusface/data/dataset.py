"""What every dataset of faces offers, whatever it is read from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from minusface.types import UInt8


class Sample(NamedTuple):
    """One aligned face."""

    image: UInt8
    """(H, W, 3) bytes, RGB."""
    label: int
    """Number of the person, from 0 to ``classes - 1``."""
    key: str
    """Name of the image within its dataset, with forward slashes: ``Person/file.jpg``."""


class FaceDataset(Protocol):
    """Numbered faces of numbered people. The same number always gives the same sample."""

    @property
    def name(self) -> str:
        """Short name for tables and cards."""
        ...

    @property
    def classes(self) -> int:
        """How many people; labels run from 0 to ``classes - 1``."""
        ...

    def __len__(self) -> int:
        """How many images."""
        ...

    def __getitem__(self, index: int) -> Sample:
        """The sample of a number from 0 to ``len - 1``.

        Raises:
            MinusfaceError: the image cannot be read or has another size than promised.
        """
        ...

    def fingerprint(self) -> str:
        """SHA-256 (hex) that changes when images come, go or change size. No image is read for it."""
        ...


def digest(lines: Iterable[str]) -> str:
    """SHA-256 (hex) of lines, each ended by a newline; names that are no valid UTF-8 included."""
    sha = hashlib.sha256()
    for line in lines:
        sha.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return sha.hexdigest()


def check_index(index: int, length: int) -> int:
    """The index as given, or IndexError outside [0, length): ends a ``for`` over a dataset."""
    if not 0 <= index < length:
        raise IndexError(f"index {index} outside [0, {length})")
    return index

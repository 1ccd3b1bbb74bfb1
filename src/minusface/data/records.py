"""What readers of record files share: decoding, corrupt records, files opened once a process."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from minusface.data.dataset import Sample, digest
from minusface.data.folder import decode_image
from minusface.data.skipping import OnError, Skipping
from minusface.errors import MinusfaceError

Labels = npt.NDArray[np.int32]


class RecordDataset(Skipping):
    """Numbered records of encoded images.

    Args:
        name: for tables and cards.
        labels: (L,) number of the person, a record.
        classes: how many people.
        size: side of every crop in pixels.
        on_error: see :class:`Skipping`.

    Raises:
        MinusfaceError: another ``on_error``.
    """

    def __init__(
        self, name: str, labels: Labels, classes: int, size: int, on_error: OnError
    ) -> None:
        super().__init__(name, on_error)
        self.labels, self.classes, self.size = labels, classes, size

    def __len__(self) -> int:
        return len(self.labels)

    def key(self, index: int) -> str:
        """A record's name."""
        raise NotImplementedError

    def keys(self) -> Iterator[str]:
        """All keys, in order."""
        return (self.key(index) for index in range(len(self)))

    def encoded(self, index: int) -> bytes:
        """The image's stored bytes.

        Raises:
            MinusfaceError: a corrupt record.
        """
        return self._bytes(index, self.key(index))

    def _bytes(self, index: int, key: str) -> bytes:
        raise NotImplementedError

    def fingerprint(self) -> str:
        """SHA-256 (hex) over what the index says."""
        raise NotImplementedError

    def _sample(self, index: int) -> Sample:
        key = self.key(index)
        image = decode_image(self._bytes(index, key), f"{self.name}, {key}")
        if image.shape[:2] != (self.size, self.size):
            raise MinusfaceError(
                f"{self.name}, {key}: {image.shape[1]}x{image.shape[0]} pixels, expected "
                f"{self.size}x{self.size}; photos are aligned to crops first"
            )
        return Sample(image, int(self.labels[index]), key)


class Files:
    """Files read at offsets; opened when first needed, in each process anew.

    Args:
        paths: numbered by their order.
    """

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self._open: dict[int, int] = {}

    def sizes(self) -> npt.NDArray[np.int64]:
        """Bytes of each.

        Raises:
            MinusfaceError: one is missing.
        """
        try:
            return np.array([path.stat().st_size for path in self.paths], np.int64)
        except OSError as error:
            raise MinusfaceError(f"{error.filename}: cannot read ({error.strerror})") from error

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Bytes of a file, all that were asked for.

        Raises:
            MinusfaceError: the file ends before, or cannot be read.
        """
        path = self.paths[number]
        try:
            if number not in self._open:
                self._open[number] = os.open(path, os.O_RDONLY)
            data = os.pread(self._open[number], size, offset)
        except OSError as error:
            raise MinusfaceError(f"{path}: cannot read ({error.strerror or error})") from error
        if len(data) != size:
            raise MinusfaceError(
                f"{path}: ends within a record at byte {offset} (truncated, or a wrong index)"
            )
        return data

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "_open": {}}

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)


def array_digest(*arrays: npt.NDArray[Any], words: tuple[str, ...] = ()) -> str:
    """SHA-256 (hex) over arrays and words."""
    hashes = [hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest() for a in arrays]
    return digest((*hashes, *words))

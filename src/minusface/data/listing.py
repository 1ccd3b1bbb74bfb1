"""A list file of loose images: ``path<tab>label`` a line."""

from __future__ import annotations

from codecs import BOM_UTF8
from pathlib import Path

import numpy as np

from minusface.data.columns import check_labels, read_columns, read_labels
from minusface.data.records import Files, RecordDataset, array_digest
from minusface.data.skipping import OnError
from minusface.errors import MinusfaceError

LINE = "path<tab>label"


class ListDataset(RecordDataset):
    """Images below a folder, each with a label from a list file.

    Args:
        path: the list.
        root: what its paths are relative to; by default the list's folder.
        size: side of every crop in pixels.
        on_error: see :class:`RecordDataset`.

    Raises:
        MinusfaceError: a missing or malformed list, or labels with holes.
    """

    def __init__(
        self,
        path: Path | str,
        root: Path | str | None = None,
        size: int = 112,
        on_error: OnError = "fail",
    ) -> None:
        path = Path(path)
        self.root = path.parent if root is None else Path(root)
        # Paths stay in the file: an index of millions is arrays, not strings.
        self.files = Files([path])
        labels, starts, ends = [], [], []
        for lines in read_columns(path, 2, LINE):
            labels.append(read_labels(path, lines, 1))
            begins = lines.starts[:, 0].copy()
            # A byte order mark is none of the first path, which it stands before.
            if lines.first == 1 and lines.data[: len(BOM_UTF8)].tobytes() == BOM_UTF8:
                begins[0] += len(BOM_UTF8)
            starts.append(begins + lines.offset)
            ends.append((lines.ends[:, 0] - begins).astype(np.uint16))
        whose = np.concatenate(labels)
        self._starts, self._lengths = np.concatenate(starts), np.concatenate(ends)
        super().__init__(path.stem, whose, check_labels(whose, str(path)), size, on_error)

    def key(self, index: int) -> str:
        """The image's path as listed."""
        data = self.files.read(0, int(self._starts[index]), int(self._lengths[index]))
        return data.decode("utf-8", "surrogateescape")

    def _bytes(self, index: int, key: str) -> bytes:
        if not key or key.startswith("/") or ".." in key.split("/"):
            raise MinusfaceError(
                f"{self.files.paths[0]}, line {index + 1}: {key!r} lies outside of {self.root}"
            )
        try:
            with open(f"{self.root}/{key}", "rb", buffering=0) as file:
                return file.read()
        except OSError as error:
            raise MinusfaceError(
                f"{self.root}/{key}: cannot read ({error.strerror or error})"
            ) from error

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the list."""
        return array_digest(self._starts, self.labels, words=tuple(self.keys()))

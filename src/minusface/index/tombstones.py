"""What was erased stays erased, even where a backup from before the erasure is put back.

An append-only file of random names, one a line: a template's or a collection's. They say nothing of
anyone. It lies beside the database and must not be rolled back with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from minusface.index.base import StorageError


class Tombstones:
    """The file of erased names.

    Args:
        path: made when missing.

    Raises:
        StorageError: it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.touch(mode=0o600)
            # The last line may have been cut short by a crash: then its erasure was never confirmed.
            self._names = {line.strip() for line in path.read_text("ascii", "replace").splitlines()}
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror or error}") from error

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._names))

    def __len__(self) -> int:
        return len(self._names)

    def add(self, names: Iterable[str]) -> None:
        """Note names, on disk when it returns.

        Raises:
            StorageError: the disk is full, or refuses.
        """
        new = list(names)
        try:
            with open(self.path, "a", encoding="ascii") as file:
                # A line of its own, even after one that was cut short.
                file.write("".join(f"\n{name}" for name in new) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(f"{self.path}: {error.strerror or error}") from error
        self._names.update(new)

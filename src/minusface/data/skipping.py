"""What an image does that cannot be read: it fails, or the next readable one takes its place."""

from __future__ import annotations

import sys
from typing import Literal

from minusface.data.dataset import Sample, check_index
from minusface.errors import MinusfaceError, choice_error

OnError = Literal["fail", "skip"]


class Skipping:
    """A dataset whose images may turn out to be corrupt.

    Args:
        name: for tables and cards.
        on_error: ``fail`` at a corrupt image, or ``skip``: the next readable one takes its place, and it is
            told once on stderr and listed in ``skipped``.

    Raises:
        MinusfaceError: another ``on_error``.
    """

    def __init__(self, name: str, on_error: OnError) -> None:
        if on_error not in ("fail", "skip"):
            raise choice_error("on_error", on_error, ("fail", "skip"))
        self.name, self.on_error = name, on_error
        self.skipped: list[tuple[str, str]] = []
        """(key, reason) of the corrupt images that this process met."""

    def __len__(self) -> int:
        raise NotImplementedError

    def key(self, index: int) -> str:
        """An image's name."""
        raise NotImplementedError

    def _sample(self, index: int) -> Sample:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Sample:
        """One image, decoded.

        Raises:
            MinusfaceError: an image that is missing, damaged or of another size; with ``skip`` only if none
                is readable.
        """
        check_index(index, len(self))
        for step in range(len(self)):
            number = (index + step) % len(self)
            try:
                return self._sample(number)
            except MinusfaceError as error:
                if self.on_error == "fail":
                    raise
                self._skip(self.key(number), str(error))
        raise MinusfaceError(f"{self.name}: none of its {len(self)} images can be read")

    def _skip(self, key: str, reason: str) -> None:
        if all(key != known for known, _ in self.skipped):
            self.skipped.append((key, reason))
            # Worker processes cannot hand their lists over: what is skipped is told where it happens.
            print(f"minusface: skipped {reason}", file=sys.stderr)

"""A TFace file's keys and values as they are taken one by one, each of its type. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from minusface.errors import MinusfaceError


class Note(NamedTuple):
    """What became of a key."""

    key: str
    what: str


class Given:
    """The file's keys, and what is made of them."""

    def __init__(self, path: Path, raw: dict[str, Any]) -> None:
        self.path, self.raw = path, raw
        self.notes: list[Note] = []
        self.made: dict[str, Any] = {}

    def refuse(self, key: str, reason: str) -> MinusfaceError:
        """What to raise."""
        return MinusfaceError(f"{self.path}: {key}: {reason}")

    def put(self, dotted: str, value: Any) -> None:
        """Set a key of ours."""
        group, _, name = dotted.rpartition(".")
        place = self.made.setdefault(group, {}) if group else self.made
        place[name] = value

    def number(self, key: str, value: Any, kind: type = float) -> Any:
        """A finite number, whole where ``kind`` is int."""
        good = isinstance(value, int | float) and not isinstance(value, bool)
        try:
            # Neither infinity nor what is no number has a whole part.
            if good and (int(value) == value or kind is float):
                return kind(value)
        except (OverflowError, ValueError):
            pass
        raise self.refuse(key, f"{value!r}, expected a {'whole ' if kind is int else ''}number")

    def count(self, key: str, value: Any) -> int:
        """A whole number of 1 or more."""
        found = self.number(key, value, int)
        if found < 1:
            raise self.refuse(key, f"{value!r}, expected 1 or more")
        return int(found)

    def folder(self, key: str, value: Any) -> str:
        """A folder's name."""
        if not isinstance(value, str):
            shown = "is empty" if value is None else repr(value)
            raise self.refuse(key, f"{shown}, expected a folder")
        return value

    def pick(self, key: str, value: Any, known: dict[str, str]) -> str:
        """What a known name stands for."""
        if not isinstance(value, str) or value not in known:
            raise self.refuse(key, f"{value!r} is not known here (known: {', '.join(known)})")
        return known[value]

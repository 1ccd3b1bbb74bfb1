"""Tab-separated index files of millions of lines, read into arrays a chunk at a time.

No Python object is made for a line: five million lines of four columns take seconds and tens of megabytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from minusface.errors import MinusfaceError

CHUNK = 1 << 22
DIGITS = 18
LABELS = 1 << 31
# Lines whose wide copies exist at a time.
PART = 1 << 19
NEWLINE, TAB, ZERO, RETURN, MINUS = 10, 9, 48, 13, 45
Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


class Lines(NamedTuple):
    """Some lines of a file, not one of them empty."""

    data: Bytes
    """The chunk of the file they lie in."""
    offset: int
    """Where the chunk begins in the file, in bytes."""
    first: int
    """Number of its first line, from 1."""
    starts: Ints
    """(L, K) where each of the K fields of a line begins in ``data``."""
    ends: Ints
    """(L, K) where each ends."""


def read_columns(path: Path, columns: int, what: str) -> Iterator[Lines]:
    """The lines of a file of ``columns`` fields parted by single tabs.

    Args:
        path: the file; a line may end in CR LF, the last one in nothing.
        columns: K.
        what: the line's form, for errors: ``path<tab>label``.

    Raises:
        MinusfaceError: an unreadable or empty file, a line of another number of fields or longer than 4 MB.
    """
    number, offset, rest, empty = 1, 0, b"", True
    try:
        with open(path, "rb") as file:
            while True:
                block = file.read(CHUNK)
                data = rest + block
                if not block and data and not data.endswith(b"\n"):
                    data += b"\n"
                cut = data.rfind(b"\n") + 1
                if block and not cut and len(data) > CHUNK:
                    raise MinusfaceError(f"{path}, line {number}: too long, expected {what}")
                if cut:
                    lines = _fields(path, data[:cut], offset, number, columns, what)
                    number += len(lines.starts)
                    empty = False
                    yield lines
                offset, rest = offset + cut, data[cut:]
                if not block:
                    break
    except OSError as error:
        raise MinusfaceError(f"{path}: cannot read ({error.strerror or error})") from error
    if empty:
        raise MinusfaceError(f"{path}: empty, expected lines {what}")


def _fields(path: Path, text: bytes, offset: int, first: int, columns: int, what: str) -> Lines:
    data = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(data == NEWLINE)
    starts = np.concatenate([[0], ends[:-1] + 1])
    ends = ends - ((ends > starts) & (data[ends - 1] == RETURN))
    tabs = np.flatnonzero(data == TAB)
    counts = np.searchsorted(tabs, ends) - np.searchsorted(tabs, starts)
    if (wrong := counts != columns - 1).any():
        line = int(wrong.argmax())
        raise MinusfaceError(
            f"{path}, line {first + line}: {counts[line] + 1} fields, expected {what}"
        )
    inner = tabs.reshape(len(ends), columns - 1)
    return Lines(
        data,
        offset,
        first,
        np.concatenate([starts[:, None], inner + 1], axis=1),
        np.concatenate([inner, ends[:, None]], axis=1),
    )


def integers(path: Path, lines: Lines, column: int, what: str) -> Ints:
    """A column of whole numbers, not negative, of up to 18 digits: (L,).

    Raises:
        MinusfaceError: anything else, the line named.
    """
    starts, ends = lines.starts[:, column], lines.ends[:, column]
    lengths = ends - starts
    values = np.zeros(len(starts), np.int64)
    good = (lengths > 0) & (lengths <= DIGITS)
    for place in range(int(lengths[good].max(initial=0))):
        # A shorter number has ended here: its last digit is read again, and not counted.
        inside = place < lengths
        digit = lines.data[np.where(inside, starts + place, starts)].astype(np.int64) - ZERO
        good &= ~inside | ((digit >= 0) & (digit <= 9))
        values = np.where(inside, values * 10 + digit, values)
    if not good.all():
        line = int((~good).argmax())
        said = lines.data[starts[line] : ends[line]].tobytes()[:40].decode("utf-8", "replace")
        kind = "negative " if said.startswith("-") else ""
        raise MinusfaceError(
            f"{path}, line {lines.first + line}: {kind}{what} {said!r}, expected 0 or more"
        )
    return values


def read_labels(path: Path, lines: Lines, column: int) -> npt.NDArray[np.int32]:
    """A column of people's numbers: (L,).

    Raises:
        MinusfaceError: as :func:`integers`; a number beyond 31 bits.
    """
    values = integers(path, lines, column, "label")
    if len(beyond := np.flatnonzero(values >= LABELS)):
        raise MinusfaceError(
            f"{path}, line {lines.first + beyond[0]}: label {values[beyond[0]]}, expected less than {LABELS}"
        )
    return values.astype(np.int32)


def names(lines: Lines, column: int, known: list[bytes]) -> Ints:
    """A column of few distinct names as numbers into ``known``, which grows: (L,)."""
    starts, ends = lines.starts[:, column], lines.ends[:, column]
    numbers = np.full(len(starts), -1, np.int64)
    candidates = list(range(len(known)))
    while (left := numbers < 0).any():
        if candidates:
            number = candidates.pop(0)
        else:
            line = int(left.argmax())
            known.append(lines.data[starts[line] : ends[line]].tobytes())
            number = len(known) - 1
        name = np.frombuffer(known[number], np.uint8)
        maybe = np.flatnonzero(left & (ends - starts == len(name)))
        same = np.ones(len(maybe), bool)
        for place, letter in enumerate(name):
            same &= lines.data[starts[maybe] + place] == letter
        numbers[maybe[same]] = number
    return numbers


def check_labels(labels: npt.NDArray[np.integer], where: str) -> int:
    """How many people labels number from 0 on.

    Raises:
        MinusfaceError: a negative label, or a number between that nobody has.
    """
    least, classes = int(labels.min()), int(labels.max()) + 1
    if least < 0:
        raise MinusfaceError(f"{where}: label {least}, expected 0 or more")
    if classes > len(labels):
        missing = int(np.setdiff1d(np.arange(len(labels) + 1), labels)[0])
    else:
        # A part at a time: counting makes wide copies.
        counts = np.zeros(classes, np.int64)
        for start in range(0, len(labels), PART):
            counts += np.bincount(labels[start : start + PART], minlength=classes)
        missing = int(counts.argmin()) if counts.min() == 0 else -1
    if missing >= 0:
        raise MinusfaceError(
            f"{where}: no image has label {missing}, expected labels 0 to {classes - 1} without holes"
        )
    return classes

"""Lists of pairs to verify: LFW's forms and a plain one.

Legend: P pairs, K distinct images.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from minusface.data.folder import SUFFIXES, read_names
from minusface.errors import MinusfaceError

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

FOLDS = 10


@dataclass(frozen=True)
class Pair:
    """Two images and whether they show one person."""

    a: str
    """Key: ``Person/Person_0001.jpg``, relative to the face folder, with forward slashes."""
    b: str
    """Key of the other image."""
    same: bool
    """True for a genuine pair, False for an impostor pair."""


@dataclass(frozen=True, eq=False)
class PairList:
    """Pairs as numbers of distinct images, so that each image is embedded once. Iterates as Pairs."""

    a_index: Ints
    """(P,) number of the first image in ``keys``."""
    b_index: Ints
    """(P,) number of the second."""
    same: Bools
    """(P,) genuine or not."""
    folds: Ints
    """(P,) fold of each pair, from 0."""
    keys: tuple[str, ...]
    """K distinct keys, in the order in which the pairs name them."""

    def __len__(self) -> int:
        return len(self.same)

    def __iter__(self) -> Iterator[Pair]:
        for a, b, same in zip(self.a_index, self.b_index, self.same, strict=True):
            yield Pair(self.keys[a], self.keys[b], bool(same))

    @classmethod
    def from_pairs(cls, pairs: Sequence[Pair], folds: Sequence[int] | None = None) -> PairList:
        """From pairs in order.

        Args:
            pairs: at least one.
            folds: the fold of each pair; by default those of :func:`even_folds`.

        Raises:
            MinusfaceError: no pairs, or another number of folds than of pairs.
        """
        if not pairs:
            raise MinusfaceError("no pairs to verify")
        if folds is not None and len(folds) != len(pairs):
            raise MinusfaceError(f"{len(folds)} fold numbers for {len(pairs)} pairs")
        numbers: dict[str, int] = {}
        index = [
            [numbers.setdefault(key, len(numbers)) for key in (pair.a, pair.b)] for pair in pairs
        ]
        same = np.array([pair.same for pair in pairs], dtype=np.bool_)
        return cls(
            a_index=np.array([a for a, _ in index], dtype=np.int64),
            b_index=np.array([b for _, b in index], dtype=np.int64),
            same=same,
            folds=even_folds(same) if folds is None else np.array(folds, dtype=np.int64),
            keys=tuple(numbers),
        )


def even_folds(same: Bools) -> Ints:
    """Folds for a list without any: (P,) bool to (P,) int64.

    The genuine pairs, in their order, are cut into ten runs of equal length up to one, and so are the
    impostor pairs; fold k is the k-th run of both. Runs rather than every tenth pair: lists are sorted by
    person, and a person should not stand on both sides of the cut. With fewer than ten pairs of a kind
    there are as many folds as pairs of that kind.
    """
    counts = [int(same.sum()), int((~same).sum())]
    number = min([FOLDS, *(count for count in counts if count)])
    folds = np.zeros(len(same), dtype=np.int64)
    for kind, count in zip((same, ~same), counts, strict=True):
        folds[kind] = np.arange(count, dtype=np.int64) * number // max(count, 1)
    return folds


def read_pairs(path: Path | str, root: Path | str | None = None) -> PairList:
    """Read a list of pairs. Fields are parted by tabs, or by blanks.

    - LFW View 2 (``pairs.txt``): first line ``folds n``; then for each fold n lines ``name i j`` (one
      person's images i and j) and n lines ``name i name2 j`` (two people). Images lie in
      ``root/name/name_0001.jpg``, or with another image suffix.
    - LFW View 1 (``pairsDevTest.txt``): first line ``n``; the same lines once. Folds are made by
      :func:`even_folds`.
    - Any other first line: a plain list, ``path_a path_b 0|1`` a line, paths relative to ``root``, 1 for one
      person. Folds are made by :func:`even_folds`.

    Empty lines are passed over.

    Args:
        path: the list.
        root: the face folder, in which every image must be; None looks at no image, and takes LFW's for JPEG.

    Raises:
        MinusfaceError: an unreadable file, a malformed line, another number of pairs than the first line
            says, a person or image that is not there or lies outside the folder; the line is named.
    """
    path, root = Path(path), None if root is None else Path(root)
    if root is not None and not root.is_dir():
        raise MinusfaceError(f"{root}: no such folder, expected the face folder of {path}")
    lines = _read_lines(path)
    header = lines[0][1]
    numbers = [_number(field) for field in header]
    if len(header) <= 2 and all(number is not None for number in numbers):
        folds, count = (1, numbers[0]) if len(header) == 1 else (numbers[0], numbers[1])
        if not folds or not count:
            raise MinusfaceError(f"{path}, line {lines[0][0]}: counts of 0, expected 1 or more")
        return _read_lfw(_Source(path, root), lines[1:], folds, count, split=len(header) == 2)
    source = _Source(path, root)
    return PairList.from_pairs([_plain_pair(source, *line) for line in lines])


class _Source:
    """Where the pairs come from; knows which images it has already found."""

    def __init__(self, path: Path, root: Path | None) -> None:
        self.path = path
        self.root = root
        self._found: dict[tuple[str, int], str] = {}

    def error(self, line: int, reason: str) -> MinusfaceError:
        return MinusfaceError(f"{self.path}, line {line}: {reason}")

    def lfw_key(self, line: int, name: str, number: str) -> str:
        """Key of a person's numbered image."""
        index = _number(number)
        if not index:
            raise self.error(line, f"image number {number!r}, expected 1 or more")
        if (name, index) not in self._found:
            stem = self._inside(line, f"{name}/{name}_{index:04d}")
            self._found[name, index] = self._existing(line, name, stem)
        return self._found[name, index]

    def _inside(self, line: int, name: str) -> str:
        """The path without needless dots."""
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise self.error(line, f"{name!r} leads outside the face folder")
        return str(path)

    def _existing(self, line: int, name: str, stem: str) -> str:
        if self.root is None:
            return f"{stem}{SUFFIXES[0]}"
        for suffix in SUFFIXES:
            if os.path.isfile(self.root / f"{stem}{suffix}"):
                return f"{stem}{suffix}"
        if not os.path.isdir(self.root / name):
            raise self.error(line, f"no person {name!r} in {self.root}")
        raise self.error(line, f"no image {stem}.jpg in {self.root}, nor with another suffix")

    def plain_key(self, line: int, name: str) -> str:
        """Key of a path."""
        key = self._inside(line, name)
        if self.root is not None and not os.path.isfile(self.root / key):
            raise self.error(line, f"no image {name!r} in {self.root}")
        return key


Line = tuple[int, list[str]]


def _read_lines(path: Path) -> list[Line]:
    """Numbered lines as fields; empty ones left out."""
    text = read_names(path, "pairs")
    lines: list[Line] = []
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.strip()
        if line:
            fields = line.split("\t") if "\t" in line else line.split()
            lines.append((number, [field.strip() for field in fields]))
    if not lines:
        raise MinusfaceError(f"{path}: empty, expected a list of pairs")
    return lines


def _number(field: str) -> int | None:
    """A whole number of at most nine digits, else None."""
    return int(field) if field.isascii() and field.isdigit() and len(field) <= 9 else None


def _read_lfw(
    source: _Source, lines: list[Line], folds: int, count: int, *, split: bool
) -> PairList:
    pairs = []
    for position, line in enumerate(lines[: 2 * count * folds]):
        genuine = position // count % 2 == 0
        pairs.append(_lfw_pair(source, *line, genuine=genuine))
    if len(lines) != 2 * count * folds:
        sets = f"{folds} x " if split else ""
        raise MinusfaceError(
            f"{source.path}: {len(lines)} pairs, but its first line promises {sets}2 x {count}"
        )
    numbers = [position // (2 * count) for position in range(len(pairs))]
    return PairList.from_pairs(pairs, numbers if split else None)


def _lfw_pair(source: _Source, line: int, fields: list[str], *, genuine: bool) -> Pair:
    form = "name i j (one person)" if genuine else "name i name2 j (two people)"
    if len(fields) != (3 if genuine else 4) or not all(fields):
        raise source.error(line, f"{len(fields)} fields, expected {form} at this place")
    name, i = fields[0], fields[1]
    other, j = (name, fields[2]) if genuine else (fields[2], fields[3])
    a, b = source.lfw_key(line, name, i), source.lfw_key(line, other, j)
    if genuine and a == b:
        raise source.error(line, f"image {i} of {name!r} paired with itself")
    if not genuine and name == other:
        raise source.error(line, f"{name!r} on both sides, expected {form} at this place")
    return Pair(a, b, genuine)


def _plain_pair(source: _Source, line: int, fields: list[str]) -> Pair:
    if len(fields) != 3 or not all(fields):
        raise source.error(line, f"{len(fields)} fields, expected path_a path_b 0|1")
    if fields[2] not in ("0", "1"):
        raise source.error(line, f"label {fields[2]!r}, expected 0 or 1")
    a, b = source.plain_key(line, fields[0]), source.plain_key(line, fields[1])
    if a == b:
        raise source.error(line, f"{a!r} paired with itself")
    return Pair(a, b, fields[2] == "1")

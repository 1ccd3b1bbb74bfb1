"""Lists of pairs: who is compared with whom, in which fold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from minusface.errors import MinusfaceError

FOLDS = 10
ENDINGS = (".jpg", ".png", ".jpeg")


class Pair(NamedTuple):
    """Two images, by key, and whether they show the same person."""

    a: str
    b: str
    same: bool


@dataclass(frozen=True)
class PairList:
    """P pairs over K distinct images, so that each image is embedded once.

    ``a`` and ``b`` (P,) number into ``keys``; ``same`` (P,); ``folds`` (P,) from 0 on.
    """

    keys: tuple[str, ...]
    a: npt.NDArray[np.int64]
    b: npt.NDArray[np.int64]
    same: npt.NDArray[np.bool_]
    folds: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.same)

    @classmethod
    def from_pairs(cls, pairs: Iterable[Pair], folds: npt.ArrayLike | None = None) -> PairList:
        """From pairs in order.

        Args:
            pairs: one or more.
            folds: (P,); by default ten, genuine and impostor pairs cut into ten runs each.

        Raises:
            MinusfaceError: no pairs.
        """
        rows = list(pairs)
        if not rows:
            raise MinusfaceError("pairs: the list is empty")
        keys = tuple(sorted({key for row in rows for key in row[:2]}))
        numbers = {key: number for number, key in enumerate(keys)}
        same = np.array([row.same for row in rows], bool)
        if folds is None:
            folds = even_folds(same)
        return cls(
            keys,
            np.array([numbers[row.a] for row in rows], np.int64),
            np.array([numbers[row.b] for row in rows], np.int64),
            same,
            np.asarray(folds, np.int64),
        )


def even_folds(same: npt.NDArray[np.bool_], count: int = FOLDS) -> npt.NDArray[np.int64]:
    """Folds of as equal size as can be, genuine and impostor pairs apart, each in order: (P,)."""
    folds = np.zeros(len(same), np.int64)
    for kind in (True, False):
        where = np.flatnonzero(same == kind)
        folds[where] = np.arange(len(where)) * count // max(len(where), 1)
    return folds


def read_pairs(path: Path | str, root: Path | str | None = None) -> PairList:
    """A pairs file over a face folder.

    Forms: LFW's ``pairs.txt`` (first line ``folds<tab>pairs``), its ``pairsDevTest.txt`` (first line
    ``pairs``; ten folds are cut, see :func:`even_folds`), or lines ``key<tab>key<tab>0|1``.

    Args:
        path: the list.
        root: the face folder; when given every image must be in it.

    Raises:
        MinusfaceError: unreadable or malformed (with the line's number), or an image that is missing.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise MinusfaceError(f"{path}: cannot read ({reason})") from error
    numbered = [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise MinusfaceError(f"{path}: empty, expected pairs")
    header = numbered[0][1]
    known = _Files(Path(root)) if root is not None else None
    if not all(field.isdigit() for field in header):
        return PairList.from_pairs(
            _generic(path, number, fields, known) for number, fields in numbered
        )
    pairs = [_lfw(path, number, fields, known) for number, fields in numbered[1:]]
    expected = _count(path, header)
    if len(pairs) != expected:
        raise MinusfaceError(f"{path}: {len(pairs)} pairs, but its first line promises {expected}")
    if len(header) == 1:
        return PairList.from_pairs(pairs)
    return PairList.from_pairs(pairs, np.arange(len(pairs)) // (2 * int(header[1])))


def _count(path: Path, header: list[str]) -> int:
    """How many pairs a first line promises: genuine and as many impostor ones, a fold."""
    if len(header) > 2 or not all(int(field) > 0 for field in header):
        raise MinusfaceError(f"{path}, line 1: {' '.join(header)!r}, expected PAIRS or FOLDS PAIRS")
    return 2 * int(header[-1]) * (int(header[0]) if len(header) == 2 else 1)


class _Files:
    """Which images a face folder holds; asks the disk once a name."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise MinusfaceError(f"{root}: no such folder (the faces of the pairs)")
        self.root = root
        self.found: dict[str, str | None] = {}

    def key(self, stem: str) -> str | None:
        """The key of an image with or without its ending, or None."""
        if stem not in self.found:
            names = [stem] if Path(stem).suffix.lower() in ENDINGS else [stem + e for e in ENDINGS]
            there = [name for name in names if (self.root / name).is_file()]
            self.found[stem] = there[0] if there else None
        return self.found[stem]


def _image(path: Path, number: int, stem: str, known: _Files | None) -> str:
    if ".." in Path(stem).parts or Path(stem).is_absolute():
        raise MinusfaceError(f"{path}, line {number}: {stem!r} leads outside the face folder")
    if known is None:
        return stem if Path(stem).suffix.lower() in ENDINGS else stem + ENDINGS[0]
    key = known.key(stem)
    if key is None:
        raise MinusfaceError(f"{path}, line {number}: no image {stem} in {known.root}")
    return key


def _lfw(path: Path, number: int, fields: list[str], known: _Files | None) -> Pair:
    """``name i j`` or ``name i name2 j``."""
    if len(fields) == 3:
        fields = [fields[0], fields[1], fields[0], fields[2]]
        same = True
    else:
        same = False
    if len(fields) != 4 or not (fields[1].isdigit() and fields[3].isdigit()):
        raise MinusfaceError(f"{path}, line {number}: expected 'name i j' or 'name i name j'")
    stems = [f"{name}/{name}_{int(i):04d}" for name, i in (fields[:2], fields[2:])]
    a, b = (_image(path, number, stem, known) for stem in stems)
    return Pair(a, b, same)


def _generic(path: Path, number: int, fields: list[str], known: _Files | None) -> Pair:
    """``key key 0|1``."""
    if len(fields) != 3 or fields[2] not in ("0", "1"):
        raise MinusfaceError(f"{path}, line {number}: expected 'image image 0|1'")
    a, b = (_image(path, number, stem, known) for stem in fields[:2])
    return Pair(a, b, fields[2] == "1")

"""A benchmark by name: its pairs, where their images come from, and what tells its data apart."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from minusface.errors import MinusfaceError
from minusface.evaluate.pairs import Pair, PairList, read_pairs
from minusface.evaluate.reader import Reader, files_fingerprint, folder_reader
from minusface.types import UInt8

# Names people use, and the files they stand for below --root.
BIN_NAMES = ("lfw", "cfp_fp", "cfp_ff", "agedb_30", "calfw", "cplfw")
GROUPS = {"rfw": ("African", "Asian", "Caucasian", "Indian")}
KNOWN = (*BIN_NAMES, *GROUPS)


@dataclass(frozen=True)
class Benchmark:
    """Pairs to verify."""

    name: str
    pairs: PairList
    read: Reader
    """From a pair's key to (H, W, 3) bytes, RGB."""
    fingerprint: str
    """SHA-256 (hex) of what the images are, for caches."""
    group: str | None = None
    """What it is a part of, where a mean over parts is reported: ``rfw``."""


def pairs_benchmark(pairs: Path | str, faces: Path | str, size: int | None = None) -> Benchmark:
    """A list of pairs on a face folder; see :func:`minusface.evaluate.pairs.read_pairs`."""
    listed = read_pairs(pairs, faces)
    sha = files_fingerprint(faces, listed.keys)
    return Benchmark(Path(pairs).stem, listed, folder_reader(faces, size), sha)


def find_benchmarks(
    suite: Sequence[str], root: Path | str | None = None, size: int = 112
) -> list[Benchmark]:
    """The benchmarks of a suite.

    Each entry is a ``.bin`` file (InsightFace's), or a name: ``lfw``, ``cfp_fp``, ``cfp_ff``, ``agedb_30``,
    ``calfw``, ``cplfw`` for ``ROOT/NAME.bin`` (``cfp_ff`` and ``cfp_fp`` also for CFP's own folder
    ``ROOT/cfp-dataset``), and ``rfw`` for its four ``ROOT/RACE_test.bin`` (also in ``ROOT/rfw``).

    Args:
        suite: entries.
        root: where names are looked for; by default the working folder.
        size: side of the crops in pixels.

    Raises:
        MinusfaceError: an unknown name, or a missing or refused file.
    """
    where = Path(root) if root is not None else Path()
    if root is not None and not where.is_dir():
        raise MinusfaceError(f"{where}: no such folder, expected the benchmarks' files in it")
    found: list[Benchmark] = []
    for entry in suite:
        found += _entry(entry, where, size)
    return found


def _entry(entry: str, root: Path, size: int) -> list[Benchmark]:
    name = entry.lower()
    if entry.endswith(".bin"):
        path = Path(entry) if Path(entry).is_file() else root / entry
        return [_binary(path, size)]
    if name in GROUPS:
        folder = root / name if (root / name).is_dir() else root
        return [_binary(folder / f"{part}_test.bin", size, group=name) for part in GROUPS[name]]
    if name in BIN_NAMES:
        path = root / f"{name}.bin"
        own = root / "cfp-dataset"
        if not path.is_file() and name.startswith("cfp_") and own.is_dir():
            return [_cfp(own, name.removeprefix("cfp_").upper(), size)]
        return [_binary(path, size)]
    raise MinusfaceError(
        f"unknown benchmark {entry!r} (known: {', '.join(KNOWN)}, or the path of a .bin file)"
    )


def _binary(path: Path, size: int, group: str | None = None) -> Benchmark:
    from minusface.evaluate.suites.binfile import read_bin

    if not path.is_file():
        raise MinusfaceError(f"{path}: no such file, expected a benchmark's .bin")
    held = read_bin(path, size)
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    return Benchmark(path.stem, held.pairs, held.read, sha, group)


def _cfp(folder: Path, protocol: str, size: int) -> Benchmark:
    from minusface.evaluate.suites.cfp import cfp_reader, read_cfp
    from minusface.faces import NoFaceError, align_photo, read_photo

    missed = False

    def align(path: Path) -> UInt8:
        nonlocal missed
        photo = read_photo(path)
        try:
            return align_photo(photo, size=size)[0].crop
        except NoFaceError as error:
            # Profiles are hard to find; a pair less would be another benchmark.
            if not missed:
                line = f"{path}: {error}; its middle is taken, and so of every such photo"
                print(f"minusface: warning: {line}", file=sys.stderr)
            missed = True
            return middle(photo, size)

    pairs = read_cfp(folder, protocol)
    sha = files_fingerprint(folder, pairs.keys)
    read = cfp_reader(folder, size, align, read_photo)
    return Benchmark(f"cfp_{protocol.lower()}", pairs, read, sha)


def middle(photo: UInt8, size: int) -> UInt8:
    """The largest square in the middle of a photo (H, W, 3), as (size, size, 3)."""
    import cv2

    side = min(photo.shape[:2])
    top, left = ((length - side) // 2 for length in photo.shape[:2])
    square = photo[top : top + side, left : left + side]
    how = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (size, size), interpolation=how), np.uint8)


def with_impostors(pairs: PairList) -> PairList:
    """The pairs and, where all are genuine, as many impostor pairs made of the same images.

    Images that a chain of genuine pairs connects are one person; others are taken for different people,
    which the list itself does not say.

    Raises:
        MinusfaceError: no two people to pair.
    """
    if not pairs.same.all():
        return pairs
    person = list(range(len(pairs.keys)))

    def root(image: int) -> int:
        while person[image] != image:
            image = person[image]
        return image

    for a, b in zip(pairs.a_index.tolist(), pairs.b_index.tolist(), strict=True):
        person[root(a)] = root(b)
    made = list(islice(_apart(pairs, np.array([root(image) for image in person])), len(pairs)))
    if not made:
        raise MinusfaceError(f"{len(pairs)} genuine pairs of one person: no impostor pair to make")
    return PairList.from_pairs([*pairs, *made])


def _apart(pairs: PairList, person: np.ndarray) -> Iterator[Pair]:
    """Pairs of one pair's first image and another's second one, of two people; nearest pairs first.

    Args:
        pairs: of K images.
        person: (K,) a number each.
    """
    for step in range(1, len(pairs)):
        others = np.roll(pairs.b_index, -step)
        for at in np.flatnonzero(person[pairs.a_index] != person[others]):
            yield Pair(pairs.keys[pairs.a_index[at]], pairs.keys[others[at]], False)

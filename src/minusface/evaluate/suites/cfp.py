"""CFP, Celebrities in Frontal-Profile, from its own folder: frontal-frontal and frontal-profile pairs.

``Protocol/Pair_list_F.txt`` and ``Pair_list_P.txt`` number the images (``1 ../Data/Images/001/01.jpg``);
``Protocol/Split/FF`` and ``FP`` hold ten folders of ``same.txt`` and ``diff.txt`` with lines ``i,j``; in FP
i is a frontal image and j a profile.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from minusface.errors import MinusfaceError, choice_error
from minusface.evaluate.pairs import Pair, PairList
from minusface.evaluate.reader import Reader
from minusface.types import UInt8

FOLDS = 10
LISTS = {"FF": ("F", "F"), "FP": ("F", "P")}


def read_cfp(root: Path | str, protocol: str) -> PairList:
    """The pairs of a protocol; keys are paths below ``root``.

    Args:
        root: folder with ``Protocol`` and ``Data``.
        protocol: FF or FP.

    Raises:
        MinusfaceError: an unknown protocol, a missing or malformed file, a number without an image, an
            image outside of the folder; the line is named.
    """
    root = Path(root)
    if protocol not in LISTS:
        raise choice_error("CFP protocol", protocol, LISTS)
    images = {kind: _images(root, kind) for kind in set(LISTS[protocol])}
    left, right = (images[kind] for kind in LISTS[protocol])
    pairs, folds = [], []
    for fold in range(FOLDS):
        for name, same in (("same", True), ("diff", False)):
            path = root / "Protocol" / "Split" / protocol / f"{fold + 1:02d}" / f"{name}.txt"
            for number, line in _lines(path):
                fields = [field.strip() for field in line.split(",")]
                if len(fields) != 2 or fields[0] not in left or fields[1] not in right:
                    raise MinusfaceError(
                        f"{path}, line {number}: {line!r}, expected two numbers of Pair_list_*.txt"
                    )
                pairs.append(Pair(left[fields[0]], right[fields[1]], same))
                folds.append(fold)
    return PairList.from_pairs(pairs, folds)


def cfp_reader(
    root: Path | str, size: int, align: Callable[[Path], UInt8], decode: Callable[[Path], UInt8]
) -> Reader:
    """Reads crops as they are, and aligns photos.

    Args:
        root: as of :func:`read_cfp`.
        size: side of a crop in pixels.
        align: from the file of a photo to its crop (size, size, 3).
        decode: from a file to its pixels.
    """
    folder = Path(root)

    def read(key: str) -> UInt8:
        image = decode(folder / key)
        return image if image.shape[:2] == (size, size) else align(folder / key)

    return read


def _images(root: Path, kind: str) -> dict[str, str]:
    """Paths below the root by their numbers."""
    path = root / "Protocol" / f"Pair_list_{kind}.txt"
    found = {}
    for number, line in _lines(path):
        fields = line.split(maxsplit=1)
        if len(fields) != 2 or not fields[0].isdecimal():
            raise MinusfaceError(f"{path}, line {number}: {line!r}, expected a number and a path")
        # Paths are relative to the Protocol folder.
        parts: list[str] = ["Protocol"]
        for part in PurePosixPath(fields[1]).parts:
            if part == ".." and parts:
                parts.pop()
            elif part in ("..", "/"):
                raise MinusfaceError(f"{path}, line {number}: {fields[1]!r} lies outside of {root}")
            else:
                parts.append(part)
        found[fields[0]] = "/".join(parts)
    return found


def _lines(path: Path) -> list[tuple[int, str]]:
    """Numbered lines that are not empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise MinusfaceError(f"{path}: not a list (no UTF-8 text)") from error
    except OSError as error:
        raise MinusfaceError(f"{path}: cannot read ({error.strerror or error})") from error
    lines = [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise MinusfaceError(f"{path}: empty")
    return lines

"""The files of IJB-B and IJB-C, those of InsightFace's evaluation: lists, landmarks, images.

Legend: N images, T templates, P pairs.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minusface.data import decode_image
from minusface.errors import MinusfaceError
from minusface.evaluate.metrics import Floats
from minusface.evaluate.pairs import Bools, Ints
from minusface.evaluate.reader import Reader
from minusface.types import UInt8

Align = Callable[[UInt8, Floats, int], UInt8]


@dataclass(frozen=True, eq=False)
class IjbImages:
    """The images and what they belong to."""

    names: tuple[str, ...]
    """N file names below the folder of images."""
    templates: Ints
    """(N,) template of each image."""
    media: Ints
    """(N,) medium of each image: a number within the template."""
    landmarks: Floats
    """(N, 5, 2) x, y in pixels: eyes, nose, mouth corners."""
    scores: Floats
    """(N,) detector's confidence."""


@dataclass(frozen=True, eq=False)
class IjbPairs:
    """Pairs of templates to compare."""

    a: Ints
    """(P,) template."""
    b: Ints
    """(P,) template."""
    same: Bools
    """(P,) genuine or not."""

    def __len__(self) -> int:
        return len(self.same)


@dataclass(frozen=True, eq=False)
class IjbList:
    """A gallery, or the probes of a search."""

    templates: Ints
    """(T,) distinct templates in the file's order."""
    subjects: Ints
    """(T,) who each shows."""


def read_images(tid_mid: Path | str, five_points: Path | str) -> IjbImages:
    """Read ``ijb*_face_tid_mid.txt`` (image template medium) and ``ijb*_name_5pts_score.txt``.

    Both have a line an image, in the same order; the second holds the name, ten landmark numbers (x y, five
    times) and the detector's score.

    Raises:
        MinusfaceError: a missing or malformed file, or two that do not fit; the line is named.
    """
    owners, points = Path(tid_mid), Path(five_points)
    (names, owned), (named, placed) = _table(owners, 2), _table(points, 11)
    if len(names) != len(named):
        raise MinusfaceError(
            f"{points}: {len(named)} images, {owners} has {len(names)}; expected the same ones"
        )
    for line, (name, other) in enumerate(zip(names, named, strict=True), 1):
        if name != other:
            raise MinusfaceError(
                f"{points}, line {line}: image {other!r}, expected {name!r} as in {owners}"
            )
        if name.startswith("/") or ".." in name.split("/"):
            raise MinusfaceError(f"{owners}, line {line}: {name!r} leads out of the images' folder")
    if (owned % 1).any():
        line = int(np.flatnonzero((owned % 1).any(1))[0]) + 1
        raise MinusfaceError(f"{owners}, line {line}: expected whole numbers")
    template, medium = owned.astype(np.int64).T
    landmarks = placed[:, :10].reshape(-1, 5, 2)
    return IjbImages(names, template, medium, landmarks, placed[:, 10])


def read_template_pairs(path: Path | str) -> IjbPairs:
    """Read ``ijb*_template_pair_label.txt``: lines ``template template 0|1``, fifteen million in IJB-C.

    Raises:
        MinusfaceError: a missing or malformed file.
    """
    path = Path(path)
    try:
        # numpy only warns of an empty file, and of 1.5 read as a whole number.
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = np.loadtxt(path, dtype=np.int64, ndmin=2, comments=None)
    except OSError as error:
        raise MinusfaceError(f"{path}: cannot read ({error.strerror or error})") from error
    except (ValueError, Warning) as error:
        reason = " ".join(str(error).replace(f': "{path}"', "").split())[:120]
        raise MinusfaceError(f"{path}: {reason}; expected lines: template template 0|1") from error
    if found.shape[1] != 3:
        raise MinusfaceError(f"{path}: {found.shape[1]} columns, expected template template 0|1")
    labels = found[:, 2]
    wrong = np.flatnonzero((labels != 0) & (labels != 1))
    if len(wrong):
        raise MinusfaceError(
            f"{path}, pair {wrong[0] + 1}: label {labels[wrong[0]]}, expected 0 or 1"
        )
    return IjbPairs(found[:, 0], found[:, 1], labels == 1)


def read_list(path: Path | str) -> IjbList:
    """Read ``ijb*_1N_gallery_G1.csv`` or ``ijb*_1N_probe_mixed.csv``, by TEMPLATE_ID and SUBJECT_ID.

    A template may have a row an image.

    Raises:
        MinusfaceError: a missing or malformed file, or a template of two subjects.
    """
    path = Path(path)
    found: dict[int, int] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [field.strip().upper() for field in next(reader, [])]
            if not {"TEMPLATE_ID", "SUBJECT_ID"} <= set(header):
                raise MinusfaceError(
                    f"{path}: columns {', '.join(header) or 'none'}, expected TEMPLATE_ID, SUBJECT_ID"
                )
            places = header.index("TEMPLATE_ID"), header.index("SUBJECT_ID")
            for row in filter(None, reader):
                template, subject = _whole(row, places, f"{path}, line {reader.line_num}")
                if found.setdefault(template, subject) != subject:
                    raise MinusfaceError(
                        f"{path}, line {reader.line_num}: template {template} of subject {subject}, "
                        f"before of subject {found[template]}"
                    )
    except OSError as error:
        raise MinusfaceError(f"{path}: cannot read ({error.strerror or error})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise MinusfaceError(f"{path}: not a list of templates (CSV)") from error
    if not found:
        raise MinusfaceError(f"{path}: no templates, expected one a line")
    return IjbList(np.array([*found], np.int64), np.array([*found.values()], np.int64))


def ijb_reader(
    folder: Path | str, images: IjbImages, size: int = 112, align: Align | None = None
) -> Reader:
    """Reads an image by its name and cuts its face out by its landmarks: (size, size, 3) bytes, RGB.

    Args:
        folder: of the images (``loose_crop``).
        images: whose landmarks they are.
        size: side of the crops in pixels.
        align: from (H, W, 3) bytes, (5, 2) landmarks and the size to the crop; by default the
            least-squares similarity to ArcFace's template.

    Raises:
        MinusfaceError: no such folder; when called, an image that is missing, damaged or not in the list.
    """
    root = Path(folder)
    if not root.is_dir():
        raise MinusfaceError(f"{root}: no such folder, expected IJB's images in it")
    rows = {name: row for row, name in enumerate(images.names)}

    def read(key: str) -> UInt8:
        if key not in rows:
            raise MinusfaceError(f"{key}: no such image in the list")
        path = root / key
        try:
            data = path.read_bytes()
        except OSError as error:
            raise MinusfaceError(f"{path}: cannot read ({error.strerror or error})") from error
        image, points = decode_image(data, str(path)), images.landmarks[rows[key]]
        if align is not None:
            return align(image, points, size)
        from minusface.faces import warp

        return warp(image, points, size)

    return read


def _table(path: Path, count: int) -> tuple[tuple[str, ...], Floats]:
    """Names, and so many finite numbers after each."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise MinusfaceError(f"{path}: not a list of images (no UTF-8 text)") from error
    except OSError as error:
        raise MinusfaceError(f"{path}: cannot read ({error.strerror or error})") from error
    if not lines:
        raise MinusfaceError(f"{path}: empty, expected a line an image")
    names, numbers = [], np.empty((len(lines), count), np.float64)
    for row, line in enumerate(lines):
        name, *values = line.split() or [""]
        names.append(name)
        try:
            numbers[row] = [float(value) for value in values]
            good = len(values) == count and np.isfinite(numbers[row]).all()
        except ValueError:
            good = False
        if not good:
            raise MinusfaceError(
                f"{path}, line {row + 1}: {line[:60]!r}, expected a name and {count} numbers"
            )
    return tuple(names), numbers


def _whole(row: list[str], places: tuple[int, int], where: str) -> tuple[int, int]:
    try:
        return int(row[places[0]]), int(row[places[1]])
    except (IndexError, ValueError) as error:
        raise MinusfaceError(
            f"{where}: {','.join(row)[:60]!r}, expected whole numbers of template and subject"
        ) from error

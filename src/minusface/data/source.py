"""One line names a dataset, whatever its format."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from minusface.data.dataset import FaceDataset
from minusface.data.folder import FolderDataset
from minusface.data.skipping import OnError
from minusface.errors import MinusfaceError, choice_error

SYNTHETIC = re.compile(r"^(\d+)x(\d+)$")
FORMATS = ("folder", "list", "tfrecord", "recordio", "shards", "synthetic")
HELP = (
    "folder:DIR, list:FILE[@ROOT], tfrecord:INDEX.txt[@ROOT], recordio:DIR, shards:PATTERN or "
    "synthetic:PEOPLExIMAGES"
)


def open_faces(
    spec: str,
    people: str | None = None,
    size: int = 112,
    seed: int = 0,
    on_error: OnError = "fail",
) -> FaceDataset:
    """The dataset that a line names.

    - ``folder:DIR`` or just ``DIR``: a folder a person.
    - ``list:FILE@ROOT``: lines ``path<tab>label``, paths below ROOT (by default the list's folder).
    - ``tfrecord:INDEX.txt@ROOT``: TFace's training index; ROOT (by default the index's folder) holds
      the datasets' folders.
    - ``recordio:DIR``, or a DIR with ``train.rec`` in it: InsightFace.
    - ``shards:PATTERN``: WebDataset tars, local or by URL, ``{000..012}`` understood.
    - ``synthetic:PEOPLExIMAGES``: drawn faces.

    Args:
        spec: the line.
        people: a file of people to keep; folders only.
        size: side of the crops in pixels.
        seed: of synthetic faces.
        on_error: what a corrupt image does; see :class:`minusface.data.skipping.Skipping`.

    Raises:
        MinusfaceError: an unknown format, a missing file, or a list of people where it has no use.
    """
    kind, place = source_parts(spec)
    if people is not None and kind != "folder":
        raise MinusfaceError(f"data.people: only for a folder of people, but {spec} is {kind}")
    if kind == "folder":
        return FolderDataset(place, people=people, size=size, on_error=on_error)
    if kind == "synthetic":
        return _synthetic(spec, place, size, seed)
    return _openers()[kind](place, size, on_error)


def source_parts(spec: str) -> tuple[str, str]:
    """Format and place of a line, as :func:`open_faces` reads it.

    Raises:
        MinusfaceError: an unknown format.
    """
    kind, colon, place = spec.partition(":")
    if colon and kind in FORMATS:
        return kind, place
    path = Path(spec)
    # A drive or a folder may hold a colon; a word before it that is no place is a format misspelt.
    if colon and kind.isalpha() and len(kind) > 1 and not path.exists():
        raise choice_error("data format", kind, FORMATS)
    if spec.startswith("synthetic"):
        return "synthetic", ""
    if (path / "train.rec").is_file():
        return "recordio", spec
    return "folder", spec


def folder_of(spec: str, what: str) -> str:
    """The face folder that a line names, where nothing but one will do.

    Args:
        spec: DIR, or folder:DIR.
        what: names it in errors.

    Raises:
        MinusfaceError: another format.
    """
    kind, place = source_parts(spec)
    if kind != "folder":
        raise MinusfaceError(f"{what}{spec}: {kind} data, expected a face folder")
    return place


def _synthetic(spec: str, place: str, size: int, seed: int) -> FaceDataset:
    from minusface.data.synthetic import SyntheticFaces

    match = SYNTHETIC.match(place)
    if not match or not all(int(number) for number in match.groups()):
        raise MinusfaceError(
            f"data.faces {spec!r}: expected synthetic:PEOPLExIMAGES, say synthetic:200x10"
        )
    return SyntheticFaces(int(match[1]), int(match[2]), seed=seed, size=size)


def _openers() -> dict[str, Callable[[str, int, OnError], FaceDataset]]:
    """Readers by name, imported when one is asked for: they bring libraries of their own."""

    def listing(place: str, size: int, on_error: OnError) -> FaceDataset:
        from minusface.data.listing import ListDataset

        file, root = _rooted(place)
        return ListDataset(file, root, size=size, on_error=on_error)

    def tfrecord(place: str, size: int, on_error: OnError) -> FaceDataset:
        from minusface.data.tfrecord import TFRecordDataset

        file, root = _rooted(place)
        return TFRecordDataset(root or file.parent, file, size=size, on_error=on_error)

    def recordio(place: str, size: int, on_error: OnError) -> FaceDataset:
        from minusface.data.recordio import RecordIODataset

        return RecordIODataset(Path(place), size=size, on_error=on_error)

    def shards(place: str, size: int, on_error: OnError) -> FaceDataset:
        from minusface.data.shards import ShardDataset

        return ShardDataset(place, size=size, on_error=on_error)

    return {"list": listing, "tfrecord": tfrecord, "recordio": recordio, "shards": shards}


def _rooted(place: str) -> tuple[Path, Path | None]:
    """File and root. Either may hold an ``@`` in its name: the longest path that is a file is the file."""
    for end in (len(place), *(n for n in reversed(range(len(place))) if place[n] == "@")):
        if Path(place[:end]).is_file():
            return Path(place[:end]), Path(place[end + 1 :]) if end < len(place) else None
    file, at, root = place.rpartition("@")
    return (Path(file), Path(root)) if at else (Path(place), None)

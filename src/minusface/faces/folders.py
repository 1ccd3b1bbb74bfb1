"""A folder of photos to a folder of crops, by many processes, with a report of what failed.

Legend: N crop side.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from minusface.errors import MinusfaceError
from minusface.faces.align import align_photo, is_crop
from minusface.faces.photos import MIN_SIDE, list_photos, read_photo
from minusface.faces.sizes import jpeg_size
from minusface.files import write_atomically
from minusface.pixels import UInt8

MISSES = "misses.csv"
SHEET = "contact_sheet.jpg"
SHEET_SIDE = 12
QUALITY = 95


@dataclass(frozen=True)
class Aligned:
    """What became of a folder of photos."""

    photos: int
    """Photos found."""
    written: int
    """Crops written now."""
    present: int
    """Photos whose crop was there already."""
    misses: list[tuple[str, str]] = field(default_factory=list)
    """(path relative to the folder, reason) of photos without a crop."""


def align_folder(
    root: Path | str,
    out: Path | str,
    *,
    size: int = 112,
    workers: int | None = None,
    advance: Callable[[int], None] = lambda some: None,
) -> Aligned:
    """Find and align the face of every photo below a folder; subfolders (people) stay as they are.

    Writes ``out/person/photo.jpg`` (JPEG, quality 95), ``out/misses.csv`` and a contact sheet to look at.
    Photos whose crop is there are passed over, so that a stopped run goes on. Images of exactly N x N are
    taken as crops. Of several faces the largest and most central is taken.

    Args:
        root: photos, in a folder a person; links to folders are followed.
        out: where crops go; outside ``root``. What lies there already where a crop belongs must be N x N.
        size: N, 16 or more.
        workers: processes; by default one a core. They are started anew, not forked: a script that asks
            for several does so below its ``if __name__ == "__main__":``.
        advance: called with 1 a photo.

    Raises:
        MinusfaceError: no such folder, no photo in it, ``out`` inside it, two photos of one name, crops of
            another size in ``out``, a full disk, or a process that died.
    """
    root, out = Path(root), Path(out)
    if size < MIN_SIDE:
        raise MinusfaceError(f"size {size}: expected crops of {MIN_SIDE} pixels or more a side")
    if not root.is_dir():
        raise MinusfaceError(f"{root}: no such folder, expected photos in a folder a person")
    if out.resolve().is_relative_to(root.resolve()):
        raise MinusfaceError(f"{out}: lies inside {root}, expected a folder outside of the photos")
    photos = list_photos([root])
    targets = _targets(root, out, photos)
    todo = [(p, target) for p, target in targets.items() if not _is_there(target, size)]
    advance(len(photos) - len(todo))
    misses = []
    for photo, reason in _run(todo, size, workers or os.cpu_count() or 1):
        advance(1)
        if reason is not None:
            misses.append((photo.relative_to(root).as_posix(), reason))
    misses.sort()
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerows([("photo", "reason"), *misses])
    # Names of files are bytes, not always of UTF-8.
    write_atomically(out / MISSES, table.getvalue().encode("utf-8", "surrogateescape"))
    _write_sheet([t for t in targets.values() if t.is_file()], out / SHEET, size)
    return Aligned(len(photos), len(todo) - len(misses), len(photos) - len(todo), misses)


def _targets(root: Path, out: Path, photos: Sequence[Path]) -> dict[Path, Path]:
    """Where each photo's crop goes."""
    taken: dict[Path, Path] = {}
    for photo in photos:
        target = out / photo.relative_to(root).with_suffix(".jpg")
        if target in taken:
            raise MinusfaceError(
                f"{photo}: its crop would overwrite that of {taken[target].name}; rename one of them"
            )
        taken[target] = photo
    return {photo: target for target, photo in taken.items()}


def _is_there(target: Path, size: int) -> bool:
    """Whether a crop was written before; one of another size would be mixed with those of this run."""
    if not target.is_file():
        return False
    found = jpeg_size(target)
    if found == (size, size):
        return True
    said = "no JPEG" if found is None else f"{found[0]}x{found[1]} pixels"
    raise MinusfaceError(
        f"{target}: {said}, expected a crop of {size}x{size}; give another folder, or delete it"
    )


def _run(
    todo: Sequence[tuple[Path, Path]], size: int, workers: int
) -> Iterator[tuple[Path, str | None]]:
    work = partial(_align, size=size)
    if workers == 1 or len(todo) < 2:
        yield from map(work, todo)
        return
    # Not forked: a child that inherits OpenCV's threads, which do not run there, may wait for them for ever.
    pool = ProcessPoolExecutor(
        min(workers, len(todo)), mp_context=get_context("spawn"), initializer=_one_thread
    )
    try:
        with pool:
            yield from pool.map(work, todo, chunksize=4)
    except BrokenProcessPool as error:
        raise MinusfaceError(
            "aligning: a process died; fewer workers need less memory, and a script that starts several "
            'calls this below its `if __name__ == "__main__":`'
        ) from error


def _one_thread() -> None:
    cv2.setNumThreads(1)


def _align(job: tuple[Path, Path], size: int) -> tuple[Path, str | None]:
    """Write one crop; the reason where there is none."""
    photo, target = job
    try:
        image = read_photo(photo)
        crop = image if is_crop(image, size) else align_photo(image, size=size)[0].crop
    except MinusfaceError as error:
        return photo, str(error).removeprefix(f"{photo}: ")
    write_atomically(target, _jpeg(crop))
    return photo, None


def _jpeg(image: UInt8) -> bytes:
    flags = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), flags)
    return data.tobytes()


def _write_sheet(crops: Sequence[Path], path: Path, size: int) -> None:
    """Up to 144 crops, spread over all, in one picture: crooked or wrong ones are seen at a glance."""
    if not crops:
        return
    some = crops[:: max(1, -(-len(crops) // SHEET_SIDE**2))]
    rows = -(-len(some) // SHEET_SIDE)
    sheet = np.full((rows * size, SHEET_SIDE * size, 3), 255, np.uint8)
    for number, crop in enumerate(some):
        y, x = divmod(number, SHEET_SIDE)
        sheet[y * size : (y + 1) * size, x * size : (x + 1) * size] = read_photo(crop)
    write_atomically(path, _jpeg(sheet))

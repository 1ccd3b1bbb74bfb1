"""From any dataset format to any other, the stored bytes kept; a stopped conversion goes on where it was."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from minusface.data.folder import SUFFIXES, FolderDataset, decode_image
from minusface.data.writers import (
    ListWriter,
    Mark,
    RecordIOWriter,
    ShardWriter,
    TFRecordWriter,
    Writer,
    check_recordio,
)
from minusface.errors import MinusfaceError, choice_error
from minusface.files import write_atomically

FORMATS = ("folder", "list", "tfrecord", "recordio", "shards")
# What a stopped conversion had done, beside its files.
PROGRESS = ".progress.json"
# At most this much work is done twice.
MARK_SECONDS = 5.0


@dataclass
class Converted:
    """What was written."""

    spec: str
    """The line that opens it."""
    written: int = 0
    people: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """(key, reason) of images that could not be read."""
    seen: int = 0
    """Images of the source that were looked at, readable or not."""
    last: int | None = None
    """The source's label of the last one."""
    resumed: int = 0
    """How many of the images an earlier, stopped run had looked at."""


def convert(
    dataset: Any,
    to: str,
    out: Path,
    *,
    skip: bool = False,
    advance: Callable[[int], None] = lambda some: None,
) -> Converted:
    """Write a dataset in another format, into a folder that appears when it is whole.

    Stored bytes are copied; faces that are not stored (drawn ones) become PNG. People without a readable
    image would leave holes in the labels: those after them move up. A run that was killed left a hidden
    folder beside ``out``; the same call goes on from there.

    Args:
        dataset: with ``encoded(index)`` and ``key(index)`` where it has stored bytes.
        to: folder, list, tfrecord, recordio or shards.
        out: a folder that is not there yet.
        skip: pass over images that cannot be read, instead of failing.
        advance: called with how many more images were looked at.

    Raises:
        MinusfaceError: an unknown format, ``out`` is there, more than the format holds, names that a list
            cannot hold, an unreadable image, a full disk, or another process that writes ``out`` now;
            nothing is left behind.
    """
    if to not in FORMATS:
        raise choice_error("data format", to, FORMATS)
    if out.exists():
        raise MinusfaceError(f"{out}: exists already, expected a new folder")
    if to == "recordio":
        check_recordio(len(dataset), dataset.classes, out)
    if to in ("list", "tfrecord") and hasattr(dataset, "encoded"):
        _check_names(dataset)
    partial = out.with_name(f".{out.name}.partial")
    with _alone(out, partial):
        try:
            job = _Job(dataset, to, out, partial, skip)
            advance(job.done.seen)
            job.run(advance)
            (partial / PROGRESS).unlink(missing_ok=True)
            os.replace(partial, out)
        except KeyboardInterrupt:
            if not (partial / PROGRESS).is_file():
                shutil.rmtree(partial, ignore_errors=True)
            raise
        except (OSError, MinusfaceError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            if isinstance(error, MinusfaceError):
                raise
            raise MinusfaceError(f"{out}: cannot write ({error.strerror or error})") from error
    return job.done


def _check_names(dataset: Any) -> None:
    """Refuse paths that would be several fields or lines of a list, or of a TFRecord set's."""
    for index in range(len(dataset)):
        key = dataset.key(index)
        if ("\t" in key or "\n" in key) and _keeps_its_path(key):
            raise MinusfaceError(
                f"{dataset.name}, {key!r}: a tab or a new line in the name, which a list cannot hold; "
                "rename it, or choose another format"
            )


@contextlib.contextmanager
def _alone(out: Path, partial: Path) -> Iterator[None]:
    """No other process writes the same folder meanwhile."""
    lock = partial.with_suffix(".lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = open(lock, "w")  # noqa: SIM115
    except OSError as error:
        raise MinusfaceError(f"{out}: cannot write ({error.strerror or error})") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise MinusfaceError(f"{out}: another process is writing it now") from error
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


class _Job:
    """One conversion: what is done, and the writer that goes on from it."""

    def __init__(self, dataset: Any, to: str, out: Path, partial: Path, skip: bool) -> None:
        self.dataset, self.to, self.partial, self.skip = dataset, to, partial, skip
        self.side = _side(dataset) if to == "recordio" else None
        self.done = Converted(_spec(to, out))
        self.what = {"data": dataset.fingerprint(), "to": to, "out": out.name, "skip": skip}
        root = getattr(dataset, "root", None)
        if root is not None:
            # A list tells no more of its images than their names: below another root they are others.
            self.what["root"] = str(Path(root).resolve())
        mark = self._resume()
        if mark is None:
            shutil.rmtree(partial, ignore_errors=True)
        self.writer: Writer = _writer(to, partial, out, dataset, mark)

    def _resume(self) -> Mark | None:
        """Take up what a stopped run of the same conversion left; None where there is nothing like it."""
        try:
            saved = json.loads((self.partial / PROGRESS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if saved.get("what") != self.what:
            return None
        skipped = [(key, reason) for key, reason in saved["done"].pop("skipped")]
        self.done = Converted(**saved["done"], skipped=skipped)
        self.done.resumed = self.done.seen
        mark: Mark = saved["mark"]
        return mark

    def run(self, advance: Callable[[int], None]) -> None:
        """Write what is not written yet."""
        marked = time.monotonic()
        for number, (key, label, data) in enumerate(self._items(advance), self.done.written):
            self.writer.write(_path(number, key, label, data, self.to, self.dataset), label, data)
            self.done.written += 1
            if time.monotonic() - marked >= MARK_SECONDS:
                self._mark()
                marked = time.monotonic()
        if not self.done.written:
            raise MinusfaceError(f"{self.dataset.name}: none of its images can be read")
        self.writer.finish()

    def _mark(self) -> None:
        state = {"what": self.what, "mark": self.writer.mark(), "done": vars(self.done)}
        write_atomically(self.partial / PROGRESS, json.dumps(state).encode())

    def _items(self, advance: Callable[[int], None]) -> Iterator[tuple[str, int, bytes]]:
        """(key, label, bytes) of every readable image left, person after person, labels without holes."""
        done = self.done
        for index in _order(self.dataset)[done.seen :].tolist():
            done.seen += 1
            advance(1)
            try:
                key, label, data = _item(self.dataset, index, self.side)
            except MinusfaceError as error:
                if not self.skip:
                    raise
                done.skipped.append((str(getattr(self.dataset, "key", str)(index)), str(error)))
                continue
            if label != done.last:
                done.people, done.last = done.people + 1, label
            yield key, done.people - 1, data


def _spec(to: str, out: Path) -> str:
    return {
        "folder": f"folder:{out}",
        "list": f"list:{out / 'list.txt'}",
        "tfrecord": f"tfrecord:{out / f'{_tfr(out)}.txt'}@{out}",
        "recordio": f"recordio:{out}",
        "shards": f"shards:{out}/*.tar",
    }[to]


def _tfr(out: Path) -> str:
    """TFace takes a dataset for TFRecord by its name."""
    return out.name if "TFR" in out.name else f"{out.name}_TFR"


def _writer(to: str, partial: Path, out: Path, dataset: Any, mark: Mark | None) -> Writer:
    if to == "recordio":
        return RecordIOWriter(partial, _side(dataset), mark)
    if to == "tfrecord":
        return TFRecordWriter(partial, _tfr(out), mark=mark)
    if to == "shards":
        return ShardWriter(partial, mark=mark)
    return ListWriter(partial, to == "list", mark)


def _order(dataset: Any) -> np.ndarray:
    labels = getattr(dataset, "labels", None)
    return np.arange(len(dataset)) if labels is None else np.argsort(labels, kind="stable")


def _side(dataset: Any) -> int:
    return int(getattr(dataset, "size", 112))


def _item(dataset: Any, index: int, side: int | None) -> tuple[str, int, bytes]:
    if not hasattr(dataset, "encoded"):
        image, label, key = dataset[index]
        coded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
        return str(PurePosixPath(key).with_suffix(".png")), int(label), coded
    key, data = dataset.key(index), dataset.encoded(index)
    # A copy of damaged bytes would only move the failure to where nobody expects it.
    height, width = decode_image(data, f"{dataset.name}, {key}").shape[:2]
    if side is not None and (height, width) != (side, side):
        # RecordIO tells of one size for all, and its readers hold it to that.
        raise MinusfaceError(
            f"{dataset.name}, {key}: {width}x{height} pixels, expected {side}x{side}; --size tells of others"
        )
    return key, int(dataset.labels[index]), data


def _path(number: int, key: str, label: int, data: bytes, to: str, dataset: Any) -> str:
    """The key under which an image is written; for files: the source's own where it is a path that stays
    inside, numbers otherwise."""
    if to not in ("folder", "list"):
        return key
    # A folder's people are its folders: other sources' keys do not tell who is who.
    own = to == "list" or isinstance(dataset, FolderDataset)
    if own and _keeps_its_path(key):
        return key
    ending = "png" if data.startswith(b"\x89PNG") else "jpg"
    return f"{label:07d}/{number:08d}.{ending}"


def _keeps_its_path(key: str) -> bool:
    """Whether a key is an image's path that stays inside."""
    path = PurePosixPath(key)
    return path.suffix.lower() in SUFFIXES and not path.is_absolute() and ".." not in path.parts

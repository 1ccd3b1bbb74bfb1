"""From any dataset format to any other, the stored bytes kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from minusface.data.folder import SUFFIXES, FolderDataset, decode_image
from minusface.errors import MinusfaceError, choice_error

FORMATS = ("folder", "list", "tfrecord", "recordio", "shards")
Item = tuple[str, int, bytes]


@dataclass
class Converted:
    """What was written."""

    spec: str
    """The line that opens it."""
    written: int = 0
    people: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """(key, reason) of images that could not be read."""


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
    image would leave holes in the labels: those after them move up.

    Args:
        dataset: with ``encoded(index)`` and ``key(index)`` where it has stored bytes.
        to: folder, list, tfrecord, recordio or shards.
        out: a folder that is not there yet.
        skip: pass over images that cannot be read, instead of failing.
        advance: called with 1 an image.

    Raises:
        MinusfaceError: an unknown format, ``out`` is there, an unreadable image, or a full disk; nothing is
            left behind.
    """
    if to not in FORMATS:
        raise choice_error("data format", to, FORMATS)
    if out.exists():
        raise MinusfaceError(f"{out}: exists already, expected a new folder")
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    done = Converted(_spec(to, out))
    try:
        done.written = _write(to, _items(dataset, done, skip, advance), partial, out, dataset)
        if not done.written:
            raise MinusfaceError(f"{dataset.name}: none of its images can be read")
        os.replace(partial, out)
    except OSError as error:
        raise MinusfaceError(f"{out}: cannot write ({error.strerror or error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return done


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


def _write(to: str, items: Iterator[Item], partial: Path, out: Path, dataset: Any) -> int:
    if to == "recordio":
        from minusface.data.recordio import write_recordio

        return write_recordio(items, partial, int(getattr(dataset, "size", 112)))
    if to == "tfrecord":
        from minusface.data.tfrecord import write_tfrecord

        return write_tfrecord(items, partial, _tfr(out), partial / f"{_tfr(out)}.txt")
    if to == "shards":
        from minusface.data.shards import write_shards

        return write_shards(items, partial)
    from minusface.data.listing import write_list

    written = write_list(_as_files(items, to, dataset), partial)
    if to == "folder":
        (partial / "list.txt").unlink()
    return written


def _items(
    dataset: Any, done: Converted, skip: bool, advance: Callable[[int], None]
) -> Iterator[Item]:
    """(key, label, bytes) of every readable image, person after person, labels without holes."""
    new, last = -1, None
    for index in _order(dataset):
        advance(1)
        try:
            key, label, data = _item(dataset, int(index))
        except MinusfaceError as error:
            if not skip:
                raise
            done.skipped.append((str(getattr(dataset, "key", str)(int(index))), str(error)))
            continue
        if label != last:
            new, last = new + 1, label
            done.people = new + 1
        yield key, new, data


def _order(dataset: Any) -> np.ndarray:
    labels = getattr(dataset, "labels", None)
    return np.arange(len(dataset)) if labels is None else np.argsort(labels, kind="stable")


def _item(dataset: Any, index: int) -> Item:
    if not hasattr(dataset, "encoded"):
        image, label, key = dataset[index]
        coded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
        return str(PurePosixPath(key).with_suffix(".png")), int(label), coded
    key, data = dataset.key(index), dataset.encoded(index)
    # A copy of damaged bytes would only move the failure to where nobody expects it.
    decode_image(data, f"{dataset.name}, {key}")
    return key, int(dataset.labels[index]), data


def _as_files(items: Iterator[Item], to: str, dataset: Any) -> Iterator[Item]:
    """Keys as paths: the source's own where they are some that stay inside, numbers otherwise."""
    # A folder's people are its folders: other sources' keys do not tell who is who.
    own = to == "list" or isinstance(dataset, FolderDataset)
    for number, (key, label, data) in enumerate(items):
        path = PurePosixPath(key)
        inside = (
            path.suffix.lower() in SUFFIXES and not path.is_absolute() and ".." not in path.parts
        )
        if own and inside:
            yield key, label, data
        else:
            ending = "png" if data.startswith(b"\x89PNG") else "jpg"
            yield f"{label:07d}/{number:08d}.{ending}", label, data

"""InsightFace's RecordIO training sets: ``train.rec``, ``train.idx`` and ``property``.

A part is a magic number, a length of 29 bits with a continuation flag of 3, the data, and padding to 4
bytes; a record whose data holds the magic number at a multiple of 4 is split there. The data begins with a
header ``<IfQQ`` (flag, label, id, id2), followed by ``flag`` float labels where flag is above 0.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minusface.data.columns import check_labels, integers, read_columns
from minusface.data.records import Files, RecordDataset, array_digest
from minusface.data.skipping import OnError
from minusface.errors import MinusfaceError

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
LENGTH = (1 << 29) - 1
WHOLE, BEGIN, MIDDLE, END = range(4)
HEADER = struct.Struct("<IfQQ")
# Labels are floats in the file: whole numbers are exact up to here.
EXACT = 1 << 24


class Record(NamedTuple):
    """A record taken apart."""

    labels: tuple[float, ...]
    """Of the header: one, or as many as its flag says."""
    image: bytes
    """What follows the header; empty for records about people."""


class RecordIODataset(RecordDataset):
    """An InsightFace training set, read at random through its index.

    Args:
        root: folder with ``train.rec`` and ``train.idx``; ``property`` (``classes,height,width``), where
            there is one, must agree.
        size: side of every crop in pixels.
        on_error: see :class:`RecordDataset`.

    Raises:
        MinusfaceError: a missing or malformed file, an index past the end, labels with holes.
    """

    def __init__(self, root: Path | str, size: int = 112, on_error: OnError = "fail") -> None:
        root = Path(root)
        if not (root / "train.rec").is_file():
            raise MinusfaceError(f"{root}: no train.rec in it, expected train.rec and train.idx")
        self.files = Files([root / "train.rec"])
        index = root / "train.idx"
        parts = [
            [integers(index, lines, column, what) for column, what in ((0, "key"), (1, "offset"))]
            for lines in read_columns(index, 2, "key<tab>offset")
        ]
        keys, offsets = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(keys, kind="stable")
        self._keys, self._offsets = keys[order], offsets[order]
        beyond = self._offsets + 8 > self.files.sizes()[0]
        if beyond.any():
            raise MinusfaceError(
                f"{index}: offset {self._offsets[beyond][0]} lies past the end of {root / 'train.rec'}"
            )
        self._images, labels = self._find_labels(str(root / "train.rec"))
        classes = check_labels(labels, str(root / "train.rec"))
        _check_property(root / "property", classes)
        super().__init__(root.resolve().name, labels, classes, size, on_error)

    def key(self, index: int) -> str:
        """The number of the record, as text."""
        return str(self._keys[self._images[index]])

    def _bytes(self, index: int, key: str) -> bytes:
        record = self._record(int(self._images[index]))
        if not record.image:
            raise MinusfaceError(f"{self.files.paths[0]}, record {key}: holds no image")
        return record.image

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the index, the labels and the file's size."""
        return array_digest(self._keys, self._offsets, self.labels, self.files.sizes())

    def _record(self, place: int) -> Record:
        where = f"{self.files.paths[0]}, record {self._keys[place]}"
        return _parse(self._data(int(self._offsets[place]), where), where)

    def _data(self, offset: int, where: str) -> bytes:
        """The data of a record, its parts put together."""
        found = b""
        expected = (WHOLE, BEGIN)
        while True:
            magic, size = struct.unpack("<II", self.files.read(0, offset, 8))
            flag = size >> 29
            if magic != MAGIC:
                raise MinusfaceError(
                    f"{where}: no record begins at byte {offset} (wrong magic number)"
                )
            if flag not in expected:
                raise MinusfaceError(f"{where}: its parts are out of order at byte {offset}")
            found += self.files.read(0, offset + 8, size & LENGTH)
            if flag in (WHOLE, END):
                return found
            found += MAGIC_BYTES
            offset += 8 + -(-(size & LENGTH) // 4) * 4
            expected = (MIDDLE, END)

    def _find_labels(self, where: str) -> tuple[np.ndarray, np.ndarray]:
        """Places of the image records, and the label of each.

        Where record 0 tells of people, one image a person is read, not all: its range gives the rest.
        """
        first = self._record(0) if self._keys[0] == 0 else None
        grouped = first is not None and len(first.labels) >= 2 and not first.image
        if first is not None and grouped and self._keys[-1] <= EXACT:
            begin, end = (int(value) for value in first.labels[:2])
            return self._of_people(begin, end, where)
        every: list[int] = []
        labels: list[int] = []
        for place, key in enumerate(self._keys):
            record = self._record(place)
            # Ranges of people are no images. They are float32, too coarse for record numbers this high.
            if not grouped or record.image:
                every.append(place)
                labels.append(_label(record, f"{where}, record {key}"))
        return np.asarray(every), np.asarray(labels, np.int32)

    def _of_people(self, begin: int, end: int, where: str) -> tuple[np.ndarray, np.ndarray]:
        people = np.searchsorted(self._keys, np.arange(begin, end))
        found = people < len(self._keys)
        if not found.all() or (self._keys[people] != np.arange(begin, end)).any():
            raise MinusfaceError(
                f"{where}: record 0 names people {begin} to {end - 1}, not all there"
            )
        last = int(np.searchsorted(self._keys, begin))
        labels = np.full(last, -1, np.int32)
        for place in people:
            record = self._record(int(place))
            if len(record.labels) < 2:
                raise MinusfaceError(f"{where}, record {self._keys[place]}: no range of images")
            low, high = np.searchsorted(self._keys[:last], [int(v) for v in record.labels[:2]])
            if low < high:
                labels[low:high] = _label(
                    self._record(int(low)), f"{where}, record {self._keys[low]}"
                )
        # Record 0 is no image.
        images = np.arange(1, last)
        if (labels[1:] < 0).any():
            lost = images[int((labels[1:] < 0).argmax())]
            raise MinusfaceError(f"{where}: record {self._keys[lost]} belongs to nobody")
        return images, labels[1:]


def _parse(data: bytes, where: str) -> Record:
    if len(data) < HEADER.size:
        raise MinusfaceError(f"{where}: {len(data)} bytes, too short for a header")
    flag, label, _, _ = HEADER.unpack_from(data)
    if flag == 0:
        return Record((label,), data[HEADER.size :])
    end = HEADER.size + 4 * flag
    if end > len(data):
        raise MinusfaceError(f"{where}: ends within its {flag} labels")
    return Record(struct.unpack_from(f"<{flag}f", data, HEADER.size), data[end:])


def _label(record: Record, where: str) -> int:
    value = record.labels[0]
    if not 0 <= value < 2**31 or value != int(value):
        raise MinusfaceError(f"{where}: label {value:g}, expected a whole number from 0 on")
    return int(value)


def _check_property(path: Path, classes: int) -> None:
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    fields = text.split(",")
    if len(fields) != 3 or not all(field.strip().isdecimal() for field in fields):
        raise MinusfaceError(f"{path}: {text[:40]!r}, expected classes,height,width")
    if int(fields[0]) != classes:
        raise MinusfaceError(f"{path}: {fields[0]} people, but the records have {classes}")


def parts_of(data: bytes) -> Iterator[bytes]:
    """A record's bytes in the file: split where its data holds the magic number."""
    pieces, start, position = [], 0, 0
    while (position := data.find(MAGIC_BYTES, position)) >= 0:
        if position % 4 == 0:
            pieces.append(data[start:position])
            start = position + 4
            position = start
        else:
            position += 1
    pieces.append(data[start:])
    for number, piece in enumerate(pieces):
        if len(pieces) == 1:
            flag = WHOLE
        else:
            flag = BEGIN if number == 0 else END if number == len(pieces) - 1 else MIDDLE
        yield struct.pack("<II", MAGIC, flag << 29 | len(piece)) + piece + b"\0" * (-len(piece) % 4)

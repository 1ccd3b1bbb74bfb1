"""TFace's TFRecord datasets: ``ROOT/NAME/NAME-00000.tfrecord`` and an index with a line a record.

A record is a length (uint64), a masked CRC-32C of it, the data, a masked CRC-32C of the data, little
endian; the data is a ``tf.train.Example`` whose feature ``image`` holds one encoded image.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np

from minusface.data.columns import PART, check_labels, integers, names, read_columns, read_labels
from minusface.data.records import Files, RecordDataset, array_digest
from minusface.data.skipping import OnError
from minusface.errors import MinusfaceError

LINE = "NAME<tab>shard<tab>offset<tab>label"
HEADER, FOOTER = 12, 4
# Larger than any crop: a length beyond it is a wrong offset.
LARGEST = 1 << 28
MASK = 0xA282EAD8
SHARDS = 100_000


class TFRecordDataset(RecordDataset):
    """A TFace training set, read at random through its index; every checksum is verified.

    Args:
        root: folder of the datasets' folders.
        index: ``NAME<tab>shard<tab>offset<tab>label`` a record; several names may be mixed.
        size: side of every crop in pixels.
        on_error: see :class:`RecordDataset`.

    Raises:
        MinusfaceError: a missing or malformed file, an offset past a shard's end, labels with holes, a
            name that leads out of ``root``.
    """

    def __init__(
        self, root: Path | str, index: Path | str, size: int = 112, on_error: OnError = "fail"
    ) -> None:
        root, index = Path(root), Path(index)
        known: list[bytes] = []
        numbers: dict[int, int] = {}
        parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for lines in read_columns(index, 4, LINE):
            shard = integers(index, lines, 1, "shard")
            if shard.max() >= SHARDS:
                raise MinusfaceError(f"{index}: shard {shard.max()}, expected less than {SHARDS}")
            found, where = np.unique(names(lines, 0, known) * SHARDS + shard, return_inverse=True)
            codes = np.array([numbers.setdefault(int(code), len(numbers)) for code in found])
            offset, label = integers(index, lines, 2, "offset"), read_labels(index, lines, 3)
            parts.append((codes[where].astype(np.int32), offset, label))
        self.files = Files([_shard(root, known[code // SHARDS], code % SHARDS) for code in numbers])
        # One column after the other, each freed where it came from: the index is there once.
        columns = [[part[column] for part in parts] for column in range(3)]
        del parts
        self.shard, self.offsets, whose = (np.concatenate(columns.pop(0)) for _ in range(3))
        _check_offsets(index, self.files, self.shard, self.offsets)
        super().__init__(index.stem, whose, check_labels(whose, str(index)), size, on_error)

    def key(self, index: int) -> str:
        """``NAME-00000.tfrecord@offset``."""
        return f"{self.files.paths[self.shard[index]].name}@{self.offsets[index]}"

    def _bytes(self, index: int, key: str) -> bytes:
        number, offset = int(self.shard[index]), int(self.offsets[index])
        where = f"{self.files.paths[number]}, byte {offset}"
        head = self.files.read(number, offset, HEADER)
        size = _length(head, where)
        rest = self.files.read(number, offset + HEADER, size + FOOTER)
        data = rest[:size]
        if struct.unpack("<I", rest[size:])[0] != masked_crc(data):
            raise MinusfaceError(f"{where}: damaged record (checksum of the data is wrong)")
        return image_of(data, where)

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the index and the shards' sizes."""
        shards = tuple(path.name for path in self.files.paths)
        return array_digest(self.shard, self.offsets, self.labels, self.files.sizes(), words=shards)


def _shard(root: Path, name: bytes, number: int) -> Path:
    text = name.decode("utf-8", "replace")
    if not text or "/" in text or "\\" in text or text in (".", ".."):
        raise MinusfaceError(f"dataset name {text!r} in an index: expected a folder of {root}")
    return root / text / f"{text}-{number:05d}.tfrecord"


def _check_offsets(index: Path, files: Files, shard: np.ndarray, offsets: np.ndarray) -> None:
    sizes = files.sizes()
    for start in range(0, len(offsets), PART):
        part = slice(start, start + PART)
        beyond = offsets[part] + HEADER + FOOTER > sizes[shard[part]]
        if not beyond.any():
            continue
        line = start + int(beyond.argmax())
        raise MinusfaceError(
            f"{index}, line {line + 1}: offset {offsets[line]} lies past the end of "
            f"{files.paths[shard[line]]} ({sizes[shard[line]]} bytes)"
        )


@cache
def _crc32c() -> Callable[[bytes], int]:
    """The library's function, looked up once."""
    try:
        from google_crc32c import value
    except ImportError as error:
        raise MinusfaceError(
            'google-crc32c is needed for TFRecord: pip install "minusface[data]"'
        ) from error
    return cast("Callable[[bytes], int]", value)


def masked_crc(data: bytes) -> int:
    """TFRecord's rotated and shifted CRC-32C."""
    crc = int(_crc32c()(data))
    return ((crc >> 15 | crc << 17) + MASK) & 0xFFFFFFFF


def _length(head: bytes, where: str) -> int:
    size, crc = struct.unpack("<QI", head)
    if crc != masked_crc(head[:8]):
        raise MinusfaceError(f"{where}: no record begins here (checksum of the length is wrong)")
    if size > LARGEST:
        raise MinusfaceError(f"{where}: a record of {size} bytes, expected at most {LARGEST}")
    return int(size)


def image_of(example: bytes, where: str) -> bytes:
    """The bytes feature ``image`` of a serialised ``tf.train.Example``.

    Raises:
        MinusfaceError: no such message, or no such feature.
    """
    try:
        for features in _messages(example, 1):
            for entry in _messages(features, 1):
                if next(_messages(entry, 1), b"") == b"image":
                    for feature in _messages(entry, 2):
                        for values in _messages(feature, 1):
                            return next(_messages(values, 1))
    except (IndexError, StopIteration):
        pass
    raise MinusfaceError(f"{where}: no Example with a bytes feature 'image'")


def _messages(data: bytes, wanted: int) -> Iterator[bytes]:
    """Length-delimited fields of a number in a protocol-buffer message."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, kind = tag >> 3, tag & 7
        if kind == 2:
            size, position = _varint(data, position)
            if position + size > len(data):
                raise IndexError
            if number == wanted:
                yield data[position : position + size]
            position += size
        elif kind == 0:
            _, position = _varint(data, position)
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
        else:
            raise IndexError


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position += 1
        if byte < 128:
            return value, position
        shift += 7
        if shift > 63:
            raise IndexError


def example_of(image: bytes) -> bytes:
    """A serialised ``tf.train.Example`` with one feature, ``image``."""

    def field(number: int, data: bytes) -> bytes:
        size, prefix = len(data), bytearray([number << 3 | 2])
        while size > 127:
            prefix.append(size & 127 | 128)
            size >>= 7
        return bytes(prefix) + bytes([size]) + data

    feature = field(1, field(1, image))
    return field(1, field(1, field(1, b"image") + field(2, feature)))


def record_of(data: bytes) -> bytes:
    """Data framed as a record."""
    length = struct.pack("<Q", len(data))
    crcs = (struct.pack("<I", masked_crc(part)) for part in (length, data))
    return length + next(crcs) + data + next(crcs)

"""Datasets written image by image, in files that only grow: a stopped writer goes on from its last mark.

``mark`` brings all that was written to the files and returns a mark; a writer that is given one cuts its
files back to it.
"""

from __future__ import annotations

import io
import os
import struct
import tarfile
from pathlib import Path
from typing import Any, Protocol

from minusface.data.folder import SUFFIXES
from minusface.data.recordio import EXACT, HEADER, parts_of
from minusface.data.tfrecord import example_of, record_of
from minusface.errors import MinusfaceError

Mark = dict[str, Any]
RECORDS_A_SHARD = 500_000
IMAGES_A_TAR = 10_000


class Writer(Protocol):
    """Takes images in their order, labels rising from 0 with each label's images together."""

    def write(self, key: str, label: int, image: bytes) -> None:
        """Add an encoded image."""
        ...

    def mark(self) -> Mark:
        """Bring everything to the files; what a new writer needs to go on from here, for JSON."""
        ...

    def finish(self) -> None:
        """Write what is known only at the end, and close."""
        ...


class _Growing:
    """A file that only grows; opened at a size, it is cut back to it."""

    def __init__(self, path: Path, size: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(path, "r+b" if size else "wb")  # noqa: SIM115
        self.file.truncate(size)
        self.file.seek(size)

    def write(self, data: bytes | str) -> None:
        self.file.write(data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data)

    def tell(self) -> int:
        return self.file.tell()

    def sync(self) -> int:
        """Everything on disk; the size."""
        self.file.flush()
        os.fsync(self.file.fileno())
        return self.tell()


class ListWriter:
    """Image files below a folder and, unless ``listed`` is false, their list ``path<tab>label``.

    Args:
        root: the folder.
        listed: whether to write ``list.txt``.
        mark: where to go on from.
    """

    def __init__(self, root: Path, listed: bool = True, mark: Mark | None = None) -> None:
        self.root = root
        self.list = _Growing(root / "list.txt", (mark or {}).get("list", 0)) if listed else None

    def write(self, key: str, label: int, image: bytes) -> None:
        """See :class:`Writer`; the key is a path relative to the folder."""
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
        if self.list is not None:
            self.list.write(f"{key}\t{label}\n")

    def mark(self) -> Mark:
        """See :class:`Writer`."""
        return {"list": self.list.sync()} if self.list is not None else {}

    def finish(self) -> None:
        """See :class:`Writer`."""
        self.mark()
        if self.list is not None:
            self.list.file.close()


class TFRecordWriter:
    """``root/name/name-00000.tfrecord`` and so on, ``name.index`` and the training index ``root/name.txt``.

    Args:
        root: gets the folder ``name`` and the training index.
        name: of the dataset.
        records: a shard.
        mark: where to go on from.
    """

    def __init__(
        self, root: Path, name: str, records: int = RECORDS_A_SHARD, mark: Mark | None = None
    ) -> None:
        at = mark or {}
        self.folder, self.name, self.records = root / name, name, records
        self.count = at.get("count", 0)
        self.train = _Growing(root / f"{name}.txt", at.get("train", 0))
        self.paths = _Growing(self.folder / f"{name}.index", at.get("paths", 0))
        self.shard = self._open(max(self.count - 1, 0) // records, at.get("shard", 0))

    def _open(self, number: int, size: int = 0) -> _Growing:
        return _Growing(self.folder / f"{self.name}-{number:05d}.tfrecord", size)

    def write(self, key: str, label: int, image: bytes) -> None:
        """See :class:`Writer`."""
        number = self.count // self.records
        if self.count and self.count % self.records == 0:
            self.shard.sync()
            self.shard.file.close()
            self.shard = self._open(number)
        offset = self.shard.tell()
        self.shard.write(record_of(example_of(image)))
        self.train.write(f"{self.name}\t{number}\t{offset}\t{label}\n")
        self.paths.write(f"{key}\t{number}\t{offset}\n")
        self.count += 1

    def mark(self) -> Mark:
        """See :class:`Writer`."""
        sizes = {name: getattr(self, name).sync() for name in ("shard", "train", "paths")}
        return {"count": self.count, **sizes}

    def finish(self) -> None:
        """See :class:`Writer`."""
        self.mark()
        for growing in (self.shard, self.train, self.paths):
            growing.file.close()


class RecordIOWriter:
    """``train.rec``, ``train.idx`` and ``property``.

    Args:
        root: the folder.
        size: side of the crops, for ``property``.
        mark: where to go on from.
    """

    def __init__(self, root: Path, size: int = 112, mark: Mark | None = None) -> None:
        at = mark or {}
        self.root, self.size, self.count = root, size, at.get("count", 0)
        self.firsts: list[int] = list(at.get("firsts", []))
        self.rec = _Growing(root / "train.rec", at.get("rec", 0))
        self.index = _Growing(root / "train.idx", at.get("index", 0))
        if not mark:
            # Record 0 has a fixed length, and is written again once the numbers are known.
            self.index.write(f"0\t{self.rec.tell()}\n")
            self.rec.write(_about(0, 0, 0.0, 0))

    def write(self, key: str, label: int, image: bytes) -> None:
        """See :class:`Writer`.

        Raises:
            MinusfaceError: labels that fall, or more than the format holds.
        """
        known = len(self.firsts)
        check_recordio(self.count + 1, max(known, label + 1), self.root)
        if label not in (known, known - 1):
            raise MinusfaceError(
                f"{self.root}: label {label} after {known - 1}, expected rising labels"
            )
        self.count += 1
        if label == known:
            self.firsts.append(self.count)
        self.index.write(f"{self.count}\t{self.rec.tell()}\n")
        for part in parts_of(HEADER.pack(0, float(label), self.count, 0) + image):
            self.rec.write(part)

    def mark(self) -> Mark:
        """See :class:`Writer`."""
        sizes = {"rec": self.rec.sync(), "index": self.index.sync()}
        return {"count": self.count, "firsts": list(self.firsts), **sizes}

    def finish(self) -> None:
        """See :class:`Writer`."""
        ends = [*self.firsts[1:], self.count + 1]
        for label, (first, end) in enumerate(zip(self.firsts, ends, strict=True)):
            number = self.count + 1 + label
            self.index.write(f"{number}\t{self.rec.tell()}\n")
            self.rec.write(_about(first, end, float(label), number))
        self.rec.file.seek(0)
        people = len(self.firsts)
        self.rec.write(_about(self.count + 1, self.count + 1 + people, 0.0, 0))
        for growing in (self.rec, self.index):
            growing.sync()
            growing.file.close()
        (self.root / "property").write_text(f"{people},{self.size},{self.size}\n")


def check_recordio(images: int, people: int, where: Path) -> None:
    """Refuse what RecordIO's numbers cannot hold.

    Raises:
        MinusfaceError: records of images and people whose last number is beyond 2^24: ranges of them are
            float32, and would be rounded.
    """
    if images + people + 1 > EXACT:
        raise MinusfaceError(
            f"{where}: {images:,} images of {people:,} people, but recordio counts {EXACT - 1:,} of both at "
            "most; tfrecord and shards have no such limit"
        )


def _about(first: int, last: int, label: float, number: int) -> bytes:
    """A record about people: a header with two labels, and no image."""
    return b"".join(parts_of(HEADER.pack(2, label, number, 0) + struct.pack("<2f", first, last)))


class ShardWriter:
    """WebDataset shards ``faces-000000.tar`` and so on.

    A dot in a key's last part becomes an underscore: there the format parts key and extension. Keys that
    come to the same so (``a.jpg`` and ``a.png``) are told apart by the image's number.

    Args:
        folder: gets the shards.
        per_shard: images a shard.
        mark: where to go on from.
    """

    def __init__(
        self, folder: Path, per_shard: int = IMAGES_A_TAR, mark: Mark | None = None
    ) -> None:
        at = mark or {}
        self.folder, self.per_shard, self.count = folder, per_shard, at.get("count", 0)
        # Names in this tar, and those of a person whose images began in the one before: their labels.
        self.taken: dict[str, int] = dict(at.get("taken", {}))
        self._open(max(self.count - 1, 0) // per_shard, at.get("tar", 0))

    def _open(self, number: int, size: int = 0) -> None:
        self.growing = _Growing(self.folder / f"faces-{number:06d}.tar", size)
        # A tar file goes on wherever its file stands; its end is written on closing.
        self.tar = tarfile.open(fileobj=self.growing.file, mode="w")  # noqa: SIM115

    def write(self, key: str, label: int, image: bytes) -> None:
        """See :class:`Writer`."""
        if self.count and self.count % self.per_shard == 0:
            self._close()
            self._open(self.count // self.per_shard)
            self.taken = {name: whose for name, whose in self.taken.items() if whose == label}
        whole = self._name(key)
        self.taken[whole] = label
        ending = "png" if image.startswith(b"\x89PNG") else "jpg"
        for kind, data in ((ending, image), ("cls", str(label).encode())):
            member = tarfile.TarInfo(f"{whole}.{kind}")
            member.size = len(data)
            self.tar.addfile(member, io.BytesIO(data))
        self.count += 1

    def _name(self, key: str) -> str:
        """The key in the tar: without an image's extension or any dot, and not there yet."""
        parent, slash, base = key.rpartition("/")
        stem, dot, ending = base.rpartition(".")
        # What follows the last dot may be all that tells records apart: NAME-00000.tfrecord@123.
        known = stem and f"{dot}{ending}".lower() in SUFFIXES
        name = parent + slash + (stem if known else base).replace(".", "_")
        while name in self.taken:
            name += f"-{self.count}"
        return name

    def _close(self) -> None:
        self.tar.close()
        self.growing.sync()
        self.growing.file.close()

    def mark(self) -> Mark:
        """See :class:`Writer`."""
        return {"count": self.count, "tar": self.growing.sync(), "taken": dict(self.taken)}

    def finish(self) -> None:
        """See :class:`Writer`."""
        self._close()

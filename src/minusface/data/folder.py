"""A folder of people: ``root/person/image.jpg``, one folder a person, aligned crops in it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from minusface.data.dataset import Sample, check_index, digest
from minusface.data.skipping import OnError, Skipping
from minusface.errors import MinusfaceError
from minusface.types import UInt8

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


class FolderDataset(Skipping):
    """Aligned face crops on disk, one folder a person; labels number the people in sorted order.

    A person with a single image is fine. Folders without an image, hidden files and files that are
    no images by their names are passed over.

    Args:
        root: folder with one folder a person.
        people: names to keep, or a list file of them (see :func:`read_people`); all when None.
        size: side of every crop in pixels.
        cache: keep the encoded files in memory, read once and now.
        on_error: what an image does that cannot be read; see :class:`Skipping`.

    Raises:
        MinusfaceError: ``root`` is missing, empty or flat, or a listed person has no image in it.
    """

    def __init__(
        self,
        root: Path | str,
        people: Path | str | Sequence[str] | None = None,
        size: int = 112,
        cache: bool = False,
        on_error: OnError = "fail",
    ) -> None:
        self.root = Path(root)
        super().__init__(self.root.resolve().name, on_error)
        self.size = size
        kept = _people_folders(self.root, people)
        names: list[bytes] = []
        sizes: list[int] = []
        labels: list[int] = []
        self.people: list[str] = []
        for person in kept:
            files = _image_files(self.root / person)
            if not files and people is not None:
                raise MinusfaceError(f"{self.root / person}: a listed person without an image")
            if not files:
                continue
            labels.extend([len(self.people)] * len(files))
            self.people.append(person)
            names.extend(os.fsencode(name) for name, _ in files)
            sizes.extend(bytes_ for _, bytes_ in files)
        if not names:
            raise MinusfaceError(f"{self.root}: no image in any person's folder, {_EXPECTED}")
        # Arrays rather than objects: millions of images, shared by forked workers without a copy.
        self._names = np.array(names, dtype=np.bytes_)
        self._bytes = np.array(sizes, dtype=np.int64)
        self.labels: npt.NDArray[np.int64] = np.array(labels, dtype=np.int64)
        self._cached: UInt8 | None = None
        if cache:
            self._starts = np.concatenate([[0], np.cumsum(self._bytes)])
            self._cached = self._read_all()

    @property
    def classes(self) -> int:
        """How many people. Training on labels needs two and more: that is for the caller to ask."""
        return len(self.people)

    def __len__(self) -> int:
        return len(self.labels)

    def key(self, index: int) -> str:
        """``Person/file.jpg`` of an image."""
        return f"{self.people[self.labels[index]]}/{os.fsdecode(self._names[index])}"

    def keys(self) -> Iterator[str]:
        """All keys, in order."""
        return (self.key(index) for index in range(len(self)))

    def _sample(self, index: int) -> Sample:
        key = self.key(index)
        path = self.root / key
        image = decode_image(self._encoded(index, path), str(path))
        height, width = image.shape[:2]
        if (height, width) != (self.size, self.size):
            raise MinusfaceError(
                f"{path}: {width}x{height} pixels, expected {self.size}x{self.size}; "
                "photos are aligned to crops first"
            )
        return Sample(image, int(self.labels[index]), key)

    def encoded(self, index: int) -> bytes:
        """The file's bytes as they are."""
        return self._encoded(index, self.root / self.key(check_index(index, len(self))))

    def fingerprint(self) -> str:
        """SHA-256 (hex) over keys and file sizes."""
        return digest(
            f"{key}\t{size}" for key, size in zip(self.keys(), self._bytes.tolist(), strict=True)
        )

    def _encoded(self, index: int, path: Path) -> bytes:
        if self._cached is not None:
            return self._cached[self._starts[index] : self._starts[index + 1]].tobytes()
        return _read(path)

    def _read_all(self) -> UInt8:
        blob = np.empty(int(self._bytes.sum()), np.uint8)
        for index, key in enumerate(self.keys()):
            data = _read(self.root / key)
            if len(data) != self._bytes[index]:
                raise MinusfaceError(f"{self.root / key}: changed while it was read")
            start = self._starts[index]
            blob[start : start + len(data)] = np.frombuffer(data, np.uint8)
        return blob


# A PNG's last chunk, whole: its name and checksum are always these.
PNG_END = b"IEND\xaeB`\x82"
# A JPEG's marker, and the next one behind a scan, within which zeros and restarts follow 0xff.
MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
SCANNED = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_EXPECTED = "expected one folder a person: root/person/image.jpg"


def read_people(path: Path | str) -> list[str]:
    """Names in a list file, one a line, in the file's order.

    LFW's files are understood: ``name<tab>count`` with counts of people on lines of their own. Without
    tabs, a first line that is a number is a count only if it counts the lines after it, and has no zero in
    front: names may be numbers. Names are what they are on disk, in UTF-8 or not.

    Raises:
        MinusfaceError: a file that is missing, no text, or lists nobody.
    """
    path = Path(path)
    text = read_names(path, "people")
    lines = [line for line in (raw.strip() for raw in text.split("\n")) if line]
    if any("\t" in line for line in lines):
        lines = [line for line in lines if "\t" in line or not line.isdigit()]
    elif lines and lines[0] == str(len(lines) - 1):
        lines = lines[1:]
    names = [line.split("\t")[0].strip() for line in lines]
    if not names:
        raise MinusfaceError(f"{path}: lists nobody, expected a name a line")
    return names


def read_names(path: Path, what: str) -> str:
    """The text of a list of names of files, bytes that are not UTF-8 as the file system gives them.

    Raises:
        MinusfaceError: a file that is missing, or no text; ``what`` it should list.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise MinusfaceError(f"{path}: cannot read ({error.strerror or error})") from error
    if "\0" in text:
        raise MinusfaceError(f"{path}: not a list of {what} (no UTF-8 text)")
    return text


def decode_image(data: bytes, where: str) -> UInt8:
    """Bytes of an image file to (H, W, 3) bytes, RGB; a rotation noted in EXIF is not applied.

    JPEGs go through simplejpeg where installed, else OpenCV: the same pixels either way.

    Raises:
        MinusfaceError: damaged or truncated data; ``where`` names the file.
    """
    image: UInt8 | None = None
    try:
        if data.startswith(b"\xff\xd8"):
            image = _decode_jpeg(data)
        elif data and not (data.startswith(b"\x89PNG") and PNG_END not in data):
            image = _decode_opencv(data)
    except (ValueError, cv2.error):
        image = None
    if image is None:
        reason = "an empty file" if not data else "damaged, truncated or no image"
        raise MinusfaceError(f"{where}: not a readable image ({reason})")
    return image


def _ends(data: bytes) -> bool:
    """Whether a JPEG's own end is there, whatever lies behind it, as the film of a motion photo does."""
    position = 2
    while marker := MARKER.match(data, position):
        kind, position = marker.group(1), marker.end()
        if kind == b"\xd9":
            return True
        if kind == b"\x01" or b"\xd0" <= kind <= b"\xd7":
            continue
        position += int.from_bytes(data[position : position + 2])
        if kind == b"\xda":
            behind = SCANNED.search(data, position)
            position = len(data) if behind is None else behind.start()
    return False


def _decode_jpeg(data: bytes) -> UInt8 | None:
    # OpenCV fills what a truncated scan lacks with grey, without a word.
    if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda") and not _ends(data):
        return None
    try:
        import simplejpeg
    except ImportError:
        return _decode_opencv(data)
    # The exact transform and upsampling are libjpeg's and OpenCV's default, not simplejpeg's.
    decoded = simplejpeg.decode_jpeg(data, colorspace="RGB", fastdct=False, fastupsample=False)
    return np.asarray(decoded, np.uint8)


def _decode_opencv(data: bytes) -> UInt8 | None:
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    return (
        None if decoded is None else np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MinusfaceError(f"{path}: cannot read ({error.strerror or error})") from error


def _people_folders(root: Path, people: Path | str | Sequence[str] | None) -> list[str]:
    """Sorted names of the folders to read."""
    if not root.is_dir():
        reason = "is a file" if root.exists() else "no such folder"
        raise MinusfaceError(f"{root}: {reason}, {_EXPECTED}")
    with os.scandir(root) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".")]
    found = {entry.name for entry in shown if entry.is_dir()}
    if not found:
        flat = sum(entry.name.lower().endswith(SUFFIXES) for entry in shown)
        if flat:
            reason = f"{flat} images lie in it without folders"
        else:
            reason = "holds no folder" if shown else "is empty"
        raise MinusfaceError(f"{root}: {reason}, {_EXPECTED}")
    if people is None:
        return sorted(found)
    listed = read_people(people) if isinstance(people, (str, Path)) else list(people)
    if not listed:
        raise MinusfaceError(f"{root}: an empty list of people to keep")
    missing = sorted(set(listed) - found)
    if missing:
        where = people if isinstance(people, (str, Path)) else "people"
        raise MinusfaceError(
            f"{where}: {missing[0]!r} has no folder in {root} "
            f"({len(missing)} of {len(set(listed))} listed people are missing)"
        )
    return sorted(set(listed))


def _image_files(folder: Path) -> list[tuple[str, int]]:
    """Sorted (name, bytes) of a person's images."""
    with os.scandir(folder) as entries:
        return sorted(
            (entry.name, entry.stat().st_size)
            for entry in entries
            if entry.name.lower().endswith(SUFFIXES)
            and not entry.name.startswith(".")
            and entry.is_file()
        )

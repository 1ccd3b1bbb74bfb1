"""From keys to images of a face folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from minusface.data import decode_image
from minusface.data.dataset import digest
from minusface.errors import MinusfaceError
from minusface.types import UInt8

Reader = Callable[[str], UInt8]


def folder_reader(root: Path | str, size: int | None = None) -> Reader:
    """Reads ``root/key`` as (H, W, 3) bytes, RGB.

    Args:
        root: a folder with a folder a person.
        size: refuse images of another side; by default any.

    Raises:
        MinusfaceError: no such folder; when called, an image that is missing, damaged or of another size.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise MinusfaceError(f"{folder}: no such folder, expected one folder a person in it")

    def read(key: str) -> UInt8:
        path = folder / key
        try:
            data = path.read_bytes()
        except OSError as error:
            raise MinusfaceError(f"{path}: cannot read ({error.strerror or error})") from error
        image = decode_image(data, str(path))
        if size is not None and image.shape[:2] != (size, size):
            raise MinusfaceError(
                f"{path}: {image.shape[1]}x{image.shape[0]} pixels, expected {size}x{size}: "
                "faces are aligned first"
            )
        return image

    return read


def files_fingerprint(root: Path | str, keys: Iterable[str]) -> str:
    """SHA-256 (hex) over the files' names, sizes and times: what is kept of images ends when they change.

    Args:
        root: a folder.
        keys: paths below it.

    Raises:
        MinusfaceError: a file is missing.
    """
    folder = Path(root)

    def line(key: str) -> str:
        try:
            stat = (folder / key).stat()
        except OSError as error:
            raise MinusfaceError(
                f"{folder / key}: cannot read ({error.strerror or error})"
            ) from error
        return f"{key}\t{stat.st_size}\t{stat.st_mtime_ns}"

    return digest(map(line, keys))

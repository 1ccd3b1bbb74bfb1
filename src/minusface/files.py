"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from minusface.errors import MinusfaceError


def write_atomically(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file so that a crash or a full disk leaves the old one, or none, never a half.

    Args:
        path: its folder is made when missing.
        data: all of it.
        mode: who may read it, from its first byte on; less what the system's umask takes away.

    Raises:
        MinusfaceError: it cannot be written, or is a folder by its name.
    """
    with _beside(path, data, mode) as temporary:
        os.replace(temporary, path)


def write_new(path: Path, data: bytes) -> bool:
    """Write a file, as :func:`write_atomically` does, unless there is one of its name already.

    Returns:
        Whether it was written.

    Raises:
        MinusfaceError: it cannot be written, or is a folder by its name.
    """
    with _beside(path, data, 0o666) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:
            # A file system without links.
            if os.path.lexists(path):
                return False
            os.replace(temporary, path)
    return True


@contextlib.contextmanager
def _beside(path: Path, data: bytes, mode: int) -> Iterator[Path]:
    """The data in a file of another name in the same folder; it is gone afterwards."""
    if not path.name:
        raise MinusfaceError(f"{path}: a folder, expected a file to write")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # One that was left over would keep its mode.
        temporary.unlink(missing_ok=True)
        with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    except OSError as error:
        raise MinusfaceError(f"{path}: cannot write ({error.strerror or error})") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Refuse, before long work, a file that :func:`write_atomically` could not write after it.

    Raises:
        MinusfaceError: a folder, or below a file or a folder that may not be written.
    """
    if not path.name or path.is_dir():
        raise MinusfaceError(f"{path}: a folder, expected a file to write")
    above = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if not above.is_dir():
        raise MinusfaceError(f"{path}: cannot write ({above} is no folder)")
    if not os.access(above, os.W_OK | os.X_OK):
        raise MinusfaceError(f"{path}: cannot write (no permission in {above})")

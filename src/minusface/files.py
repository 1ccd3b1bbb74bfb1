"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from minusface.errors import MinusfaceError

# Written beside a file before it takes the file's place: .NAME.PROCESS.tmp
TEMPORARY = re.compile(r"\.(.+)\.([0-9]{1,18})\.tmp", re.DOTALL)
# Seconds since the last change of a file that nobody writes to any more.
QUIET = 600.0
# Whoever owns the folder could have another file opened in the place of one to write.
NO_LINK = getattr(os, "O_NOFOLLOW", 0)


def write_atomically(path: Path, data: bytes, mode: int = 0o666, owned: bool = False) -> None:
    """Write a file so that a crash or a full disk leaves the old one, or none, never a half.

    Args:
        path: its folder is made when missing.
        data: all of it.
        mode: who may read it, from its first byte on; less what the system's umask takes away.
        owned: written by root it becomes the folder's owner's: :func:`hand_over`.

    Raises:
        MinusfaceError: it cannot be written, or is a folder by its name.
    """
    with _beside(path, data, mode, owned) as temporary:
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
def _beside(path: Path, data: bytes, mode: int, owned: bool = False) -> Iterator[Path]:
    """The data in a file of another name in the same folder; it is gone afterwards."""
    if not path.name:
        raise MinusfaceError(f"{path}: a folder, expected a file to write")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for meant, left in _left(path.parent):
            if meant == path.name:
                clear(path.with_name(left))
        # One that was left over would keep its mode.
        temporary.unlink(missing_ok=True)
        with open(
            temporary, "wb", opener=lambda name, flags: os.open(name, flags | NO_LINK, mode)
        ) as file:
            _hold(file)
            if owned:
                hand_over(file.fileno(), path.parent)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    except OSError as error:
        raise MinusfaceError(f"{path}: cannot write ({error.strerror or error})") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@functools.lru_cache(maxsize=256)
def _left(folder: Path) -> tuple[tuple[str, str], ...]:
    """What may be a killed writer's in a folder, after the name that was meant.

    Looked for once, as a folder of a million files may be written to a million times.
    """
    try:
        found = ((TEMPORARY.fullmatch(name), name) for name in os.listdir(folder))
        return tuple((match[1], name) for match, name in found if match)
    except OSError:
        # It may be written to and not be read.
        return ()


def clear(temporary: Path) -> None:
    """Take away a temporary file whose writer is gone; one that may still be written to stays."""
    found = TEMPORARY.fullmatch(temporary.name)
    if os.name != "posix" or found is None or _lives(int(found[2])):
        return
    with contextlib.suppress(OSError):
        about = os.stat(temporary, follow_symlinks=False)
        if not stat.S_ISREG(about.st_mode) or about.st_uid != os.geteuid():
            return
        # Another container's writer has a number that says nothing here: it holds the file, and changes it.
        if time.time() - about.st_mtime < QUIET:
            return
        with open(temporary, "rb+") as file:
            if _hold(file):
                temporary.unlink()


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return True


def _hold(file: IO[bytes]) -> bool:
    """Lock a file until it is closed; whether nobody else has it, or locks cannot be had."""
    if os.name == "posix":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            # A file system without locks.
            return True
    return True


def hand_over(file: int, folder: Path) -> None:
    """Give an open file to its folder's owner where root wrote it: a service of that user has to read it.

    Raises nothing: where root may not do that, the file stays root's. Nor is a file with a second name given
    away, which may be anybody's.
    """
    if os.name != "posix" or os.geteuid() != 0:
        return
    with contextlib.suppress(OSError):
        about = os.stat(folder)
        if os.fstat(file).st_nlink == 1:
            os.fchown(file, about.st_uid, about.st_gid)


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

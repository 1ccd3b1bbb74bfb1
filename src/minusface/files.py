"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from minusface.errors import MinusfaceError


def write_atomically(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file so that a crash or a full disk leaves the old one, or none, never a half.

    Args:
        path: its folder is made when missing.
        data: all of it.
        mode: who may read it, from its first byte on; less what the system's umask takes away.

    Raises:
        MinusfaceError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # One that was left over would keep its mode.
        temporary.unlink(missing_ok=True)
        with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise MinusfaceError(f"{path}: cannot write ({error.strerror or error})") from error

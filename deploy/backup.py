"""Copy a service's data while it runs: python deploy/backup.py DATA COPY

Into a new folder COPY: the database in one consistent state, the API keys' hashes, and ``erased.log``, which
keeps erased people erased when the copy is put back (docs/deploy.md). Needs nothing but Python. Left out:
the master key, which belongs elsewhere, and the audit log.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path


def backup(data: Path, copy: Path) -> None:
    """See above.

    Args:
        data: the folder that ``minusface serve --data`` names.
        copy: must not be there yet.

    Raises:
        OSError: of a file.
        sqlite3.Error: no database there, or a damaged one.
    """
    os.umask(0o077)
    copy.mkdir(parents=True)
    source = (data / "gallery" / "gallery.sqlite").resolve().as_uri()
    with (
        closing(sqlite3.connect(f"{source}?mode=ro", uri=True, timeout=30)) as live,
        closing(sqlite3.connect(copy / "gallery.sqlite")) as target,
    ):
        live.backup(target)
        (found,) = target.execute("PRAGMA integrity_check").fetchone()
    if found != "ok":
        raise sqlite3.DatabaseError(f"the copy is damaged: {found}")
    # After the database: an erasure in between is then in the log at the least.
    shutil.copyfile(data / "gallery" / "erased.log", copy / "erased.log")
    if (data / "keys.json").exists():
        shutil.copyfile(data / "keys.json", copy / "keys.json")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        backup(Path(sys.argv[1]), Path(sys.argv[2]))
    except (OSError, sqlite3.Error) as error:
        sys.exit(f"backup: {error}")

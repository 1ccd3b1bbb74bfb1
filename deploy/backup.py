"""Copy a service's data while it runs: python deploy/backup.py DATA COPY

Into a new folder COPY: the database in one consistent state, the API keys' hashes, and ``erased.log``, which
keeps erased people erased when the copy is put back (docs/deploy.md). Of a service whose gallery lies in
PostgreSQL or Qdrant the hashes and ``erased.log`` alone: that one has its own tools. Left out: the master
key, which belongs elsewhere, and the audit log. Needs nothing but Python.
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
    gallery, keys = data / "gallery", data / "keys.json"
    # A service with its gallery elsewhere has none here, and its erased.log beside the keys.
    embedded = gallery.exists() or not (keys.exists() or (data / "erased.log").exists())
    log = (gallery if embedded else data) / "erased.log"
    copy.mkdir(parents=True)
    if embedded:
        copy_database(gallery / "gallery.sqlite", copy / "gallery.sqlite")
    # After the database: an erasure in between is then in the log at the least.
    if embedded or log.exists():
        shutil.copyfile(log, copy / "erased.log")
    if keys.exists():
        shutil.copyfile(keys, copy / "keys.json")


def copy_database(path: Path, copy: Path) -> None:
    """A database that may be written to meanwhile, in one consistent state."""
    source = path.resolve().as_uri()
    with (
        closing(sqlite3.connect(f"{source}?mode=ro", uri=True, timeout=30)) as live,
        closing(sqlite3.connect(copy)) as target,
    ):
        live.backup(target)
        (found,) = target.execute("PRAGMA integrity_check").fetchone()
    if found != "ok":
        raise sqlite3.DatabaseError(f"the copy is damaged: {found}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        backup(Path(sys.argv[1]), Path(sys.argv[2]))
        made = sorted(file.name for file in Path(sys.argv[2]).iterdir())
        print(f"copied: {', '.join(made)}")
        if "gallery.sqlite" not in made:
            print("no gallery lies here: that of a database has its own tools (pg_dump, snapshots)")
    except (OSError, sqlite3.Error) as error:
        sys.exit(f"backup: {error}")

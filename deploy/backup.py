"""Copy a service's data while it runs: python deploy/backup.py DATA COPY [--database]

Into a new folder COPY: the database in one consistent state, the API keys' hashes, and ``erased.log``, which
keeps erased people erased when the copy is put back (docs/deploy.md). With --database, of a service whose
gallery lies in PostgreSQL or Qdrant, the hashes and ``erased.log`` alone: that one has its own tools. Left
out: the master key, which belongs elsewhere, and the audit log. Needs nothing but Python.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path


def backup(data: Path, copy: Path, database: bool = False) -> list[str]:
    """See above.

    Args:
        data: the folder that ``minusface serve --data`` names.
        copy: must not be there yet.
        database: the gallery lies in a database.

    Returns:
        The files that were made.

    Raises:
        OSError: of a file.
        sqlite3.Error: no database there, or a damaged one.
    """
    os.umask(0o077)
    gallery, keys = data / "gallery", data / "keys.json"
    if not data.is_dir():
        raise FileNotFoundError(f"{data}: no such folder")
    copy.mkdir(parents=True)
    if not database:
        if not (gallery / "gallery.sqlite").exists():
            copy.rmdir()
            raise FileNotFoundError(f"{gallery}: no gallery; of one in a database give --database")
        copy_database(gallery / "gallery.sqlite", copy / "gallery.sqlite")
    # After the database: an erasure in between is then in a log at the least. A gallery that was moved to a
    # database leaves one log behind and goes on in another; who stands in either stays erased.
    logs = [log for log in (gallery / "erased.log", data / "erased.log") if log.exists()]
    if logs:
        (copy / "erased.log").write_bytes(b"".join(log.read_bytes() for log in logs))
    if keys.exists():
        shutil.copyfile(keys, copy / "keys.json")
    return sorted(file.name for file in copy.iterdir())


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
    given = [word for word in sys.argv[1:] if word != "--database"]
    if len(given) != 2:
        sys.exit(__doc__)
    try:
        made = backup(Path(given[0]), Path(given[1]), len(given) < len(sys.argv) - 1)
    except (OSError, sqlite3.Error) as error:
        sys.exit(f"backup: {error}")
    print(f"copied: {', '.join(made)}")

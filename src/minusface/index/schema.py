"""The database of the embedded index, and the lock that keeps a second process out of it."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import IO

from minusface.errors import MinusfaceError
from minusface.index.base import StorageError
from minusface.index.gallery import transaction
from minusface.index.keys import check_of

DATABASE = "gallery.sqlite"
FORMAT = 1

TABLES = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS collections (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,
    salt BLOB NOT NULL, version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS people (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    collection INTEGER NOT NULL REFERENCES collections (id) ON DELETE CASCADE,
    handle BLOB NOT NULL, name BLOB NOT NULL, UNIQUE (collection, handle));
CREATE TABLE IF NOT EXISTS templates (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    person INTEGER NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    uid BLOB NOT NULL UNIQUE, vector BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS templates_of_person ON templates (person);
CREATE TABLE IF NOT EXISTS requests (
    collection INTEGER NOT NULL REFERENCES collections (id) ON DELETE CASCADE,
    key BLOB NOT NULL, digest BLOB NOT NULL,
    person INTEGER NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    uids BLOB NOT NULL, PRIMARY KEY (collection, key));
CREATE INDEX IF NOT EXISTS requests_of_person ON requests (person);
CREATE TABLE IF NOT EXISTS spent (
    collection INTEGER NOT NULL REFERENCES collections (id) ON DELETE CASCADE,
    key BLOB NOT NULL, PRIMARY KEY (collection, key));
"""


def connect(path: Path, dimension: int, model: str) -> sqlite3.Connection:
    """Open the database, making it when missing.

    Raises:
        MinusfaceError: it was made for templates of another model or dimension, or by another version.
    """
    path.touch(mode=0o600)
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        # What was acknowledged survives a power cut.
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        # Deleted rows are overwritten, not only unlinked.
        db.execute("PRAGMA secure_delete = ON")
        db.executescript(TABLES)
        _say_or_check(db, path, {"dimension": str(dimension), "model": model})
        return db
    except BaseException:
        db.close()
        raise


def _say_or_check(db: sqlite3.Connection, path: Path, about: dict[str, str]) -> None:
    """What a database was made for; one in which nothing lies yet may say only part of it, or nothing."""
    about = {"format": str(FORMAT)} | about
    with transaction(db):
        if db.execute("SELECT 1 FROM collections").fetchone() is None:
            db.executemany("INSERT OR IGNORE INTO about VALUES (?, ?)", about.items())
        known = dict(db.execute("SELECT name, value FROM about").fetchall())
    for name, value in about.items():
        if known.get(name) != value:
            raise MinusfaceError(
                f"{path}: made for {name} {known.get(name)!r}, not {value!r}; templates of another "
                "model are not comparable: enroll anew in another folder"
            )


def check_master(db: sqlite3.Connection, master: bytes) -> None:
    """Refuse another master key than a database says is its own; those of earlier versions do not say.

    Raises:
        MinusfaceError: another master key.
    """
    row = db.execute("SELECT value FROM about WHERE name = 'check'").fetchone()
    if row is not None and row[0] != check_of(master):
        raise MinusfaceError("index: another master key than it was made with")


def note_master(db: sqlite3.Connection, master: bytes) -> None:
    """From here on it is a database's master key; nothing is written where it was before."""
    db.execute(
        "INSERT INTO about VALUES ('check', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value "
        "WHERE value <> excluded.value",
        (check_of(master),),
    )


def held_lock(folder: Path) -> IO[bytes]:
    """An open file that keeps other processes out of a folder until it is closed.

    Raises:
        MinusfaceError: another process holds it.
        StorageError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = open(folder / "lock", "ab")  # noqa: SIM115
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror or error}") from error
    if os.name == "posix":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise MinusfaceError(f"{folder}: another process has this index open") from error
    return file

"""Where an index lies, in one line: a folder, a PostgreSQL database, or a Qdrant server."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import NamedTuple, Protocol

from minusface.errors import MinusfaceError
from minusface.index.base import Index, StorageError
from minusface.index.local import LocalIndex
from minusface.index.pgpool import Database
from minusface.index.pgvector import PgVectorIndex
from minusface.index.qdrant import QdrantIndex
from minusface.index.qdrant_about import made_for as qdrant_made_for
from minusface.index.schema import DATABASE
from minusface.index.tombstones import Tombstones

KINDS = "a folder, local:FOLDER, postgresql://USER@HOST/DATABASE or qdrant:http://HOST:6333"
ERASED = "erased.log"


class Rekeyed(Index, Protocol):
    """What every backend of ours can do beside."""

    def change_master(self, master: bytes) -> None:
        """Bring every collection under keys of another master key, without photos."""
        ...


class Made(NamedTuple):
    """What templates an index was made for."""

    dimension: int
    """D."""
    model: str
    """Fingerprint of the recogniser."""


def parts(place: str) -> tuple[str, str]:
    """Kind and address: ``local``, ``postgresql`` or ``qdrant``.

    Raises:
        MinusfaceError: another kind.
    """
    if place.startswith(("postgresql://", "postgres://")):
        return "postgresql", place
    kind, colon, rest = place.partition(":")
    if colon and kind in ("local", "qdrant") and rest:
        return kind, rest
    if not place or "://" in place:
        raise MinusfaceError(f"index {safe(place)!r}: expected {KINDS}")
    return "local", place


def open_index(
    place: str, master: bytes, made: Made, tombstones: Path | str | None = None
) -> Rekeyed:
    """The index at a place, made where it is missing.

    Args:
        place: see ``parts``.
        master: 32 bytes.
        made: D and the recogniser's fingerprint.
        tombstones: for a database: the file of what was erased. A folder keeps its own.

    Raises:
        MinusfaceError: a kind that is not known, an extra is missing, or it was made for other templates.
        StorageError: it cannot be reached.
    """
    kind, address = parts(place)
    if kind == "local":
        return LocalIndex(address, made.dimension, master, model=made.model)
    stones = None if tombstones is None else Tombstones(Path(tombstones))
    backend = PgVectorIndex if kind == "postgresql" else QdrantIndex
    return backend(address, made.dimension, master, model=made.model, tombstones=stones)


def made_for(place: str) -> Made:
    """What the index at a place was made for.

    Raises:
        MinusfaceError: there is none.
        StorageError: it cannot be reached.
    """
    kind, address = parts(place)
    about: dict[str, str] | None
    if kind == "local":
        about = _local(Path(address) / DATABASE)
    elif kind == "postgresql":
        about = _postgresql(address)
    else:
        about = qdrant_made_for(address)
    # Killed at its very first start, a database says nothing yet, or only part.
    if about is None or not {"dimension", "model"} <= about.keys():
        raise MinusfaceError(f"{safe(place)}: no index there, expected one that was made before")
    return Made(int(about["dimension"]), about["model"])


def _local(path: Path) -> dict[str, str] | None:
    if not path.is_file():
        return None
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            return dict(db.execute("SELECT name, value FROM about").fetchall())
        finally:
            db.close()
    except sqlite3.Error as error:
        raise StorageError(f"{path}: {error}") from error


def _postgresql(url: str) -> dict[str, str] | None:
    database = Database(url)
    try:
        with database.transaction() as db:
            row = db.execute("SELECT to_regclass('about') IS NOT NULL").fetchone()
            if not row[0]:
                return None
            return dict(db.execute("SELECT name, value FROM about").fetchall())
    finally:
        database.close()


def safe(place: str) -> str:
    """A place as messages may name it: without a password."""
    place = re.sub(r"([?&]password=)[^&]*", r"\1...", place)
    head, at, tail = place.rpartition("@")
    scheme, slashes, user = head.partition("://")
    return f"{scheme}{slashes}{user.split(':')[0]}@{tail}" if at and slashes else place


__all__ = ["KINDS", "Made", "made_for", "open_index", "parts", "safe"]

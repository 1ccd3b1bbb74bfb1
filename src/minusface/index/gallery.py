"""One collection in memory, and what is read of and written to the database for it.

Legend: B batch, D embedding.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from minusface.errors import MinusfaceError
from minusface.index.base import Floats, Hit, StorageError, best_people
from minusface.index.keys import SALT_BYTES, CollectionKeys
from minusface.index.nearest import Nearest
from minusface.index.tombstones import Tombstones


@dataclass
class Gallery:
    """A collection in memory."""

    number: int
    name: str
    salt: bytes
    keys: CollectionKeys
    nearest: Nearest
    owner: dict[int, int] = field(default_factory=dict)
    """Template's number to its person's."""
    names: dict[int, str] = field(default_factory=dict)
    """Person's number to their name."""

    def look(self, turned: Floats, asked: int, count: int) -> list[list[Hit]]:
        """The best people among the ``asked`` templates nearest to each of (B, D) rotated ones."""
        if not asked:
            return [[] for _ in turned]
        scores, numbers = self.nearest.search(turned, asked)
        return [
            best_people(
                [
                    (self.names[self.owner[int(n)]], float(min(1.0, max(-1.0, s))))
                    for s, n in zip(some, ids, strict=True)
                    if n >= 0
                ],
                count,
            )
            for some, ids in zip(scores, numbers, strict=True)
        ]

    def find(self, turned: Floats, count: int) -> list[list[Hit]]:
        """The ``count`` people nearest to each of (B, D) rotated templates, best first."""
        # Several templates may be one person's: more are asked for until there are people enough.
        total = len(self.nearest)
        asked = min(total, count)
        while True:
            found = self.look(turned, asked, count)
            wanted = min(count, len(self.names))
            if asked >= total or all(len(hits) >= wanted for hits in found):
                return found
            asked = min(total, 4 * asked)

    def fill(self, db: sqlite3.Connection) -> Gallery:
        """Read names and templates from the truth."""
        people = db.execute(
            "SELECT id, handle, name FROM people WHERE collection = ?", (self.number,)
        )
        for number, handle, name in people:
            with self._named("person", number):
                self.names[number] = self.keys.open(name, handle).decode()
        rows = db.execute(
            "SELECT t.id, t.person, t.uid, t.vector FROM templates t JOIN people p ON p.id = t.person "
            "WHERE p.collection = ?",
            (self.number,),
        ).fetchall()
        if rows:
            found = []
            for number, _, uid, sealed in rows:
                with self._named("template", number):
                    found.append(opened(self.keys, uid, sealed))
            vectors = np.stack(found)
            self.owner = {row[0]: row[1] for row in rows}
            self.nearest.add(np.asarray([row[0] for row in rows], np.int64), vectors)
        return self

    @contextlib.contextmanager
    def _named(self, what: str, number: int) -> Iterator[None]:
        """Which row cannot be opened: one may be restored from a backup, or erased, where all is not lost."""
        try:
            yield
        except StorageError as error:
            raise StorageError(f"collection {self.name!r}, {what} {number}: {error}") from error

    def forget(self, person: int, templates: Sequence[int]) -> None:
        """A person's number and their templates' are erased."""
        self.nearest.remove(templates)
        for number in templates:
            self.owner.pop(number, None)
        self.names.pop(person, None)


def opened(keys: CollectionKeys, uid: bytes, sealed: bytes) -> Floats:
    """A stored template, (D,), rotated as it is."""
    return np.frombuffer(keys.open(sealed, uid), np.float32)


def bury(db: sqlite3.Connection, tombstones: Tombstones) -> None:
    """Erase again what a restored backup has brought back."""
    if not len(tombstones):
        return
    found = db.execute("SELECT id, uid FROM templates").fetchall()
    templates = [(number,) for number, uid in found if uid.hex() in tombstones]
    salts = db.execute("SELECT id, salt FROM collections").fetchall()
    dropped = [(number,) for number, salt in salts if salt_name(salt) in tombstones]
    if not templates and not dropped:
        return
    with transaction(db):
        db.executemany("DELETE FROM collections WHERE id = ?", dropped)
        db.executemany("DELETE FROM templates WHERE id = ?", templates)
        db.execute(
            "INSERT OR IGNORE INTO spent SELECT collection, key FROM requests "
            "WHERE person NOT IN (SELECT person FROM templates)"
        )
        db.execute("DELETE FROM people WHERE id NOT IN (SELECT person FROM templates)")


@dataclass
class Ahead:
    """New keys of a collection, and its templates under them, made before anything is written."""

    salt: bytes
    keys: CollectionKeys
    vectors: dict[int, bytes] = field(default_factory=dict)
    """Template's number to its sealed vector. Numbers are never given twice."""

    def take(self, old: Gallery, rows: Sequence[tuple[int, bytes, bytes]]) -> None:
        """Bring rows of :func:`rows_of` from the old keys under the new ones."""
        if not rows:
            return
        plain = old.keys.unrotate(
            np.stack([opened(old.keys, uid, sealed) for _, uid, sealed in rows])
        )
        for (number, uid, _), row in zip(rows, self.keys.rotate(plain), strict=True):
            self.vectors[number] = self.keys.seal(row.tobytes(), uid)


def ahead_of(old: Gallery, master: bytes) -> Ahead:
    """New keys for a collection, and nothing under them yet."""
    salt, version = secrets.token_bytes(SALT_BYTES), old.keys.version + 1
    return Ahead(salt, CollectionKeys(master, salt, version, len(old.keys.rotation)))


def rows_of(db: sqlite3.Connection, people: Sequence[int]) -> list[tuple[int, bytes, bytes]]:
    """Numbers, names and sealed vectors of people's templates."""
    found: list[tuple[int, bytes, bytes]] = []
    for person in people:
        found += db.execute("SELECT id, uid, vector FROM templates WHERE person = ?", (person,))
    return found


def reseal(db: sqlite3.Connection, old: Gallery, new: Ahead) -> None:
    """Bring a collection's rows from its keys under others, within a transaction."""
    keys = new.keys
    people = db.execute("SELECT id FROM people WHERE collection = ?", (old.number,)).fetchall()
    for (number,) in people:
        handle = keys.handle(old.names[number])
        db.execute(
            "UPDATE people SET handle = ?, name = ? WHERE id = ?",
            (handle, keys.seal(old.names[number].encode(), handle), number),
        )
        there = [
            template
            for (template,) in db.execute("SELECT id FROM templates WHERE person = ?", (number,))
        ]
        if not all(template in new.vectors for template in there):
            new.take(old, rows_of(db, [number]))
        db.executemany(
            "UPDATE templates SET vector = ? WHERE id = ?",
            [(new.vectors.pop(template), template) for template in there],
        )
    db.execute(
        "UPDATE collections SET salt = ?, version = ? WHERE id = ?",
        (new.salt, keys.version, old.number),
    )
    # Their names are hashed with the old keys: tries from before count as new ones.
    for table in ("requests", "spent"):
        db.execute(f"DELETE FROM {table} WHERE collection = ?", (old.number,))


def salt_name(salt: bytes) -> str:
    """By which a dropped collection is remembered."""
    return "collection-" + hashlib.sha256(salt).hexdigest()[:32]


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of it on disk, or none."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def storing(where: Path) -> Iterator[None]:
    """SQLite's and the system's errors as ours."""
    try:
        yield
    except MinusfaceError:
        raise
    except (sqlite3.Error, OSError) as error:
        raise StorageError(f"{where}: {error}") from error

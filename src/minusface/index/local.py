"""The embedded index: SQLite keeps the truth, encrypted; faiss, in memory, finds the nearest.

The search is rebuilt from the truth at every start, so that it cannot be damaged or out of date. Nothing of a
person lies on the disk in plain: names and templates are sealed, names are found by a keyed hash, and
SQLite overwrites what it deletes.

Legend: B batch, D embedding, K templates.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from minusface.index.base import (
    Added,
    ConflictError,
    Entry,
    Floats,
    Hit,
    Person,
    Request,
    Stats,
    UnknownCollectionError,
    UnknownPersonError,
    check_name,
    check_vectors,
)
from minusface.index.changes import ChangeLog
from minusface.index.gallery import (
    Ahead,
    Gallery,
    ahead_of,
    bury,
    opened,
    reseal,
    rows_of,
    salt_name,
    storing,
    transaction,
)
from minusface.index.keys import SALT_BYTES, CollectionKeys
from minusface.index.nearest import EXACT_BELOW, Nearest
from minusface.index.rows import count_of, erase, insert, note_request, owner_of, replayed
from minusface.index.schema import DATABASE, check_master, connect, held_lock, note_master
from minusface.index.tombstones import Tombstones

# People whose templates are read at once, for new keys.
PAGE = 16


class LocalIndex:
    """See :class:`minusface.index.Index`.

    Args:
        folder: made when missing; one process at a time.
        dimension: D.
        master: 32 bytes from which all keys are derived.
        model: fingerprint of the recogniser; templates of another are not comparable and are refused.
        exact_below: collections of fewer templates are searched exactly.

    Raises:
        MinusfaceError: another process holds the folder, it was made with another master key, model or
            dimension, or faiss or cryptography is missing.
    """

    def __init__(
        self,
        folder: Path | str,
        dimension: int,
        master: bytes,
        *,
        model: str = "",
        exact_below: int = EXACT_BELOW,
    ) -> None:
        self.folder, self.dimension = Path(folder), dimension
        self._master, self._exact_below = master, exact_below
        self._mutex = threading.RLock()
        with contextlib.ExitStack() as undo:
            self._lock = undo.enter_context(held_lock(self.folder))
            with storing(self.folder):
                self._tombstones = Tombstones(self.folder / "erased.log")
                self._db = connect(self.folder / DATABASE, dimension, model)
                undo.callback(self._db.close)
                check_master(self._db, master)
                bury(self._db, self._tombstones)
                rows = self._db.execute(
                    "SELECT id, name, salt, version FROM collections"
                ).fetchall()
                self._collections = {row[1]: self._load(*row) for row in rows}
                self._names = sorted(self._collections)
                # It has opened everything that lies there.
                note_master(self._db, master)
            undo.pop_all()
        self._log = ChangeLog(self._db, self._mutex)
        # Also of what a process that was killed had erased.
        self._log.empty()

    def create(self, collection: str) -> None:
        """See :class:`Index`."""
        collection = check_name("collection", collection)
        salt = secrets.token_bytes(SALT_BYTES)
        with self._mutex:
            if collection in self._collections:
                raise ConflictError(f"collection {collection!r} is already there")
            with self._transaction():
                number = self._db.execute(
                    "INSERT INTO collections (name, salt, version) VALUES (?, ?, 1)",
                    (collection, salt),
                ).lastrowid
            assert number is not None
            self._collections[collection] = self._load(number, collection, salt, 1)
            self._names = sorted(self._collections)
            self._log.retry()

    def collections(self) -> list[str]:
        """See :class:`Index`. Answered while a collection is brought under new keys, too."""
        return list(self._names)

    def drop(self, collection: str) -> int:
        """See :class:`Index`."""
        with self._mutex:
            known = self._known(collection)
            with storing(self.folder):
                rows = self._db.execute(
                    "SELECT t.uid FROM templates t JOIN people p ON p.id = t.person WHERE p.collection = ?",
                    (known.number,),
                ).fetchall()
            with self._transaction():
                # By its templates, too: a backup from before a rekeying has another salt.
                self._tombstones.add([salt_name(known.salt), *(uid.hex() for (uid,) in rows)])
                self._db.execute("DELETE FROM collections WHERE id = ?", (known.number,))
            del self._collections[collection]
            self._names = sorted(self._collections)
            self._log.empty()
            return len(known.nearest)

    def add(
        self, collection: str, person: str, vectors: Floats, request: Request | None = None
    ) -> Added:
        """See :class:`Index`."""
        person = check_name("person", person)
        rows = check_vectors(vectors, self.dimension)
        with self._mutex:
            known = self._known(collection)
            with storing(self.folder):
                earlier = replayed(self._db, known, request)
            if earlier is not None:
                return earlier
            turned = known.keys.rotate(rows)
            uids = [secrets.token_bytes(16) for _ in turned]
            with self._transaction():
                owner, numbers = insert(self._db, known, person, uids, turned)
                if request is not None:
                    note_request(self._db, known, request, owner, uids)
            known.nearest.add(np.asarray(numbers, np.int64), turned)
            known.owner.update(dict.fromkeys(numbers, owner))
            known.names[owner] = person
            self._log.retry()
            return Added(tuple(uid.hex() for uid in uids), False)

    def scores(self, collection: str, person: str, vectors: Floats) -> Floats:
        """See :class:`Index`."""
        rows = check_vectors(vectors, self.dimension)
        with self._mutex:
            known = self._known(collection)
            owner = self._person(known, person)
            with storing(self.folder):
                found = self._db.execute(
                    "SELECT uid, vector FROM templates WHERE person = ?", (owner,)
                ).fetchall()
            stored = np.stack([opened(known.keys, *row) for row in found])
            best: Floats = (known.keys.rotate(rows) @ stored.T).max(axis=1)
            return best

    def search(self, collection: str, vectors: Floats, count: int) -> list[list[Hit]]:
        """See :class:`Index`."""
        rows = check_vectors(vectors, self.dimension)
        with self._mutex:
            known = self._known(collection)
            return known.find(known.keys.rotate(rows), count)

    def count(self, collection: str, person: str) -> int:
        """See :class:`Index`."""
        with self._mutex, storing(self.folder):
            return count_of(self._db, self._known(collection), person)

    def earlier(self, collection: str, request: Request, count: int) -> Added | None:
        """See :class:`Index`."""
        with self._mutex, storing(self.folder):
            return replayed(self._db, self._known(collection), request)

    def people(self, collection: str, after: int = 0, limit: int = 100) -> list[Person]:
        """See :class:`Index`."""
        with self._mutex:
            known = self._known(collection)
            with storing(self.folder):
                rows = self._db.execute(
                    "SELECT p.id, count(*) FROM people p JOIN templates t ON t.person = p.id "
                    "WHERE p.collection = ? AND p.id > ? GROUP BY p.id ORDER BY p.id LIMIT ?",
                    (known.number, after, limit),
                ).fetchall()
            return [Person(known.names[number], templates, number) for number, templates in rows]

    def entries(self, collection: str) -> Iterator[Entry]:
        """See :class:`Index`."""
        after = 0
        while page := self.people(collection, after):
            for person in page:
                after = person.cursor
                with self._mutex, storing(self.folder):
                    known = self._known(collection)
                    rows = self._db.execute(
                        "SELECT uid, vector FROM templates WHERE person = ? ORDER BY id", (after,)
                    ).fetchall()
                    stored = [opened(known.keys, *row) for row in rows]
                if stored:
                    yield Entry(person.name, known.keys.unrotate(np.stack(stored)))

    def erase(self, collection: str, person: str) -> int:
        """See :class:`Index`."""
        with self._mutex:
            known = self._known(collection)
            owner = self._person(known, person)
            with storing(self.folder):
                rows = self._db.execute(
                    "SELECT id, uid FROM templates WHERE person = ?", (owner,)
                ).fetchall()
            with self._transaction():
                # Before it is final, so that from then on no start brings them back; but not before the
                # database can be written.
                self._tombstones.add([uid.hex() for _, uid in rows])
                erase(self._db, owner)
            known.forget(owner, [number for number, _ in rows])
            self._log.empty()
            return len(rows)

    def rekey(self, collection: str) -> int:
        """See :class:`Index`."""
        with self._mutex:
            known = self._known(collection)
            people, ahead = list(known.names), ahead_of(known, self._master)
        # What takes longest is done while others are answered; what changes meanwhile is done at the end.
        for start in range(0, len(people), PAGE):
            with self._mutex, storing(self.folder):
                if self._collections.get(collection) is not known:
                    break
                rows = rows_of(self._db, people[start : start + PAGE])
            ahead.take(known, rows)
        with self._mutex:
            now = self._known(collection)
            # One that got other keys meanwhile, or was made anew, has nothing to do with what was prepared.
            new = ahead if now is known else ahead_of(now, self._master)
            self._rekey([(now, new)], self._master)
            return new.keys.version

    def change_master(self, master: bytes) -> None:
        """Bring every collection under keys of another master key, in one step, without photos."""
        with self._mutex:
            # One by one: a rotation takes megabytes.
            self._rekey(
                ((one, ahead_of(one, master)) for one in self._collections.values()), master
            )

    def stats(self, collection: str) -> Stats:
        """See :class:`Index`."""
        with self._mutex:
            known = self._known(collection)
            near = known.nearest
            return Stats(len(known.names), len(near), near.exact, known.keys.version)

    def backup(self, path: Path | str) -> None:
        """A copy of the database while in use. Keep ``erased.log`` apart: it outlives restored backups."""
        with self._mutex, storing(Path(path)), contextlib.closing(sqlite3.connect(path)) as target:
            Path(path).chmod(0o600)
            self._db.backup(target)

    def close(self) -> None:
        """See :class:`Index`."""
        with self._mutex:
            self._log.close()
            self._db.close()
            self._lock.close()

    # What follows is called with the mutex held.

    def _known(self, collection: str) -> Gallery:
        if collection not in self._collections:
            raise UnknownCollectionError(f"no collection {collection!r}")
        return self._collections[collection]

    def _person(self, known: Gallery, person: str) -> int:
        with storing(self.folder):
            owner = owner_of(self._db, known, known.keys.handle(person))
        if owner is None:
            raise UnknownPersonError(f"nobody of this name in {known.name!r}")
        return owner

    def _load(
        self, number: int, name: str, salt: bytes, version: int, master: bytes | None = None
    ) -> Gallery:
        """A collection from the truth into memory; under another master key than ours where one is given."""
        keys = CollectionKeys(master or self._master, salt, version, self.dimension)
        nearest = Nearest(self.dimension, self._exact_below)
        return Gallery(number, name, salt, keys, nearest).fill(self._db)

    def _rekey(self, chosen: Iterable[tuple[Gallery, Ahead]], master: bytes) -> None:
        """New salts and keys for collections, and a master key, on disk and in memory, or neither."""
        fresh: dict[str, Gallery] = {}
        with self._transaction():
            for old, new in chosen:
                reseal(self._db, old, new)
                # Read before it is final: nothing that can fail stands between the disk and the memory.
                version = new.keys.version
                fresh[old.name] = self._load(old.number, old.name, new.salt, version, master)
            note_master(self._db, master)
        self._master = master
        self._collections.update(fresh)
        self._log.empty()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of it on disk, or none; once it is there, the memory must follow before anything can fail."""
        with storing(self.folder), transaction(self._db):
            yield

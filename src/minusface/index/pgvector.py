"""The index in PostgreSQL with pgvector: several services on one database.

Rows are the truth and the search runs beside them, so that nothing is loaded at start and replicas see each
other's changes at once. Names are sealed and found by a keyed hash, as in the embedded index. Templates are
rotated by the collection's key but not encrypted: the database must be able to compare them.

Legend: B batch, D embedding.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Sequence
from typing import Any

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
from minusface.index.gallery import salt_name
from minusface.index.keys import SALT_BYTES, KeyRing, check_of
from minusface.index.nearest import EXACT_BELOW
from minusface.index.pggraphs import Graphs
from minusface.index.pgpool import Database
from minusface.index.pgrows import (
    PAGE,
    Known,
    array_of,
    bury,
    count_of,
    enrolled,
    erase,
    literal_of,
    name_of,
    nearest,
    replayed,
    request_row,
    reseal,
)
from minusface.index.pgtables import check_master, migrate, note_master, same_master
from minusface.index.tombstones import Tombstones


class PgVectorIndex:
    """See :class:`minusface.index.Index`.

    Args:
        url: ``postgresql://user@host/database``; the user may create tables and the extension ``vector``.
        dimension: D.
        master: 32 bytes from which all keys are derived; the same for all replicas.
        model: fingerprint of the recogniser.
        tombstones: a file of what was erased, kept apart from the database and its backups; None for none.
        exact_below: collections of fewer templates are searched exactly; larger ones get a graph (HNSW).

    Raises:
        MinusfaceError: a database made for another model, dimension or master key, or psycopg is missing.
        StorageError: it cannot be reached.
    """

    def __init__(
        self,
        url: str,
        dimension: int,
        master: bytes,
        *,
        model: str = "",
        tombstones: Tombstones | None = None,
        exact_below: int = EXACT_BELOW,
    ) -> None:
        self.dimension, self._master = dimension, master
        self._tombstones = tombstones
        self._keys = KeyRing(master, dimension)
        self._mutex = threading.Lock()
        self._db = Database(url)
        self._graphs = Graphs(self._db, exact_below)
        try:
            with self._db.transaction() as db:
                migrate(db, dimension, model)
                check_master(db, master, dimension)
                if tombstones is not None:
                    bury(db, tombstones)
        except BaseException:
            self.close()
            raise

    def create(self, collection: str) -> None:
        """See :class:`Index`."""
        collection = check_name("collection", collection)
        salt = secrets.token_bytes(SALT_BYTES)
        with self._db.transaction() as db:
            made = db.execute(
                "INSERT INTO collections (name, salt, version) VALUES (%s, %s, 1) "
                "ON CONFLICT DO NOTHING RETURNING id",
                (collection, salt),
            ).fetchone()
        if made is None:
            raise ConflictError(f"collection {collection!r} is already there")

    def collections(self) -> list[str]:
        """See :class:`Index`."""
        with self._db.reading() as db:
            return sorted(row[0] for row in db.execute("SELECT name FROM collections").fetchall())

    def drop(self, collection: str) -> int:
        """See :class:`Index`."""
        with self._db.transaction() as db:
            known = self._known(db, collection, "UPDATE")
            rows = db.execute(
                "SELECT uid FROM templates WHERE collection = %s", (known.number,)
            ).fetchall()
            # By its templates, too: a backup from before a rekeying has another salt.
            self._note([salt_name(known.salt), *(bytes(uid).hex() for (uid,) in rows)])
            count = len(rows)
            db.execute("DELETE FROM collections WHERE id = %s", (known.number,))
        # Later, as it would wait for a graph under way, and everybody for it.
        self._graphs.forget(known.number)
        self._db.vacuum()
        return count

    def add(
        self, collection: str, person: str, vectors: Floats, request: Request | None = None
    ) -> Added:
        """See :class:`Index`."""
        person = check_name("person", person)
        rows = check_vectors(vectors, self.dimension)
        with self._db.transaction() as db:
            known = self._known(db, collection, "SHARE")
            earlier = replayed(db, known, request)
            if earlier is not None:
                return earlier
            uids = [secrets.token_bytes(16) for _ in rows]
            owner = enrolled(db, known, person)
            with db.cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO templates (collection, person, uid, vector) VALUES (%s, %s, %s, %s)",
                    [
                        (known.number, owner, uid, literal_of(row))
                        for uid, row in zip(uids, known.keys.rotate(rows), strict=True)
                    ],
                )
            if request is not None:
                db.execute(
                    "INSERT INTO requests VALUES (%s, %s, %s, %s, %s)",
                    (*request_row(known, request), owner, b"".join(uids)),
                )
        self._graphs.grow(known, len(uids))
        return Added(tuple(uid.hex() for uid in uids), False)

    def scores(self, collection: str, person: str, vectors: Floats) -> Floats:
        """See :class:`Index`."""
        rows = check_vectors(vectors, self.dimension)
        with self._db.reading() as db:
            known = self._known(db, collection)
            owner = self._person(db, known, person)
            found = db.execute(
                "SELECT vector::text FROM templates WHERE person = %s", (owner,)
            ).fetchall()
        stored = np.stack([array_of(text) for (text,) in found])
        best: Floats = (known.keys.rotate(rows) @ stored.T).max(axis=1)
        return best

    def search(self, collection: str, vectors: Floats, count: int) -> list[list[Hit]]:
        """See :class:`Index`."""
        rows = check_vectors(vectors, self.dimension)
        with self._db.reading() as db:
            known = self._known(db, collection)
            found = [nearest(db, known, row, count) for row in known.keys.rotate(rows)]
        # One that was imported, or whose graph was cut short, may never grow again.
        self._graphs.grow(known, 0)
        return found

    def count(self, collection: str, person: str) -> int:
        """See :class:`Index`."""
        with self._db.reading() as db:
            known = self._known(db, collection)
            row = db.execute(
                "SELECT count(*) FROM templates t JOIN people p ON p.id = t.person "
                "WHERE p.collection = %s AND p.handle = %s",
                (known.number, known.keys.handle(person)),
            ).fetchone()
        return int(row[0])

    def earlier(self, collection: str, request: Request, count: int) -> Added | None:
        """See :class:`Index`."""
        with self._db.transaction() as db:
            return replayed(db, self._known(db, collection), request)

    def people(self, collection: str, after: int = 0, limit: int = 100) -> list[Person]:
        """See :class:`Index`."""
        with self._db.reading() as db:
            known = self._known(db, collection)
            rows = db.execute(
                "SELECT p.id, p.handle, p.name, count(*) FROM people p JOIN templates t ON t.person = p.id "
                "WHERE p.collection = %s AND p.id > %s GROUP BY p.id ORDER BY p.id LIMIT %s",
                (known.number, after, limit),
            ).fetchall()
        return [Person(name_of(known, row[1], row[2]), row[3], row[0]) for row in rows]

    def entries(self, collection: str) -> Iterator[Entry]:
        """See :class:`Index`."""
        after = 0
        while page := self.people(collection, after, PAGE):
            for person in page:
                with self._db.reading() as db:
                    known = self._known(db, collection)
                    rows = db.execute(
                        "SELECT vector::text FROM templates WHERE person = %s ORDER BY id",
                        (person.cursor,),
                    ).fetchall()
                if rows:
                    stored = np.stack([array_of(text) for (text,) in rows])
                    yield Entry(person.name, known.keys.unrotate(stored))
            after = page[-1].cursor

    def erase(self, collection: str, person: str) -> int:
        """See :class:`Index`."""
        with self._db.transaction() as db:
            known = self._known(db, collection, "SHARE")
            gone = erase(db, self._person(db, known, person))
            # Before it is final: from here on no start brings them back.
            self._note(gone)
        self._db.vacuum()
        return len(gone)

    def rekey(self, collection: str) -> int:
        """See :class:`Index`."""
        with self._db.transaction() as db:
            version = reseal(
                db, self._known(db, collection, "UPDATE"), self._master, self.dimension
            )
        self._db.vacuum()
        return version

    def change_master(self, master: bytes) -> None:
        """Bring every collection under keys of another master key, in one step, without photos.

        Replicas that still hold the old one can open nothing from here on, and are refused: stop them first.
        """
        with self._db.transaction() as db:
            # A collection that came up meanwhile would stay under the old key.
            db.execute("LOCK TABLE collections IN SHARE ROW EXCLUSIVE MODE")
            names = [row[0] for row in db.execute("SELECT name FROM collections ORDER BY id")]
            for name in names:
                reseal(db, self._known(db, name, "UPDATE"), master, self.dimension)
            note_master(db, master)
        with self._mutex:
            self._master = master
        self._keys.change(master)
        self._db.vacuum()

    def stats(self, collection: str) -> Stats:
        """See :class:`Index`."""
        with self._db.reading() as db:
            known = self._known(db, collection)
            counts = [count_of(db, table, known.number) for table in ("people", "templates")]
        return Stats(counts[0], counts[1], not known.indexed, known.keys.version)

    def close(self) -> None:
        """See :class:`Index`."""
        self._graphs.close()
        self._db.close()

    # What follows is called within a transaction, but for the last.

    def _known(self, db: Any, collection: str, lock: str = "") -> Known:
        """A collection; locked against re-keying (SHARE) or against everything (UPDATE)."""
        row = db.execute(
            "SELECT id, name, salt, version, indexed FROM collections WHERE name = %s"
            + (f" FOR {lock}" if lock else ""),
            (collection,),
        ).fetchone()
        if row is None:
            raise UnknownCollectionError(f"no collection {collection!r}")
        if lock:
            # Another replica may have changed it meanwhile: nobody is enrolled under the old one.
            same_master(db, check_of(self._master))
        number, name, salt, version, indexed = row
        return Known(number, name, bytes(salt), self._keys.of(bytes(salt), version), indexed)

    def _person(self, db: Any, known: Known, person: str) -> int:
        row = db.execute(
            "SELECT id FROM people WHERE collection = %s AND handle = %s",
            (known.number, known.keys.handle(person)),
        ).fetchone()
        if row is None:
            raise UnknownPersonError(f"nobody of this name in {known.name!r}")
        return int(row[0])

    def _note(self, names: Sequence[str]) -> None:
        if self._tombstones is not None:
            self._tombstones.add(names)

"""The index in Qdrant: for a cluster with shards and replicas.

Qdrant has no transactions, so nothing here needs one: a template's name is made from its request, so that a
repeated enrolment writes the same points again; a person's point is named by the keyed hash of their name;
a re-keyed collection is a new one, taken into use by a single write. Names are sealed; templates are rotated
by the collection's key but not encrypted: Qdrant must be able to compare them.

Legend: B batch, D embedding.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator, Sequence

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
    best_people,
    check_name,
    check_unspent,
    check_vectors,
)
from minusface.index.gallery import salt_name
from minusface.index.keys import SALT_BYTES
from minusface.index.nearest import EXACT_BELOW
from minusface.index.qdrant_about import begin_master, end_master, prepare
from minusface.index.qdrant_reach import connect, storing
from minusface.index.qdrant_steps import bury, hexadecimal, names_of, rekeyed
from minusface.index.qdrant_store import Known, Store
from minusface.index.tombstones import Tombstones

PAGE = 256


class QdrantIndex:
    """See :class:`minusface.index.Index`.

    Args:
        url: ``http://host:6333``, or ``:memory:`` for trying out.
        dimension: D.
        master: 32 bytes from which all keys are derived.
        model: fingerprint of the recogniser.
        tombstones: a file of what was erased, kept apart from Qdrant and its snapshots; None for none.
        exact_below: collections of fewer templates are searched exactly; Qdrant's graph is used above.

    Raises:
        MinusfaceError: made for another model, dimension or master key, or qdrant-client is missing.
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
        self.dimension, self._master, self._exact_below = dimension, master, exact_below
        self._tombstones = tombstones
        self._mutex = threading.RLock()
        self._last = 0
        self._store = Store(connect(url), dimension, model, master)
        with storing():
            prepare(self._store)
            if tombstones is not None:
                bury(self._store, tombstones)
            self._store.left.tidy()

    def create(self, collection: str) -> None:
        """See :class:`Index`. Two services must not create one collection at the same moment."""
        collection = check_name("collection", collection)
        with self._mutex, storing():
            if self._store.find(collection) is not None:
                raise ConflictError(f"collection {collection!r} is already there")
            self._store.make(collection, secrets.token_bytes(SALT_BYTES), 1)

    def collections(self) -> list[str]:
        """See :class:`Index`."""
        with storing():
            return sorted(self._store.names())

    def drop(self, collection: str) -> int:
        """See :class:`Index`."""
        with self._mutex, storing():
            known = self._known(collection)
            uids = [hexadecimal(uid) for uid in self._store.uids(known)]
            # By its templates, too: a snapshot from before a rekeying has another salt.
            self._note([salt_name(known.salt), *uids])
            self._store.forget(known)
            return len(uids)

    def add(
        self, collection: str, person: str, vectors: Floats, request: Request | None = None
    ) -> Added:
        """See :class:`Index`."""
        person = check_name("person", person)
        rows = check_vectors(vectors, self.dimension)
        with self._mutex, storing():
            known = self._known(collection)
            uids, digest = names_of(known.keys, request, len(rows))
            if request is not None:
                check_unspent(self._spent(uids))
                if earlier := self._replayed(known, uids, digest):
                    return earlier
            handle = known.keys.handle(person)
            # The person first: a template without one would be found and belong to nobody.
            self._store.put_person(known, handle, person, self._moment())
            payload = {"handle": handle.hex(), "digest": digest, "count": len(uids)}
            points = zip(uids, known.keys.rotate(rows), strict=True)
            self._store.put_templates(known, points, payload)
            # Another service may have erased the person in between, and not these templates.
            self._store.put_back(known, handle, person, self._moment(), uids[0])
            return Added(tuple(uids), False)

    def scores(self, collection: str, person: str, vectors: Floats) -> Floats:
        """See :class:`Index`."""
        rows = check_vectors(vectors, self.dimension)
        with storing():
            known = self._known(collection)
            stored = self._vectors(known, self._person(known, person))
        if not len(stored):
            # Their enrolment was cut short after their name was written.
            raise UnknownPersonError(f"nobody of this name in {known.name!r}")
        best: Floats = (known.keys.rotate(rows) @ stored.T).max(axis=1)
        return best

    def search(self, collection: str, vectors: Floats, count: int) -> list[list[Hit]]:
        """See :class:`Index`."""
        rows = check_vectors(vectors, self.dimension)
        with storing():
            known = self._known(collection)
            exact = self._store.count(known.templates) < self._exact_below
            return [self._nearest(known, row, count, exact) for row in known.keys.rotate(rows)]

    def count(self, collection: str, person: str) -> int:
        """See :class:`Index`."""
        with storing():
            known = self._known(collection)
            return self._store.count(known.templates, known.keys.handle(person))

    def earlier(self, collection: str, request: Request, count: int) -> Added | None:
        """See :class:`Index`."""
        with storing():
            known = self._known(collection)
            uids, digest = names_of(known.keys, request, count)
            check_unspent(self._spent(uids))
            return self._replayed(known, uids, digest)

    def people(self, collection: str, after: int = 0, limit: int = 100) -> list[Person]:
        """See :class:`Index`."""
        with storing():
            known = self._known(collection)
            listed: list[Person] = []
            while len(listed) < limit and (
                page := self._store.people_after(known, after, limit - len(listed))
            ):
                for handle, name, after in page:
                    count = self._store.count(known.templates, handle)
                    # None: their enrolment was cut short after their name was written.
                    if count:
                        listed.append(Person(name, count, after))
            return listed

    def entries(self, collection: str) -> Iterator[Entry]:
        """See :class:`Index`."""
        after = 0
        while True:
            with storing():
                known = self._known(collection)
                page = self._store.people_after(known, after, PAGE)
                read = [(name, self._vectors(known, handle), at) for handle, name, at in page]
            for name, stored, at in read:
                after = at
                if len(stored):
                    yield Entry(name, known.keys.unrotate(stored))
            if not page:
                return

    def erase(self, collection: str, person: str) -> int:
        """See :class:`Index`."""
        with self._mutex, storing():
            known = self._known(collection)
            handle = self._person(known, person)
            points = self._store.of_person(known, handle, vectors=False)
            self._note([hexadecimal(str(point.id)) for point in points])
            # Without a digest their names are random, or of keys that are no more: they cannot come again.
            self._store.left.erase(hexadecimal(str(p.id)) for p in points if p.payload["digest"])
            self._store.drop_person(known, handle)
            # What another service enrolled in between stands, and needs a person to be found by.
            if self._store.count(known.templates, handle):
                name = check_name("person", person)
                self._store.put_person(known, handle, name, self._moment())
            return len(points)

    def rekey(self, collection: str) -> int:
        """See :class:`Index`. What other services enroll meanwhile may be lost: stop them first."""
        with self._mutex, storing():
            return rekeyed(self._store, self._known(collection), self._master)

    def change_master(self, master: bytes) -> None:
        """Bring every collection under keys of another master key, without photos, one by one."""
        with self._mutex, storing():
            begin_master(self._store, master)
            for name in self._store.names():
                rekeyed(self._store, self._known(name), master)
            end_master(self._store, master)
            self._master = self._store.master = master
            self._store.keys.change(master)

    def stats(self, collection: str) -> Stats:
        """See :class:`Index`."""
        with storing():
            known = self._known(collection)
            templates = self._store.count(known.templates)
            people = self._store.count(known.people)
        return Stats(people, templates, templates < self._exact_below, known.keys.version)

    def close(self) -> None:
        """See :class:`Index`."""
        self._store.client.close()

    def _moment(self) -> int:
        """When a person came: microseconds, later than any before, and exact as a double, Qdrant's number.

        Two services that enroll people within the same quarter of a microsecond may tie.
        """
        self._last = max(4 * (time.time_ns() // 1000) + secrets.randbelow(4), self._last + 1)
        return self._last

    def _known(self, collection: str) -> Known:
        found = self._store.find(collection)
        if found is None:
            raise UnknownCollectionError(f"no collection {collection!r}")
        return found

    def _person(self, known: Known, person: str) -> bytes:
        handle = known.keys.handle(person)
        if not self._store.has_person(known, handle):
            raise UnknownPersonError(f"nobody of this name in {known.name!r}")
        return handle

    def _vectors(self, known: Known, handle: bytes) -> Floats:
        points = self._store.of_person(known, handle, vectors=True)
        rows = [point.vector for point in points]
        return np.asarray(rows, np.float32).reshape(len(rows), self.dimension)

    def _replayed(self, known: Known, uids: list[str], digest: str) -> Added | None:
        """What an earlier try did; one that was cut short half way is done again in full."""
        there = self._store.retrieve(known.templates, uids[:1])
        if not there:
            return None
        if there[0].payload["digest"] != digest:
            raise ConflictError("this idempotency key was used for another enrolment")
        whole = len(self._store.retrieve(known.templates, uids)) == len(uids)
        return Added(tuple(uids), True) if whole else None

    def _nearest(self, known: Known, turned: Floats, count: int, exact: bool) -> list[Hit]:
        """Several templates may be one person's: more are asked for until there are people enough."""
        asked = count
        while True:
            points = self._store.nearest(known, turned, asked, exact)
            names = self._store.names_of(known, {p.payload["handle"] for p in points})
            named = [
                (names[p.payload["handle"]], min(1.0, max(-1.0, p.score)))
                for p in points
                if p.payload["handle"] in names
            ]
            hits = best_people(named, count)
            if len(points) < asked or len(hits) >= count:
                return hits
            asked *= 4

    def _spent(self, uids: Sequence[str]) -> bool:
        """Whether the enrolment that names its templates so was done, and erased since."""
        noted = self._tombstones is not None and uids[0] in self._tombstones
        return noted or bool(self._store.left.erased(uids[:1]))

    def _note(self, names: Sequence[str]) -> None:
        if self._tombstones is not None:
            self._tombstones.add(names)

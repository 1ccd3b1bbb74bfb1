"""What the Qdrant backend writes and reads: one list of collections, and two point sets for each."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterable
from typing import Any, NamedTuple

from minusface.index.base import Floats, StorageError
from minusface.index.keys import CollectionKeys, KeyRing
from minusface.index.qdrant_left import ERASED, Left, note
from minusface.index.qdrant_points import LIST, NOTHING, Points, Row, named, place_of


class Known(NamedTuple):
    """A collection and where its points are."""

    name: str
    salt: bytes
    keys: CollectionKeys
    templates: str
    people: str


class Store(Points):
    """Points of the backend.

    Args:
        client: of qdrant-client.
        dimension: D.
        model: fingerprint of the recogniser.
        master: 32 bytes.
    """

    def __init__(self, client: Any, dimension: int, model: str, master: bytes) -> None:
        super().__init__(client)
        self.dimension, self.model, self.master = dimension, model, master
        self.keys, self.left = KeyRing(master, dimension), Left(self)

    def make_list(self) -> None:
        """Of the collections, and of what was erased, where they are missing."""
        for name in (LIST, ERASED):
            if not self.client.collection_exists(name):
                self.make_set(name, len(NOTHING))

    def put_about(self, about: dict[str, Any]) -> None:
        """Write down what it was made for."""
        self.put(LIST, [(named("about"), NOTHING, {"about": about})])

    def names(self) -> list[str]:
        """Of all collections."""
        points = self.scroll(LIST, self.where(kind="collection"))
        return [point.payload["name"] for point in points]

    def find(self, name: str) -> Known | None:
        """A collection; None where there is none."""
        there = self.retrieve(LIST, [named(f"collection/{name}")])
        if not there:
            return None
        said = there[0].payload
        salt = base64.b64decode(said["salt"])
        return _known(name, salt, self.keys.of(salt, int(said["version"])))

    def make(self, name: str, salt: bytes, version: int) -> None:
        """A new collection."""
        keys = CollectionKeys(self.master, salt, version, self.dimension)
        self.put(LIST, [_entry(self._made(_known(name, salt, keys)))])

    def beside(self, known: Known, salt: bytes, keys: CollectionKeys) -> Known:
        """Empty point sets for a collection of the same name, not yet in use."""
        self.left.alive(salt)
        return self._made(_known(known.name, salt, keys))

    def take(self, fresh: Known, instead: Known, templates: int) -> None:
        """From here on a collection's points are these; the others go, now or later.

        Raises:
            StorageError: there are not as many templates as were put there.
        """
        if self.count(fresh.templates) != templates:
            raise StorageError("Qdrant: the new point set was changed by another process")
        self.keys.keep(fresh.salt, fresh.keys)
        # At once: between the two nobody would know that the others are to go.
        self.put(LIST, [_entry(fresh), note(instead.salt, 0)])
        self.left.tidy()

    def forget(self, known: Known) -> None:
        """A collection with all its points."""
        self.left.ended(known.salt)
        self.delete(LIST, [named(f"collection/{known.name}")])
        for points in (known.templates, known.people):
            self.client.delete_collection(points)
        self.left.tidy()

    def put_person(self, known: Known, handle: bytes, name: str, at: int) -> None:
        """A person, where they are not there yet: who came first keeps their place."""
        if self.has_person(known, handle):
            return
        sealed = base64.b64encode(known.keys.seal(name.encode(), handle)).decode()
        payload = {"handle": handle.hex(), "name": sealed, "at": at}
        self.put(known.people, [(_person(handle), NOTHING, payload)])

    def put_back(self, known: Known, handle: bytes, name: str, at: int, uid: str) -> None:
        """A person whom another process erased while this template of theirs was written, and left it."""
        if not self.has_person(known, handle) and self.retrieve(known.templates, [uid]):
            self.put_person(known, handle, name, at)

    def has_person(self, known: Known, handle: bytes) -> bool:
        """Whether there is one."""
        return bool(self.retrieve(known.people, [_person(handle)]))

    def put_templates(
        self, known: Known, points: Iterable[tuple[str, Floats]], payload: dict[str, Any]
    ) -> None:
        """Rotated templates under their names."""
        self.put(known.templates, [(uid, row.tolist(), payload) for uid, row in points])

    def of_person(self, known: Known, handle: bytes, vectors: bool) -> list[Any]:
        """All templates of a person."""
        where = self.where(handle=handle.hex())
        return list(self.scroll(known.templates, where, vectors))

    def uids(self, known: Known) -> list[str]:
        """Names of all templates."""
        return [str(point.id) for point in self.scroll(known.templates)]

    def drop_person(self, known: Known, handle: bytes) -> None:
        """A person and their templates; the templates first, so that none is left of nobody."""
        self.delete_where(known.templates, handle=handle.hex())
        self.delete(known.people, [_person(handle)])

    def drop_templates(self, known: Known, uids: list[str]) -> None:
        """Templates by name, and people who then have none."""
        if not uids:
            return
        handles = {point.payload["handle"] for point in self.retrieve(known.templates, uids)}
        self.delete(known.templates, uids)
        for handle in handles:
            if not self.count(known.templates, bytes.fromhex(handle)):
                self.delete(known.people, [_person(bytes.fromhex(handle))])

    def count(self, points: str, handle: bytes | None = None) -> int:
        """How many there are, of a person or in all."""
        where = None if handle is None else self.where(handle=handle.hex())
        return int(self.client.count(points, count_filter=where, exact=True).count)

    def nearest(self, known: Known, turned: Floats, count: int, exact: bool) -> list[Any]:
        """Scored templates, best first."""
        found = self.client.query_points(
            known.templates,
            query=turned.tolist(),
            limit=count,
            with_payload=["handle"],
            search_params=self.models.SearchParams(exact=exact, hnsw_ef=max(128, 4 * count)),
            **self._agreed,
        )
        return list(found.points)

    def names_of(self, known: Known, handles: set[str]) -> dict[str, str]:
        """People's names by the hexadecimal of their handles."""
        ids = [_person(bytes.fromhex(handle)) for handle in handles]
        points = self.retrieve(known.people, ids)
        return {point.payload["handle"]: _opened(known, point.payload)[1] for point in points}

    def people_after(self, known: Known, after: int, limit: int) -> list[tuple[bytes, str, int]]:
        """Handle, name and moment of people enrolled after a moment, in that order."""
        models = self.models
        where = models.Filter(must=[models.FieldCondition(key="at", range=models.Range(gt=after))])
        points, _ = self.client.scroll(
            known.people,
            scroll_filter=where,
            limit=limit,
            order_by=models.OrderBy(key="at"),
            with_payload=True,
            **self._agreed,
        )
        return [_opened(known, point.payload) for point in points]

    def _made(self, known: Known) -> Known:
        models = self.models
        self.make_set(known.templates, self.dimension)
        self.make_set(known.people, len(NOTHING))
        for points, field, kind in (
            (known.templates, "handle", models.PayloadSchemaType.KEYWORD),
            (known.people, "at", models.PayloadSchemaType.INTEGER),
        ):
            self.client.create_payload_index(points, field, field_schema=kind, wait=True)
        return known


def _known(name: str, salt: bytes, keys: CollectionKeys) -> Known:
    place = place_of(salt)
    return Known(name, salt, keys, f"{LIST}_{place}_templates", f"{LIST}_{place}_people")


def _entry(known: Known) -> Row:
    payload = {
        "kind": "collection",
        "name": known.name,
        "salt": base64.b64encode(known.salt).decode(),
        "version": known.keys.version,
    }
    return named(f"collection/{known.name}"), NOTHING, payload


def _opened(known: Known, payload: dict[str, Any]) -> tuple[bytes, str, int]:
    handle = bytes.fromhex(payload["handle"])
    name = known.keys.open(base64.b64decode(payload["name"]), handle).decode()
    return handle, name, int(payload["at"])


def _person(handle: bytes) -> str:
    return uuid.UUID(bytes=handle[:16]).hex


__all__ = ["Known", "Store"]

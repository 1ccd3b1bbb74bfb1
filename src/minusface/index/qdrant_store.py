"""What the Qdrant backend writes and reads: one list of collections, and two point sets for each.

Everything is written with strong ordering and acknowledged when it is applied, and read from a majority of
replicas, so that a cluster answers as one node does.
"""

from __future__ import annotations

import base64
import contextlib
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from minusface.errors import MinusfaceError
from minusface.index.base import Floats, StorageError
from minusface.index.keys import CollectionKeys

LIST = "minusface"
# The list's and the people's points need a vector; it says nothing.
NOTHING = [0.0, 1.0]
PATIENCE = 5
PAGE = 256


class Known(NamedTuple):
    """A collection and where its points are."""

    name: str
    salt: bytes
    keys: CollectionKeys
    templates: str
    people: str


def connect(url: str) -> Any:
    """A client of a server, or of the process's own memory (``:memory:``).

    Raises:
        MinusfaceError: qdrant-client is missing.
    """
    try:
        from qdrant_client import QdrantClient
    except ImportError as error:
        raise MinusfaceError(f'{error.name} is missing: pip install "minusface[qdrant]"') from error
    if url == ":memory:":
        return QdrantClient(":memory:")
    with storing():
        return QdrantClient(url=url, timeout=PATIENCE)


@contextlib.contextmanager
def storing() -> Iterator[None]:
    """Qdrant's errors as ours."""
    from qdrant_client.http.exceptions import ApiException

    try:
        yield
    except MinusfaceError:
        raise
    except (ApiException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StorageError(f"Qdrant: {reason}") from error


def read_about(client: Any, **how: Any) -> dict[str, Any] | None:
    """What an index was made for; None where there is none."""
    if not client.collection_exists(LIST):
        return None
    there = client.retrieve(LIST, [_uuid("about")], with_payload=True, **how)
    return dict(there[0].payload["about"]) if there else None


class Store:
    """Points of the backend.

    Args:
        client: of qdrant-client.
        dimension: D.
        model: fingerprint of the recogniser.
        master: 32 bytes.
    """

    def __init__(self, client: Any, dimension: int, model: str, master: bytes) -> None:
        from qdrant_client import models

        self.client, self.models = client, models
        self.dimension, self.model, self.master = dimension, model, master
        self._keys: dict[tuple[bytes, int], CollectionKeys] = {}
        self._careful = {
            "wait": True,
            "ordering": models.WriteOrdering.STRONG,
        }
        self._agreed = {"consistency": models.ReadConsistencyType.MAJORITY}

    def make_list(self) -> None:
        """Of the collections, where it is missing."""
        if not self.client.collection_exists(LIST):
            self._make_set(LIST, len(NOTHING))

    def about(self) -> dict[str, Any] | None:
        """What it was made for; None where it does not say yet."""
        return read_about(self.client, **self._agreed)

    def put_about(self, about: dict[str, Any]) -> None:
        """Write down what it was made for."""
        self._put(LIST, [(_uuid("about"), NOTHING, {"about": about})])

    def names(self) -> list[str]:
        """Of all collections."""
        points = self._scroll(LIST, self._where(kind="collection"))
        return [point.payload["name"] for point in points]

    def find(self, name: str) -> Known | None:
        """A collection; None where there is none."""
        there = self.client.retrieve(
            LIST, [_uuid(f"collection/{name}")], with_payload=True, **self._agreed
        )
        if not there:
            return None
        said = there[0].payload
        salt = base64.b64decode(said["salt"])
        place = salt, int(said["version"])
        if place not in self._keys:
            self._keys[place] = CollectionKeys(self.master, *place, self.dimension)
        return _known(name, salt, self._keys[place])

    def make(self, name: str, salt: bytes, version: int) -> None:
        """A new collection."""
        keys = CollectionKeys(self.master, salt, version, self.dimension)
        self._enlist(self._made(_known(name, salt, keys)))

    def beside(self, known: Known, salt: bytes, keys: CollectionKeys) -> Known:
        """Empty point sets for a collection of the same name, not yet in use."""
        return self._made(_known(known.name, salt, keys))

    def take(self, fresh: Known, instead: Known) -> None:
        """From here on a collection's points are these; the others go."""
        self._keys[fresh.salt, fresh.keys.version] = fresh.keys
        self._enlist(fresh)
        for points in (instead.templates, instead.people):
            self.client.delete_collection(points)

    def forget(self, known: Known) -> None:
        """A collection with all its points."""
        self._delete(LIST, [_uuid(f"collection/{known.name}")])
        for points in (known.templates, known.people):
            self.client.delete_collection(points)

    def put_person(self, known: Known, handle: bytes, name: str, at: int) -> None:
        """A person, where they are not there yet: who came first keeps their place."""
        if self.has_person(known, handle):
            return
        sealed = base64.b64encode(known.keys.seal(name.encode(), handle)).decode()
        payload = {"handle": handle.hex(), "name": sealed, "at": at}
        self._put(known.people, [(_person(handle), NOTHING, payload)])

    def has_person(self, known: Known, handle: bytes) -> bool:
        """Whether there is one."""
        return bool(self.client.retrieve(known.people, [_person(handle)], **self._agreed))

    def put_templates(
        self, known: Known, points: Iterable[tuple[str, Floats]], payload: dict[str, Any]
    ) -> None:
        """Rotated templates under their names."""
        self._put(known.templates, [(uid, row.tolist(), payload) for uid, row in points])

    def retrieve(self, known: Known, uids: list[str]) -> list[Any]:
        """Templates of these names, without vectors."""
        found: list[Any] = self.client.retrieve(
            known.templates, uids, with_payload=True, **self._agreed
        )
        return found

    def of_person(self, known: Known, handle: bytes, vectors: bool) -> list[Any]:
        """All templates of a person."""
        where = self._where(handle=handle.hex())
        return list(self._scroll(known.templates, where, vectors))

    def uids(self, known: Known) -> list[str]:
        """Names of all templates."""
        return [str(point.id) for point in self._scroll(known.templates, None)]

    def drop_person(self, known: Known, handle: bytes) -> None:
        """A person and their templates; the templates first, so that none is left of nobody."""
        selector = self.models.FilterSelector(filter=self._where(handle=handle.hex()))
        self.client.delete(known.templates, points_selector=selector, **self._careful)
        self._delete(known.people, [_person(handle)])

    def drop_templates(self, known: Known, uids: list[str]) -> None:
        """Templates by name, and people who then have none."""
        if not uids:
            return
        handles = {point.payload["handle"] for point in self.retrieve(known, uids)}
        self._delete(known.templates, uids)
        for handle in handles:
            if not self.count(known.templates, bytes.fromhex(handle)):
                self._delete(known.people, [_person(bytes.fromhex(handle))])

    def count(self, points: str, handle: bytes | None = None) -> int:
        """How many there are, of a person or in all."""
        where = None if handle is None else self._where(handle=handle.hex())
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
        points = self.client.retrieve(known.people, ids, with_payload=True, **self._agreed)
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
        self._make_set(known.templates, self.dimension)
        self._make_set(known.people, len(NOTHING))
        for points, field, kind in (
            (known.templates, "handle", models.PayloadSchemaType.KEYWORD),
            (known.people, "at", models.PayloadSchemaType.INTEGER),
        ):
            self.client.create_payload_index(points, field, field_schema=kind, wait=True)
        return known

    def _make_set(self, name: str, dimension: int) -> None:
        models = self.models
        vectors = models.VectorParams(size=dimension, distance=models.Distance.DOT)
        self.client.create_collection(name, vectors_config=vectors)

    def _enlist(self, known: Known) -> None:
        payload = {
            "kind": "collection",
            "name": known.name,
            "salt": base64.b64encode(known.salt).decode(),
            "version": known.keys.version,
        }
        self._put(LIST, [(_uuid(f"collection/{known.name}"), NOTHING, payload)])

    def _put(self, points: str, rows: Iterable[tuple[str, list[float], dict[str, Any]]]) -> None:
        made = [self.models.PointStruct(id=i, vector=v, payload=p) for i, v, p in rows]
        self.client.upsert(points, points=made, **self._careful)

    def _delete(self, points: str, ids: list[str]) -> None:
        selector = self.models.PointIdsList(points=[*ids])
        self.client.delete(points, points_selector=selector, **self._careful)

    def _where(self, **fields: str) -> Any:
        models = self.models
        return models.Filter(
            must=[
                models.FieldCondition(key=key, match=models.MatchValue(value=value))
                for key, value in fields.items()
            ]
        )

    def _scroll(self, points: str, where: Any, vectors: bool = False) -> Iterator[Any]:
        place = None
        while True:
            page, place = self.client.scroll(
                points,
                scroll_filter=where,
                limit=PAGE,
                offset=place,
                with_payload=True,
                with_vectors=vectors,
                **self._agreed,
            )
            yield from page
            if place is None:
                return


def _known(name: str, salt: bytes, keys: CollectionKeys) -> Known:
    """Point sets are named by salt: a re-keyed collection gets new ones."""
    place = uuid.uuid5(uuid.NAMESPACE_OID, salt.hex()).hex
    return Known(name, salt, keys, f"{LIST}_{place}_templates", f"{LIST}_{place}_people")


def _opened(known: Known, payload: dict[str, Any]) -> tuple[bytes, str, int]:
    handle = bytes.fromhex(payload["handle"])
    name = known.keys.open(base64.b64decode(payload["name"]), handle).decode()
    return handle, name, int(payload["at"])


def _uuid(name: str) -> str:
    return uuid.uuid5(uuid.NAMESPACE_OID, f"minusface/{name}").hex


def _person(handle: bytes) -> str:
    return uuid.UUID(bytes=handle[:16]).hex


__all__ = ["Known", "Store", "connect", "read_about", "storing"]

"""Points of Qdrant, written and read in one manner.

Everything is written with strong ordering and acknowledged when it is applied, and read from a majority of
replicas, so that a cluster answers as one node does.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from typing import Any

LIST = "minusface"
# The list's and the people's points need a vector; it says nothing.
NOTHING = [0.0, 1.0]
PAGE = 256
Row = tuple[str, list[float], dict[str, Any]]


class Points:
    """All point sets of a server.

    Args:
        client: of qdrant-client.
    """

    def __init__(self, client: Any) -> None:
        from qdrant_client import models

        self.client, self.models = client, models
        self._careful = {
            "wait": True,
            "ordering": models.WriteOrdering.STRONG,
        }
        self._agreed = {"consistency": models.ReadConsistencyType.MAJORITY}

    def make_set(self, name: str, dimension: int) -> None:
        """An empty one."""
        models = self.models
        vectors = models.VectorParams(size=dimension, distance=models.Distance.DOT)
        self.client.create_collection(name, vectors_config=vectors)

    def put(self, points: str, rows: Iterable[Row]) -> None:
        """Write into a set."""
        made = [self.models.PointStruct(id=i, vector=v, payload=p) for i, v, p in rows]
        self.client.upsert(points, points=made, **self._careful)

    def delete(self, points: str, ids: list[str]) -> None:
        """By name."""
        selector = self.models.PointIdsList(points=[*ids])
        self.client.delete(points, points_selector=selector, **self._careful)

    def delete_where(self, points: str, **fields: str) -> None:
        """By payload."""
        selector = self.models.FilterSelector(filter=self.where(**fields))
        self.client.delete(points, points_selector=selector, **self._careful)

    def retrieve(self, points: str, ids: list[str]) -> list[Any]:
        """By name, without vectors."""
        found: list[Any] = self.client.retrieve(points, ids, with_payload=True, **self._agreed)
        return found

    def where(self, **fields: str) -> Any:
        """A filter."""
        models = self.models
        return models.Filter(
            must=[
                models.FieldCondition(key=key, match=models.MatchValue(value=value))
                for key, value in fields.items()
            ]
        )

    def scroll(self, points: str, where: Any = None, vectors: bool = False) -> Iterator[Any]:
        """Everything that fits."""
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

    def about(self) -> dict[str, Any] | None:
        """What an index was made for; None where there is none, or it does not say yet."""
        if not self.client.collection_exists(LIST):
            return None
        there = self.retrieve(LIST, [named("about")])
        return dict(there[0].payload["about"]) if there else None


def named(name: str) -> str:
    """A point's own name, made from what it stands for."""
    return uuid.uuid5(uuid.NAMESPACE_OID, f"minusface/{name}").hex


def place_of(salt: bytes) -> str:
    """By which a collection's point sets are named: a re-keyed collection gets new ones."""
    return uuid.uuid5(uuid.NAMESPACE_OID, salt.hex()).hex

"""What an index of templates can do, whatever stores it.

Templates lie in collections, one a tenant, each under keys of its own. A person has a name within a
collection and one or more templates. Legend: B batch, D embedding.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from minusface.errors import MinusfaceError

Floats = npt.NDArray[np.float32]


class UnknownCollectionError(MinusfaceError):
    """No collection of this name."""


class UnknownPersonError(MinusfaceError):
    """No person of this name in the collection."""


class ConflictError(MinusfaceError):
    """An idempotency key that was used for something else, or a name already taken."""


class SpentRequestError(ConflictError):
    """An idempotency key of an enrolment whose person was erased since."""


class StorageError(MinusfaceError):
    """The disk is full, or the database cannot be reached.

    Nothing was changed, unless a database's answer was lost.
    """


def check_unspent(spent: bool) -> None:
    """Refuse a try of an enrolment that comes after the person was erased: it would bring them back.

    Raises:
        SpentRequestError: its idempotency key was used, and what it enrolled is erased.
    """
    if spent:
        raise SpentRequestError(
            "enrolled before under this idempotency key, and erased since; to enroll anew, use another key"
        )


class Request(NamedTuple):
    """What makes a repeated enrolment recognisable."""

    key: str
    """Chosen by the client, the same for every try of one enrolment."""
    digest: bytes
    """Of what was sent: another digest under the same key is a mistake."""


class Added(NamedTuple):
    """What an enrolment did."""

    templates: tuple[str, ...]
    """Random names of the templates, in the order of the vectors."""
    replayed: bool
    """True where an earlier try had done it already."""


class Hit(NamedTuple):
    """A person found, with the best of their templates."""

    person: str
    score: float
    """Cosine in [-1, 1]."""


class Person(NamedTuple):
    """One entry of a list of people."""

    name: str
    templates: int
    cursor: int
    """To go on after this person."""


class Entry(NamedTuple):
    """A person with all their templates, to be moved."""

    person: str
    vectors: Floats
    """(B, D) as the recogniser gave them, of unit length: no key rotates them."""


@dataclass(frozen=True)
class Stats:
    """A collection in numbers."""

    people: int
    templates: int
    exact: bool
    """Whether search compares with every template."""
    key_version: int


class Index(Protocol):
    """Where templates are kept and found. Every method may be called from any thread.

    All raise :class:`StorageError` where the storage fails, and but for ``create`` and ``collections``
    :class:`UnknownCollectionError`.
    """

    dimension: int
    """D."""

    def create(self, collection: str) -> None:
        """Make a collection.

        Raises:
            ConflictError: the name is taken.
        """
        ...

    def collections(self) -> list[str]:
        """Their names, sorted."""
        ...

    def drop(self, collection: str) -> int:
        """Erase a collection and its keys' salt; the number of templates that were in it."""
        ...

    def add(
        self, collection: str, person: str, vectors: Floats, request: Request | None = None
    ) -> Added:
        """Enroll (B, D) templates of a person, new or known; on disk when it returns.

        Raises:
            ConflictError: the request's key was used with another digest.
        """
        ...

    def scores(self, collection: str, person: str, vectors: Floats) -> Floats:
        """Best cosine of each of (B, D) templates with the person's: (B,).

        Raises:
            UnknownPersonError: nobody of this name.
        """
        ...

    def search(self, collection: str, vectors: Floats, count: int) -> list[list[Hit]]:
        """The people nearest to each of (B, D) templates, best first, at most ``count`` each."""
        ...

    def count(self, collection: str, person: str) -> int:
        """Templates of a person; 0 where there is nobody of this name."""
        ...

    def earlier(self, collection: str, request: Request, count: int) -> Added | None:
        """What an earlier try of an enrolment of ``count`` templates did; None where there was none.

        Raises:
            ConflictError: the request's key was used with another digest, or for a person who is erased.
        """
        ...

    def people(self, collection: str, after: int = 0, limit: int = 100) -> list[Person]:
        """People in the order of their enrolment, those after a cursor."""
        ...

    def entries(self, collection: str) -> Iterator[Entry]:
        """Everybody with their templates, in the order of enrolment."""
        ...

    def erase(self, collection: str, person: str) -> int:
        """Erase everything of a person, beyond the reach of older backups; the number of templates.

        Raises:
            UnknownPersonError: nobody of this name.
        """
        ...

    def rekey(self, collection: str) -> int:
        """Bring a collection under new keys, without photos; the new version."""
        ...

    def stats(self, collection: str) -> Stats:
        """Counts."""
        ...

    def close(self) -> None:
        """Give the storage back."""
        ...


def check_vectors(vectors: Floats, dimension: int) -> Floats:
    """(B, D) finite rows, brought to unit length.

    Raises:
        MinusfaceError: another shape, NaN, infinity or zero.
    """
    rows = np.asarray(vectors, np.float32)
    if rows.ndim != 2 or rows.shape[1] != dimension or not len(rows):
        raise MinusfaceError(f"templates: shape {rows.shape}, expected (B, {dimension})")
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not (lengths > 0).all():
        raise MinusfaceError("templates: NaN, infinity or zero, expected directions")
    return np.asarray(rows / lengths, np.float32)


def check_name(what: str, name: str) -> str:
    """A name of 1 to 200 printable characters, in its composed form (NFC), however it was typed.

    Raises:
        MinusfaceError: it is not.
    """
    if not 1 <= len(name) <= 200 or not name.isprintable() or name != name.strip():
        raise MinusfaceError(
            f"{what}: expected 1 to 200 printable characters without blanks at the ends"
        )
    return unicodedata.normalize("NFC", name)


def best_people(pairs: Sequence[tuple[str, float]], count: int) -> list[Hit]:
    """The best score of each person, best first; by name among equals."""
    best: dict[str, float] = {}
    for person, score in pairs:
        best[person] = max(score, best.get(person, -2.0))
    ordered = sorted(best.items(), key=lambda item: (-item[1], item[0]))
    return [Hit(person, score) for person, score in ordered[:count]]

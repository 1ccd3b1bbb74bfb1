"""How many templates a collection, and a person in it, may have: one tenant must not fill memory or disk."""

from __future__ import annotations

import threading
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from minusface.errors import MinusfaceError
from minusface.index import Added, Index, Request

# Seconds for which a count is believed, where there is room and where there is none.
BELIEVED, FULL = 60.0, 1.0


class FullError(MinusfaceError):
    """A collection, or a person, has as many templates as are allowed."""


@dataclass
class _Count:
    """Templates of a collection, when they were counted, and those enrolled here since."""

    templates: int
    at: float


class Room:
    """Whether an enrolment fits, asked before its images are embedded.

    A collection is counted now and then, not for each enrolment, which would have a database read all its
    rows; what is enrolled here is added in between. Enrolments under way at once, and those of other services
    on one database within a minute, may go beyond the limit by as many as they are.

    Args:
        index: what is counted.
        most: templates of a collection.
        most_person: of a person.
        clock: seconds that never run backwards.
    """

    def __init__(
        self,
        index: Index,
        most: int,
        most_person: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._index, self._most, self._most_person = index, most, most_person
        self._clock, self._mutex = clock, threading.Lock()
        self._counts: dict[str, _Count] = {}

    def check(self, collection: str, people: Sequence[tuple[str, int, Request | None]]) -> None:
        """Refuse what does not fit; a try of an enrolment that was done before needs no room.

        Args:
            collection: which.
            people: names, how many templates of each are to come, and their requests.

        Raises:
            FullError: too many templates of the collection or a person.
            ConflictError: a request's key was used otherwise.
        """
        if self._refusal(collection, people) is None:
            return
        # Looked for only now: few enrolments come when there is no room, and fewer come twice.
        left = [
            (person, count, request)
            for person, count, request in people
            if request is None or self._index.earlier(collection, request, count) is None
        ]
        refusal = self._refusal(collection, left)
        if refusal is not None:
            raise refusal

    def took(self, collection: str, added: Added) -> None:
        """What was enrolled."""
        with self._mutex:
            if collection in self._counts and not added.replayed:
                self._counts[collection].templates += len(added.templates)

    def forget(self, collection: str) -> None:
        """Somebody was erased: count anew."""
        with self._mutex:
            self._counts.pop(collection, None)

    def _refusal(
        self, collection: str, people: Sequence[tuple[str, int, Request | None]]
    ) -> FullError | None:
        wanted: Counter[str] = Counter()
        for person, count, _ in people:
            wanted[unicodedata.normalize("NFC", person)] += count
        if not wanted:
            return None
        if not self._fits(collection, wanted.total()):
            return FullError(
                f"This collection is full: at most {self._most} templates; erase people, or ask the operator."
            )
        for person, count in wanted.items():
            if self._index.count(collection, person) + count > self._most_person:
                return FullError(f"A person may have at most {self._most_person} templates.")
        return None

    def _fits(self, collection: str, wanted: int) -> bool:
        now = self._clock()
        with self._mutex:
            known = self._counts.get(collection)
        if known is not None:
            fits = known.templates + wanted <= self._most
            if now - known.at < (BELIEVED if fits else FULL):
                return fits
        counted = self._index.stats(collection).templates
        with self._mutex:
            self._counts[collection] = _Count(counted, now)
        return counted + wanted <= self._most

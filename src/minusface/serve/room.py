"""How many templates a collection, and a person in it, may have: one tenant must not fill memory or disk."""

from __future__ import annotations

import itertools
import threading
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from minusface.errors import MinusfaceError
from minusface.index import Added, Index, Request

# Seconds for which a count is believed, where there is room and where there is none.
BELIEVED, FULL = 60.0, 1.0


People = Sequence[tuple[str, int, Request | None]]


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
    rows; what is enrolled here is added in between, and what is under way here counts as if it were done.
    Enrolments by other services on one database within a minute may go beyond the limit.

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
        # Enrolments under way by number: collection and people.
        self._held: dict[int, tuple[str, People]] = {}
        self._numbers = itertools.count()

    @contextmanager
    def held(self, collection: str, people: People) -> Iterator[None]:
        """Refuse what does not fit; what does has its room within this, before it is enrolled.

        A try of an enrolment that was done before, or is under way, needs no room.

        Args:
            collection: which.
            people: names, how many templates of each are to come, and their requests.

        Raises:
            FullError: too many templates of the collection or a person.
            ConflictError: a request's key was used otherwise.
        """
        with self._mutex:
            number = next(self._numbers)
            self._held[number] = (collection, people)
        try:
            self._check(collection, people, number)
            yield
        finally:
            with self._mutex:
                del self._held[number]

    def _check(self, collection: str, people: People, number: int) -> None:
        if self._refusal(collection, people, number) is None:
            return
        # Looked for only now: few enrolments come when there is no room, and fewer come twice.
        left = [
            (person, count, request)
            for person, count, request in people
            if request is None or self._index.earlier(collection, request, count) is None
        ]
        refusal = self._refusal(collection, left, number)
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

    def _refusal(self, collection: str, people: People, number: int) -> FullError | None:
        wanted: Counter[str] = Counter()
        # Read before anything is counted: what ends in between is counted twice, not missed.
        before = self._before(collection, people, number)
        for person, count, _ in people:
            wanted[_spelt(person)] += count
        if not wanted:
            return None
        if not self._fits(collection, wanted.total() + before.total()):
            return FullError(
                f"This collection is full: at most {self._most} templates; erase people, or ask the operator."
            )
        for person, count in wanted.items():
            here = self._index.count(collection, person) + before[person]
            if here + count > self._most_person:
                return FullError(f"A person may have at most {self._most_person} templates.")
        return None

    def _before(self, collection: str, people: People, number: int) -> Counter[str]:
        """Templates under way of those who came earlier, by person; tries of one enrolment count once, other
        tries of these people's not at all.

        Of two that came at once one counts the other, not both each other: where there is room for one, one
        is enrolled.
        """
        known = {request for _, _, request in people if request is not None}
        found: Counter[str] = Counter()
        with self._mutex:
            held = list(self._held.items())
        for other, (name, theirs) in held:
            if other < number and name == collection:
                for person, count, request in theirs:
                    if request is None or request not in known:
                        found[_spelt(person)] += count
                    if request is not None:
                        known.add(request)
        return found

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


def _spelt(person: str) -> str:
    """One spelling of a name: an index keeps no two."""
    return unicodedata.normalize("NFC", person)

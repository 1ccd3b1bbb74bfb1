"""What the Qdrant backend notes beside galleries: point sets that nobody uses any more, and who was erased.

No set is deleted because nobody uses it at one moment: another process may be filling it, to take it into use
when it is whole. It goes where its end was noted, or a day after its last sign of life.
"""

from __future__ import annotations

import base64
import contextlib
import re
import time
import uuid
from collections.abc import Iterable, Sequence

from minusface.index.base import StorageError
from minusface.index.qdrant_points import LIST, NOTHING, PAGE, Points, Row, named, place_of
from minusface.index.qdrant_reach import storing
from minusface.index.tombstones import Tombstones

# Names of erased templates: no enrolment is called like them again, whichever process it comes from.
ERASED = "minusface_erased"
SET = re.compile(r"minusface_([0-9a-f]{32})_(templates|people)")
TEMPLATE = re.compile(r"[0-9a-f]{32}")
# Seconds without a sign of life; clocks of two machines are not that far apart.
FORSAKEN = 86_400.0


class Left:
    """What is left of collections, and of people.

    Args:
        points: of the server.
    """

    def __init__(self, points: Points) -> None:
        self._points = points

    def alive(self, salt: bytes) -> None:
        """Point sets that nobody uses yet are still being filled."""
        self._points.put(LIST, [note(salt, time.time())])

    def ended(self, salt: bytes) -> None:
        """Nobody uses these point sets, once the list does not name them."""
        self._points.put(LIST, [note(salt, 0)])

    def tidy(self) -> None:
        """Delete what is due; what cannot be deleted now is due later."""
        with contextlib.suppress(StorageError), storing():
            self._sweep(time.time())

    def erased(self, uids: Sequence[str]) -> set[str]:
        """Which of these templates' names are of erased ones."""
        return {uuid.UUID(str(p.id)).hex for p in self._points.retrieve(ERASED, [*uids])}

    def erase(self, uids: Iterable[str]) -> None:
        """No enrolment is to take these names again."""
        rows: list[Row] = [(uid, NOTHING, {}) for uid in uids]
        if rows:
            self._points.put(ERASED, rows)

    def erase_all(self, tombstones: Tombstones) -> None:
        """What a service's own file says was erased: other processes do not read that."""
        uids = [name for name in tombstones if TEMPLATE.fullmatch(name)]
        for start in range(0, len(uids), PAGE):
            part = uids[start : start + PAGE]
            self.erase(set(part) - self.erased(part))

    def _sweep(self, now: float) -> None:
        client = self._points.client
        # Before what is in use: a set that is taken into use in between is then seen to be.
        there: dict[str, list[str]] = {}
        for one in client.get_collections().collections:
            if found := SET.fullmatch(one.name):
                there.setdefault(found[1], []).append(one.name)
        used, noted = self._used(), self._noted()
        for place in there.keys() - used:
            if place in noted and now - noted[place] > FORSAKEN:
                for name in there.pop(place):
                    client.delete_collection(name)
            # Of an earlier version, or being made at this moment. Where the list is empty it may have been
            # lost, and come back.
            elif place not in noted and used:
                self._points.put(LIST, [_note(place, now)])
        for place in noted.keys() & used | noted.keys() - there.keys():
            self._points.delete(LIST, [_note(place, now)[0]])

    def _used(self) -> set[str]:
        points = self._points.scroll(LIST, self._points.where(kind="collection"))
        return {place_of(base64.b64decode(point.payload["salt"])) for point in points}

    def _noted(self) -> dict[str, float]:
        """Last signs of life of point sets that no collection used when they were noted."""
        points = self._points.scroll(LIST, self._points.where(kind="unused"))
        return {point.payload["place"]: float(point.payload["since"]) for point in points}


def note(salt: bytes, since: float) -> Row:
    """That nobody uses a salt's point sets; since 0 where it is certain that nobody will."""
    return _note(place_of(salt), since)


def _note(place: str, since: float) -> Row:
    return named(f"unused/{place}"), NOTHING, {"kind": "unused", "place": place, "since": since}

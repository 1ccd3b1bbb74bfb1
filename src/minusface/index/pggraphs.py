"""When a collection in PostgreSQL gets its graph (HNSW)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from minusface.errors import MinusfaceError
from minusface.index.pgpool import Database
from minusface.index.pgrows import Known, count_of, graph_of

# Seconds until a graph that could not be made is tried again: trying may take minutes itself.
AGAIN = 600.0


class Graphs:
    """Gives collections that have grown large their graphs, each once.

    Args:
        db: the database.
        exact_below: smaller collections need none.
        locked: a collection, within a transaction, locked against everything.
    """

    def __init__(self, db: Database, exact_below: int, locked: Callable[[Any, str], Known]) -> None:
        self._db, self._exact_below, self._locked = db, exact_below, locked
        self._mutex = threading.Lock()
        self._uncounted: dict[int, int] = {}
        self._rest = 0.0

    def grow(self, known: Known, added: int) -> None:
        """So many templates were enrolled; counted now and then.

        Raises nothing: they are enrolled, with or without a graph.
        """
        if known.indexed:
            return
        with self._mutex:
            waiting = self._uncounted.get(known.number, self._exact_below) + added
            self._uncounted[known.number] = waiting
            if 10 * waiting < self._exact_below or time.monotonic() < self._rest:
                return
            self._uncounted[known.number] = 0
        try:
            self._make(known)
        except MinusfaceError as error:
            with self._mutex:
                self._uncounted[known.number] = self._exact_below
                self._rest = time.monotonic() + AGAIN
            logging.getLogger(__name__).warning(
                "no %s yet, searched in full until it is tried again: %s",
                graph_of(known.number),
                error,
            )

    def _make(self, known: Known) -> None:
        with self._db.transaction() as db:
            if count_of(db, "templates", known.number) < self._exact_below:
                return
            if self._locked(db, known.name).indexed:
                return
            db.execute(
                f"CREATE INDEX IF NOT EXISTS {graph_of(known.number)} ON templates USING hnsw "
                f"(vector vector_ip_ops) WHERE collection = {known.number}"
            )
            db.execute("UPDATE collections SET indexed = true WHERE id = %s", (known.number,))

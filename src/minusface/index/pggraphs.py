"""When a collection in PostgreSQL gets its graph (HNSW): beside all else, as it may take minutes."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from minusface.errors import MinusfaceError
from minusface.index.pgpool import PATIENCE, Database
from minusface.index.pgrows import Known, count_of, graph_of

# Seconds until a graph that could not be made is tried again: trying may take minutes itself.
AGAIN = 600.0
# The same number in all replicas: one graph of a database is made at a time. Two at once would wait for each
# other's snapshots.
MAKING = 6_273_362


class Graphs:
    """Gives collections that have grown large their graphs, each once, in a thread of its own.

    Meanwhile they are searched in full, and everybody enrolls and erases as before.

    Args:
        db: the database.
        exact_below: smaller collections need none.
    """

    def __init__(self, db: Database, exact_below: int) -> None:
        self._db, self._exact_below = db, exact_below
        self._mutex = threading.Lock()
        self._uncounted: dict[int, int] = {}
        self._rest = 0.0
        self._closed = False
        self._at_work: Any = None
        self._worker = ThreadPoolExecutor(1, "minusface-graphs")
        self._last: Future[None] | None = None

    def grow(self, known: Known, added: int) -> None:
        """So many templates were enrolled; counted now and then.

        Raises nothing: they are enrolled, with or without a graph.
        """
        if known.indexed:
            return
        with self._mutex:
            waiting = self._uncounted.get(known.number, self._exact_below) + added
            self._uncounted[known.number] = waiting
            if 10 * waiting < self._exact_below or time.monotonic() < self._rest or self._closed:
                return
            self._uncounted[known.number] = 0
            self._last = self._worker.submit(self._try, known)

    def forget(self, number: int) -> None:
        """A collection is gone: so is its graph, soon, or else when the next one is made."""
        with self._mutex:
            if not self._closed:
                self._last = self._worker.submit(self._drop, number)

    def wait(self) -> None:
        """Until what was begun is done."""
        with self._mutex:
            last = self._last
        if last is not None:
            last.result()

    def close(self) -> None:
        """End what is being made; a later growth, or search, makes it anew."""
        import psycopg

        with self._mutex:
            self._closed, at_work = True, self._at_work
        if at_work is not None:
            # A database that is away ends it by itself.
            with contextlib.suppress(psycopg.Error):
                at_work.cancel_safe(timeout=PATIENCE)
        self._worker.shutdown(cancel_futures=True)

    def _try(self, known: Known) -> None:
        try:
            self._make(known)
        except MinusfaceError as error:
            with self._mutex:
                if self._closed:
                    return
                self._uncounted[known.number] = self._exact_below
                self._rest = time.monotonic() + AGAIN
            logging.getLogger(__name__).warning(
                "no %s yet, searched in full until it is tried again: %s",
                graph_of(known.number),
                error,
            )

    def _make(self, known: Known) -> None:
        with self._db.reading() as db:
            if count_of(db, "templates", known.number) < self._exact_below:
                return
        name = graph_of(known.number)
        with self._alone() as db:
            if not _mine(db):
                raise MinusfaceError("another one is being made")
            _tidy(db)
            self._check_open()
            db.execute(
                f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON templates USING hnsw "
                f"(vector vector_ip_ops) WHERE collection = {known.number}"
            )
            db.execute("UPDATE collections SET indexed = true WHERE id = %s", (known.number,))

    def _drop(self, number: int) -> None:
        try:
            with self._alone() as db:
                if _mine(db):
                    db.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {graph_of(number)}")
        except MinusfaceError as error:
            logging.getLogger(__name__).warning("%s is left: %s", graph_of(number), error)

    def _alone(self) -> Any:
        return self._db.alone(self._begun)

    def _begun(self, connection: Any) -> None:
        """By which :meth:`close` ends what it is at; None when it is done."""
        with self._mutex:
            self._at_work = connection
        if connection is not None:
            self._check_open()

    def _check_open(self) -> None:
        """What was cancelled between two statements did not hear of it."""
        with self._mutex:
            if self._closed:
                raise MinusfaceError("PostgreSQL: closed")


def _mine(db: Any) -> bool:
    """Whether it is this connection's turn, until it ends; others are not waited for."""
    return bool(db.execute("SELECT pg_try_advisory_lock(%s)", (MAKING,)).fetchone()[0])


def _tidy(db: Any) -> None:
    """Drop what graphs that were cut short left, and graphs of collections that are gone."""
    found = db.execute(
        "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        "WHERE i.indrelid = 'templates'::regclass AND c.relname LIKE 'templates\\_graph\\_%' AND "
        "(NOT i.indisvalid OR split_part(c.relname, '_', 3) NOT IN (SELECT id::text FROM collections))"
    ).fetchall()
    for (name,) in found:
        db.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")

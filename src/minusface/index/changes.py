"""SQLite's log of changes, which holds what was overwritten until it is emptied."""

from __future__ import annotations

import contextlib
import sqlite3
import threading

# Milliseconds an erasure waits for readers of other processes; all requests wait with it.
PATIENCE_MS = 200
# Seconds between tries to empty what could not be emptied at once.
AGAIN = 1.0


class ChangeLog:
    """Empties the write-ahead log of a database, or tries again until that is done.

    Args:
        db: open in WAL mode.
        mutex: held by whoever uses the database; also by the callers of what follows.
    """

    def __init__(self, db: sqlite3.Connection, mutex: threading.RLock) -> None:
        self._db, self._mutex = db, mutex
        self._timer: threading.Timer | None = None
        self.due = False
        """Whether what was overwritten may still lie in the files."""

    def empty(self, patience_ms: int = PATIENCE_MS) -> None:
        """Fold the log into the database and cut it to nothing.

        Raises nothing: what was committed stays so. Where a reader of another process is in the way, or
        the disk is full, it is due, and tried again every second.
        """
        try:
            (before,) = self._db.execute("PRAGMA busy_timeout").fetchone()
            self._db.execute(f"PRAGMA busy_timeout = {int(patience_ms)}")
            try:
                # Busy is an answer here, not an error.
                busy, *_ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                self._db.execute(f"PRAGMA busy_timeout = {int(before)}")
            self.due = bool(busy)
        except sqlite3.Error:
            self.due = True
        if self.due and self._timer is None:
            self._timer = threading.Timer(AGAIN, self._again)
            self._timer.daemon = True
            self._timer.start()

    def retry(self) -> None:
        """Empty it if that is due, without waiting for anyone."""
        if self.due:
            self.empty(patience_ms=0)

    def close(self) -> None:
        """A last try, before the database is closed."""
        self.retry()
        # No other is started from here on.
        self.due = False
        if self._timer is not None:
            self._timer.cancel()

    def _again(self) -> None:
        with self._mutex, contextlib.suppress(sqlite3.Error):
            self._timer = None
            self.retry()

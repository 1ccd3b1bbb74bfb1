"""Connections to PostgreSQL: a pool that finds the way back after the database was gone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from minusface.errors import MinusfaceError
from minusface.index.base import StorageError

CONNECTIONS = 8
# Seconds; a database that is away is told of, not waited for.
PATIENCE = 5.0


class Database:
    """A pool of connections.

    Args:
        url: ``postgresql://user@host/database``.

    Raises:
        MinusfaceError: psycopg is missing, or the address cannot be understood.
    """

    def __init__(self, url: str) -> None:
        try:
            from psycopg import ProgrammingError
            from psycopg.conninfo import conninfo_to_dict
            from psycopg_pool import ConnectionPool
        except ImportError as error:
            raise MinusfaceError(
                f'{error.name} is missing: pip install "minusface[pgvector]"'
            ) from error
        try:
            conninfo_to_dict(url)
        except ProgrammingError:
            # Its message, and the pool's log, would repeat what may be part of the password.
            raise MinusfaceError(
                "index: this address of PostgreSQL cannot be understood (%, blanks and : / @ in a password "
                "are written %25, %20, %3A, %2F, %40)"
            ) from None
        self._url = url
        self._pool: Any = ConnectionPool(
            url,
            min_size=1,
            max_size=CONNECTIONS,
            timeout=PATIENCE,
            kwargs={"connect_timeout": int(PATIENCE)},
            check=ConnectionPool.check_connection,
            # It tries again by itself, rarer and rarer up to this many seconds apart.
            reconnect_timeout=60,
            open=False,
        )
        self._pool.open()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Any]:
        """A connection: all of what is done on it is in the database, or none.

        Raises:
            StorageError: the database cannot be reached, is full, or refuses.
        """
        with self._begun(reading=False) as connection:
            yield connection

    @contextlib.contextmanager
    def reading(self) -> Iterator[Any]:
        """A connection whose statements all see the database of one moment, and change nothing.

        Raises:
            StorageError: the database cannot be reached.
        """
        with self._begun(reading=True) as connection:
            yield connection

    @contextlib.contextmanager
    def _begun(self, reading: bool) -> Iterator[Any]:
        import psycopg
        from psycopg_pool import PoolTimeout

        try:
            with self._pool.connection() as connection:
                # Connections come from the pool as they were left.
                connection.read_only = reading or None
                connection.isolation_level = (
                    psycopg.IsolationLevel.REPEATABLE_READ if reading else None
                )
                yield connection
        except PoolTimeout as error:
            raise StorageError("PostgreSQL: cannot be reached") from error
        except psycopg.Error as error:
            raise StorageError(f"PostgreSQL: {_reason(error)}") from error

    @contextlib.contextmanager
    def alone(self, begun: Callable[[Any], None]) -> Iterator[Any]:
        """A connection beside the pool, each statement for itself, for what takes minutes.

        Args:
            begun: told the connection, by which another thread may cancel it, and None at the end.

        Raises:
            StorageError: the database cannot be reached, or refuses.
        """
        import psycopg

        try:
            with psycopg.connect(
                self._url, autocommit=True, connect_timeout=int(PATIENCE)
            ) as connection:
                begun(connection)
                try:
                    yield connection
                finally:
                    begun(None)
        except psycopg.Error as error:
            raise StorageError(f"PostgreSQL: {_reason(error)}") from error

    def vacuum(self) -> None:
        """Free what deleted rows held; best effort: PostgreSQL's own vacuum comes round anyway.

        Not waited for long: of a table that gets a graph it would be for minutes.
        """
        import psycopg
        from psycopg_pool import PoolTimeout

        with (
            contextlib.suppress(PoolTimeout, psycopg.Error),
            self._pool.connection() as connection,
        ):
            connection.autocommit = True
            try:
                connection.execute(f"SET lock_timeout = '{int(PATIENCE)}s'")
                connection.execute("VACUUM people, templates, requests, spent")
            finally:
                with contextlib.suppress(psycopg.Error):
                    connection.execute("RESET lock_timeout")
                connection.autocommit = False

    def close(self) -> None:
        """Give the connections back."""
        self._pool.close()


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__

"""One PostgreSQL server for all tests of a process, where the wheel that brings it is installed."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Address of a running server."""
    pgserver = pytest.importorskip("pgserver", reason="brings PostgreSQL with pgvector")
    pytest.importorskip("psycopg_pool", reason="the extra pgvector")
    # Not under pytest's own folder: the server runs as a user of its own, who may not enter that.
    folder = Path(tempfile.mkdtemp(prefix="minusface-pg-"))
    server = pgserver.get_server(folder, cleanup_mode=None)
    yield server.get_uri()
    # At once: nobody needs its data any more, and an orderly end takes seconds.
    process = int((folder / "postmaster.pid").read_text().split()[0])
    os.kill(process, signal.SIGQUIT)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def database(postgres: str) -> Callable[[], str]:
    """Makes empty databases, and gives their addresses."""
    import psycopg

    def call() -> str:
        name = f"t{uuid.uuid4().hex}"
        with psycopg.connect(postgres, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')  # type: ignore[arg-type]
        return postgres.replace("/postgres?", f"/{name}?")

    return call

"""A service whose gallery lies in PostgreSQL or Qdrant, and what it says while the database is away."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minusface.errors import MinusfaceError
from tests.serve.conftest import b64, png

pgserver = pytest.importorskip("pgserver", reason="brings PostgreSQL with pgvector")
pytest.importorskip("psycopg_pool", reason="the extra pgvector")


@pytest.fixture
def folder() -> Any:
    """Of a server of its own, which is stopped at the end."""
    path = Path(tempfile.mkdtemp(prefix="minusface-pg-"))
    yield path
    halt(path)
    shutil.rmtree(path, ignore_errors=True)


def url_of(folder: Path) -> str:
    pgserver.PostgresServer._instances.clear()
    return str(pgserver.get_server(folder, cleanup_mode=None).get_uri())


def halt(folder: Path) -> None:
    """As a power cut does."""
    file = folder / "postmaster.pid"
    if not file.exists():
        return
    process = int(file.read_text().split()[0])
    os.kill(process, signal.SIGQUIT)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and Path(f"/proc/{process}").exists():
        time.sleep(0.05)
    file.unlink(missing_ok=True)


def test_a_service_outlives_its_database(
    start: Any, folder: Path, protected: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    from minusface.index import pgpool

    monkeypatch.setattr(pgpool, "PATIENCE", 1.5)
    run = start(index=url_of(folder))

    def enroll(name: str, image: np.ndarray) -> Any:
        body = {"person": name, "images": [b64(png(image))]}
        return run.ask("POST", "/v1/enroll", body)

    def ready() -> int:
        return int(run.client.get("/readyz").status_code)

    assert enroll("Ann", protected[0]).status_code < 300
    assert ready() == 200
    halt(folder)
    away = enroll("Bob", protected[1])
    assert away.status_code == 503, away.text
    assert "retry-after" in away.headers
    assert "postgres" not in away.text.lower()
    assert ready() == 503
    url_of(folder)
    deadline = time.monotonic() + 30
    while ready() != 200:
        assert time.monotonic() < deadline
        time.sleep(0.3)
    assert enroll("Bob", protected[1]).status_code < 300
    asked = {"image": b64(png(protected[1])), "person": "Bob"}
    assert run.ask("POST", "/v1/verify", asked).json()["score"] > 0.99


def test_two_services_on_one_database(
    start: Any, exported: Path, folder: Path, protected: list[np.ndarray], tmp_path: Path
) -> None:
    from minusface.serve.service import Service
    from minusface.serve.settings import Settings

    url = url_of(folder)
    run = start(index=url)
    other = Service(Settings(model=exported, data=tmp_path / "other", index=url))
    try:
        body = {"person": "Ann", "images": [b64(png(protected[0]))]}
        assert run.ask("POST", "/v1/enroll", body).status_code < 300
        score, _, _ = other.verify("a", "Ann", b64(png(protected[0])), None)
        assert score > 0.99
        assert other.erase("a", "Ann") == 1
        asked = {"image": b64(png(protected[0])), "person": "Ann"}
        assert run.ask("POST", "/v1/verify", asked).status_code == 404
    finally:
        other.close()


def test_a_place_that_is_none(start: Any) -> None:
    with pytest.raises(MinusfaceError, match="expected a folder, local:FOLDER, postgresql"):
        start(index="mysql://somewhere")

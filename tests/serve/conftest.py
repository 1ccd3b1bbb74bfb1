"""A service on a tiny export, and protected images for it."""

from __future__ import annotations

import base64
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import uvicorn
from starlette.testclient import TestClient

from minusface.export import export, write_card
from minusface.serve.app import create_app
from minusface.serve.service import Service
from minusface.serve.settings import Settings
from tests.products import SIZE, tiny_checkpoint


def png(image: np.ndarray) -> bytes:
    ok, data = cv2.imencode(".png", image[:, :, ::-1])
    assert ok
    return bytes(data)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("service")
    card = export(tiny_checkpoint(root / "checkpoint"), root / "export")
    write_card(
        dataclasses.replace(card, thresholds={"fmr_1e-1": 0.5, "fmr_1e-2": 0.9}), root / "export"
    )
    return root / "export"


def protected_like(seed: int, side: int = SIZE) -> np.ndarray:
    """Independent faint patches in each colour around mid-grey, as protected images are."""
    random = np.random.default_rng(seed)
    patches = cv2.resize(random.standard_normal((8, 8, 3)), (side, side))
    return (127 + 20 * patches).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def protected() -> list[np.ndarray]:
    """(SIZE, SIZE, 3) each, one a person."""
    return [protected_like(seed) for seed in range(12)]


@dataclasses.dataclass
class Running:
    """A service under test."""

    service: Service
    client: TestClient
    tokens: dict[str, str]

    def ask(self, method: str, path: str, body: object = None, token: str = "all", **more: object):  # type: ignore[no-untyped-def]
        headers = {"authorization": f"Bearer {self.tokens.get(token, token)}"}
        headers |= dict(more.pop("headers", {}))  # type: ignore[call-overload]
        return self.client.request(method, path, json=body, headers=headers, **more)  # type: ignore[arg-type]


@pytest.fixture
def start(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator:  # type: ignore[type-arg]
    """Starts services on the test's folder, one after the other."""
    monkeypatch.setenv("MINUSFACE_MASTER_KEY", "ab" * 32)
    running: list[Running] = []

    def call(**settings: object) -> Running:
        while running:
            running.pop().client.__exit__(None, None, None)
        settings = {"model": exported, "data": tmp_path / "data", **settings}
        service = Service(Settings(**settings))  # type: ignore[arg-type]
        tokens = {
            "all": service.keys.add("a", ("enroll", "verify", "admin"))[1],
            "verify": service.keys.add("a", ("verify",))[1],
            "other": service.keys.add("b", ("enroll", "verify", "admin"))[1],
            "expired": service.keys.add("a", ("verify",), days=1e-9)[1],
        }
        client = TestClient(create_app(service), raise_server_exceptions=False)
        client.__enter__()
        running.append(Running(service, client, tokens))
        return running[0]

    yield call
    while running:
        running.pop().client.__exit__(None, None, None)


class Live:
    """A service under test on a real port of this machine."""

    def __init__(self, run: Running) -> None:
        config = uvicorn.Config(
            run.client.app, port=0, log_level="error", lifespan="off", timeout_graceful_shutdown=10
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.port: int = self.server.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(15)


@pytest.fixture
def live() -> Iterator[Callable[[Running], Live]]:
    """Puts a running service on a port."""
    opened: list[Live] = []

    def call(run: Running) -> Live:
        opened.append(Live(run))
        return opened[-1]

    yield call
    for one in opened:
        one.stop()

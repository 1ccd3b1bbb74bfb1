"""What the service's benchmarks share: an untrained export, a filled gallery, a real process, callers.

Speed does not depend on training, so the export is of fresh weights: generator width 16, ``ir_lite``,
templates of 128 numbers. People of a gallery are clusters of templates, and lie in groups themselves.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from minusface.index import LocalIndex

Floats = npt.NDArray[np.float32]

ROOT = Path(__file__).resolve().parents[1]
SIZE, WIDTH, DIMENSIONS = 112, 16, 128
MASTER = "ab" * 32
TENANT = "gallery"
GROUPS = 64
# Cosines of 0.6 within a person, of 0.15 within a group: about what face templates have.
WITHIN, TOGETHER = 0.6, 0.15


def untrained_export(folder: Path, width: int = WIDTH) -> Path:
    """An export folder of seeded, untrained weights, with thresholds."""
    from benchmarks.untrained import untrained_checkpoint

    from minusface.export import export, write_card

    checkpoint = untrained_checkpoint(folder / "checkpoint", width, DIMENSIONS, SIZE)
    card = export(checkpoint, folder / "export")
    write_card(replace(card, thresholds={"fmr_1e-3": 0.5}), folder / "export")
    return folder / "export"


def unit(rows: npt.NDArray[Any]) -> Floats:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float32)


def people(count: int, seed: int) -> Floats:
    """(count, D): one centre a person, in groups."""
    draw = np.random.default_rng(seed)
    groups = unit(np.random.default_rng(0).standard_normal((GROUPS, DIMENSIONS)))
    own = unit(draw.standard_normal((count, DIMENSIONS)))
    share = TOGETHER**0.5
    return unit(share * groups[draw.integers(0, GROUPS, count)] + (1 - TOGETHER) ** 0.5 * own)


def views(centres: Floats, each: int, seed: int) -> Floats:
    """(count, each, D): noisy views of people."""
    draw = np.random.default_rng(seed)
    noise = unit(draw.standard_normal((len(centres), each, DIMENSIONS), dtype=np.float32))
    return unit(WITHIN**0.5 * centres[:, None] + (1 - WITHIN) ** 0.5 * noise)


def fill(folder: Path, model: str, templates: int, each: int) -> float:
    """Enroll people through the index itself, as the service does; seconds.

    But for one thing: the disk is not waited for after each person.
    """
    start = time.perf_counter()
    index = LocalIndex(folder / "gallery", DIMENSIONS, bytes.fromhex(MASTER), model=model)
    index._db.execute("PRAGMA synchronous = OFF")
    index.create(TENANT)
    count = templates // each
    for first in range(0, count, 10_000):
        some = views(people(min(10_000, count - first), first), each, first + 1)
        for number, rows in enumerate(some, first):
            index.add(TENANT, f"person {number}", rows)
    index.close()
    return time.perf_counter() - start


def protected_like(seed: int) -> str:
    """Base64 of a PNG that passes for a protected image, about as large as one."""
    draw = np.random.default_rng(seed)
    patches = cv2.resize(draw.standard_normal((14, 14, 3)), (SIZE, SIZE))
    noise = draw.standard_normal((SIZE, SIZE, 3))
    image = (127 + 22 * patches + 6 * noise).clip(0, 255).astype(np.uint8)
    return base64.b64encode(cv2.imencode(".png", image)[1].tobytes()).decode()


@dataclass
class Server:
    """A ``minusface serve`` of its own process."""

    process: subprocess.Popen[bytes]
    port: int
    token: str
    start_seconds: float

    @property
    def rss_mib(self) -> float:
        return rss_mib(self.process.pid)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def serve(export: Path, data: Path, threads: int = 1, **settings: object) -> Server:
    """Start a service on a free port, and wait until it is ready."""
    from minusface.serve.keys import ApiKeys

    data.mkdir(parents=True, exist_ok=True)
    token = ApiKeys(data / "keys.json").add(TENANT, ("enroll", "verify", "admin"))[1]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # One key for all callers here: its limit is not what is measured.
    environment = {
        "MINUSFACE_MASTER_KEY": MASTER,
        "MINUSFACE_RATE": "1e6",
        "MINUSFACE_BURST": "1e6",
    }
    environment |= {f"MINUSFACE_{name.upper()}": str(value) for name, value in settings.items()}
    environment |= {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "minusface", "serve", str(export), "--data", str(data)]
    command += ["--port", str(port), "--threads", str(threads)]
    start = time.perf_counter()
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL
    )
    server = Server(process, port, token, 0.0)
    while True:
        if process.poll() is not None:
            raise SystemExit("the service did not start")
        try:
            if Caller(server).ask("GET", "/readyz")[0] == 200:
                break
        except OSError:
            time.sleep(0.02)
    server.start_seconds = time.perf_counter() - start
    return server


class Caller:
    """One client with one connection that stays open."""

    def __init__(self, server: Server) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        self._headers = {
            "Authorization": f"Bearer {server.token}",
            "Content-Type": "application/json",
        }

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, bytes, float]:
        """Status, answer, seconds."""
        data = None if body is None else json.dumps(body).encode()
        start = time.perf_counter()
        self._http.request(method, path, data, self._headers)
        answer = self._http.getresponse()
        said = answer.read()
        return answer.status, said, time.perf_counter() - start


def rss_mib(pid: int, peak: bool = False) -> float:
    """Memory of a process that is in RAM; not a number where the system does not tell."""
    wanted = "VmHWM" if peak else "VmRSS"
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(wanted):
                return float(line.split()[1]) / 1024
    except OSError:
        pass
    return float("nan")


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds."""
    cuts = np.percentile(np.asarray(seconds) * 1000, (50, 95, 99))
    return dict(zip(("p50", "p95", "p99"), map(float, cuts), strict=True))


def chunks(total: int, size: int) -> Iterator[tuple[int, int]]:
    """Beginnings and ends."""
    for first in range(0, total, size):
        yield first, min(total, first + size)

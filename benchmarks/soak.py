"""A long run of ``minusface serve`` under mixed load: does memory grow, does anything fail or slow down?

    python benchmarks/soak.py [--minutes 15] [--templates 100000] [--share 0.5] [--clients 4] [--json FILE]

First the capacity for the mix is measured for --capacity seconds (closed loop); then --share of it is asked,
at even distances whether answered or not, for --minutes. Memory is sampled every five seconds; its slope is
that of a line through the samples after the first fifth of the time. Latencies count from when a request was
due.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# In the place of this folder, where onnx.py would hide the package of that name.
sys.path[0] = str(Path(__file__).resolve().parents[1])
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
from benchmarks.common import machine  # noqa: E402
from benchmarks.serving import (  # noqa: E402
    Caller,
    Server,
    fill,
    percentiles,
    protected_like,
    serve,
    untrained_export,
)  # fmt: skip

from minusface.runtime import load_export_card  # noqa: E402

# Parts of the load. As many people come as go.
MIX = {"identify": 0.45, "verify": 0.30, "enroll": 0.125, "erase": 0.125}
SAMPLE_SECONDS = 5.0
IMAGES = 64


@dataclass
class Tally:
    """What one worker saw: when a request was due, what it was, seconds, status."""

    rows: list[tuple[float, str, float, int]] = field(default_factory=list)
    known: list[str] = field(default_factory=list)


class Worker(threading.Thread):
    """One caller with people of its own, so that none is erased while another asks for them.

    Args:
        server: to ask.
        number: of the worker.
        tick: seconds between its requests; 0 asks as fast as answers come.
        seconds: for which it runs.
        known: names enrolled by an earlier run of this worker.
    """

    def __init__(
        self, server: Server, number: int, tick: float, seconds: float, known: list[str]
    ) -> None:
        super().__init__()
        self.caller, self.tick, self.seconds = Caller(server), tick, seconds
        self.draw, self.number, self.made = random.Random(number), number, len(known)
        self.tally = Tally(known=list(known))

    def run(self) -> None:
        start = time.perf_counter()
        due = start + self.tick * self.draw.random()
        while due < start + self.seconds:
            time.sleep(max(0.0, due - time.perf_counter()))
            name, status = self.ask(self.choose())
            now = time.perf_counter()
            self.tally.rows.append((due - start, name, now - due, status))
            due = due + self.tick if self.tick else now

    def choose(self) -> str:
        kind = self.draw.choices(list(MIX), list(MIX.values()))[0]
        return kind if self.tally.known or kind == "identify" else "enroll"

    def ask(self, kind: str) -> tuple[str, int]:
        known, image = self.tally.known, IMAGE[self.draw.randrange(IMAGES)]
        if kind == "identify":
            return kind, self.caller.ask("POST", "/v1/identify", {"image": image})[0]
        if kind == "verify":
            body = {"person": self.draw.choice(known), "image": image}
            return kind, self.caller.ask("POST", "/v1/verify", body)[0]
        if kind == "erase":
            person = known.pop(self.draw.randrange(len(known)))
            return kind, self.caller.ask("POST", "/v1/erase", {"person": person})[0]
        person = f"guest {self.number}-{self.made}-{self.draw.random()}"
        self.made += 1
        status = self.caller.ask("POST", "/v1/enroll", {"person": person, "images": [image]})[0]
        if status == 200:
            known.append(person)
        return kind, status


IMAGE = [protected_like(seed) for seed in range(IMAGES)]


def run(
    server: Server, clients: int, rate: float | None, seconds: float, before: list[Tally]
) -> tuple[list[Tally], list[tuple[float, float]]]:
    """Workers at a rate (none: as fast as they can), and the memory meanwhile."""
    tick = clients / rate if rate else 0.0
    known = [tally.known for tally in before] or [[] for _ in range(clients)]
    workers = [Worker(server, n, tick, seconds, known[n]) for n in range(clients)]
    start, memory = time.perf_counter(), [(0.0, server.rss_mib)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        time.sleep(min(SAMPLE_SECONDS, seconds / 10))
        memory.append((time.perf_counter() - start, server.rss_mib))
        if len(memory) % 12 == 0:
            print(f"  {memory[-1][0]:6.0f} s  {memory[-1][1]:7.1f} MiB", flush=True)
    for worker in workers:
        worker.join()
    return [worker.tally for worker in workers], memory


def summary(tallies: list[Tally], memory: list[tuple[float, float]], seconds: float) -> Any:
    """Counts, errors, percentiles by kind and at both ends, memory's course and slope."""
    rows = sorted(row for tally in tallies for row in tally.rows)
    edge = min(60.0, seconds / 3)
    late = [m for m in memory if m[0] >= seconds / 5] or memory
    slope = np.polyfit(*zip(*late, strict=True), 1)[0] * 3600 if len(late) > 1 else float("nan")
    codes = sorted({row[3] for row in rows})
    return {
        "requests": len(rows),
        "rate": len(rows) / seconds,
        "statuses": {str(code): sum(row[3] == code for row in rows) for code in codes},
        "errors": sum(row[3] != 200 for row in rows),
        "by_kind": {
            kind: percentiles([r[2] for r in rows if r[1] == kind])
            for kind in MIX
            if any(r[1] == kind for r in rows)
        },
        "all": percentiles([r[2] for r in rows]),
        "first": percentiles([r[2] for r in rows if r[0] < edge]),
        "last": percentiles([r[2] for r in rows if r[0] >= seconds - edge]),
        "edge_seconds": edge,
        "rss_mib": {"first": memory[0][1], "late": late[0][1], "last": memory[-1][1]},
        "rss_slope_mib_per_hour": float(slope),
        "rss_course": [(round(t, 1), round(m, 1)) for t, m in memory],
    }


def report(found: Any) -> None:
    print(
        f"{found['requests']} requests at {found['rate']:.1f} a second, {found['errors']} errors "
        f"{found['statuses']}"
    )
    for kind, cuts in [*found["by_kind"].items(), ("all", found["all"])]:
        print(
            f"{kind:<9} p50 {cuts['p50']:6.1f}  p95 {cuts['p95']:6.1f}  p99 {cuts['p99']:6.1f} ms"
        )
    print(
        f"p95 of the first {found['edge_seconds']:.0f} s {found['first']['p95']:.1f} ms, of the last "
        f"{found['last']['p95']:.1f} ms"
    )
    memory = found["rss_mib"]
    print(
        f"memory {memory['first']:.0f} MiB at the start, {memory['late']:.0f} after a fifth, "
        f"{memory['last']:.0f} at the end; slope {found['rss_slope_mib_per_hour']:+.1f} MiB an hour"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--templates", type=int, default=100_000)
    parser.add_argument("--share", type=float, default=0.5, help="of the capacity")
    parser.add_argument("--capacity", type=float, default=30.0, help="seconds of measuring it")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1, help="of the recogniser")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        export, data = untrained_export(Path(scratch)), Path(scratch) / "data"
        fill(data, load_export_card(export).fingerprint, options.templates, 1)
        server = serve(export, data, options.threads)
        try:
            tallies, memory = run(server, options.clients, None, options.capacity, [])
            most = summary(tallies, memory, options.capacity)
            print(f"capacity {most['rate']:.1f} requests a second, p95 {most['all']['p95']:.1f} ms")
            seconds = options.minutes * 60
            tallies, memory = run(
                server, options.clients, most["rate"] * options.share, seconds, tallies
            )
            found = {"capacity": most, **summary(tallies, memory, seconds)}
        finally:
            code = server.stop()
    report(found)
    found |= {"minutes": options.minutes, "templates": options.templates, "mix": MIX}
    found |= {"clients": options.clients, "machine": machine(), "exit": code}
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    if found["errors"] or code not in (0, -15):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

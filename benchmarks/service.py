"""How fast a real ``minusface serve`` answers, over loopback, embedding included.

    python benchmarks/service.py [--templates 100000] [--clients 1,2,4,8] [--seconds 20] [--threads 1]
        [--each 1] [--folder DIR] [--json FILE]

The model is an untrained export (speed does not depend on training), the gallery is filled with random
templates in clusters, one or more (``--each``) a person. Callers run in this process, on the same cores;
each sends its next identification when it has the answer to the last. The floor is what the answer cannot do
without, measured in this process one after the other: PNG decoding, embedding, search.

benchmarks/gallery.py asks a million templates, benchmarks/soak.py for a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

# In the place of this folder, where onnx.py would hide the package of that name.
sys.path[0] = str(Path(__file__).resolve().parents[1])
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
from benchmarks.common import interleaved, machine, median_ms  # noqa: E402
from benchmarks.serving import (  # noqa: E402
    DIMENSIONS,
    MASTER,
    SIZE,
    TENANT,
    Caller,
    Server,
    fill,
    people,
    percentiles,
    protected_like,
    serve,
    untrained_export,
    views,
)  # fmt: skip

from minusface.index import LocalIndex  # noqa: E402
from minusface.runtime import RecognizerModel, from_bytes  # noqa: E402
from minusface.serve.images import decode_image  # noqa: E402


def floor(export: Path, data: Path, threads: int, repeats: int = 60) -> dict[str, float]:
    """Milliseconds of the parts of one identification."""
    model = RecognizerModel(export, threads=threads)
    index = LocalIndex(
        data / "gallery", DIMENSIONS, bytes.fromhex(MASTER), model=model.card.fingerprint
    )
    image = protected_like(0)
    pixels = from_bytes(decode_image(image, SIZE, 1)[None])
    query = views(people(1, 10**6), 1, 7)[0]
    parts = {
        "png": lambda: from_bytes(decode_image(image, SIZE, 1)[None]),
        "embedding": lambda: model.embed(pixels),
        "search": lambda: index.search(TENANT, query, 5),
    }
    found = {name: median_ms(times) for name, times in interleaved(parts, repeats, 5).items()}
    index.close()
    return found | {"sum": sum(found.values())}


def drive(server: Server, clients: int, seconds: float) -> dict[str, Any]:
    """Closed loop: requests a second and percentiles of ``clients`` callers."""
    bodies = [{"image": protected_like(seed), "count": 5} for seed in range(32)]
    times: list[list[float]] = [[] for _ in range(clients)]
    failures: list[int] = []
    gate = threading.Barrier(clients + 1)
    end = 0.0

    def call(number: int) -> None:
        caller = Caller(server)
        for step in range(3):
            caller.ask("POST", "/v1/identify", bodies[step])
        gate.wait()
        step = number
        while time.perf_counter() < end:
            status, _, took = caller.ask("POST", "/v1/identify", bodies[step % len(bodies)])
            times[number].append(took)
            if status != 200:
                failures.append(status)
            step += 1

    threads = [threading.Thread(target=call, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    start = time.perf_counter()
    end = start + seconds + 3600
    gate.wait()
    start = time.perf_counter()
    end = start + seconds
    for thread in threads:
        thread.join()
    every = [t for some in times for t in some]
    row: dict[str, Any] = {"clients": clients, "requests": len(every), "errors": len(failures)}
    return row | {"rate": len(every) / (time.perf_counter() - start), **percentiles(every)}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--templates", type=int, default=100_000)
    parser.add_argument("--each", type=int, default=1, help="templates a person")
    parser.add_argument("--clients", default="1,2,4,8")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=1, help="of the recogniser")
    parser.add_argument("--folder", type=Path, help="kept, and used again where it is there")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        if not (folder / "export").is_dir():
            untrained_export(folder)
        export, data = folder / "export", folder / f"data-{options.templates}-{options.each}"
        model = RecognizerModel(export, threads=1).card.fingerprint
        if not data.is_dir():
            took = fill(data, model, options.templates, options.each)
            print(f"enrolled {options.templates} templates in {took:.0f} s", flush=True)
        found: dict[str, Any] = {
            "templates": options.templates, "each": options.each, "threads": options.threads,
            "floor_ms": floor(export, data, options.threads),
        }  # fmt: skip
        parts = ", ".join(f"{name} {ms:.1f}" for name, ms in found["floor_ms"].items())
        print(f"floor, ms: {parts}", flush=True)
        server = serve(export, data, options.threads)
        try:
            found |= {"start_seconds": server.start_seconds, "rows": []}
            caller = Caller(server)
            hello = [caller.ask("GET", "/v1/model")[2] for _ in range(200)]
            found["http_ms"] = float(np.median(hello) * 1000)
            print(
                f"ready after {server.start_seconds:.1f} s; an empty request {found['http_ms']:.1f} ms"
            )
            for clients in map(int, options.clients.split(",")):
                row = drive(server, clients, options.seconds)
                found["rows"].append(row)
                print(
                    f"{clients:>3} clients  {row['rate']:6.1f} requests/s  p50 {row['p50']:6.1f}  "
                    f"p95 {row['p95']:6.1f}  p99 {row['p99']:6.1f} ms  {row['errors']} errors",
                    flush=True,
                )
            found["rss_mib"] = server.rss_mib
            print(f"memory of the service {found['rss_mib']:.0f} MiB")
        finally:
            code = server.stop()
        found["machine"] = machine()
        if options.json:
            options.json.write_text(json.dumps(found, indent=1))
        if code not in (0, -15):
            raise SystemExit(f"the service ended with {code}")


if __name__ == "__main__":
    main()

"""A gallery of a million templates: does the fast search find what the full one finds, how large, how slow?

    python benchmarks/gallery.py [--templates 1000000] [--each 10] [--queries 2000] [--folder DIR]

Clustered templates (--each a person, people in groups) and uniform ones are searched in full and as the index
does it; recall@1 is how often both name the same template. Then people are enrolled in an index on disk, and
a new process opens it: seconds from the file until it can search, memory, milliseconds a search of people.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# In the place of this folder, where onnx.py would hide the package of that name.
sys.path[0] = str(Path(__file__).resolve().parents[1])
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
from benchmarks.common import machine  # noqa: E402
from benchmarks.serving import (  # noqa: E402
    DIMENSIONS,
    MASTER,
    TENANT,
    Floats,
    chunks,
    fill,
    people,
    percentiles,
    rss_mib,
    unit,
    views,
)

from minusface.index import LocalIndex  # noqa: E402
from minusface.index.nearest import Nearest  # noqa: E402

Sets = dict[str, Floats]


def clustered(count: int, each: int, queries: int) -> tuple[Floats, Sets]:
    """Templates; queries of the enrolled (new views) and of strangers."""
    centres = people(count // each, 1)
    rows = np.concatenate(
        [
            views(centres[a:b], each, a).reshape(-1, DIMENSIONS)
            for a, b in chunks(len(centres), 20_000)
        ]
    )
    known = views(centres[:: max(1, len(centres) // queries)], 1, 99)[:, 0]
    return rows, {"enrolled": known, "strangers": views(people(queries, 2), 1, 98)[:, 0]}


def uniform(count: int, queries: int) -> tuple[Floats, Sets]:
    draw = np.random.default_rng(3)
    rows = unit(draw.standard_normal((count, DIMENSIONS), dtype=np.float32))
    return rows, {"strangers": unit(draw.standard_normal((queries, DIMENSIONS)))}


def compare(name: str, rows: Floats, sets: Sets) -> dict[str, Any]:
    """Recall@1 and milliseconds of the index's search against comparing with all."""
    full, fast = Nearest(DIMENSIONS, exact_below=len(rows) + 1), Nearest(DIMENSIONS)
    numbers = np.arange(len(rows))
    found: dict[str, Any] = {}
    for word, index in (("full", full), ("fast", fast)):
        start = time.perf_counter()
        index.add(numbers, rows)
        found[f"{word}_build_seconds"] = time.perf_counter() - start
    found["exact"] = fast.exact
    for kind, queries in sets.items():
        best = np.concatenate(
            [full.search(queries[a:b], 1)[1] for a, b in chunks(len(queries), 100)]
        )
        near = np.concatenate(
            [fast.search(queries[a:b], 1)[1] for a, b in chunks(len(queries), 100)]
        )
        found[kind] = {"queries": len(queries), "recall_at_1": float((best == near).mean())}
    for word, index in (("full", full), ("fast", fast)):
        times = []
        for query in next(iter(sets.values()))[:60]:
            start = time.perf_counter()
            index.search(query[None], 5)
            times.append(time.perf_counter() - start)
        found[f"{word}_ms"] = percentiles(times)
    recalls = ", ".join(f"{k} {found[k]['recall_at_1']:.4f} of {found[k]['queries']}" for k in sets)
    print(
        f"{name}: recall@1 {recalls}; a search {found['fast_ms']['p50']:.1f} ms, in full "
        f"{found['full_ms']['p50']:.1f}; built in {found['fast_build_seconds']:.1f} s, in full "
        f"{found['full_build_seconds']:.1f}",
        flush=True,
    )
    return found


def opened(folder: Path, searches: int = 200) -> dict[str, Any]:
    """What a process that opens the gallery needs; run in one of its own."""
    before, start = rss_mib(os.getpid()), time.perf_counter()
    index = LocalIndex(folder / "gallery", DIMENSIONS, bytes.fromhex(MASTER), model="none")
    ready, held = time.perf_counter() - start, rss_mib(os.getpid())
    stats, times = index.stats(TENANT), []
    for query in views(people(searches, 5), 1, 6):
        start = time.perf_counter()
        index.search(TENANT, query, 5)
        times.append(time.perf_counter() - start)
    found = {"start_seconds": ready, "empty_mib": before, "rss_mib": held}
    found |= {"peak_mib": rss_mib(os.getpid(), peak=True), "search_ms": percentiles(times)}
    found |= {"people": stats.people, "templates": stats.templates, "exact": stats.exact}
    index.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--templates", type=int, default=1_000_000)
    parser.add_argument("--each", type=int, default=10, help="templates a person")
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="kept, and used again where it is there")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.open:
        print(json.dumps(opened(options.open)))
        return
    found: dict[str, Any] = {"templates": options.templates, "each": options.each}
    found["clustered"] = compare(
        "clustered", *clustered(options.templates, options.each, options.queries)
    )
    found["uniform"] = compare("uniform", *uniform(options.templates, options.queries))
    with tempfile.TemporaryDirectory() as scratch:
        data = options.folder or Path(scratch) / "data"
        if not data.is_dir():
            found["enroll_seconds"] = fill(data, "none", options.templates, options.each)
            print(f"enrolled in {found['enroll_seconds']:.0f} s", flush=True)
        database = data / "gallery" / "gallery.sqlite"
        found["database_mib"] = database.stat().st_size / 2**20
        command = [sys.executable, __file__, "--open", str(data)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        found["index"] = row = json.loads(answer.stdout)
    print(
        f"index of {row['templates']} templates of {row['people']} people, {found['database_mib']:.0f} MiB: "
        f"open after {row['start_seconds']:.1f} s, {row['rss_mib']:.0f} MiB (peak {row['peak_mib']:.0f}, "
        f"empty {row['empty_mib']:.0f}); a search p50 {row['search_ms']['p50']:.1f}, p95 "
        f"{row['search_ms']['p95']:.1f} ms"
    )
    found["machine"] = machine()
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

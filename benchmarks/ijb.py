"""Fifteen million IJB-C pairs from synthetic embeddings: read, pooled, scored, on what memory.

    python benchmarks/ijb.py [--pairs 15658489] [--json FILE]

Prints seconds of each part and the peak of resident memory; all parts run in one child process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

# IJB-C: images, templates, pairs of InsightFace's lists.
IMAGES, TEMPLATES, PAIRS, SIZE = 469_375, 23_124, 15_658_489, 512


def write_files(folder: Path, images: int, templates: int, pairs: int) -> None:
    """Lists in the published form, and nothing that faces had a part in."""
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, templates, pairs) for _ in range(2))
    with open(folder / "ijbc_template_pair_label.txt", "w") as file:
        for start in range(0, pairs, 1 << 20):
            part = slice(start, start + (1 << 20))
            same = (a[part] % 3531 == b[part] % 3531).astype(int)
            lines = np.stack([a[part], b[part], same], axis=1)
            file.write("\n".join(f"{x} {y} {s}" for x, y, s in lines.tolist()) + "\n")
    owners = np.concatenate([np.arange(templates), rng.integers(0, templates, images - templates)])
    media = rng.integers(0, 6, images)
    np.savez(folder / "owners.npz", owners=owners, media=media)


def measure(folder: Path) -> dict[str, float]:
    """Seconds of each part, MiB at the peak."""
    from minusface.evaluate.suites.ijb import read_template_pairs
    from minusface.evaluate.suites.ijb_templates import pool_templates, verify_templates

    held = np.load(folder / "owners.npz")
    owners, media = held["owners"], held["media"]
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((len(owners), SIZE), dtype=np.float32)
    rows /= np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
    found = {"embeddings_mib": rows.nbytes / 2**20}
    clock = time.perf_counter()
    pairs = read_template_pairs(folder / "ijbc_template_pair_label.txt")
    found["peak_read_mib"] = peak()
    found["read_s"], clock = time.perf_counter() - clock, time.perf_counter()
    templates, pooled = pool_templates(rows, owners, media, rng.random(len(owners)))
    del rows
    found["peak_pool_mib"] = peak()
    found["pool_s"], clock = time.perf_counter() - clock, time.perf_counter()
    points = verify_templates(templates, pooled, pairs)
    found["score_s"] = time.perf_counter() - clock
    found["total_s"] = found["read_s"] + found["pool_s"] + found["score_s"]
    found["pairs"] = len(pairs)
    found["tar_at_far_0.1"] = points.tar_at_far()[0.1] or 0.0
    found["peak_mib"] = peak()
    return found


def peak() -> float:
    """The most memory that this process has held so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Write the files, measure in a child process, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), options.images, TEMPLATES, options.pairs)
        command = [sys.executable, __file__, "--measure", folder]
        child = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(child.stdout)
    for name, value in found.items():
        print(f"{name:16} {value:,.2f}")
    print("asked for: at most 60 s and 2048 MiB")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Reading faces: crops a second in one process for each format, beside a bare simplejpeg loop (the floor).

    python benchmarks/data.py [--images 4000] [--lines 5000000] [--repeats 5] [--json FILE]

The same crops (drawn faces as JPEG, 112x112, quality 95) are written in every format. The floor decodes bytes
that are in memory already; a reader finds, reads, checks and decodes, in random order. The index of LINES
lines is made up; opening it and reading a first batch of 128 through a sparse shard is timed in a process of
its own, so that its peak memory is its own.
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
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
BATCH = 128
PEOPLE = 100_000


def make_folder(folder: Path, images: int) -> None:
    """JPEG crops of drawn faces, fifty a person."""
    from minusface.data import SyntheticFaces

    drawn = SyntheticFaces(20, 10, seed=0)
    crops = [cv2.cvtColor(drawn[i].image, cv2.COLOR_RGB2BGR) for i in range(len(drawn))]
    for number in range(images):
        person = folder / f"{number // 50:05d}"
        person.mkdir(parents=True, exist_ok=True)
        _, data = cv2.imencode(".jpg", crops[number % len(crops)], [cv2.IMWRITE_JPEG_QUALITY, 95])
        (person / f"{number:06d}.jpg").write_bytes(data.tobytes())


def rate(read: Any, order: Any) -> float:
    """Crops a second of one pass."""
    start = time.perf_counter()
    for index in order:
        read(int(index))
    return len(order) / (time.perf_counter() - start)


def decoding(images: int, repeats: int) -> dict[str, Any]:
    """Best rate of each format, taking turns with the floor."""
    import simplejpeg

    from minusface.data import FolderDataset
    from minusface.data.convert import convert
    from minusface.data.source import open_faces

    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        make_folder(root / "folder", images)
        source = FolderDataset(root / "folder")
        specs = {"folder": f"folder:{root / 'folder'}"}
        for to in ("list", "tfrecord", "recordio", "shards"):
            specs[to] = convert(source, to, root / to).spec
        held = [source.encoded(index) for index in range(images)]

        def floor(index: int) -> None:
            simplejpeg.decode_jpeg(held[index], "RGB", fastdct=False, fastupsample=False)

        readers = {name: open_faces(spec) for name, spec in specs.items()}
        order = np.random.default_rng(0).permutation(images)
        best: dict[str, list[float]] = {name: [] for name in ("floor", *readers)}
        for _ in range(repeats):
            best["floor"].append(rate(floor, order))
            for name, reader in readers.items():
                best[name].append(rate(reader.__getitem__, order))
    top = {name: max(rates) for name, rates in best.items()}
    return {
        name: {"crops_per_second": found, "times_the_floor": top["floor"] / found}
        for name, found in top.items()
    }


def make_index(folder: Path, lines: int) -> Path:
    """An index of so many records in ten shards, of which only the first ones of a shard exist."""
    from minusface.data.tfrecord import example_of, record_of

    _, jpeg = cv2.imencode(".jpg", np.zeros((112, 112, 3), np.uint8))
    record = record_of(example_of(jpeg.tobytes()))
    a_shard = -(-lines // 10)
    (folder / "big_TFR").mkdir()
    for shard in range(10):
        with open(folder / "big_TFR" / f"big_TFR-{shard:05d}.tfrecord", "wb") as file:
            file.write(record * 64)
            file.truncate(a_shard * len(record))
    index = folder / "big_TFR.txt"
    with open(index, "w") as out:
        for start in range(0, lines, 100_000):
            out.writelines(
                f"big_TFR\t{n // a_shard}\t{n % a_shard * len(record)}\t{n % PEOPLE}\n"
                for n in range(start, min(lines, start + 100_000))
            )
    return index


def first_batch(index: Path) -> dict[str, float]:
    """Seconds and peak memory from nothing to the first batch."""
    from minusface.data.source import open_faces

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    dataset = open_faces(f"tfrecord:{index}")
    batch = [dataset[n % 64] for n in range(BATCH)]
    seconds = time.perf_counter() - start
    assert len(batch) == BATCH
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"lines": len(dataset), "seconds": seconds, "mib": (peak - before) / 1024}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--lines", type=int, default=5_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--first-batch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.first_batch:
        print(json.dumps(first_batch(options.first_batch)))
        return
    table: dict[str, Any] = {"decoding": decoding(options.images, options.repeats)}
    print(f"{'':<10}{'crops/s':>10}{'of the floor':>14}")
    for name, row in table["decoding"].items():
        print(f"{name:<10}{row['crops_per_second']:>10.0f}{row['times_the_floor']:>13.2f}x")
    with tempfile.TemporaryDirectory() as place:
        index = make_index(Path(place), options.lines)
        command = [sys.executable, __file__, "--first-batch", str(index)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    table["index"] = json.loads(done.stdout)
    print("first batch of {lines:,} lines: {seconds:.1f} s, {mib:.0f} MiB".format(**table["index"]))
    if options.json:
        options.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])

"""The training step part by part: its time, and the floor that arithmetic and memory set.

    python benchmarks/step_floor.py [--width 16] [--backbone mobilefacenet] [--batch 32] [--views 3]
        [--precision bfloat16] [--stages stage1,stage2] [--device cpu] [--markdown] [--json FILE]

A part's floor is the larger of two times: floating-point operations (counted, see counting.py) over the rate
of the best convolution or matrix product measured in this run, type by type; and bytes over the measured
rate of a copy. Tensors are counted once a part, so what fits into a cache makes no difference, and what
could be fused away is still in it. Parts are timed within whole steps; the median of the repeats is told.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from minusface.waiting import wait_briefly  # noqa: E402

# Before torch is loaded, which reads it.
wait_briefly()

import torch  # noqa: E402
from benchmarks.common import machine  # noqa: E402
from benchmarks.counting import Counter, Work, copy_rate, product_rate, synchronise  # noqa: E402
from benchmarks.step_setup import STAGES, Training, add_options, build_training  # noqa: E402

PARTS = (
    "data",
    "encode",
    "first convolutions",
    "generator",
    "subtract, shuffle, decode",
    "recogniser",
    "head and losses",
    "backward",
    "optimiser",
)


class Stopwatch:
    """Time by part; a part within a part stops the outer one's clock."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.stack = device, [""]
        self.seconds: dict[str, float] = defaultdict(float)
        self.since = time.perf_counter()

    def part(self) -> str:
        """The one that runs."""
        return self.stack[-1]

    def _lap(self) -> None:
        synchronise(self.device)
        now = time.perf_counter()
        self.seconds[self.part()] += now - self.since
        self.since = now

    @contextlib.contextmanager
    def within(self, name: str) -> Iterator[None]:
        """Time in here is ``name``'s."""
        self._lap()
        self.stack.append(name)
        try:
            yield
        finally:
            self._lap()
            self.stack.pop()

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Time that a method takes is ``name``'s from now on."""
        inner: Callable[..., Any] = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.within(name):
                return inner(*args, **kwargs)

        setattr(owner, method, timed)


def build_step(
    stage: str, options: argparse.Namespace, watch: Stopwatch
) -> Callable[[], torch.Tensor]:
    """A function that runs one step under the stopwatch and returns its loss."""
    from minusface.train.augment import augment, to_crops

    made: Training = build_training(stage, options)
    task, faces = made.task, made.faces
    assert task.protector is not None
    protector, decode = task.protector, "subtract, shuffle, decode"
    watch.watch(protector, "read", "encode")
    watch.watch(protector.rows, "convolve", "first convolutions")
    watch.watch(protector.generator, "after_first", "generator")
    watch.watch(protector.codec, "decode_projected", decode)
    if stage == "stage2":
        watch.watch(task, "protect", decode)
    for method in ("forward", "forward_difference"):
        watch.watch(task.recognizer, method, "recogniser")
    watch.watch(task, "forward", "head and losses")
    images = ((faces.crops + 1) * 127.5).byte()
    narrow = options.precision == "bfloat16"

    def step() -> torch.Tensor:
        made.optimizer.zero_grad(set_to_none=True)
        with watch.within("data"):
            crops, flipped = augment(to_crops(images), made.random, flip=True, shift=4)
        batch = replace(faces, crops=crops, flipped=flipped)
        with torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=narrow):
            loss = task(batch, made.random)["total"]
        with watch.within("backward"):
            loss.backward()
        with watch.within("optimiser"):
            made.optimizer.step()
        return loss.detach()

    return step


def measure(
    stage: str, options: argparse.Namespace, rates: dict[torch.dtype, float], copied: float
) -> dict[str, dict[str, float]]:
    """By part: counted work, its floor and measured time, an image."""
    device = torch.device(options.device)
    watch = Stopwatch(device)
    step = build_step(stage, options, watch)
    # Until the allocator has all the blocks it will need.
    step()
    step()
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(options.repeats):
        watch.seconds.clear()
        step()
        for name in PARTS:
            times[name].append(watch.seconds[name])
    with Counter(watch.part) as counter:
        step()
    rows = {}
    for name in PARTS:
        seconds = statistics.median(times[name])
        rows[name] = row(counter.work[name], seconds, rates, copied, options.batch)
    added = ("gflop", "megabytes", "arithmetic_ms", "memory_ms", "floor_ms", "ms")
    whole = {key: sum(r[key] for r in rows.values()) for key in added}
    rows["whole step"] = {**whole, "of_floor": whole["floor_ms"] / whole["ms"]}
    return rows


def row(
    work: Work, seconds: float, rates: dict[torch.dtype, float], copied: float, images: int
) -> dict[str, float]:
    """A line of the table."""
    # Types without a rate of their own (float64, integers) are little; they take float32's.
    slow = rates[torch.float32]
    arithmetic = sum(flops / rates.get(dtype, slow) for dtype, flops in work.flops.items())
    floor = max(arithmetic, work.bytes / copied)
    return {
        "gflop": sum(work.flops.values()) / images / 1e9,
        "megabytes": work.bytes / images / 1e6,
        "arithmetic_ms": arithmetic / images * 1000,
        "memory_ms": work.bytes / copied / images * 1000,
        "floor_ms": floor / images * 1000,
        "ms": seconds / images * 1000,
        "of_floor": floor / seconds if seconds else 0.0,
    }


def show(stage: str, rows: dict[str, dict[str, float]], markdown: bool) -> None:
    """Print a table, an image a line's unit."""
    heads = ("GFLOP", "MB", "arithmetic ms", "memory ms", "floor ms", "measured ms", "of floor")
    if markdown:
        print(f"\n| {stage}, per image | " + " | ".join(heads) + " |")
        print("|---" * (len(heads) + 1) + "|")
    else:
        print(f"\n{stage + ', per image':<28}" + "".join(f"{head:>14}" for head in heads))
    for name, r in rows.items():
        *numbers, part = r.values()
        cells = [f"{number:.2f}" for number in numbers] + [f"{part:.0%}"]
        if markdown:
            print(f"| {name} | " + " | ".join(cells) + " |")
        else:
            print(f"{name:<28}" + "".join(f"{cell:>14}" for cell in cells))


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser, batch=32, width=16, backbone="mobilefacenet")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--markdown", action="store_true", help="tables for a README")
    options = parser.parse_args(argv)
    from minusface.memory import keep_freed_memory

    torch.set_num_threads(options.threads)
    keep_freed_memory()
    device = torch.device(options.device)
    rates = {dtype: product_rate(dtype, device) for dtype in (torch.float32, torch.bfloat16)}
    copied, about = copy_rate(device), machine()
    print(
        f"{about['cpu']}, {options.threads} threads, {device}, torch {about['torch']}, commit "
        f"{about['commit']}: float32 {rates[torch.float32] / 1e9:.0f} and bfloat16 "
        f"{rates[torch.bfloat16] / 1e9:.0f} GFLOP/s, copy {copied / 1e9:.1f} GB/s"
    )
    found = {}
    for stage in options.stages.split(","):
        found[stage] = measure(stage, options, rates, copied)
        show(stage, found[stage], options.markdown)
    if options.json:
        asked = {k: v for k, v in vars(options).items() if k != "json"}
        named = {str(dtype)[6:]: rate for dtype, rate in rates.items()}
        table = {"options": asked, "machine": about, "flops_per_second": named}
        table |= {"copy_bytes_per_second": copied, "parts": found}
        options.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

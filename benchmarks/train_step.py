"""A training step of each stage against the literal pipeline: time and peak memory.

    python benchmarks/train_step.py [--batch 32] [--threads 2] [--width 64] [--backbone ir_18]
        [--views 3] [--repeats 3] [--device cpu] [--compile] [--json FILE]

Each variant runs in a process of its own, in turn, so that peak memory is its own:

- ``literal``: float32, upsampled images, the shuffle sample by sample, a generator pass a view, the C
  library's allocator as it comes: what the reference implementation does;
- ``float32``, ``bfloat16``: the package, with the settings of ``minusface train``;
- ``recompute``: bfloat16 with ``recompute: true``;
- ``compiled``, if asked for: bfloat16 with ``compile: true``, minutes before its first step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.step_setup import STAGES, add_options, build_training  # noqa: E402

from minusface.waiting import wait_briefly  # noqa: E402

# Before torch is loaded, which reads it, in each variant's own process: as the command line has it.
wait_briefly()

MIB = 2**20
VARIANTS = ("literal", "float32", "bfloat16", "recompute")


def build_step(stage: str, variant: str, options: argparse.Namespace) -> Callable[[], None]:
    """A function that runs one training step, optimiser included."""
    import torch
    from tests.reference import pipeline

    from minusface.protect import draw_permutation

    task, optimizer, faces, random, views = build_training(
        stage, options, recompute=variant == "recompute", inner=variant != "literal"
    )
    if variant == "compiled":
        from minusface.train.compiled import compile_recognizer

        compile_recognizer(task.recognizer, torch.device(options.device))
    protector, head = task.protector, task.identity.head
    assert protector is not None
    assert head is not None
    net, recognizer, crops, labels = (
        protector.generator,
        task.recognizer,
        faces.crops,
        faces.labels,
    )

    def literal() -> torch.Tensor:
        if stage == "stage1":
            return pipeline.stage_one_loss(net, recognizer, head, crops, labels)
        order = draw_permutation(options.batch * views, 192, random).to(crops.device)
        many = crops.repeat(views, 1, 1, 1), labels.repeat(views)
        return pipeline.stage_two_loss(net, recognizer, head, *many, order)

    def ours() -> torch.Tensor:
        with torch.autocast(crops.device.type, torch.bfloat16, enabled=variant != "float32"):
            return task(faces, random)["total"]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        (literal if variant == "literal" else ours)().backward()
        optimizer.step()

    return step


def measure(stage: str, variant: str, options: argparse.Namespace) -> dict[str, float]:
    """Median seconds a step and peak memory above that of the built model."""
    import torch
    from benchmarks.counting import synchronise

    from minusface.memory import keep_freed_memory, return_freed_memory

    torch.set_num_threads(options.threads)
    if variant == "recompute":
        return_freed_memory()
    elif variant != "literal":
        keep_freed_memory()
    step = build_step(stage, variant, options)
    device = torch.device(options.device)
    before = taken(device)
    # Two steps until the allocator has all the blocks it will need.
    step()
    step()
    times = []
    for _ in range(options.repeats):
        synchronise(device)
        start = time.perf_counter()
        step()
        synchronise(device)
        times.append(time.perf_counter() - start)
    peak = peak_memory(device)
    return {
        "seconds": statistics.median(times),
        "step_mib": (peak - before) / MIB,
        "peak_mib": peak / MIB,
    }


def taken(device: torch.device) -> int:
    """Bytes that the built model takes."""
    import torch

    return torch.cuda.memory_allocated(device) if device.type == "cuda" else peak_memory(device)


def peak_memory(device: torch.device) -> int:
    """Bytes at most so far: the loop's own count."""
    from minusface.train.loop import peak_memory as most

    return most(device)


def floor(stage: str, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds an image that our step's products alone would take at the best rate seen here."""
    import torch
    from benchmarks.counting import Counter, product_rate

    torch.set_num_threads(options.threads)
    step = build_step(stage, "float32", options)
    with Counter() as counter:
        step()
    operations = sum(counter.work["all"].flops.values()) / options.batch
    found = {"gflop_per_image": operations / 1e9}
    for dtype in (torch.float32, torch.bfloat16):
        rate = product_rate(dtype, torch.device(options.device))
        found[f"{str(dtype)[6:]}_gflops"] = rate / 1e9
        found[f"{str(dtype)[6:]}_ms_per_image"] = operations / rate * 1000
    return found


def in_own_process(stage: str, variant: str, argv: list[str]) -> dict[str, float]:
    """Run :func:`measure` in a fresh interpreter."""
    command = [sys.executable, __file__, *argv, "--one", f"{stage}/{variant}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{stage}/{variant} failed:\n{result.stderr}")
    measured: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return measured


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_options(parser, batch=32, width=64, backbone="ir_18")
    parser.add_argument("--compile", action="store_true", help="measure compile: true as well")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.one:
        stage, variant = options.one.split("/")
        one = floor(stage, options) if variant == "floor" else measure(stage, variant, options)
        print(json.dumps(one))
        return
    table: dict[str, Any] = {
        "options": {k: v for k, v in vars(options).items() if k not in ("json", "one")}
    }
    variants = (*VARIANTS, "compiled") if options.compile else VARIANTS
    print(f"{'':<22}{'ms/image':>10}{'ratio':>8}{'step MiB':>10}{'of literal':>12}")
    for stage in STAGES:
        table[stage] = {v: in_own_process(stage, v, argv) for v in variants}
        literal = table[stage]["literal"]
        for variant, row in table[stage].items():
            row["ms_per_image"] = row["seconds"] * 1000 / options.batch
            row["ratio"] = literal["seconds"] / row["seconds"]
            row["memory_fraction"] = row["step_mib"] / literal["step_mib"]
            print(
                f"{stage + ' ' + variant:<22}{row['ms_per_image']:>10.1f}{row['ratio']:>7.1f}x"
                f"{row['step_mib']:>10.0f}{row['memory_fraction']:>12.2f}"
            )
        least = table[stage]["floor"] = in_own_process(stage, "floor", argv)
        print(
            f"{stage} floor: {least['gflop_per_image']:.1f} GFLOP an image, "
            + ", ".join(
                f"{least[f'{d}_ms_per_image']:.0f} ms in {d} at {least[f'{d}_gflops']:.0f} GFLOP/s"
                for d in ("float32", "bfloat16")
            )
        )
    if options.json:
        options.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])

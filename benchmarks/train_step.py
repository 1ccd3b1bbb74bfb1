"""A training step of each stage against the literal pipeline: time and peak memory.

    python benchmarks/train_step.py [--batch 32] [--threads 2] [--width 64] [--backbone ir_18]
        [--views 3] [--repeats 3] [--json FILE]

Each variant runs in a process of its own, in turn, so that peak memory is its own:

- ``literal``: float32, upsampled images, the shuffle sample by sample, a generator pass a view, the C
  library's allocator as it comes: what the reference implementation does;
- ``float32``, ``bfloat16``: the package, with the settings of ``minusface train``;
- ``recompute``: bfloat16 with ``recompute: true``.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from minusface.waiting import wait_briefly  # noqa: E402

# Before torch is loaded, which reads it, in each variant's own process: as the command line has it.
wait_briefly()

VARIANTS = ("literal", "float32", "bfloat16", "recompute")
STAGES = ("stage1", "stage2")
CLASSES = 1000


def build_step(stage: str, variant: str, options: argparse.Namespace) -> Callable[[], None]:
    """A function that runs one training step, optimiser included."""
    import torch
    from tests.reference import pipeline

    from minusface.checkpoint import Card, save
    from minusface.config import (
        GeneratorConfig,
        OptimizerConfig,
        RecognizerConfig,
        StageTwoConfig,
        StartConfig,
        TrainConfig,
    )
    from minusface.protect import Protector, draw_permutation
    from minusface.train.build import build_task
    from minusface.train.schedule import build_optimizer
    from minusface.train.tasks import Faces

    views = options.views if stage == "stage2" else 1
    folder = ROOT / "runs" / ".bench-generator"
    generator = GeneratorConfig(options.width)
    base = TrainConfig(
        task=stage,
        generator=generator,
        recognizer=RecognizerConfig(options.backbone, 512, "as_is"),
        stage2=StageTwoConfig(permutations=views),
        recompute=variant == "recompute",
        start=StartConfig(generator=str(folder)) if stage == "stage2" else StartConfig(),
    )
    if stage == "stage2":
        protector = Protector(base.codec, generator)
        tensors = {f"generator.{k}": v for k, v in protector.generator.state_dict().items()}
        save(folder, Card("stage1", protector.spec()), {"model": tensors})
    task = build_task(base, CLASSES, None).train()
    optimizer = build_optimizer(OptimizerConfig(), task.groups())
    random = torch.Generator().manual_seed(0)
    crops = torch.rand(options.batch, 3, 112, 112, generator=random) * 2 - 1
    labels = torch.randint(0, CLASSES, (options.batch,), generator=random)
    protector_ = task.protector
    assert protector_ is not None
    assert task.identity.head is not None
    net, head, recognizer = protector_.generator, task.identity.head, task.recognizer

    def literal() -> torch.Tensor:
        if stage == "stage1":
            return pipeline.stage_one_loss(net, recognizer, head, crops, labels)
        order = draw_permutation(options.batch * views, 192, random)
        many = crops.repeat(views, 1, 1, 1), labels.repeat(views)
        return pipeline.stage_two_loss(net, recognizer, head, *many, order)

    faces = Faces(crops, labels, [""] * options.batch, torch.zeros(options.batch, dtype=torch.bool))

    def ours() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=variant != "float32"):
            return task(faces, random)["total"]

    if variant != "literal":
        task.to(memory_format=torch.channels_last)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        (literal if variant == "literal" else ours)().backward()
        optimizer.step()

    return step


def measure(stage: str, variant: str, options: argparse.Namespace) -> dict[str, float]:
    """Median seconds a step and peak memory above that of the built model."""
    import torch

    from minusface.memory import keep_freed_memory, return_freed_memory

    torch.set_num_threads(options.threads)
    if variant == "recompute":
        return_freed_memory()
    elif variant != "literal":
        keep_freed_memory()
    step = build_step(stage, variant, options)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Two steps until the allocator has all the blocks it will need.
    step()
    step()
    times = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": statistics.median(times),
        "step_mib": (peak - before) / 1024,
        "peak_mib": peak / 1024,
    }


def floor(stage: str, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds an image that our step's products alone would take at the best rate seen here."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    torch.set_num_threads(options.threads)
    step = build_step(stage, "float32", options)
    with FlopCounterMode(display=False) as counter:
        step()
    operations = counter.get_total_flops() / options.batch
    found = {"gflop_per_image": operations / 1e9}
    for dtype in (torch.float32, torch.bfloat16):
        # The best of the step's own convolutions: on some machines its matrix product is slower.
        maps, filters = torch.rand(8, 256, 28, 28), torch.rand(256, 256, 3, 3)
        maps, filters = (
            tensor.to(dtype, memory_format=torch.channels_last) for tensor in (maps, filters)
        )
        seconds = []
        for _ in range(20):
            start = time.perf_counter()
            torch.conv2d(maps, filters, padding=1)
            seconds.append(time.perf_counter() - start)
        rate = 2 * 8 * 28 * 28 * 256 * 256 * 9 / min(seconds)
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
    for name, default in (
        ("batch", 32),
        ("threads", 2),
        ("width", 64),
        ("views", 3),
        ("repeats", 3),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--backbone", default="ir_18")
    parser.add_argument("--json", type=Path)
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
    print(f"{'':<22}{'ms/image':>10}{'ratio':>8}{'step MiB':>10}{'of literal':>12}")
    for stage in STAGES:
        table[stage] = {v: in_own_process(stage, v, argv) for v in VARIANTS}
        literal = table[stage]["literal"]
        for variant, row in table[stage].items():
            row["ms_per_image"] = row["seconds"] * 1000 / options.batch
            row["ratio"] = literal["seconds"] / row["seconds"]
            row["memory_fraction"] = row["step_mib"] / literal["step_mib"]
            print(
                f"{stage + ' ' + variant:<22}{row['ms_per_image']:>10.0f}{row['ratio']:>7.1f}x"
                f"{row['step_mib']:>10.0f}{row['memory_fraction']:>12.2f}"
            )
        least = table[stage]["floor"] = in_own_process(stage, "floor", argv)
        print(
            f"{stage} floor: {least['gflop_per_image']:.0f} GFLOP an image, "
            + ", ".join(
                f"{least[f'{d}_ms_per_image']:.0f} ms in {d} at {least[f'{d}_gflops']:.0f} GFLOP/s"
                for d in ("float32", "bfloat16")
            )
        )
    if options.json:
        options.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])

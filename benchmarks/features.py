"""A training step with the frequency channels written down, and without: one process, step about step.

    python benchmarks/features.py [--width 16] [--backbone mobilefacenet] [--batch 32] [--views 3]
        [--precision bfloat16] [--stages stage1,stage2] [--repeats 12] [--json FILE]

Both ways are in the package: eager CPUs never write them (``minusface.protect.rows``), GPUs and compilers do.
Told are medians, and the median of the ratios of neighbouring steps, which a busy machine disturbs least.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from minusface.waiting import wait_briefly  # noqa: E402

# Before torch is loaded, which reads it.
wait_briefly()

import torch  # noqa: E402
from benchmarks.common import machine  # noqa: E402
from benchmarks.step_setup import STAGES, add_options, build_training  # noqa: E402

import minusface.protect.protector  # noqa: E402
import minusface.protect.reading  # noqa: E402
from minusface.memory import keep_freed_memory  # noqa: E402

PLACES = (minusface.protect.reading, minusface.protect.protector)
unwritten = minusface.protect.reading.can_stay_unwritten


def written(crops: torch.Tensor) -> bool:
    """In the place of the package's own answer."""
    return False


def choose(rule: Callable[[torch.Tensor], bool]) -> None:
    """From now on features are written down, or not."""
    for place in PLACES:
        place.can_stay_unwritten = rule  # type: ignore[attr-defined]


def measure(stage: str, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds an image each way, and their ratio."""
    made = build_training(stage, options)
    narrow = options.precision == "bfloat16"

    def step() -> float:
        start = time.perf_counter()
        made.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            loss = made.task(made.faces, made.random)["total"]
        loss.backward()
        made.optimizer.step()
        return (time.perf_counter() - start) / options.batch * 1000

    times: list[tuple[float, float]] = []
    for _ in range(options.repeats + 2):
        choose(written)
        before = step()
        choose(unwritten)
        times.append((before, step()))
    # Until the allocator has all the blocks it will need.
    counted = times[2:]
    return {
        "written_ms": statistics.median(a for a, _ in counted),
        "unwritten_ms": statistics.median(b for _, b in counted),
        "ratio": statistics.median(a / b for a, b in counted),
    }


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser, batch=32, width=16, backbone="mobilefacenet")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.set_defaults(repeats=12)
    options = parser.parse_args(argv)
    if options.device != "cpu":
        parser.error(f"--device {options.device}: only CPUs have both ways, expected cpu")
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    about = machine()
    print(f"{about['cpu']}, {options.threads} threads, commit {about['commit']}")
    found = {}
    for stage in options.stages.split(","):
        found[stage] = row = measure(stage, options)
        print(
            f"{stage}: written {row['written_ms']:.1f} ms an image, unwritten {row['unwritten_ms']:.1f}, "
            f"ratio {row['ratio']:.2f}; {1000 / row['unwritten_ms']:.0f} images/s"
        )
    if options.json:
        asked = {k: v for k, v in vars(options).items() if k != "json"}
        table = {"options": asked, "machine": about, "stages": found}
        options.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

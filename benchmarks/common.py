"""What benchmarks share: interleaved timing, memory bandwidth, the machine they ran on."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def interleaved(
    functions: Mapping[str, Callable[[], object]], repeats: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds of every call, by name: one call of each in turn, ``repeats`` times over.

    In turn, so that a busy moment of the machine falls on all of them. A call's time includes giving
    its result back to the allocator.
    """
    for _ in range(warmup):
        for function in functions.values():
            function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def median_ms(seconds: list[float], items: int = 1) -> float:
    """Median milliseconds an item."""
    return statistics.median(seconds) * 1000 / items


def copy_bandwidth(size: int, repeats: int = 9) -> float:
    """Bytes a second, read and written together, of copying between two buffers that are reused.

    Both have been touched before: no page faults are in it, so it is what memory can do, not what a
    fresh allocation costs.
    """
    import torch

    source = torch.ones(size // 4, dtype=torch.float32)
    target = torch.zeros_like(source)
    times = interleaved({"copy": lambda: target.copy_(source)}, repeats, warmup=2)["copy"]
    return 2 * source.nbytes / statistics.median(times)


def machine() -> dict[str, Any]:
    """CPU, cores, load, versions and the commit that was measured."""
    import torch

    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _commit(),
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """Short hash, with a plus where tracked files differ from it."""
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None

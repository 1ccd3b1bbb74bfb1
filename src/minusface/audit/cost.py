"""What a protection costs its users: bytes sent, time on the client, and accuracy of the service.

Legend: B batch, n images a crop, N side of a crop.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from minusface.audit.access import Target, seeded
from minusface.audit.bench import Bench
from minusface.audit.measures import verification
from minusface.types import ProtectedImage

TIMED, SAMPLED = 5, 16


@dataclass(frozen=True)
class Cost:
    """Of one protection."""

    target: str
    accuracy: float | None
    """Of the service that recognises its images, on the test pairs; None where there is none."""
    auc: float | None
    png_bytes: float
    """Mean size of what is sent, as lossless PNGs of 8 bits."""
    client_ms: float
    """Median time to protect one crop, here."""


def cost_of(bench: Bench, target: Target) -> Cost:
    """Measured on the test photos."""
    tests = bench.tests(target).protected
    sent = ProtectedImage(tests[:SAMPLED].clamp(0, 1)).to_png()
    accuracy, auc = None, None
    if target.recognizer is not None:
        rows = target.templates(tests.to(bench.device)).cpu()
        found = verification(rows, rows, bench.scene.pairs)
        accuracy, auc = found["accuracy"], found["auc"]
    elif target.name == "unprotected":
        found = verification(bench.judge.plain, bench.judge.plain, bench.scene.pairs)
        accuracy, auc = found["accuracy"], found["auc"]
    return Cost(
        target.name, accuracy, auc, sum(map(len, sent)) / len(sent), _milliseconds(bench, target)
    )


def _milliseconds(bench: Bench, target: Target) -> float:
    crop = bench.scene.test.crops([0]).to(bench.device)
    random = seeded("cost", bench.seed)
    times = []
    with torch.no_grad():
        for _ in range(TIMED + 1):
            start = time.perf_counter()
            target.protection.protect(crop, random).cpu()
            times.append(time.perf_counter() - start)
    # The first run warms up.
    return round(1000 * sorted(times[1:])[TIMED // 2], 2)

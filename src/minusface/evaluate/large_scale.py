"""Millions of pairs: dot products by index and points of the ROC, exact and in little memory.

Legend: K rows, D embedding, P pairs, F false-accept rates.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from minusface.errors import MinusfaceError
from minusface.evaluate.metrics import Floats
from minusface.evaluate.pairs import Bools

Floating = npt.NDArray[np.floating]
Indices = npt.NDArray[np.integer]

# Bytes of rows gathered at a time by a thread: they stay in its core's cache.
CHUNK_BYTES = 1 << 19
# Pairs handed to a thread at a time.
BLOCK = 1 << 18


class OperatingPoint(NamedTuple):
    """Where a false-accept rate is just not exceeded."""

    target: float
    """The false-accept rate asked for."""
    far: float
    """The one reached: part of impostor pairs accepted."""
    tar: float
    """Part of genuine pairs accepted."""
    threshold: float
    """Lowest score that is accepted; the next number above the highest score where none may be."""


def score_indexed(
    rows: Floating, a_index: Indices, b_index: Indices, *, threads: int | None = None
) -> Floating:
    """Dot products of pairs of rows.

    Args:
        rows: (K, D) float32 or float64; of unit length where cosines are wanted.
        a_index: (P,) row of each pair's first.
        b_index: (P,) row of its second.
        threads: how many; by default one a core.

    Returns:
        (P,) of the rows' type. Beyond it, and a block of the rows in the cache, nothing is allocated.

    Raises:
        MinusfaceError: shapes that do not fit, or a row that is not there.
    """
    rows = np.ascontiguousarray(rows)
    a_index, b_index = np.asarray(a_index), np.asarray(b_index)
    if rows.ndim != 2 or rows.dtype not in (np.float32, np.float64):
        raise MinusfaceError(
            f"embeddings: {rows.dtype} {rows.shape}, expected float32 or float64 (K, D)"
        )
    if a_index.ndim != 1 or a_index.shape != b_index.shape:
        raise MinusfaceError(
            f"pairs: {a_index.shape} first and {b_index.shape} second images, expected (P,) of each"
        )
    for index in (a_index, b_index):
        if len(index) and not (0 <= index.min() and index.max() < len(rows)):
            raise MinusfaceError(
                f"pairs: rows {index.min()} to {index.max()}, expected 0 to {len(rows) - 1}"
            )
    scores = np.empty(len(a_index), rows.dtype)
    step = max(1, CHUNK_BYTES // max(1, rows.shape[1] * rows.itemsize))

    def work(start: int) -> None:
        for low in range(start, min(start + BLOCK, len(scores)), step):
            part = slice(low, min(low + step, start + BLOCK))
            a, b = rows.take(a_index[part], axis=0), rows.take(b_index[part], axis=0)
            np.einsum("pd,pd->p", a, b, out=scores[part])

    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        list(pool.map(work, range(0, len(scores), BLOCK)))
    return scores


def operating_points(
    scores: npt.ArrayLike, same: npt.ArrayLike, fars: Sequence[float]
) -> list[OperatingPoint | None]:
    """The ROC's points at given false-accept rates: as :func:`minusface.evaluate.metrics.tar_at_far`.

    Accepted means score >= threshold. Of all thresholds whose false-accept rate is at most the target the
    one with the greatest TAR is taken; nothing is interpolated. Scores are sorted in their own type, so
    that fifteen million float32 ones take seconds.

    Args:
        scores: (P,) finite.
        same: (P,) True for genuine pairs.
        fars: F targets in (0, 1].

    Returns:
        A point a target; None where the target is below one in all impostor pairs: so few cannot tell.

    Raises:
        MinusfaceError: NaN, infinity, shapes that differ, pairs of one kind only, or a target out of range.
    """
    genuine, impostor = _kinds(scores, same)
    return [_point(genuine, impostor, far) for far in fars]


def allowed(far: float, impostors: int) -> int:
    """How many of so many impostors a rate lets in: the most whose part is not above it.

    Raises:
        MinusfaceError: a rate outside (0, 1].
    """
    if not 0 < far <= 1:
        raise MinusfaceError(f"false-accept rate {far}: expected more than 0 and at most 1")
    # The product may round to either side of a whole number; the quotient decides.
    count = min(impostors, int(far * impostors) + 1)
    while count / impostors > far:
        count -= 1
    return count


def _kinds(scores: npt.ArrayLike, same: npt.ArrayLike) -> tuple[Floating, Floating]:
    """Genuine and impostor scores, each rising."""
    values, kinds = np.asarray(scores), np.asarray(same).astype(np.bool_, copy=False)
    if not np.issubdtype(values.dtype, np.floating):
        values = values.astype(np.float64)
    if values.ndim != 1 or values.shape != kinds.shape:
        raise MinusfaceError(
            f"scores of shape {values.shape} for pairs of shape {kinds.shape}, expected one a pair"
        )
    genuine, impostor = values[kinds], values[~kinds]
    if not len(genuine) or not len(impostor):
        raise MinusfaceError(
            f"{len(genuine)} genuine and {len(impostor)} impostor pairs, expected some of each"
        )
    for part in (genuine, impostor):
        part.sort()
        # NaN sorts last.
        if not (np.isfinite(part[0]) and np.isfinite(part[-1])):
            raise MinusfaceError("scores: some are NaN or infinite, expected finite numbers")
    return genuine, impostor


def _point(genuine: Floating, impostor: Floating, far: float) -> OperatingPoint | None:
    count = allowed(far, len(impostor))
    if count == 0:
        return None
    if count == len(impostor):
        lowest = min(genuine[0], impostor[0])
        return OperatingPoint(far, 1.0, 1.0, float(lowest))
    # The best impostor that must stay out; who ties with it stays out too.
    first_out = impostor[-count - 1]
    g = int(np.searchsorted(genuine, first_out, side="right"))
    i = int(np.searchsorted(impostor, first_out, side="right"))
    accepted = [part[at] for part, at in ((genuine, g), (impostor, i)) if at < len(part)]
    threshold = min(accepted) if accepted else np.nextafter(first_out, first_out.dtype.type(np.inf))
    return OperatingPoint(
        far, 1 - i / len(impostor), (len(genuine) - g) / len(genuine), float(threshold)
    )


def tar_at_fars(
    scores: npt.ArrayLike, same: npt.ArrayLike, fars: Sequence[float]
) -> dict[float, float | None]:
    """TAR by false-accept rate; see :func:`operating_points`."""
    points = operating_points(scores, same, fars)
    return {
        far: None if point is None else point.tar for far, point in zip(fars, points, strict=True)
    }


def roc_points(
    scores: npt.ArrayLike, same: npt.ArrayLike, fars: npt.ArrayLike
) -> tuple[Floats, Floats]:
    """A curve of given false-accept rates, all at once: TAR and threshold, (F,) each, NaN where none can tell.

    Raises:
        MinusfaceError: as :func:`operating_points`.
    """
    targets = np.asarray(fars, np.float64)
    points = operating_points(scores, same, targets.tolist())
    nan = float("nan")
    tars = [nan if point is None else point.tar for point in points]
    thresholds = [nan if point is None else point.threshold for point in points]
    return np.array(tars), np.array(thresholds)


__all__ = [
    "Bools",
    "OperatingPoint",
    "allowed",
    "operating_points",
    "roc_points",
    "score_indexed",
    "tar_at_fars",
]

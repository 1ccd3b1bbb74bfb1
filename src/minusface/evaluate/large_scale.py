"""Millions of pairs: dot products by index and points of the ROC, exact and in little memory.

Legend: K rows, D embedding, P pairs, F false-accept rates.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from minusface.errors import MinusfaceError
from minusface.evaluate.metrics import Floats

Floating = npt.NDArray[np.floating]
Indices = npt.NDArray[np.integer]

# Bytes of rows gathered at a time by a thread: they stay in its core's cache.
CHUNK_BYTES = 1 << 19
# Pairs handed to a thread at a time.
BLOCK = 1 << 18


class OperatingPoints(NamedTuple):
    """Where false-accept rates are just not exceeded; NaN where the pairs are too few to tell."""

    target: Floats
    """(F,) the false-accept rates asked for."""
    far: Floats
    """(F,) those reached: part of impostor pairs accepted."""
    tar: Floats
    """(F,) part of genuine pairs accepted."""
    threshold: Floats
    """(F,) lowest score that is accepted; the next number above the highest score where none may be."""

    def tar_at_far(self) -> dict[float, float | None]:
        """TAR by target, None for NaN: the form of :func:`minusface.evaluate.metrics.tar_at_far`."""
        pairs = zip(self.target.tolist(), self.tar.tolist(), strict=True)
        return {far: None if math.isnan(tar) else tar for far, tar in pairs}


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
        if len(index) and not (index.min() >= 0 and index.max() < len(rows)):
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
    scores: npt.ArrayLike, same: npt.ArrayLike, fars: npt.ArrayLike
) -> OperatingPoints:
    """The ROC's points at given false-accept rates, exactly.

    Accepted means score >= threshold. Of all thresholds whose false-accept rate is at most the target the
    one with the greatest TAR is taken; nothing is interpolated. Scores are sorted in their own type, so
    that fifteen million in float32 take seconds.

    Args:
        scores: (P,) finite.
        same: (P,) True for genuine pairs.
        fars: (F,) targets in (0, 1]. Those below one in all impostor pairs give NaN.

    Raises:
        MinusfaceError: NaN, infinity, shapes that differ, pairs of one kind only, or a target out of range.
    """
    genuine, impostor = _kinds(scores, same)
    targets = np.atleast_1d(np.asarray(fars, np.float64))
    counts = allowed(targets, len(impostor))
    # The best impostor that must stay out: who ties with it stays out too. None, where all may come in.
    out = impostor[np.maximum(len(impostor) - 1 - counts, 0)]
    everyone = counts == len(impostor)
    first_g = np.where(everyone, 0, np.searchsorted(genuine, out, side="right"))
    first_i = np.where(everyone, 0, np.searchsorted(impostor, out, side="right"))
    infinity = genuine.dtype.type(np.inf)
    lowest = np.minimum(
        np.append(genuine, infinity)[first_g], np.append(impostor, infinity)[first_i]
    )
    above = np.nextafter(max(genuine[-1], impostor[-1]), infinity)
    unknown = counts == 0
    columns = (
        (len(impostor) - first_i) / len(impostor),
        (len(genuine) - first_g) / len(genuine),
        np.where(np.isinf(lowest), above, lowest),
    )
    return OperatingPoints(targets, *(np.where(unknown, np.nan, column) for column in columns))


def allowed(fars: npt.ArrayLike, impostors: int) -> npt.NDArray[np.int64]:
    """How many of so many impostors each rate lets in: the most whose part is not above it.

    Raises:
        MinusfaceError: a rate outside (0, 1].
    """
    targets = np.atleast_1d(np.asarray(fars, np.float64))
    bad = targets[~((targets > 0) & (targets <= 1))]
    if len(bad):
        raise MinusfaceError(f"false-accept rate {bad[0]}: expected more than 0 and at most 1")
    # The product may round to either side of a whole number; the quotient decides.
    counts = np.minimum((targets * impostors).astype(np.int64) + 1, impostors)
    for _ in range(2):
        counts -= counts / impostors > targets
    return counts


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

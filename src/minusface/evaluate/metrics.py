"""Verification metrics in float64, exact over the given scores. Accepted means score >= threshold.

Legend: P pairs, T distinct scores. FAR (or FMR) is the part of impostor pairs accepted, TAR that of
genuine pairs, FNMR = 1 - TAR. Greater scores mean more alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from minusface.errors import MinusfaceError

Floats = npt.NDArray[np.float64]


class Roc(NamedTuple):
    """A step function: one point a distinct score, from "reject all" to "accept all"."""

    far: Floats
    """(T + 1,) from 0 to 1."""
    tar: Floats
    """(T + 1,) from 0 to 1."""
    thresholds: Floats
    """(T + 1,) falling: infinity, then every distinct score."""


class KFold(NamedTuple):
    """Accuracy with the threshold chosen on the other folds."""

    mean: float
    """Mean of the folds' accuracies."""
    std: float
    """Their standard deviation (over the folds as they are: divided by their number)."""
    thresholds: Floats
    """(folds,) the threshold each fold was tested with, in the order of the fold numbers."""
    accuracies: Floats
    """(folds,) of each fold, in the same order."""


def roc(scores: npt.ArrayLike, same: npt.ArrayLike) -> Roc:
    """The ROC of all pairs, every point of it.

    Args:
        scores: (P,) finite.
        same: (P,) True for genuine pairs.

    Raises:
        MinusfaceError: NaN, infinity, shapes that differ, or pairs of one kind only.
    """
    values, genuine = _check(scores, same)
    accepted = _accepted(values, genuine)
    if accepted.genuine[-1] == 0 or accepted.impostor[-1] == 0:
        raise MinusfaceError(
            f"{accepted.genuine[-1]} genuine and {accepted.impostor[-1]} impostor pairs, "
            "expected some of each"
        )
    return Roc(
        far=accepted.impostor / accepted.impostor[-1],
        tar=accepted.genuine / accepted.genuine[-1],
        thresholds=np.concatenate([[np.inf], accepted.scores]),
    )


def auc(scores: npt.ArrayLike, same: npt.ArrayLike) -> float:
    """Area under the ROC: how often a genuine pair outscores an impostor pair, ties counting half.

    Raises:
        MinusfaceError: as :func:`roc`.
    """
    return float(_area(roc(scores, same)))


def eer(scores: npt.ArrayLike, same: npt.ArrayLike) -> float:
    """Equal error rate: FAR where it equals FNMR, on straight lines between the ROC's points.

    Raises:
        MinusfaceError: as :func:`roc`.
    """
    return _equal_error(roc(scores, same))


def tar_at_far(
    scores: npt.ArrayLike, same: npt.ArrayLike, fars: Sequence[float]
) -> dict[float, float | None]:
    """The greatest TAR among thresholds whose FAR is at most the target; nothing is interpolated.

    Returns:
        A TAR for each target, or None where the target is below one in all impostor pairs: so few pairs
        cannot tell.

    Raises:
        MinusfaceError: as :func:`roc`; a target outside (0, 1].
    """
    curve = roc(scores, same)
    impostors = int((~_check(scores, same)[1]).sum())
    return {
        far: float(curve.tar[_last_within(curve, far)]) if _measurable(far, impostors) else None
        for far in fars
    }


def threshold_at_fmr(scores: npt.ArrayLike, same: npt.ArrayLike, fmr: float) -> float | None:
    """The threshold whose TAR is :func:`tar_at_far`'s: FMR at most the target, TAR greatest.

    It is the lowest score that is accepted, on the safe side of the gap below it; the next number above
    the highest score where none may be.

    Returns:
        None where the target is below one in all impostor pairs.

    Raises:
        MinusfaceError: as :func:`roc`; a target outside (0, 1].
    """
    curve = roc(scores, same)
    if not _measurable(fmr, int((~_check(scores, same)[1]).sum())):
        return None
    last = _last_within(curve, fmr)
    return float(curve.thresholds[last] if last else np.nextafter(curve.thresholds[1], np.inf))


def best_threshold(scores: npt.ArrayLike, same: npt.ArrayLike) -> float:
    """The threshold under which most pairs are told right; pairs of one kind only are fine.

    All ways to part the scores are tried; a threshold lies midway between the two scores it parts.
    "Accept all" is the lowest score itself, "reject all" the next number above the highest. Of equally
    accurate thresholds the highest is taken, the one that accepts fewest.

    Raises:
        MinusfaceError: NaN, infinity, shapes that differ, or no pairs.
    """
    values, genuine = _check(scores, same)
    accepted = _accepted(values, genuine)
    # Right: genuine pairs accepted and impostor pairs not accepted, but for a constant.
    right = accepted.genuine - accepted.impostor
    return float(_cuts(accepted.scores)[np.argmax(right)])


def kfold_accuracy(scores: npt.ArrayLike, same: npt.ArrayLike, folds: npt.ArrayLike) -> KFold:
    """LFW's protocol: each fold is tested with the :func:`best_threshold` of all other folds.

    Args:
        scores: (P,) finite.
        same: (P,) True for genuine pairs.
        folds: (P,) whole numbers; pairs of one number make a fold.

    Raises:
        MinusfaceError: as :func:`best_threshold`; fewer than two folds.
    """
    values, genuine = _check(scores, same)
    numbers = np.asarray(folds)
    if numbers.shape != values.shape:
        raise MinusfaceError(f"folds of shape {numbers.shape} for {len(values)} scores")
    names = np.unique(numbers)
    if len(names) < 2:
        raise MinusfaceError(f"{len(names)} fold of {len(values)} pairs, expected two or more")
    accuracies, thresholds = [], []
    for name in names:
        held_out = numbers == name
        threshold = best_threshold(values[~held_out], genuine[~held_out])
        accuracies.append(float(np.mean((values[held_out] >= threshold) == genuine[held_out])))
        thresholds.append(threshold)
    found = np.array(accuracies)
    return KFold(float(found.mean()), float(found.std()), np.array(thresholds), found)


class _Accepted(NamedTuple):
    """How many pairs each threshold accepts, from none to all."""

    scores: Floats
    """(T,) distinct scores, falling."""
    genuine: npt.NDArray[np.int64]
    """(T + 1,)"""
    impostor: npt.NDArray[np.int64]
    """(T + 1,)"""


def _check(scores: npt.ArrayLike, same: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.bool_]]:
    values = np.asarray(scores, dtype=np.float64)
    genuine = np.asarray(same).astype(np.bool_)
    if values.ndim != 1 or values.shape != genuine.shape or len(values) == 0:
        raise MinusfaceError(
            f"scores of shape {values.shape} for pairs of shape {genuine.shape}, expected one a pair"
        )
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise MinusfaceError(f"{bad} of {len(values)} scores are NaN or infinite")
    return values, genuine


def _accepted(scores: Floats, genuine: npt.NDArray[np.bool_]) -> _Accepted:
    order = np.argsort(-scores, kind="stable")
    values, kinds = scores[order], genuine[order]
    ends = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)
    genuine_count = np.append(0, np.cumsum(kinds)[ends])
    total = np.append(0, ends + 1)
    return _Accepted(values[ends], genuine_count, total - genuine_count)


def _cuts(scores: Floats) -> Floats:
    """(T,) distinct scores, falling, to the T + 1 thresholds that part them."""
    high, low = scores[:-1], scores[1:]
    middle = 0.5 * high + 0.5 * low
    # Between neighbouring floats the middle rounds to the lower one, which would then be accepted.
    middle = np.where((middle > low) & (middle <= high), middle, high)
    return np.concatenate([[np.nextafter(scores[0], np.inf)], middle, scores[-1:]])


def _measurable(far: float, impostors: int) -> bool:
    if not 0 < far <= 1:
        raise MinusfaceError(f"false-accept rate {far}: expected more than 0 and at most 1")
    return 1 / impostors <= far


def _last_within(curve: Roc, far: float) -> int:
    """The last point of the curve whose FAR is at most ``far``."""
    return int(np.searchsorted(curve.far, far, side="right")) - 1


def _area(curve: Roc) -> np.float64:
    heights = curve.tar[1:] + curve.tar[:-1]
    return np.float64(np.sum(np.diff(curve.far) * heights) / 2)


def _equal_error(curve: Roc) -> float:
    # Every point accepts more pairs than the one before: the difference rises from -1 to 1.
    difference = curve.far - (1 - curve.tar)
    after = int(np.argmax(difference >= 0))
    before = after - 1
    part = -difference[before] / (difference[after] - difference[before])
    return float(curve.far[before] + part * (curve.far[after] - curve.far[before]))

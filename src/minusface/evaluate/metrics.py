"""Verification metrics, exact step functions over the scores; nothing is interpolated.

A pair is called the same person when its score reaches the threshold. Legend: P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from minusface.errors import MinusfaceError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


class Roc(NamedTuple):
    """The curve from the strictest threshold to the laxest; the first point accepts nothing."""

    far: Floats
    """Impostor pairs accepted, as a part of all impostor pairs (FMR)."""
    tar: Floats
    """Genuine pairs accepted, as a part of all genuine pairs."""
    thresholds: Floats
    """Falling, infinity first."""


def _checked(scores: npt.ArrayLike, same: npt.ArrayLike) -> tuple[Floats, Bools]:
    values, truth = np.asarray(scores, np.float64), np.asarray(same, bool)
    if values.ndim != 1 or values.shape != truth.shape:
        raise MinusfaceError(
            f"scores {values.shape} and labels {truth.shape}: expected one of each a pair"
        )
    if not np.isfinite(values).all():
        raise MinusfaceError("scores: hold NaN or infinity")
    if truth.all() or not truth.any():
        raise MinusfaceError("pairs: expected genuine and impostor ones, only one kind is there")
    return values, truth


def roc(scores: npt.ArrayLike, same: npt.ArrayLike) -> Roc:
    """The ROC of scores (P,) and who is the same (P,); equal scores move together."""
    values, truth = _checked(scores, same)
    order = np.argsort(-values, kind="stable")
    values, truth = values[order], truth[order]
    last = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)
    accepted_same = np.cumsum(truth)[last]
    accepted = last + 1
    tar = np.concatenate([[0.0], accepted_same / truth.sum()])
    far = np.concatenate([[0.0], (accepted - accepted_same) / (~truth).sum()])
    return Roc(far, tar, np.concatenate([[np.inf], values[last]]))


def tar_at_far(
    scores: npt.ArrayLike, same: npt.ArrayLike, fars: Sequence[float]
) -> dict[float, float | None]:
    """The largest TAR whose FAR does not exceed each target.

    None where fewer than 1 / target impostor pairs are there: such a rate cannot be measured on them.
    """
    curve, impostors = roc(scores, same), int((~np.asarray(same, bool)).sum())
    return {
        far: float(curve.tar[curve.far <= far].max()) if impostors * far >= 1 - 1e-9 else None
        for far in fars
    }


def threshold_at_fmr(scores: npt.ArrayLike, same: npt.ArrayLike, fmr: float) -> float | None:
    """The smallest threshold whose false-match rate does not exceed ``fmr``; None as in tar_at_far."""
    values, truth = _checked(scores, same)
    if (~truth).sum() * fmr < 1 - 1e-9:
        return None
    curve = roc(values, truth)
    allowed = curve.thresholds[curve.far <= fmr].min()
    return float(allowed) if np.isfinite(allowed) else float(np.nextafter(values.max(), np.inf))


def auc(scores: npt.ArrayLike, same: npt.ArrayLike) -> float:
    """Area under the ROC by trapezoids: the chance that a genuine pair scores above an impostor one."""
    curve = roc(scores, same)
    return float(np.trapezoid(curve.tar, curve.far))


def eer(scores: npt.ArrayLike, same: npt.ArrayLike) -> float:
    """Equal error rate: the mean of FMR and FNMR where they are closest."""
    curve = roc(scores, same)
    fnmr = 1 - curve.tar
    nearest = int(np.abs(curve.far - fnmr).argmin())
    return float((curve.far[nearest] + fnmr[nearest]) / 2)


def best_threshold(scores: npt.ArrayLike, same: npt.ArrayLike) -> float:
    """The threshold of greatest accuracy, half-way to the next lower score.

    Of several the highest is taken: it accepts the fewest impostors.
    """
    values, truth = _checked(scores, same)
    curve = roc(values, truth)
    right = curve.tar * truth.sum() + (1 - curve.far) * (~truth).sum()
    best = int(right.argmax())
    levels = curve.thresholds
    if best == 0:
        return float(np.nextafter(levels[1], np.inf))
    lower = levels[best + 1] if best + 1 < len(levels) else levels[best]
    return float((levels[best] + lower) / 2)


class KFold(NamedTuple):
    """Accuracy over folds, each judged by the threshold of the others."""

    mean: float
    std: float
    """Standard deviation over folds (divisor: their number)."""
    thresholds: Floats
    accuracies: Floats


def kfold_accuracy(scores: npt.ArrayLike, same: npt.ArrayLike, folds: npt.ArrayLike) -> KFold:
    """LFW's protocol: the threshold is chosen on all folds but one and tested on that one.

    Args:
        scores: (P,).
        same: (P,).
        folds: (P,) fold numbers, two or more different ones.
    """
    values, truth = _checked(scores, same)
    numbers = np.asarray(folds, np.int64)
    names = np.unique(numbers)
    if len(names) < 2:
        raise MinusfaceError(f"pairs: {len(names)} fold, expected 2 or more")
    thresholds, accuracies = [], []
    for name in names:
        held = numbers == name
        threshold = best_threshold(values[~held], truth[~held])
        thresholds.append(threshold)
        accuracies.append(float(((values[held] >= threshold) == truth[held]).mean()))
    found = np.array(accuracies)
    return KFold(float(found.mean()), float(found.std()), np.array(thresholds), found)

"""The verification protocol in plain loops."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence


def accuracy(scores: Sequence[float], same: Sequence[bool], threshold: float) -> float:
    right = 0
    for score, truth in zip(scores, same, strict=True):
        if (score >= threshold) == truth:
            right += 1
    return right / len(scores)


def best_threshold(scores: Sequence[float], same: Sequence[bool]) -> float:
    """Half-way between neighbouring scores; of equally good ones the highest."""
    levels = sorted(set(scores), reverse=True)
    candidates = [math.nextafter(levels[0], math.inf)]
    for upper, lower in itertools.pairwise(levels):
        candidates.append((upper + lower) / 2)
    candidates.append(levels[-1])
    best, best_accuracy = candidates[0], -1.0
    for candidate in candidates:
        found = accuracy(scores, same, candidate)
        if found > best_accuracy:
            best, best_accuracy = candidate, found
    return best


def kfold(scores: Sequence[float], same: Sequence[bool], folds: Sequence[int]) -> list[float]:
    results = []
    for fold in sorted(set(folds)):
        train = [i for i, f in enumerate(folds) if f != fold]
        test = [i for i, f in enumerate(folds) if f == fold]
        threshold = best_threshold([scores[i] for i in train], [same[i] for i in train])
        results.append(accuracy([scores[i] for i in test], [same[i] for i in test], threshold))
    return results


def tar_at_far(scores: Sequence[float], same: Sequence[bool], far: float) -> float:
    best = 0.0
    impostors = [s for s, t in zip(scores, same, strict=True) if not t]
    genuine = [s for s, t in zip(scores, same, strict=True) if t]
    for threshold in [*scores, float("inf")]:
        if sum(s >= threshold for s in impostors) / len(impostors) <= far:
            best = max(best, sum(s >= threshold for s in genuine) / len(genuine))
    return best


def auc(scores: Sequence[float], same: Sequence[bool]) -> float:
    """How often a genuine pair outscores an impostor pair, a tie counting half."""
    wins, count = 0.0, 0
    for genuine, is_genuine in zip(scores, same, strict=True):
        for impostor, is_other in zip(scores, same, strict=True):
            if is_genuine and not is_other:
                wins += 1.0 if genuine > impostor else 0.5 if genuine == impostor else 0.0
                count += 1
    return wins / count


def eer(scores: Sequence[float], same: Sequence[bool]) -> float:
    """FAR where it equals FNMR, walking the ROC in straight lines from "reject all"."""
    genuine = [s for s, t in zip(scores, same, strict=True) if t]
    impostors = [s for s, t in zip(scores, same, strict=True) if not t]
    far, fnmr = 0.0, 1.0
    for level in sorted(set(scores), reverse=True):
        next_far = sum(s >= level for s in impostors) / len(impostors)
        next_fnmr = sum(s < level for s in genuine) / len(genuine)
        if next_far >= next_fnmr:
            part = (fnmr - far) / ((fnmr - far) + (next_far - next_fnmr))
            return far + part * (next_far - far)
        far, fnmr = next_far, next_fnmr
    raise AssertionError("accepting all, FAR is 1 and FNMR 0")

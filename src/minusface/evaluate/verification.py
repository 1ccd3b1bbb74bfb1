"""Verification of a model on a list of pairs, over several draws of permutations.

Legend: B batch, H, W pixels, D embedding, K distinct images, P pairs, R draws.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minusface.errors import MinusfaceError
from minusface.evaluate import metrics
from minusface.evaluate.embedding import Cache, PairEmbedder, embed_images
from minusface.evaluate.metrics import Floats
from minusface.evaluate.pairs import Bools, Ints, PairList
from minusface.evaluate.reader import Reader, folder_reader

FARS = (1e-1, 1e-2, 1e-3, 1e-4)
FMRS = (1e-1, 1e-2, 1e-3)
# Pairs whose embeddings are gathered at a time.
CHUNK = 1 << 14

Rates = dict[float, float | None]


@dataclass(frozen=True)
class DrawMetrics:
    """What one draw of permutations gives."""

    accuracy: float
    """Mean over the folds."""
    accuracy_std: float
    """Standard deviation over the folds."""
    eer: float
    auc: float
    tar_at_far: Rates
    threshold_at_fmr: Rates
    threshold: float
    """Of greatest accuracy over all pairs."""
    fold_thresholds: tuple[float, ...]
    """Thresholds the folds were tested with."""


@dataclass(frozen=True)
class VerificationResult:
    """A model on a list of pairs; rates are parts of one, thresholds are cosines.

    Each number is the mean over the draws. A rate is None where it is below one in all impostor pairs.
    """

    name: str
    pairs: int
    genuine: int
    images: int
    """Distinct images embedded."""
    draws: int
    flip: bool
    accuracy: float
    """Each fold tested with the threshold that is best on the others."""
    accuracy_std: float
    """Standard deviation over the folds."""
    accuracy_spread: float | None
    """Standard deviation over the draws (divided by draws - 1); None for a single draw."""
    eer: float
    auc: float
    tar_at_far: Rates
    threshold_at_fmr: Rates
    threshold: float
    """Of greatest accuracy over all pairs."""
    per_draw: tuple[DrawMetrics, ...]
    scores: Floats = field(repr=False, compare=False)
    """(R, P) cosines."""
    same: Bools = field(repr=False, compare=False)
    """(P,) genuine or not."""

    def curve(self) -> list[tuple[float, float]]:
        """ROC as (FAR, TAR) from (0, 0) to (1, 1), the draws' scores taken together."""
        points = metrics.roc(self.scores.ravel(), np.tile(self.same, self.draws))
        return list(zip(points.far.tolist(), points.tar.tolist(), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it; without scores. Rates are named ``"0.001"``."""
        raw = {k: v for k, v in vars(self).items() if k not in ("scores", "same")}
        raw |= {key: _named(raw[key]) for key in ("tar_at_far", "threshold_at_fmr")}
        raw["per_draw"] = [
            vars(one)
            | {
                "tar_at_far": _named(one.tar_at_far),
                "threshold_at_fmr": _named(one.threshold_at_fmr),
                "fold_thresholds": list(one.fold_thresholds),
            }
            for one in self.per_draw
        ]
        return raw


def evaluate_pairs(
    embedder: PairEmbedder,
    faces: Path | str | Reader,
    pairs: PairList,
    *,
    draws: int = 1,
    flip: bool = True,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
    name: str = "model",
    cache: Cache | None = None,
) -> VerificationResult:
    """Verify pairs. Each distinct image is read once and embedded once a draw.

    Args:
        embedder: the model.
        faces: the face folder of the pairs' keys, or a function from a key to (H, W, 3) bytes, RGB.
        pairs: what to verify.
        draws: how often all permutations are drawn anew.
        flip: embed the mirror image too.
        batch_size: images embedded at a time.
        progress: called with the embeddings done and those to do, after each batch.
        name: what the result is called in tables.
        cache: where embeddings are kept, so that a stopped evaluation goes on.

    Raises:
        MinusfaceError: an image cannot be read or differs in size from its batch, an embedding is NaN or
            zero, numbers out of range, pairs of one kind or one fold only.
    """
    _check_pairs(pairs)
    rows_rkd = embed_images(
        embedder,
        folder_reader(faces) if isinstance(faces, (str, Path)) else faces,
        pairs.keys,
        draws=draws,
        flip=flip,
        batch_size=batch_size,
        progress=progress,
        cache=cache,
    )
    scores = [score_pairs(rows_kd, pairs.a_index, pairs.b_index) for rows_kd in rows_rkd]
    return verification_result(name, scores, pairs, flip)


def score_pairs(embeddings: Tensor, a_index: Ints, b_index: Ints) -> Floats:
    """Dot products of rows: (K, D) and twice (P,) numbers of rows to (P,) float64."""
    scores = np.empty(len(a_index), np.float64)
    for start in range(0, len(a_index), CHUNK):
        chunk = slice(start, start + CHUNK)
        a = embeddings[torch.from_numpy(a_index[chunk])].to(torch.float64)
        b = embeddings[torch.from_numpy(b_index[chunk])].to(torch.float64)
        scores[chunk] = (a * b).sum(dim=1).numpy()
    return scores


def verification_result(
    name: str, scores: Sequence[Floats], pairs: PairList, flip: bool = True
) -> VerificationResult:
    """The metrics of scores that are already there.

    Args:
        name: what the result is called in tables.
        scores: (P,) a draw, at least one.
        pairs: the pairs, in the order of the scores.
        flip: whether mirror images were embedded too.

    Raises:
        MinusfaceError: as the functions of :mod:`minusface.evaluate.metrics`.
    """
    _check_pairs(pairs)
    drawn = tuple(_draw_metrics(values, pairs) for values in scores)
    accuracies = [one.accuracy for one in drawn]
    return VerificationResult(
        name=name,
        pairs=len(pairs),
        genuine=int(pairs.same.sum()),
        images=len(pairs.keys),
        draws=len(drawn),
        flip=flip,
        accuracy=statistics.fmean(accuracies),
        accuracy_std=statistics.fmean(one.accuracy_std for one in drawn),
        accuracy_spread=statistics.stdev(accuracies) if len(drawn) > 1 else None,
        eer=statistics.fmean(one.eer for one in drawn),
        auc=statistics.fmean(one.auc for one in drawn),
        tar_at_far=_mean_rates([one.tar_at_far for one in drawn]),
        threshold=statistics.fmean(one.threshold for one in drawn),
        threshold_at_fmr=_mean_rates([one.threshold_at_fmr for one in drawn]),
        per_draw=drawn,
        scores=np.stack(scores),
        same=pairs.same,
    )


def mean_over_groups(name: str, parts: Sequence[VerificationResult]) -> VerificationResult:
    """The mean of groups' results, as fairness rows report it: ``accuracy_std`` is the deviation of the
    groups as they are, divided by their number as published tables do.

    Args:
        name: what the row is called.
        parts: two or more results of one model, with equally many draws.
    """
    accuracies = [part.accuracy for part in parts]
    # Of each draw the mean over the groups: that is what the row's accuracy is the mean of.
    drawn = [
        statistics.fmean(one.accuracy for one in draw)
        for draw in zip(*(part.per_draw for part in parts), strict=True)
    ]
    return replace(
        parts[0],
        name=name,
        pairs=sum(part.pairs for part in parts),
        genuine=sum(part.genuine for part in parts),
        images=sum(part.images for part in parts),
        accuracy=statistics.fmean(accuracies),
        accuracy_std=statistics.pstdev(accuracies),
        accuracy_spread=statistics.stdev(drawn) if len(drawn) > 1 else None,
        eer=statistics.fmean(part.eer for part in parts),
        auc=statistics.fmean(part.auc for part in parts),
        tar_at_far=_mean_rates([part.tar_at_far for part in parts]),
        threshold_at_fmr=_mean_rates([part.threshold_at_fmr for part in parts]),
        threshold=statistics.fmean(part.threshold for part in parts),
        per_draw=(),
        scores=np.concatenate([part.scores for part in parts], axis=1),
        same=np.concatenate([part.same for part in parts]),
    )


def _check_pairs(pairs: PairList) -> None:
    genuine = int(pairs.same.sum())
    if genuine == 0 or genuine == len(pairs):
        raise MinusfaceError(
            f"{genuine} genuine and {len(pairs) - genuine} impostor pairs, expected some of each"
        )
    if len(np.unique(pairs.folds)) < 2:
        raise MinusfaceError(
            f"{len(pairs)} pairs in one fold, expected two folds or more: two pairs of each kind"
        )


def _draw_metrics(scores: Floats, pairs: PairList) -> DrawMetrics:
    folds = metrics.kfold_accuracy(scores, pairs.same, pairs.folds)
    return DrawMetrics(
        accuracy=folds.mean,
        accuracy_std=folds.std,
        eer=metrics.eer(scores, pairs.same),
        auc=metrics.auc(scores, pairs.same),
        tar_at_far=metrics.tar_at_far(scores, pairs.same, FARS),
        threshold=metrics.best_threshold(scores, pairs.same),
        threshold_at_fmr={f: metrics.threshold_at_fmr(scores, pairs.same, f) for f in FMRS},
        fold_thresholds=tuple(folds.thresholds.tolist()),
    )


def _mean_rates(parts: Sequence[Rates]) -> Rates:
    """Of draws, or of groups; None where one of them cannot tell: a mean of the others is of other pairs."""
    return {rate: _mean([one[rate] for one in parts]) for rate in parts[0]}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None


def _named(rates: Rates) -> dict[str, float | None]:
    return {f"{rate:g}": value for rate, value in rates.items()}

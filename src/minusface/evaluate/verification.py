"""Verification of a model on a list of pairs, over several draws of permutations.

Legend: B batch, H, W pixels, D embedding, K distinct images, P pairs, R draws.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from minusface.errors import MinusfaceError
from minusface.evaluate import metrics
from minusface.evaluate.metrics import Floats
from minusface.evaluate.pairs import Bools, Ints, PairList
from minusface.evaluate.reader import Reader, folder_reader
from minusface.types import UInt8

FARS = (1e-1, 1e-2, 1e-3, 1e-4)
FMRS = (1e-1, 1e-2, 1e-3)
# Pairs whose embeddings are gathered at a time.
CHUNK = 1 << 14

Rates = dict[float, float | None]


class PairEmbedder(Protocol):
    """A model under test, from crop to embedding."""

    def embed(self, images: Tensor, keys: Sequence[str], draw: int, flip: bool) -> Tensor:
        """Embed crops.

        Args:
            images: (B, 3, H, W) uint8, RGB.
            keys: B names. What is random is drawn from the name and ``draw`` alone, so that numbers do not
                depend on batches.
            draw: number of the draw, from 0.
            flip: sum the embeddings of the crop and of its mirror image, both protected with the same
                permutation.

        Returns:
            (B, D) finite floats, of any length but zero.
        """
        ...


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

    Raises:
        MinusfaceError: an image cannot be read or differs in size from its batch, an embedding is NaN or
            zero, numbers out of range, pairs of one kind or one fold only.
    """
    for what, number in (("draws", draws), ("batch size", batch_size)):
        if number < 1:
            raise MinusfaceError(f"{what} {number}: expected 1 or more")
    _check_pairs(pairs)
    read = folder_reader(faces) if isinstance(faces, (str, Path)) else faces
    rows: list[list[Tensor]] = [[] for _ in range(draws)]
    done, total = 0, len(pairs.keys) * draws
    for keys, images in _batches(read, pairs.keys, batch_size):
        for draw in range(draws):
            with torch.no_grad():
                found = embedder.embed(images, keys, draw, flip)
            rows[draw].append(_unit_rows(found, keys))
            done += len(keys)
            if progress is not None:
                progress(done, total)
    scores = [score_pairs(torch.cat(batches), pairs.a_index, pairs.b_index) for batches in rows]
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


def _batches(
    read: Reader, keys: Sequence[str], batch_size: int
) -> Iterator[tuple[list[str], Tensor]]:
    """Keys and images (B, 3, H, W) uint8."""
    for start in range(0, len(keys), batch_size):
        batch = list(keys[start : start + batch_size])
        images: list[UInt8] = []
        for key in batch:
            image = read(key)
            if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
                raise MinusfaceError(
                    f"{key}: {image.dtype} {image.shape}, expected uint8 (H, W, 3), RGB"
                )
            if images and image.shape != images[0].shape:
                raise MinusfaceError(
                    f"{key}: image of shape {image.shape}, others of the batch {images[0].shape}"
                )
            images.append(image)
        yield batch, torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def _unit_rows(embeddings: Tensor, keys: Sequence[str]) -> Tensor:
    """(B, D) to float32 rows of length one on the CPU."""
    if embeddings.ndim != 2 or len(embeddings) != len(keys):
        raise MinusfaceError(
            f"embeddings of shape {tuple(embeddings.shape)} for {len(keys)} images, "
            "expected one row an image"
        )
    rows = embeddings.detach().to("cpu", torch.float64)
    lengths = rows.norm(dim=1, keepdim=True)
    for key, length in zip(keys, lengths.flatten().tolist(), strict=True):
        if not math.isfinite(length):
            raise MinusfaceError(f"{key}: its embedding holds NaN or infinity")
        if length == 0:
            raise MinusfaceError(f"{key}: its embedding is zero, which has no direction")
    unit: Tensor = (rows / lengths).to(torch.float32)
    return unit


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


def _mean_rates(draws: Sequence[Rates]) -> Rates:
    # What the pairs cannot tell, they cannot tell in any draw.
    return {
        rate: None if value is None else statistics.fmean(_known(one[rate]) for one in draws)
        for rate, value in draws[0].items()
    }


def _known(value: float | None) -> float:
    assert value is not None
    return value


def _named(rates: Rates) -> dict[str, float | None]:
    return {f"{rate:g}": value for rate, value in rates.items()}

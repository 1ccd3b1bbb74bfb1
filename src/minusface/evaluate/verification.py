"""Is it the same person? Embeddings of a list of pairs, once an image, and what they say.

Legend: B batch, K distinct images, P pairs, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from minusface.errors import MinusfaceError
from minusface.evaluate import metrics
from minusface.evaluate.pairs import PairList
from minusface.types import UInt8

FARS = (1e-1, 1e-2, 1e-3, 1e-4)
FMRS = (1e-1, 1e-2, 1e-3)


class PairEmbedder(Protocol):
    """What turns images into embeddings for an evaluation."""

    def embed(self, images: Tensor, keys: Sequence[str], draw: int, flip: bool) -> Tensor:
        """Embeddings (B, D), any length.

        Args:
            images: (B, 3, H, W) uint8, RGB.
            keys: B names; permutations depend on (key, draw) alone.
            draw: which draw of the permutations.
            flip: add the embedding of the mirrored image, under the same permutation.
        """
        ...


@dataclass(frozen=True)
class VerificationResult:
    """What an evaluation found; means over draws where there are several."""

    name: str
    pairs: int
    genuine: int
    draws: int
    flip: bool
    accuracy: float
    """Mean over folds and draws."""
    accuracy_std: float
    """Standard deviation over folds, mean over draws."""
    accuracy_spread: float
    """Standard deviation of the accuracy over draws; 0 for one."""
    draw_accuracies: tuple[float, ...]
    auc: float
    eer: float
    tar_at_far: dict[str, float | None]
    """By FAR; None where there are too few impostor pairs to measure it."""
    threshold: float
    """Of greatest accuracy over all pairs."""
    threshold_at_fmr: dict[str, float | None]
    curve: tuple[tuple[float, float], ...] = ()
    """(FAR, TAR) of the first draw."""

    def to_dict(self, curve: bool = False) -> dict[str, Any]:
        """For JSON; the ROC's points only when asked."""
        whole = asdict(self)
        if not curve:
            del whole["curve"]
        return whole


def evaluate_pairs(
    embedder: PairEmbedder,
    read: Callable[[str], UInt8],
    pairs: PairList,
    *,
    name: str = "model",
    draws: int = 1,
    flip: bool = True,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> VerificationResult:
    """Embed every image of the pairs once a draw, and compare by cosine.

    Args:
        embedder: the model.
        read: from a key to (H, W, 3) bytes, RGB; each image is read once a draw.
        pairs: what to compare.
        name: for tables.
        draws: how often permutations are drawn anew.
        flip: sum the embeddings of an image and its mirror image.
        batch_size: images at once.
        progress: called with (images done, images in all).

    Raises:
        MinusfaceError: an unreadable image, or embeddings that are not finite.
    """
    if draws < 1 or batch_size < 1:
        raise MinusfaceError(f"draws {draws}, batch size {batch_size}: expected 1 or more")
    scores = []
    for draw in range(draws):
        embeddings = _embed_all(embedder, read, pairs, draw, draws, flip, batch_size, progress)
        products = (embeddings[pairs.a] * embeddings[pairs.b]).sum(1)
        scores.append(products.double().numpy())
    return summarize(name, scores, pairs, flip)


def _embed_all(
    embedder: PairEmbedder,
    read: Callable[[str], UInt8],
    pairs: PairList,
    draw: int,
    draws: int,
    flip: bool,
    batch_size: int,
    progress: Callable[[int, int], None] | None,
) -> Tensor:
    """(K, D) unit rows."""
    count, rows = len(pairs.keys), []
    for start in range(0, count, batch_size):
        keys = pairs.keys[start : start + batch_size]
        stack = np.stack([read(key) for key in keys])
        images = torch.from_numpy(stack).permute(0, 3, 1, 2).contiguous()
        rows.append(embedder.embed(images, keys, draw, flip).float().cpu())
        if progress is not None:
            progress(draw * count + start + len(keys), draws * count)
    embeddings = torch.cat(rows)
    finite = torch.isfinite(embeddings).all(1)
    if not bool(finite.all()):
        key = pairs.keys[int((~finite).nonzero()[0])]
        raise MinusfaceError(f"{key}: its embedding is not finite; is the model broken?")
    return nnf.normalize(embeddings, dim=1)


def summarize(
    name: str, scores: Sequence[metrics.Floats], pairs: PairList, flip: bool
) -> VerificationResult:
    """Metrics of the scores (P,) of one or more draws."""
    same = pairs.same
    folds = [metrics.kfold_accuracy(one, same, pairs.folds) for one in scores]
    tars = [metrics.tar_at_far(one, same, FARS) for one in scores]
    fmrs = {far: [metrics.threshold_at_fmr(one, same, far) for one in scores] for far in FMRS}
    curve = metrics.roc(scores[0], same)
    accuracies = tuple(fold.mean for fold in folds)
    return VerificationResult(
        name=name,
        pairs=len(pairs),
        genuine=int(same.sum()),
        draws=len(scores),
        flip=flip,
        accuracy=float(np.mean(accuracies)),
        accuracy_std=float(np.mean([fold.std for fold in folds])),
        accuracy_spread=float(np.std(accuracies)),
        draw_accuracies=accuracies,
        auc=float(np.mean([metrics.auc(one, same) for one in scores])),
        eer=float(np.mean([metrics.eer(one, same) for one in scores])),
        tar_at_far={f"{far:g}": _mean([tar[far] for tar in tars]) for far in FARS},
        threshold=float(np.mean([metrics.best_threshold(one, same) for one in scores])),
        threshold_at_fmr={f"{far:g}": _mean(found) for far, found in fmrs.items()},
        curve=tuple(zip(curve.far.tolist(), curve.tar.tolist(), strict=True)),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None

"""Margin heads: logits over the training identities, made harder at the true one.

The margins are pure functions of cosines, so that a version with the centres spread over several
machines can use them on its shard. Everything here is computed in float32, or float64 when the
embeddings are, under autocast too: 64 times a bfloat16 cosine is off by a quarter.

Legend: B batch, C classes, D embedding; cos_target (B,) the cosine with the true class's centre,
cos_all (B, C) with every centre.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from minusface.config import HeadConfig
from minusface.errors import MinusfaceError, choice_error

CURRICULAR_MOMENTUM = 0.01
"""CurricularFace, section 3.2: weight of the new batch in the running mean of target cosines."""
ADAFACE_CONCENTRATION = 0.333
"""AdaFace, section 3.3: h, by which a norm of one standard deviation moves the margin."""
ADAFACE_MOMENTUM = 0.01
"""AdaFace, section 3.3: weight of the new batch in the running norm statistics."""
ADAFACE_NORMS = (1e-3, 100.0)
ADAFACE_START = (20.0, 100.0)
ADAFACE_MARGIN = 0.4
"""AdaFace's m in its paper; give it as the head's margin."""
EPS = 1e-3
# Values of centres drawn at once where a process keeps a part of them; a multiple of 16.
DRAWN_AT_ONCE = 1 << 22


def add_angle(cos_target: Tensor, margin: float) -> Tensor:
    """cos(theta + margin), without the inverse cosine: any shape to the same."""
    # The floor keeps the root's gradient finite at cosines of exactly 1 and -1.
    sin_target = (1.0 - cos_target.square()).clamp_min(1e-12).sqrt()
    return cos_target * math.cos(margin) - sin_target * math.sin(margin)


def arcface_margin(cos_target: Tensor, margin: float) -> Tensor:
    """The target's logit of ArcFace (arXiv 1801.07698, eq. 3): (B,) to (B,).

    cos(theta + m) while theta + m < pi; past it the line cos(theta) - m sin(pi - m), which goes on
    falling where the cosine would rise again.
    """
    line = cos_target - math.sin(math.pi - margin) * margin
    return torch.where(cos_target > math.cos(math.pi - margin), add_angle(cos_target, margin), line)


def cosface_margin(cos_target: Tensor, margin: float) -> Tensor:
    """The target's logit of CosFace (arXiv 1801.09414, eq. 4): (B,) to (B,)."""
    return cos_target - margin


def curricular_negatives(cos_target: Tensor, cos_all: Tensor, t: Tensor, margin: float) -> Tensor:
    """The other classes' logits of CurricularFace (arXiv 2004.00288): (B, C) to (B, C).

    A negative above cos(theta_target + m) is hard and is weighted by t + cos. The true class's column
    is to be overwritten by the caller.
    """
    hard = cos_all > add_angle(cos_target, margin)[:, None]
    return torch.where(hard, cos_all * (t + cos_all), cos_all)


def adaface_margin(cos_target: Tensor, quality: Tensor, margin: float) -> Tensor:
    """The target's logit of AdaFace (arXiv 2204.00964, section 3.3): (B,) and (B,) to (B,).

    Args:
        cos_target: cosines with the true centres.
        quality: the normalised feature norm in [-1, 1]: -1 gives ArcFace's margin, 0 CosFace's.
        margin: m.
    """
    # Kept off the ends, where the inverse cosine's gradient is infinite.
    theta = torch.acos(cos_target.clamp(-1.0 + EPS, 1.0 - EPS))
    moved = (theta - margin * quality).clamp(EPS, math.pi - EPS)
    return torch.cos(moved) - margin * (1.0 + quality)


class MarginHead(nn.Module):
    """Base of the heads: raw embeddings (B, D) and labels (B,) to scaled logits (B, C).

    Args:
        embedding_size: D.
        classes: C.
        scale: the logits' length s.
        margin: what it means is the head's own.
        shard: the classes whose centres are kept here; by default all. A part of them serves
            :func:`minusface.recognize.sharded.sharded_loss`, not a call of the head.

    Raises:
        MinusfaceError: no classes, a scale that is not positive, or a margin outside [0, pi).
    """

    centres: nn.Parameter

    def __init__(
        self,
        embedding_size: int,
        classes: int,
        scale: float,
        margin: float,
        shard: range | None = None,
    ) -> None:
        super().__init__()
        if classes < 1:
            raise MinusfaceError(f"head: {classes} classes, expected 1 or more")
        if not scale > 0.0:
            raise MinusfaceError(f"head: scale {scale:g}, expected a positive number")
        if not 0.0 <= margin < math.pi:
            raise MinusfaceError(f"head: margin {margin:g}, expected a number in [0, pi)")
        self.scale = scale
        self.margin = margin
        self.classes = classes
        self.shard = range(classes) if shard is None else shard
        self.centres = nn.Parameter(draw_centres(classes, embedding_size, self.shard))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Logits (B, C), float32.

        Args:
            embeddings: (B, D), any length.
            labels: (B,) int64 in [0, C).
        """
        dtype = torch.promote_types(embeddings.dtype, torch.float32)
        with torch.autocast(embeddings.device.type, enabled=False):
            vectors = embeddings.to(dtype)
            unit = nnf.normalize(vectors, dim=1)
            cos_all = unit @ nnf.normalize(self.centres.to(dtype), dim=1).T
            cos_all = cos_all.clamp(-1.0, 1.0)
            cos_target = cos_all.gather(1, labels[:, None]).squeeze(1)
            target, others = self.margins(cos_target, cos_all, vectors)
            return others.scatter(1, labels[:, None], target[:, None]) * self.scale

    def margins(
        self, cos_target: Tensor, cos_all: Tensor, embeddings: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The unscaled logits of the true class (B,) and of all others (B, C)."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Sizes for ``print``."""
        size, here = self.centres.shape[1], len(self.shard)
        part = "" if here == self.classes else f", {here} of them here"
        return f"{size}, {self.classes}{part}, scale={self.scale:g}, margin={self.margin:g}"


class ArcFace(MarginHead):
    """An angle is added to the true class's (arXiv 1801.07698). Paper: s=64, m=0.5."""

    def margins(
        self, cos_target: Tensor, cos_all: Tensor, embeddings: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See :func:`arcface_margin`."""
        return arcface_margin(cos_target, self.margin), cos_all


class CosFace(MarginHead):
    """A cosine is taken from the true class's (arXiv 1801.09414). Paper: s=64, m=0.35."""

    def margins(
        self, cos_target: Tensor, cos_all: Tensor, embeddings: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See :func:`cosface_margin`."""
        return cosface_margin(cos_target, self.margin), cos_all


class CurricularFace(MarginHead):
    """ArcFace whose hard negatives gain weight as training goes on (arXiv 2004.00288).

    ``t``, the running mean of the target cosines, moves in training only.
    """

    t: Tensor

    def __init__(
        self,
        embedding_size: int,
        classes: int,
        scale: float,
        margin: float,
        shard: range | None = None,
    ) -> None:
        super().__init__(embedding_size, classes, scale, margin, shard)
        self.register_buffer("t", torch.zeros(()))

    def margins(
        self, cos_target: Tensor, cos_all: Tensor, embeddings: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See :func:`curricular_negatives`."""
        if self.training and len(cos_target):
            with torch.no_grad():
                self.t.lerp_(cos_target.mean().to(self.t.dtype), CURRICULAR_MOMENTUM)
        # A copy: a later forward before this one's backward must not change it under autograd.
        others = curricular_negatives(cos_target, cos_all, self.t.clone(), self.margin)
        return arcface_margin(cos_target, self.margin), others


class AdaFace(MarginHead):
    """The margin follows the embedding's norm, a proxy of image quality (arXiv 2204.00964).

    The running mean and deviation of the norms move in training only. Norms carry no gradient.
    """

    norm_mean: Tensor
    norm_std: Tensor

    def __init__(
        self,
        embedding_size: int,
        classes: int,
        scale: float,
        margin: float = ADAFACE_MARGIN,
        shard: range | None = None,
    ) -> None:
        super().__init__(embedding_size, classes, scale, margin, shard)
        self.register_buffer("norm_mean", torch.tensor(ADAFACE_START[0]))
        self.register_buffer("norm_std", torch.tensor(ADAFACE_START[1]))

    @torch.no_grad()
    def quality(self, embeddings: Tensor) -> Tensor:
        """Norms (B,), normalised by the running statistics times h, in [-1, 1]."""
        norms = embeddings.detach().norm(dim=1).clamp(*ADAFACE_NORMS)
        if self.training and len(norms):
            self.norm_mean.lerp_(norms.mean().to(self.norm_mean.dtype), ADAFACE_MOMENTUM)
            if len(norms) > 1:
                self.norm_std.lerp_(norms.std().to(self.norm_std.dtype), ADAFACE_MOMENTUM)
        deviation = (norms - self.norm_mean) / (self.norm_std + EPS)
        quality: Tensor = (deviation * ADAFACE_CONCENTRATION).clamp(-1.0, 1.0)
        return quality

    def margins(
        self, cos_target: Tensor, cos_all: Tensor, embeddings: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See :func:`adaface_margin`."""
        return adaface_margin(cos_target, self.quality(embeddings), self.margin), cos_all


class _Builder(Protocol):
    def __call__(
        self,
        embedding_size: int,
        classes: int,
        scale: float,
        margin: float,
        shard: range | None = None,
    ) -> MarginHead: ...


HEADS: dict[str, _Builder] = {
    "arcface": ArcFace,
    "cosface": CosFace,
    "curricularface": CurricularFace,
    "adaface": AdaFace,
}


def build_head(
    config: HeadConfig, embedding_size: int, classes: int, shard: range | None = None
) -> MarginHead:
    """The head that a config names.

    Args:
        config: name, scale and margin.
        embedding_size: D.
        classes: C.
        shard: the classes whose centres are kept here; by default all.

    Raises:
        MinusfaceError: an unknown name, or a scale, margin or class count out of range.
    """
    if config.name not in HEADS:
        raise choice_error("head", config.name, HEADS)
    return HEADS[config.name](embedding_size, classes, config.scale, config.margin, shard)


def draw_centres(classes: int, embedding_size: int, shard: range) -> Tensor:
    """The rows of a shard of normal centres (C, D), the same whatever the shard, from torch's generator.

    Every process draws all of them, but holds few at a time: millions of classes fit on no single device.
    """
    std = embedding_size**-0.5
    if len(shard) == classes:
        return torch.empty(classes, embedding_size).normal_(std=std)
    kept = torch.empty(len(shard), embedding_size)
    # torch draws sixteen values at once, and the last sixteen of a tensor anew where they do not fill up:
    # blocks of sixteens, the last not too short, draw what one tensor would.
    block = max(1, DRAWN_AT_ONCE // (16 * embedding_size)) * 16
    starts = list(range(0, max(classes - block, 1), block))
    for start, end in zip(starts, [*starts[1:], classes], strict=True):
        drawn = torch.empty(end - start, embedding_size).normal_(std=std)
        first, last = max(start, shard.start), min(end, shard.stop)
        if first < last:
            kept[first - shard.start : last - shard.start] = drawn[first - start : last - start]
    return kept


def head_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of logits (B, C) with labels (B,): a scalar in float32 or wider."""
    with torch.autocast(logits.device.type, enabled=False):
        dtype = torch.promote_types(logits.dtype, torch.float32)
        return nnf.cross_entropy(logits.to(dtype), labels)

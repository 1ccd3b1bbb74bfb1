"""The margin loss with class centres spread over processes: a softmax whose sum is taken in parts.

Each process holds the centres of consecutive classes and computes every sample's logits for those only;
maxima, sums and the true classes' cosines are what travels. Optionally only some negatives are drawn into a
step (after PartialFC, arXiv 2203.15565).

Legend: B samples of all processes together, C classes, c classes held here, D embedding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

from minusface import collectives
from minusface.devices import without_autocast
from minusface.recognize.heads import MarginHead

# Constants of the 64-bit finaliser of splitmix, as signed numbers.
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64)
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)


def sharded_loss(
    head: MarginHead, embeddings: Tensor, labels: Tensor, kept: Tensor | None = None
) -> Tensor:
    """Mean cross entropy of a head over all classes, of which this process holds ``head.shard``.

    Args:
        head: margins, scale, and the centres (c, D) of its shard.
        embeddings: (B, D), any length, of all processes' samples, alike on every process.
        labels: (B,) int64 in [0, C), alike on every process.
        kept: (c,) bool, which of the classes here take part; None: all. True classes of the batch always do.

    Returns:
        A scalar, alike on every process, in float32 or wider.
    """
    dtype = torch.promote_types(embeddings.dtype, torch.float32)
    with without_autocast(embeddings.device.type):
        vectors = embeddings.to(dtype)
        unit = nnf.normalize(collectives.split_work(vectors), dim=1)
        # Column of each sample's true class here, and which samples have theirs here.
        column = labels - head.shard.start
        own = (column >= 0) & (column < len(head.shard))
        column = torch.where(own, column, 0)
        centres: Tensor = head.centres
        if kept is not None:
            kept = kept.index_fill(0, column[own], True)
            centres, place = centres[kept], kept.cumsum(0) - 1
            column = torch.where(own, place[column], 0)
        cos_all = _cosines(unit, centres.to(dtype))
        cos_target = _true_cosines(cos_all, column, own)
        target, others = head.margins(cos_target, cos_all, vectors.detach())
        return _cross_entropy(target * head.scale, others * head.scale, column, own)


def _cosines(unit: Tensor, centres: Tensor) -> Tensor:
    """(B, D) unit rows and (c, D) to (B, c), without a copy of the centres at unit length."""
    cosines: Tensor = _Cosines.apply(unit, centres)  # type: ignore[no-untyped-call]
    return cosines.clamp(-1.0, 1.0)


class _Cosines(torch.autograd.Function):
    """unit @ centres.T over the centres' lengths.

    The gradient of the centres is made in one tensor: autograd would add up two of their size.
    """

    @staticmethod
    def forward(ctx: Any, unit: Tensor, centres: Tensor) -> Tensor:
        length = centres.norm(dim=1).clamp_min(1e-12)
        cosines = (unit @ centres.T).div_(length)
        ctx.save_for_backward(unit, centres, length, cosines)
        return cosines

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        unit, centres, length, cosines = ctx.saved_tensors
        # d cos / d centre = (unit - cos * centre / length) / length
        along = (grads[0] * cosines).sum(0) / length.square()
        scaled = grads[0] / length
        grad_centres = (scaled.T @ unit).addcmul_(centres, along[:, None], value=-1.0)
        return scaled @ centres, grad_centres


def _true_cosines(cos_all: Tensor, column: Tensor, own: Tensor) -> Tensor:
    """(B,): each sample's cosine with its true class, from the process that holds it."""
    if cos_all.shape[1] == 0:
        return collectives.sum_over_processes(cos_all.sum(1))
    here = cos_all.gather(1, column[:, None]).squeeze(1)
    return collectives.sum_over_processes(torch.where(own, here, 0.0))


def _cross_entropy(target: Tensor, others: Tensor, column: Tensor, own: Tensor) -> Tensor:
    """Mean of log(exp(target) + sum of exp(others), everywhere but in the true column) - target."""
    negatives = _without_true(others, column, own)
    with torch.no_grad():
        least = target.detach()[:, None]
        most = collectives.max_over_processes(torch.cat([negatives.detach(), least], 1).amax(1))
    here = torch.exp(negatives - most[:, None]).sum(1)
    rest = collectives.sum_over_processes(here)
    return (torch.log(rest + torch.exp(target - most)) + most - target).mean()


def _without_true(others: Tensor, column: Tensor, own: Tensor) -> Tensor:
    """(B, c) with minus infinity for true classes; by place, as a mask would make a GPU's host wait."""
    if others.shape[1] == 0:
        return others
    columns = column[:, None]
    there = others.gather(1, columns)
    return others.scatter(1, columns, torch.where(own[:, None], -torch.inf, there))


def draw_kept(shard: range, rate: float, random: torch.Generator, device: torch.device) -> Tensor:
    """Which classes of a shard take part in a step, each with probability ``rate``: (c,) bool.

    Whether a class does depends on one number drawn from ``random`` and on the class alone: processes
    agree without telling each other, and their number does not matter.
    """
    seed = int(torch.randint(-(1 << 62), 1 << 62, (), generator=random))
    bits = torch.arange(shard.start, shard.stop, device=device) * _GOLDEN + seed
    for shift, factor in ((30, _MIX_1), (27, _MIX_2)):
        bits = (bits ^ _shifted(bits, shift)) * factor
    bits = bits ^ _shifted(bits, 31)
    return _shifted(bits, 11).double() * 2.0**-53 < rate


def _shifted(bits: Tensor, by: int) -> Tensor:
    """A shift to the right that brings in zeros, which torch's does not on signed numbers."""
    return (bits >> by) & ((1 << (64 - by)) - 1)

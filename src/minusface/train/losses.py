"""What the stages minimise, and the batch they see.

Legend: B batch, V permutations an image (views), N side of a crop, D embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import cast

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from minusface import collectives
from minusface.config import TrainConfig
from minusface.errors import MinusfaceError
from minusface.recognize import DistillLoss, MarginHead, Teacher, build_head, head_loss
from minusface.recognize.relation import RelationLoss
from minusface.recognize.sharded import draw_kept, sharded_loss
from minusface.share import Share

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Faces:
    """A batch as a task sees it.

    ``crops`` (B, 3, N, N) floats in [-1, 1], RGB, mirrored where ``flipped`` (B,) says so; ``labels``
    (B,) and ``keys`` tell who and which image. Where processes train together these are the samples of
    one, and ``share`` tells which of the whole batch's they are. ``targets`` (B, D), unit rows, stand for
    what a teacher would say of the crops. ``clean`` are the crops before they were moved and distorted,
    mirrored like them, where a teacher looks at them.
    """

    crops: Tensor
    labels: Tensor
    keys: Sequence[str]
    flipped: Tensor
    share: Share | None = None
    targets: Tensor | None = None
    clean: Tensor | None = None

    def told(self, teacher: Teacher) -> Tensor:
        """What a teacher says of the crops as they were before they were distorted: (B, D), unit rows."""
        seen = self.crops if self.clean is None else self.clean
        return teacher.targets(self.keys, seen, self.flipped)

    @property
    def draws(self) -> Share:
        """For which samples to draw, and which of the drawn values are these samples'."""
        return Share.whole(len(self.crops)) if self.share is None else self.share


class IdentityLoss(nn.Module):
    """What pulls embeddings of a person together: labels through a margin head, a teacher, or both.

    Args:
        config: ``head.weight`` and ``distill`` say which terms there are.
        classes: people in the training data; with ``data.branches``, of each.
        teacher: where ``distill.teacher`` is given.
    """

    def __init__(
        self, config: TrainConfig, classes: int | Sequence[int], teacher: Teacher | None
    ) -> None:
        super().__init__()
        counts = [classes] if isinstance(classes, int) else list(classes)
        self.branches = nn.ModuleList()
        self.starts = [0, *accumulate(counts)]
        self.head: MarginHead | None = None
        self.distill: DistillLoss | None = None
        self.relation: RelationLoss | None = None
        self.teacher, self.config = teacher, config
        size = config.recognizer.embedding_size
        if config.head.weight > 0:
            self._build_heads(counts)
        if teacher is not None and (config.distill.weight > 0 or config.distill.relation > 0):
            self.distill = DistillLoss(size, teacher.size, config.distill.pairwise)
        if config.distill.relation > 0:
            self.relation = RelationLoss.of(teacher, config.distill.temperature)
        if self.head is None and self.distill is None and not self.branches:
            raise MinusfaceError(
                "nothing to learn: head.weight is 0 and distill.teacher is not given"
            )

    def _build_heads(self, counts: list[int]) -> None:
        """A margin head for each dataset's people, with the centres that this process keeps."""
        config, processes = self.config, collectives.size()
        size = config.recognizer.embedding_size
        if min(counts) < 2:
            raise MinusfaceError(
                f"data: {min(counts)} person, expected 2 or more to train on labels"
            )
        if min(counts) < processes:
            raise MinusfaceError(
                f"data: {min(counts)} people, expected {processes} or more: their centres are spread over "
                f"{processes} processes"
            )
        if not config.data.branches:
            shard = collectives.share_of(counts[0])
            self.head = build_head(config.head, size, counts[0], shard)
            return
        for count, branch in zip(counts, config.data.branches, strict=True):
            own = replace(config.head, scale=branch.scale, margin=branch.margin)
            self.branches.append(build_head(own, size, count, collectives.share_of(count)))

    def shards(self) -> dict[str, MarginHead]:
        """The heads, by the names of their centres in the state dict."""
        heads = {} if self.head is None else {"head.centres": self.head}
        numbered = cast("Iterable[MarginHead]", self.branches)
        return heads | {f"branches.{k}.centres": head for k, head in enumerate(numbered)}

    def forward(
        self, embeddings: Tensor, faces: Faces, random: torch.Generator, views: int = 1
    ) -> Losses:
        """Named losses of embeddings (V*B, D), view after view; ``identity`` is their weighted sum.

        Where processes train together all of them get the losses of the whole batch.

        Args:
            embeddings: of the recogniser, of any length.
            faces: the samples.
            random: drawn from where negatives are sampled.
            views: V.
        """
        losses: Losses = {}
        total = embeddings.new_zeros((), dtype=torch.float32)
        embeddings = collectives.gather(embeddings)
        labels = collectives.gather_values(faces.labels.repeat(views))
        if self.head is not None:
            losses["margin"] = self._margin(self.head, embeddings, labels, random)
            total = total + self.config.head.weight * losses["margin"]
        if self.branches:
            for name, loss in self._of_branches(embeddings, labels, random).items():
                weight = self.config.data.branches[len(losses)].weight
                losses[name] = loss
                total = total + self.config.head.weight * weight * loss
        if self.distill is not None and self.teacher is not None:
            targets = faces.targets
            if targets is None:
                targets = faces.told(self.teacher)
            targets = collectives.gather_values(targets.repeat(views, 1))
            parts = self.distill(embeddings, targets)
            losses["cosine"], losses["pairwise"] = parts.cosine, parts.pairwise
            total = total + self.config.distill.weight * parts.total
            if self.relation is not None:
                losses["relation"] = self.relation(self.distill.project(embeddings), targets)
                total = total + self.config.distill.relation * losses["relation"]
        return {**losses, "identity": total}

    def _margin(
        self, head: MarginHead, embeddings: Tensor, labels: Tensor, random: torch.Generator
    ) -> Tensor:
        """A head's loss on the whole batch."""
        rate = self.config.head.sample_rate
        if rate < 1:
            kept = draw_kept(head.shard, rate, random, embeddings.device)
            return sharded_loss(head, embeddings, labels, kept)
        if collectives.size() > 1:
            return sharded_loss(head, embeddings, labels)
        return head_loss(head(embeddings, labels), labels)

    def _of_branches(self, embeddings: Tensor, labels: Tensor, random: torch.Generator) -> Losses:
        """Each branch's loss on its own samples."""
        losses: Losses = {}
        for number, head in enumerate(cast("Iterable[MarginHead]", self.branches)):
            start, end = self.starts[number], self.starts[number + 1]
            own = (labels >= start) & (labels < end)
            own_labels = labels[own] - start
            losses[f"margin{number}"] = self._margin(head, embeddings[own], own_labels, random)
        return losses


def sparsity(latent: Tensor, target: float) -> Tensor:
    """KL divergence between the wanted and the mean activation of bottleneck channels; a scalar.

    Activations are brought into (0, 1) by x / (1 + x): ReLU's zeros stay zero, and an all-zero latent
    gives a finite loss. The means, over all processes' samples, are held off 0 and 1, where the divergence
    has poles.
    """
    mean_c = collectives.mean_over_processes((latent / (1 + latent)).mean((0, 2, 3)))
    mean_c = mean_c.clamp(1e-6, 1 - 1e-6)
    low = target * torch.log(target / mean_c)
    return (low + (1 - target) * torch.log((1 - target) / (1 - mean_c))).mean()


def consistency(embeddings: Tensor, views: int) -> Tensor:
    """1 - mean cosine between an image's views, (V*B, D) view after view: 0 when all agree.

    The mean is over all processes' images.
    """
    unit = nnf.normalize(embeddings.float(), dim=1).view(views, -1, embeddings.shape[1])
    length = unit.mean(0).square().sum(-1)
    # |mean of V unit vectors|^2 = (V + V (V - 1) cosine) / V^2
    return collectives.mean_over_processes((1 - (length * views - 1) / (views - 1)).mean())

"""What the stages minimise, and the batch they see.

Legend: B batch, V permutations an image (views), N side of a crop, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from minusface.config import TrainConfig
from minusface.errors import MinusfaceError
from minusface.recognize import DistillLoss, MarginHead, Teacher, build_head, head_loss

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Faces:
    """A batch as a task sees it.

    ``crops`` (B, 3, N, N) floats in [-1, 1], RGB, mirrored where ``flipped`` (B,) says so; ``labels``
    (B,) and ``keys`` tell who and which image.
    """

    crops: Tensor
    labels: Tensor
    keys: Sequence[str]
    flipped: Tensor


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
        self.teacher, self.config = teacher, config
        size = config.recognizer.embedding_size
        if config.head.weight > 0:
            if min(counts) < 2:
                raise MinusfaceError(
                    f"data: {min(counts)} person, expected 2 or more to train on labels"
                )
            if config.data.branches:
                for count, branch in zip(counts, config.data.branches, strict=True):
                    own = replace(config.head, scale=branch.scale, margin=branch.margin)
                    self.branches.append(build_head(own, size, count))
            else:
                self.head = build_head(config.head, size, counts[0])
        if teacher is not None and config.distill.weight > 0:
            self.distill = DistillLoss(size, teacher.size, config.distill.pairwise)
        if self.head is None and self.distill is None and not self.branches:
            raise MinusfaceError(
                "nothing to learn: head.weight is 0 and distill.teacher is not given"
            )

    def forward(self, embeddings: Tensor, faces: Faces, views: int = 1) -> Losses:
        """Named losses of embeddings (V*B, D), view after view; ``identity`` is their weighted sum."""
        losses: Losses = {}
        total = embeddings.new_zeros((), dtype=torch.float32)
        if self.head is not None:
            logits = self.head(embeddings, faces.labels.repeat(views))
            losses["margin"] = head_loss(logits, faces.labels.repeat(views))
            total = total + self.config.head.weight * losses["margin"]
        if self.branches:
            for name, loss in self._of_branches(embeddings, faces.labels.repeat(views)).items():
                weight = self.config.data.branches[len(losses)].weight
                losses[name] = loss
                total = total + self.config.head.weight * weight * loss
        if self.distill is not None and self.teacher is not None:
            targets = self.teacher.targets(faces.keys, faces.crops, faces.flipped)
            parts = self.distill(embeddings, targets.repeat(views, 1))
            losses["cosine"], losses["pairwise"] = parts.cosine, parts.pairwise
            total = total + self.config.distill.weight * parts.total
        return {**losses, "identity": total}

    def _of_branches(self, embeddings: Tensor, labels: Tensor) -> Losses:
        """Each branch's loss on its own samples."""
        losses: Losses = {}
        for number, head in enumerate(self.branches):
            start, end = self.starts[number], self.starts[number + 1]
            own = (labels >= start) & (labels < end)
            own_labels = labels[own] - start
            losses[f"margin{number}"] = head_loss(head(embeddings[own], own_labels), own_labels)
        return losses


def sparsity(latent: Tensor, target: float) -> Tensor:
    """KL divergence between the wanted and the mean activation of bottleneck channels; a scalar.

    Activations are brought into (0, 1) by x / (1 + x): ReLU's zeros stay zero, and an all-zero latent
    gives a finite loss. The means are held off 0 and 1, where the divergence has poles.
    """
    mean_c = (latent / (1 + latent)).mean((0, 2, 3)).clamp(1e-6, 1 - 1e-6)
    low = target * torch.log(target / mean_c)
    return (low + (1 - target) * torch.log((1 - target) / (1 - mean_c))).mean()


def consistency(embeddings: Tensor, views: int) -> Tensor:
    """1 - mean cosine between an image's views, (V*B, D) view after view: 0 when all agree."""
    unit = nnf.normalize(embeddings.float(), dim=1).view(views, -1, embeddings.shape[1])
    length = unit.mean(0).square().sum(-1)
    # |mean of V unit vectors|^2 = (V + V (V - 1) cosine) / V^2
    return (1 - (length * views - 1) / (views - 1)).mean()

"""The loss that imitates a teacher's embeddings (:mod:`minusface.recognize.teachers`). No part of the paper.

Legend: B batch, D embedding of the teacher, E of the student.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn


class DistillLosses(NamedTuple):
    """Scalars: the terms unweighted, and ``total`` = cosine + pairwise_weight * pairwise."""

    cosine: Tensor
    pairwise: Tensor
    total: Tensor


class DistillLoss(nn.Module):
    """How far embeddings (B, E) are from targets (B, D); 0 where they point the same way.

    ``cosine`` is the mean of 1 - cos(student, target): 1 for unrelated directions. ``pairwise`` compares
    the batch's cosine matrices off the diagonal: the mean squared difference over the teacher's own mean
    square. Cosines between different people are of the order of D**-0.5, so that the bare mean would be
    a hundred times below the cosine term; relative to the teacher's it is also 1 for a student whose
    embeddings are all unrelated. It compares the student's embeddings before the projection, as they
    are compared in use.

    Args:
        embedding_size: E.
        teacher_size: D; a linear projection E to D is learned when it differs.
        pairwise_weight: of the pairwise term in the total.
    """

    def __init__(
        self, embedding_size: int, teacher_size: int, pairwise_weight: float = 1.0
    ) -> None:
        super().__init__()
        self.pairwise_weight = pairwise_weight
        self.teacher_size = teacher_size
        self.projection: nn.Module = nn.Identity()
        if embedding_size != teacher_size:
            self.projection = nn.Linear(embedding_size, teacher_size, bias=False)
            nn.init.orthogonal_(self.projection.weight)

    def forward(self, embeddings: Tensor, targets: Tensor) -> DistillLosses:
        """The losses, computed in float32 under autocast too; targets get no gradient."""
        with torch.autocast(embeddings.device.type, enabled=False):
            raw = embeddings.to(torch.float32)
            teacher = nnf.normalize(targets.detach().to(torch.float32), dim=1)
            cosine = (1.0 - (self.project(raw) * teacher).sum(1)).mean()
            pairwise = self._pairwise(nnf.normalize(raw, dim=1), teacher)
            return DistillLosses(cosine, pairwise, cosine + self.pairwise_weight * pairwise)

    def project(self, embeddings: Tensor) -> Tensor:
        """Embeddings (B, E) in the teacher's space: unit rows (B, D), float32."""
        with torch.autocast(embeddings.device.type, enabled=False):
            return nnf.normalize(self.projection(embeddings.to(torch.float32)), dim=1)

    def _pairwise(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Relative squared error of the cosines between different rows, unit (B, E) and (B, D)."""
        batch = len(student)
        if batch < 2:
            return student.sum() * 0.0
        wanted = _off_diagonal(teacher @ teacher.T)
        error = (_off_diagonal(student @ student.T) - wanted).square().mean()
        # Random directions in D dimensions have mean square 1/D; a small batch may fall below.
        return error / wanted.square().mean().clamp_min(1.0 / self.teacher_size)


def _off_diagonal(square: Tensor) -> Tensor:
    """(B, B) to (B * (B - 1),), row by row; by place, as a mask would make a GPU's host wait."""
    batch = len(square)
    return square.flatten()[:-1].view(batch - 1, batch + 1)[:, 1:].flatten()

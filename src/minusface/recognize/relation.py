"""Which training photos an embedding is near to: imitated, as a teacher sees it. No part of the paper.

The cosine to its target asks an embedding to lie at a place; what recognition needs is that it lies nearer to
its own person than to others. So the teacher's likeness of a photo to all the training photos, as a
distribution over them, is a target of its own: whoever cannot reach the place learns at least whom not to be
taken for. Photos of the same person share the target's mass, without a label.

Legend: B batch, M photos of the bank, D embedding of the teacher.
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from minusface.errors import MinusfaceError
from minusface.recognize.teachers import Teacher, TeacherFile

# Photos to compare with; of more, evenly spaced ones are taken.
MOST = 1 << 16


class RelationLoss(nn.Module):
    """Kullback-Leibler divergence of a student's likenesses to a bank of photos from the teacher's.

    Args:
        bank_md: the teacher's embeddings of training photos, unit rows.
        temperature: by which cosines are divided before they become a distribution.
    """

    bank_md: Tensor

    def __init__(self, bank_md: Tensor, temperature: float) -> None:
        super().__init__()
        step = -(-len(bank_md) // MOST)
        self.register_buffer("bank_md", bank_md[::step].float(), persistent=False)
        self.temperature = temperature

    @classmethod
    def of(cls, teacher: Teacher | None, temperature: float) -> RelationLoss:
        """With the training photos of a teacher.

        Raises:
            MinusfaceError: no teacher, or one that keeps no embeddings.
        """
        if not isinstance(teacher, TeacherFile):
            raise MinusfaceError(
                "distill.relation: compares with embeddings of all training images, expected a .npz as "
                "distill.teacher"
            )
        return cls(teacher.known, temperature)

    def forward(self, student_bd: Tensor, target_bd: Tensor) -> Tensor:
        """A scalar, 0 where the likenesses agree.

        Args:
            student_bd: unit rows in the teacher's space, float32.
            target_bd: the teacher's, unit rows.
        """
        # A temperature of 0.08 multiplies what bfloat16 rounds off a cosine by twelve.
        with torch.autocast(student_bd.device.type, enabled=False):
            said_bm = self._likenesses(student_bd)
            with torch.no_grad():
                meant_bm = self._likenesses(target_bd)
            return nnf.kl_div(said_bm, meant_bm, reduction="batchmean", log_target=True)

    def _likenesses(self, rows_bd: Tensor) -> Tensor:
        """Logarithms of how alike each row is to each photo of the bank, as parts of one: (B, M)."""
        cosines_bm = rows_bd.float() @ self.bank_md.T
        return nnf.log_softmax(cosines_bm / self.temperature, dim=1)

"""How crowded the place of an embedding is, as one more coordinate of its template. No part of the paper.

Some embeddings are alike to many people's: faces of a kind that the training data is full of, photos and
permutations that leave little of a face. At one threshold for all they give most of the false matches.
Speaker recognition takes off a score how alike either side is to a cohort of others (adaptive s-norm; Matejka
et al., Interspeech 2017), retrieval does too (CSLS; Conneau et al., ICLR 2018): cos(a, b) less half of
near(a) + near(b), where near() is the mean of the highest cosines with the cohort. Indexes and services
compare templates by their cosine alone, so that here the correction goes into the template: beside the unit
embedding stands sqrt(WEIGHT) * (1 - slope * (near - usual)), and the whole is brought to unit length again.
For

    slope = (1 + WEIGHT) / (2 WEIGHT (1 - DECIDED_AT))

the cosine of two such templates follows the corrected one, to first order in near - usual, for pairs whose
own cosine is DECIDED_AT: where decisions are made. A template tells no more of a face than before.

The cohort is the centres of clusters of embeddings of training photos, and no person's template.

Legend: B batch, M embeddings of the cohort's photos, K centres, D embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from minusface.errors import MinusfaceError

CENTRES = 512
# So many of the centres are "near".
NEAR = 16
WEIGHT, DECIDED_AT = 2.0, 0.4
SLOPE = (1 + WEIGHT) / (2 * WEIGHT * (1 - DECIDED_AT))
ROUNDS = 20
# Photos a centre, at least: one of fewer would be some person's.
LEAST = 8


class Cohort(nn.Module):
    """Raw embeddings (B, D) to unit rows (B, D + 1).

    Args:
        centres: K, at least NEAR.
        size: D.
    """

    centres_kd: Tensor
    usual: Tensor

    def __init__(self, centres: int, size: int) -> None:
        super().__init__()
        if centres < NEAR:
            raise MinusfaceError(f"cohort: {centres} centres, expected {NEAR} or more")
        self.register_buffer("centres_kd", torch.zeros(centres, size))
        self.register_buffer("usual", torch.zeros(1))

    @classmethod
    def of(cls, embeddings: Tensor, centres: int = CENTRES, seed: int = 0) -> Cohort:
        """The cohort of training photos.

        Args:
            embeddings: (M, D), of any length but zero, made as they are in use.
            centres: K; fewer where there are fewer than LEAST photos for each.
            seed: of the clusters' beginnings.

        Raises:
            MinusfaceError: fewer than LEAST * NEAR photos.
        """
        photos, size = embeddings.shape
        if photos < LEAST * NEAR:
            raise MinusfaceError(
                f"cohort: {photos} photos, expected {LEAST * NEAR} or more (better {LEAST * CENTRES:,})"
            )
        rows = nnf.normalize(embeddings.detach().cpu().double(), dim=1)
        made = cls(min(centres, photos // LEAST), size)
        made.centres_kd.copy_(_clusters(rows, len(made.centres_kd), seed))
        made.usual.copy_(made.near(rows.float()).mean())
        return made

    @property
    def size(self) -> int:
        """Numbers of a template: D + 1."""
        return self.centres_kd.shape[1] + 1

    def near(self, unit: Tensor) -> Tensor:
        """Mean of the NEAR highest cosines of unit rows (B, D) with the centres: (B,)."""
        return (unit @ self.centres_kd.T).topk(NEAR, dim=1).values.mean(1)

    def forward(self, embeddings: Tensor) -> Tensor:
        """See the class; float32 out."""
        with torch.autocast(embeddings.device.type, enabled=False):
            unit = nnf.normalize(embeddings.float(), dim=1)
            ease = 1 - SLOPE * (self.near(unit) - self.usual)
            return nnf.normalize(torch.cat([unit, WEIGHT**0.5 * ease[:, None]], 1), dim=1)


def _clusters(rows_md: Tensor, count: int, seed: int) -> Tensor:
    """(K, D) unit centres: k-means by cosine, from rows drawn at random."""
    order = torch.randperm(len(rows_md), generator=torch.Generator().manual_seed(seed))
    centres_kd = rows_md[order[:count]].clone()
    for _ in range(ROUNDS):
        nearest_m = (rows_md @ centres_kd.T).argmax(1)
        sums_kd = torch.zeros_like(centres_kd).index_add_(0, nearest_m, rows_md)
        # Who has lost all its photos stays where it is.
        kept = sums_kd.norm(dim=1, keepdim=True) < 1e-9
        centres_kd = torch.where(kept, centres_kd, nnf.normalize(sums_kd, dim=1))
    return centres_kd

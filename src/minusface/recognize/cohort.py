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
own cosine is DECIDED_AT: where decisions are made. A template tells no more of a face than before. A steeper
slope and fewer near centres even errors out between groups of people, and cost accuracy where most are of one
group (EXPERIMENTS.md).

The cohort is the centres of clusters of embeddings of photos, or better of mixtures that were not trained on:
photos that were learned by heart lie elsewhere than strangers'. Each is the mean of several people, who count
alike however many photos they have: no photo's embedding and nobody's template is among them.

Legend: B batch, M embeddings of the cohort's photos, K centres, D embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from minusface.devices import without_autocast
from minusface.errors import MinusfaceError

CENTRES = 512
# So many of the centres are "near".
NEAR = 16
WEIGHT, DECIDED_AT = 2.0, 0.4
SLOPE = (1 + WEIGHT) / (2 * WEIGHT * (1 - DECIDED_AT))
STEEPEST = 10.0
ROUNDS = 20
# Photos a centre, and people, at least: one of fewer would be some person's.
LEAST, PEOPLE = 8, 4


class Cohort(nn.Module):
    """Raw embeddings (B, D) to unit rows (B, D + 1).

    Args:
        centres: K, at least NEAR.
        size: D.
        nearest: so many of the centres are near.
        slope: how much being near counts.

    Raises:
        MinusfaceError: too few centres, or a form that cannot be.
    """

    centres_kd: Tensor
    usual: Tensor
    form: Tensor

    def __init__(self, centres: int, size: int, nearest: int = NEAR, slope: float = SLOPE) -> None:
        super().__init__()
        if centres < NEAR:
            raise MinusfaceError(f"cohort: {centres} centres, expected {NEAR} or more")
        if not 1 <= nearest <= NEAR:
            raise MinusfaceError(f"cohort: {nearest} near centres, expected 1 to {NEAR}")
        if not 0 < slope <= STEEPEST:
            raise MinusfaceError(
                f"cohort: slope {slope}, expected more than 0 and at most {STEEPEST:g}"
            )
        self.nearest, self.slope = nearest, float(slope)
        self.register_buffer("centres_kd", torch.zeros(centres, size))
        self.register_buffer("usual", torch.zeros(1))
        # Kept with the weights, so that another form makes other weights: their templates do not compare.
        # Weights from before there was a choice hold none.
        usual_form = (nearest, slope) == (NEAR, SLOPE)
        self.register_buffer("form", torch.tensor([nearest, slope]), persistent=not usual_form)

    @classmethod
    def of(
        cls,
        embeddings: Tensor,
        centres: int = CENTRES,
        seed: int = 0,
        people: Tensor | None = None,
        nearest: int = NEAR,
        slope: float = SLOPE,
    ) -> Cohort:
        """The cohort of photos or mixtures.

        Args:
            embeddings: (M, D), of any length but zero, made as they are in use.
            centres: K at most; clusters of fewer than LEAST photos, or PEOPLE people, go to others.
            seed: of the clusters' beginnings.
            people: (M,) whose the photos are, as numbers; by default each is another one's.
            nearest: see the class.
            slope: see the class.

        Raises:
            MinusfaceError: so few photos or people that fewer than NEAR clusters are left.
        """
        photos, size = embeddings.shape
        if photos < LEAST * NEAR:
            raise MinusfaceError(
                f"cohort: {photos} photos, expected {LEAST * NEAR} or more (better {LEAST * CENTRES:,})"
            )
        rows = nnf.normalize(embeddings.detach().cpu().double(), dim=1)
        whose = torch.arange(photos) if people is None else people
        found = _shared(rows, _clusters(rows, min(centres, photos // LEAST), seed), whose)
        if len(found) < NEAR:
            raise MinusfaceError(
                f"cohort: {photos} photos make {len(found)} clusters of {LEAST} photos and {PEOPLE} people "
                f"or more, expected {NEAR}: more photos, of more people"
            )
        made = cls(len(found), size, nearest, slope)
        made.centres_kd.copy_(found)
        made.usual.copy_(made.near(rows.float()).mean())
        return made

    @property
    def size(self) -> int:
        """Numbers of a template: D + 1."""
        return self.centres_kd.shape[1] + 1

    def spec(self) -> dict[str, int | float]:
        """What a recogniser's card must hold to rebuild it; the usual form is left out."""
        form = {"cohort_near": self.nearest, "cohort_slope": self.slope}
        usual = (self.nearest, self.slope) == (NEAR, SLOPE)
        return {"cohort": len(self.centres_kd), **({} if usual else form)}

    def check_form(self, where: str) -> None:
        """Refuse weights that were made with another form than their card tells of.

        Raises:
            MinusfaceError: they were.
        """
        told = torch.tensor([self.nearest, self.slope], dtype=self.form.dtype)
        # Weights may be in half precision.
        if not torch.allclose(self.form.cpu(), told, rtol=2e-3):
            raise MinusfaceError(
                f"{where}: made with {self.form.tolist()}, its card has {told.tolist()}"
            )

    def near(self, unit: Tensor) -> Tensor:
        """Mean of the ``nearest`` highest cosines of unit rows (B, D) with the centres: (B,)."""
        return (unit @ self.centres_kd.T).topk(self.nearest, dim=1).values.mean(1)

    def forward(self, embeddings: Tensor) -> Tensor:
        """See the class; float32 out."""
        with without_autocast(embeddings.device.type):
            unit = nnf.normalize(embeddings.float(), dim=1)
            ease = 1 - self.slope * (self.near(unit) - self.usual)
            return nnf.normalize(torch.cat([unit, WEIGHT**0.5 * ease[:, None]], 1), dim=1)


def _clusters(rows_md: Tensor, count: int, seed: int) -> Tensor:
    """(K, D) unit centres: k-means by cosine, from rows drawn at random."""
    order = torch.randperm(len(rows_md), generator=torch.Generator().manual_seed(seed))
    centres_kd = rows_md[order[:count]].clone()
    for _ in range(ROUNDS):
        sums_kd = _sums(rows_md, _nearest(rows_md, centres_kd), count)
        # Who has lost all its photos stays where it is.
        kept = sums_kd.norm(dim=1, keepdim=True) < 1e-9
        centres_kd = torch.where(kept, centres_kd, nnf.normalize(sums_kd, dim=1))
    return centres_kd


def _shared(rows_md: Tensor, centres_kd: Tensor, people_m: Tensor) -> Tensor:
    """(K', D) unit centres of clusters of enough photos and people; the others' photos go to them."""
    while len(centres_kd):
        count, nearest_m = len(centres_kd), _nearest(rows_md, centres_kd)
        photos_k = torch.bincount(nearest_m, minlength=count)
        pairs, pair_m, photos_of_pair = torch.unique(
            torch.stack([nearest_m, people_m], 1), dim=0, return_inverse=True, return_counts=True
        )
        people_k = torch.bincount(pairs[:, 0], minlength=count)
        few = torch.nonzero((photos_k < LEAST) | (people_k < PEOPLE)).flatten()
        if not len(few):
            alike_md = rows_md / photos_of_pair[pair_m][:, None]
            return nnf.normalize(_sums(alike_md, nearest_m, count), dim=1)
        # Some of them at a time: what one gives up may be enough for another.
        gone = few[photos_k[few].argsort(stable=True)][: (len(few) + 7) // 8]
        left = torch.ones(count, dtype=torch.bool)
        left[gone] = False
        centres_kd = centres_kd[left]
    return centres_kd


def _nearest(rows_md: Tensor, centres_kd: Tensor) -> Tensor:
    return (rows_md @ centres_kd.T).argmax(1)


def _sums(rows_md: Tensor, nearest_m: Tensor, count: int) -> Tensor:
    """(K, D), of each centre's photos."""
    return rows_md.new_zeros(count, rows_md.shape[1]).index_add_(0, nearest_m, rows_md)

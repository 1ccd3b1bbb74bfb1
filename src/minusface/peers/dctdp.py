"""DCTDP: frequency channels without DC under Laplace noise (Ji et al., ECCV 2022, arXiv 2207.07316).

Legend: B batch, N side of a crop, K = 63 frequencies a colour.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from minusface.errors import MinusfaceError
from minusface.peers.base import Card, bytes_of
from minusface.peers.frequency import FREQUENCIES, frequencies, laplace

KEPT = FREQUENCIES - 1
# How many scales of the noise fit into the range to either side: 0.03 % of it is cut off.
SCALES = 8


class DctDp:
    """Drop DC, add Laplace noise of scale (range of the coefficient) / (its budget).

    Args:
        epsilon: mean budget of a coefficient.
        shares: 63 positive numbers in proportion to which the budget is dealt out over frequencies
            (u*8 + v without 0), as the paper learns them; equal by default.

    Raises:
        MinusfaceError: a budget or shares that are not above 0, another number of shares.
    """

    name = "dctdp"
    images = KEPT

    def __init__(self, epsilon: float = 1.0, shares: Sequence[float] | None = None) -> None:
        if not epsilon > 0:
            raise MinusfaceError(f"dctdp: budget {epsilon}, expected above 0")
        dealt = torch.ones(KEPT) if shares is None else torch.tensor(list(shares)).float()
        if len(dealt) != KEPT or not bool((dealt > 0).all()):
            raise MinusfaceError(f"dctdp: {len(dealt)} shares, expected {KEPT} above 0")
        self.budget = epsilon * dealt / dealt.mean()
        """(63,), of each frequency."""
        self.card = Card(
            "Ji et al., Privacy-Preserving Face Recognition with Learnable Privacy Budgets in Frequency "
            "Domain, ECCV 2022",
            "block DCT, DC dropped, Laplace noise scaled by the coefficient's range over its budget",
            "equal budgets in the place of learned ones; ranges from the transform, not from photos; "
            "what is sent is scaled so that the noise fits",
            bytes_of(KEPT),
            "none here; the paper learns the budgets with its recogniser",
        )

    def spread(self) -> Tensor:
        """(63,): what multiplies values and noise so that both fit [0, 1]."""
        return 1 / (1 + 2 * SCALES / self.budget)

    @torch.no_grad()
    def protect(self, crops: Tensor, random: torch.Generator) -> Tensor:
        """See :class:`minusface.peers.Protection`: (B, 189, N, N), colour by colour."""
        found = frequencies(crops)[:, :, 1:]
        # Coefficients lie in [0, 1], so the noise of one has scale 1 / budget.
        noise = laplace(found.shape, random).to(crops.device)
        noise = noise / self.budget.to(crops)[:, None, None]
        spread = self.spread().to(crops)[:, None, None]
        return ((found - 0.5 + noise) * spread + 0.5).clamp(0, 1).flatten(1, 2)

    def fingerprint(self) -> str:
        """See :class:`minusface.peers.Protection`."""
        return f"{self.name} {self.budget.tolist()}"

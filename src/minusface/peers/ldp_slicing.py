"""LDP-Slicing: bit planes under randomised response (CVPR 2026).

Legend: B batch, N side of a crop, 8 planes, the most significant first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from minusface.errors import MinusfaceError
from minusface.peers.base import Card, bytes_of

PLANES = 8


class LdpSlicing:
    """Each bit of a value is told truly with probability e^epsilon / (1 + e^epsilon), else inverted.

    Bits answer independently, so the budgets of a value's planes add up to ``epsilon``.

    Args:
        epsilon: budget of an 8-bit value.
        shares: 8 positive numbers in proportion to which the budget is dealt out over the planes, the most
            significant first; equal by default.

    Raises:
        MinusfaceError: a budget or shares that are not above 0, another number of shares.
    """

    name = "ldp-slicing"
    images = 1

    def __init__(self, epsilon: float = 8.0, shares: Sequence[float] | None = None) -> None:
        dealt = [1.0] * PLANES if shares is None else list(shares)
        if not epsilon > 0:
            raise MinusfaceError(f"ldp-slicing: budget {epsilon}, expected above 0")
        if len(dealt) != PLANES or min(dealt) <= 0:
            raise MinusfaceError(f"ldp-slicing: {len(dealt)} shares, expected {PLANES} above 0")
        self.budget = [epsilon * share / sum(dealt) for share in dealt]
        """Of each plane."""
        self.card = Card(
            "LDP-Slicing, CVPR 2026",
            "values cut into bit planes, randomised response on each bit, budgets that add up",
            "pixels, not a transform of them; 8 a value, equal over planes; the paper's way of dealing "
            "the budget out was not at hand",
            bytes_of(1),
        )

    @torch.no_grad()
    def protect(self, crops: Tensor, random: torch.Generator) -> Tensor:
        """See :class:`minusface.peers.Protection`: (B, 3, N, N), multiples of 1/255."""
        values = ((crops.cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.int64)
        told = torch.zeros_like(values)
        for plane, epsilon in enumerate(self.budget):
            bit = (values >> (PLANES - 1 - plane)) & 1
            lies = torch.rand(values.shape, generator=random) < 1 / (1 + math.exp(epsilon))
            told |= (bit ^ lies.long()) << (PLANES - 1 - plane)
        return (told.float() / 255).to(crops.device)

    def fingerprint(self) -> str:
        """See :class:`minusface.peers.Protection`."""
        return f"{self.name} {self.budget}"

"""PartialFace: a random subset of the high frequencies (Mi et al., ICCV 2023, arXiv 2308.02461).

Legend: B batch, N side of a crop, K frequencies a colour.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minusface.errors import MinusfaceError
from minusface.peers.base import Card, bytes_of
from minusface.peers.frequency import FREQUENCIES, frequencies, zigzag


class PartialFace:
    """Drop the low frequencies; send ``subset`` of the others, drawn for each image anew.

    The others are dealt into subsets that do not overlap, in ``ranks`` fixed random orders: an image gets
    one of ``len(subsets)`` choices.

    Args:
        subset: frequencies sent, of each of the three colours.
        dropped: lowest frequencies never sent.
        ranks: how many orders the frequencies are dealt out in.
        seed: of these orders.

    Raises:
        MinusfaceError: frequencies that cannot be dealt out evenly.
    """

    name = "partialface"

    def __init__(self, subset: int = 9, dropped: int = 10, ranks: int = 3, seed: int = 0) -> None:
        left = FREQUENCIES - dropped
        if dropped < 1 or subset < 1 or ranks < 1 or left < subset or left % subset:
            raise MinusfaceError(
                f"partialface: {left} frequencies in subsets of {subset}, {ranks} orders; expected "
                "subsets of equal size"
            )
        self.images = subset
        self._said = f"{self.name} {subset} {dropped} {ranks} {seed}"
        random = torch.Generator().manual_seed(seed)
        high = zigzag()[dropped:]
        orders = [high[torch.randperm(left, generator=random)] for _ in range(ranks)]
        self.subsets = torch.cat([order.view(-1, subset) for order in orders])
        """(subsets, subset) int64: frequencies u*8 + v."""
        self.card = Card(
            "Mi et al., Privacy-Preserving Face Recognition Using Random Frequency Components, ICCV 2023",
            "low frequencies dropped, the rest dealt into subsets of 9 in several orders, one drawn an image",
            "the same subset in all three colours; 10 dropped, 3 orders; a fixed range for values",
            bytes_of(subset),
            "none to protect; its recogniser learns from several draws of each photo",
        )

    def draw(self, count: int, random: torch.Generator) -> Tensor:
        """(count,) which subset each image gets."""
        return torch.randint(len(self.subsets), (count,), generator=random)

    @torch.no_grad()
    def protect(self, crops: Tensor, random: torch.Generator) -> Tensor:
        """See :class:`minusface.peers.Protection`: (B, 27, N, N), colour by colour."""
        chosen = self.subsets[self.draw(len(crops), random)].to(crops.device)
        found = frequencies(crops)
        places = chosen[:, None, :, None, None].expand(-1, 3, -1, *crops.shape[2:])
        return found.gather(2, places).flatten(1, 2)

    def fingerprint(self) -> str:
        """See :class:`minusface.peers.Protection`."""
        return self._said

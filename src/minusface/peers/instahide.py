"""InstaHide: photos mixed, then signs flipped at random (Huang et al., ICML 2020, arXiv 2010.02772).

Legend: B batch, N side of a crop, k images mixed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minusface.errors import MinusfaceError
from minusface.peers.base import Card, bytes_of


class InstaHide:
    """Mix a crop with ``mixed - 1`` others, flip the sign of each value with probability 1/2.

    Args:
        mixed: k, the crop itself included.
        largest: no image weighs more.

    Raises:
        MinusfaceError: fewer than two images, a bound on weights that cannot hold.
    """

    name = "instahide"
    images = 1

    def __init__(self, mixed: int = 4, largest: float = 0.65) -> None:
        if mixed < 2:
            raise MinusfaceError(f"instahide: {mixed} images mixed, expected 2 or more")
        if not 1 / mixed < largest <= 1:
            raise MinusfaceError(
                f"instahide: weights of at most {largest}, expected above 1/{mixed}"
            )
        self.mixed, self.largest = mixed, largest
        self.others: Tensor | None = None
        self._said = ""
        self.card = Card(
            "Huang et al., InstaHide: Instance-hiding Schemes for Private Distributed Learning, ICML 2020",
            "k = 4 images mixed with random weights of at most 0.65, then random signs a value",
            "mixed with faces of the attacker's kind, not with other public pictures; images only, as there "
            "are no labels to mix",
            bytes_of(1),
            "some crops to mix with, nothing learned",
        )

    def fit(self, crops: Tensor) -> None:
        """Keep crops (M, 3, N, N) in [-1, 1] to mix with.

        Raises:
            MinusfaceError: no crops.
        """
        if not len(crops):
            raise MinusfaceError("instahide: no crops to mix with, expected 1 or more")
        self.others = crops.detach().float().cpu()
        mean = float(self.others.double().mean())
        self._said = f"{len(crops)} {mean:.9f}"

    def weights(self, count: int, random: torch.Generator) -> Tensor:
        """(count, k), each row adds up to 1 and holds nothing above the bound.

        What exceeds it is dealt out over a row's others in proportion to the room that they have.
        """
        drawn = torch.rand(count, self.mixed, generator=random) + 1e-6
        rows = drawn / drawn.sum(1, keepdim=True)
        excess = (rows - self.largest).clamp(min=0).sum(1, keepdim=True)
        room = (self.largest - rows).clamp(min=0)
        return rows.clamp(max=self.largest) + excess * room / room.sum(1, keepdim=True)

    def mix(self, crops: Tensor, random: torch.Generator) -> Tensor:
        """(B, 3, N, N) in [-1, 1], on the CPU.

        Raises:
            MinusfaceError: nothing to mix with.
        """
        if self.others is None:
            raise MinusfaceError("instahide: nothing to mix with, expected fit(crops) first")
        weights = self.weights(len(crops), random)
        chosen = torch.randint(len(self.others), (len(crops), self.mixed - 1), generator=random)
        found = crops.cpu() * weights[:, 0, None, None, None]
        for place in range(self.mixed - 1):
            others = self.others[chosen[:, place]]
            found = found + others * weights[:, place + 1, None, None, None]
        return found

    @torch.no_grad()
    def protect(self, crops: Tensor, random: torch.Generator) -> Tensor:
        """See :class:`minusface.peers.Protection`: (B, 3, N, N)."""
        mixed = self.mix(crops, random)
        signs = torch.randint(0, 2, mixed.shape, generator=random) * 2 - 1
        return ((mixed * signs + 1) / 2).clamp(0, 1).to(crops.device)

    def fingerprint(self) -> str:
        """See :class:`minusface.peers.Protection`."""
        return f"{self.name} {self.mixed} {self.largest} {self._said}"

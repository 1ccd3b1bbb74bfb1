"""PPFR-FD: frequency channels without DC, shuffled and mixed (Wang et al., AAAI 2022).

Legend: B batch, N side of a crop, K frequencies kept a colour.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minusface.errors import MinusfaceError
from minusface.peers.base import Card, bytes_of
from minusface.peers.frequency import FREQUENCIES, frequencies, zigzag
from minusface.recognize import standardize


class PpfrFd:
    """Keep ``kept`` frequencies but not DC, shuffle, average neighbours, normalise, shuffle again.

    Args:
        kept: frequencies of each colour.
        seed: of the order that the channels are shuffled in; the paper's is fixed for a client.

    Raises:
        MinusfaceError: a number of frequencies that there are not.
    """

    name = "ppfr-fd"

    def __init__(self, kept: int = 36, seed: int = 0) -> None:
        if not 2 <= kept < FREQUENCIES:
            raise MinusfaceError(f"ppfr-fd: {kept} frequencies, expected 2 to {FREQUENCIES - 1}")
        self.images, self.seed = kept, seed
        self.kept = zigzag()[1 : kept + 1]
        """(kept,) int64, frequencies u*8 + v; 0, DC, is none of them."""
        self.card = Card(
            "Wang et al., Privacy-Preserving Face Recognition in the Frequency Domain, AAAI 2022",
            "block DCT, DC dropped, a choice of channels, shuffled, neighbours averaged, each channel "
            "normalised, shuffled again",
            "the 36 lowest frequencies but DC in the place of a learned choice; both orders fixed by a seed",
            bytes_of(kept),
            "none here; the paper learns which channels to keep",
        )

    @torch.no_grad()
    def protect(self, crops: Tensor, random: torch.Generator) -> Tensor:
        """See :class:`minusface.peers.Protection`: (B, 3K, N, N)."""
        found = frequencies(crops)[:, :, self.kept.to(crops.device)].flatten(1, 2)
        fixed = torch.Generator().manual_seed(self.seed)
        found = _ordered(found, fixed)
        mixed = (found + found.roll(-1, 1)) / 2
        # Four standard deviations to either side fill the range.
        normal = standardize(mixed) / 4 + 0.5
        return _ordered(normal, fixed).clamp(0, 1)

    def fingerprint(self) -> str:
        """See :class:`minusface.peers.Protection`."""
        return f"{self.name} {self.images} {self.seed}"


def _ordered(channels: Tensor, random: torch.Generator) -> Tensor:
    """Every image's channels (B, F, N, N) in one random order."""
    return channels[:, torch.randperm(channels.shape[1], generator=random).to(channels.device)]

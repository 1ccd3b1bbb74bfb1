"""DuetFace: the client keeps the frequencies that show, the server gets the others (Mi et al., 2022).

Legend: B batch, N side of a crop, K frequencies a colour.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minusface.errors import MinusfaceError
from minusface.peers.base import Card, bytes_of
from minusface.peers.frequency import FREQUENCIES, frequencies, zigzag


class DuetFace:
    """Send all but the ``kept`` lowest frequencies, as they are: nothing is random.

    Args:
        kept: lowest frequencies of each colour that stay with the client.

    Raises:
        MinusfaceError: a split that leaves one side without any.
    """

    name = "duetface"

    def __init__(self, kept: int = 10) -> None:
        if not 1 <= kept < FREQUENCIES:
            raise MinusfaceError(
                f"duetface: {kept} frequencies kept, expected 1 to {FREQUENCIES - 1}"
            )
        self.images = FREQUENCIES - kept
        self.server = zigzag()[kept:]
        """(K,) int64, frequencies u*8 + v that leave the client."""
        self.client = zigzag()[:kept]
        """The others."""
        self.card = Card(
            "Mi et al., DuetFace: Collaborative Privacy-Preserving Face Recognition via Channel Splitting "
            "in the Frequency Domain, ACM MM 2022, arXiv 2207.07340",
            "channels split between client and server; the server's are audited",
            "10 kept a colour, the lowest; the attention that the client sends beside is left out",
            bytes_of(FREQUENCIES - kept),
            "none here; the paper trains a client's and a server's network",
        )

    @torch.no_grad()
    def protect(self, crops: Tensor, random: torch.Generator) -> Tensor:
        """See :class:`minusface.peers.Protection`: (B, 3K, N, N), colour by colour."""
        return frequencies(crops)[:, :, self.server.to(crops.device)].flatten(1, 2)

    def fingerprint(self) -> str:
        """See :class:`minusface.peers.Protection`."""
        return f"{self.name} {self.images}"

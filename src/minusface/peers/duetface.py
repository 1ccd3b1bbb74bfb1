"""DuetFace: the client keeps the frequencies that show, the server gets the others, and where to look
(Mi et al., ACM MM 2022, arXiv 2207.07340).

Legend: B batch, N side of a crop, K frequencies a colour, C features, S side of a feature map.
"""

from __future__ import annotations

import hashlib
from typing import cast

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from minusface.config import RecognizerConfig
from minusface.errors import MinusfaceError
from minusface.peers.base import Card, Pupil, bytes_of
from minusface.peers.frequency import FREQUENCIES, frequencies, zigzag
from minusface.recognize import Recognizer, standardize
from minusface.recognize.iresnet import IResNet

# Of the client's network, whose levels halve the side: its attention is sent from each.
WIDTHS = (16, 32, 64)
# The face in an aligned crop, an ellipse about what the five points span: middle and half axes, of the side.
FACE = (0.5, 0.63, 0.36, 0.42)


class DuetFace:
    """Send all but the ``kept`` lowest frequencies, as they are, and maps of where the client looks.

    The client's network sees the lowest frequencies; the maps are its attention on three levels, cut to
    the face. It is learned with the server's: see :meth:`pupil`. Nothing is random.

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
        # One more holds the maps.
        self.images = FREQUENCIES - kept + 1
        self.server = zigzag()[kept:]
        """(K,) int64, frequencies u*8 + v that leave the client."""
        self.client = zigzag()[:kept]
        """The others."""
        self.glance: Glance | None = None
        maps = sum((112 >> level) ** 2 for level in range(1, len(WIDTHS) + 1))
        self.card = Card(
            "Mi et al., DuetFace: Collaborative Privacy-Preserving Face Recognition via Channel Splitting "
            "in the Frequency Domain, ACM MM 2022, arXiv 2207.07340",
            "channels split between client and server; the client's attention, cut to the face, weighs the "
            "server's features on three levels",
            "10 kept a colour, the lowest; a client of three convolutions; the face is an ellipse of the "
            "aligned crop, in the place of one about landmarks; both networks taught at once",
            bytes_of(FREQUENCIES - kept) + maps,
            "the client's network with a server's; both imitate a recogniser of plain faces",
        )

    def pupil(self, crops: Tensor, embedding_size: int) -> Duet:
        """See :class:`minusface.peers.base.Taught`."""
        return Duet(self.client, self.server, crops.shape[-1], embedding_size)

    def learn(self, pupil: Pupil) -> None:
        """See :class:`minusface.peers.base.Taught`."""
        assert isinstance(pupil, Duet), "a pupil of its own"
        self.glance = pupil.glance.eval().requires_grad_(False)

    @torch.no_grad()
    def protect(self, crops: Tensor, random: torch.Generator) -> Tensor:
        """See :class:`minusface.peers.Protection`: (B, 3K + 3, N, N), colour by colour, then the maps,
        every value of one repeated over what it stands for.

        Raises:
            MinusfaceError: not taught.
        """
        if self.glance is None:
            raise MinusfaceError("duetface: not taught, expected learn(pupil) first")
        found = frequencies(crops)
        maps, _ = self.glance(found[:, :, self.client.to(crops.device)].flatten(1, 2))
        wide = [nnf.interpolate(one, size=crops.shape[-2:], mode="nearest") for one in maps]
        return torch.cat([found[:, :, self.server.to(crops.device)].flatten(1, 2), *wide], 1)

    def fingerprint(self) -> str:
        """See :class:`minusface.peers.Protection`."""
        sha = hashlib.sha256()
        if self.glance is not None:
            for part in self.glance.state_dict().values():
                sha.update(part.cpu().numpy().tobytes())
        return f"{self.name} {self.images} {sha.hexdigest()}"


class Glance(nn.Module):
    """The client's network: where to look, and who it might be.

    Args:
        in_channels: 3 times the frequencies kept.
        embedding_size: D.
    """

    def __init__(self, in_channels: int, embedding_size: int) -> None:
        super().__init__()
        inside = (in_channels, *WIDTHS)
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, 2, 1, bias=False),
                nn.BatchNorm2d(after),
                nn.PReLU(after),
            )
            for before, after in zip(inside, WIDTHS, strict=False)
        )
        self.embedding = nn.Sequential(
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * WIDTHS[-1], embedding_size)
        )

    def forward(self, kept: Tensor) -> tuple[list[Tensor], Tensor]:
        """Channels (B, C, N, N) to attention (B, 1, S, S) in [0, 1] of each level, and (B, D)."""
        hidden = standardize(kept)
        maps = []
        for level in self.levels:
            hidden = level(hidden)
            maps.append(attention(hidden))
        return maps, self.embedding(hidden)


class Duet(Pupil):
    """Client and server.

    Args:
        client: frequencies that stay.
        server: frequencies that leave.
        size: N.
        embedding_size: D.
    """

    def __init__(self, client: Tensor, server: Tensor, size: int, embedding_size: int) -> None:
        super().__init__()
        self.client, self.server = client, server
        self.glance = Glance(3 * len(client), embedding_size)
        config = RecognizerConfig("ir_lite", embedding_size, "standardized")
        self.recognizer = Recognizer(config, 3 * len(server), size, "protected")

    def forward(self, crops: Tensor, random: torch.Generator) -> list[Tensor]:
        """See :class:`Pupil`: the client's embedding, and the server's."""
        with torch.autocast(crops.device.type, enabled=False):
            found = frequencies(crops)
        maps, seen = self.glance(found[:, :, self.client.to(crops.device)].flatten(1, 2))
        sent = found[:, :, self.server.to(crops.device)].flatten(1, 2)
        return [seen, guided(self.recognizer, sent, maps)]


def attention(features: Tensor) -> Tensor:
    """Where features (B, C, S, S) are strong, in the face: (B, 1, S, S) in [0, 1], of maximum 1."""
    strength = features.float().square().mean(1, keepdim=True) * face(features.shape[-1]).to(
        features
    )
    most: Tensor = strength.amax((2, 3), keepdim=True)
    return strength / most.clamp(min=1e-6)


def face(side: int) -> Tensor:
    """(S, S), 1 in the ellipse that an aligned face fills, 0 around it."""
    x, y, half_x, half_y = (side * part for part in FACE)
    at = torch.arange(side) + 0.5
    inside: Tensor = ((at - x) / half_x).square() + ((at[:, None] - y) / half_y).square() <= 1
    return inside.float()


def guided(recognizer: Recognizer, images: Tensor, maps: list[Tensor]) -> Tensor:
    """Embed images (B, C, N, N) while maps weigh the features of their own size, once each."""
    backbone = cast(IResNet, recognizer.backbone)
    waiting = {one.shape[-1]: one for one in maps}
    hidden = recognizer.prepare(images)
    for layer in (backbone.input_layer, *backbone.body):
        hidden = layer(hidden)
        weight = waiting.pop(hidden.shape[-1], None)
        if weight is not None:
            hidden = hidden * (1 + weight.to(hidden.dtype))
    found: Tensor = backbone.output_layer(hidden)
    return found


__all__ = ["Duet", "DuetFace", "Glance", "attention", "face"]

"""PRO-Face: the photo and an obfuscation of it are fused into a picture that looks like the obfuscation and
is still recognised (Yuan et al., ACM MM 2022).

Legend: B batch, N side of a crop, D embedding.
"""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from minusface.config import RecognizerConfig
from minusface.errors import MinusfaceError
from minusface.peers.base import Blur, Card, Pupil, bytes_of
from minusface.protect import UNet
from minusface.protect.generator import start_lively
from minusface.recognize import Recognizer

WIDTH = 16
# Of the distance to the obfuscation beside the identity's loss, per unit of [0, 1] pixels.
LOOKS = 10.0


class ProFace:
    """Send a fusion of the crop and its blur: see :meth:`pupil` for how it is learned. Nothing is random.

    Args:
        sigma: of the Gaussian that obfuscates, in pixels.
    """

    name = "proface"
    images = 1

    def __init__(self, sigma: float = 4.0) -> None:
        self.obfuscation = Blur(sigma)
        self.fusion: Fusion | None = None
        self.card = Card(
            "Yuan et al., PRO-Face: A Generic Framework for Privacy-preserving Recognizable Obfuscation of "
            "Face Images, ACM MM 2022",
            "a network fuses photo and obfuscation; pixels are held to the obfuscation, identity to a "
            "recogniser's embedding of the photo",
            f"a Gaussian blur of {sigma:g} pixels obfuscates; a U-Net of width {WIDTH}; L1 of weight "
            f"{LOOKS:g} for pixels; the recogniser is learned at the same time, where the paper has one",
            bytes_of(self.images),
            "the fusion with a recogniser, which imitates one of plain faces",
        )

    def pupil(self, crops: Tensor, embedding_size: int) -> Fused:
        """See :class:`minusface.peers.base.Taught`."""
        return Fused(self.obfuscation, crops.shape[-1], embedding_size)

    def learn(self, pupil: Pupil) -> None:
        """See :class:`minusface.peers.base.Taught`."""
        assert isinstance(pupil, Fused), "a pupil of its own"
        self.fusion = pupil.fusion.eval().requires_grad_(False)

    @torch.no_grad()
    def protect(self, crops: Tensor, random: torch.Generator) -> Tensor:
        """See :class:`minusface.peers.Protection`.

        Raises:
            MinusfaceError: not taught.
        """
        if self.fusion is None:
            raise MinusfaceError("proface: not taught, expected learn(pupil) first")
        fused: Tensor = self.fusion(crops, self.obfuscation.protect(crops, random))
        return fused

    def fingerprint(self) -> str:
        """See :class:`minusface.peers.Protection`."""
        sha = hashlib.sha256()
        if self.fusion is not None:
            for part in self.fusion.state_dict().values():
                sha.update(part.cpu().numpy().tobytes())
        return f"{self.name} {self.obfuscation.fingerprint()} {sha.hexdigest()}"


class Fusion(nn.Module):
    """What the client computes: the obfuscation, changed a little."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.unet = UNet(6, width)
        self.unet.project = nn.Conv2d(width, 3, 1)
        start_lively(self.unet)

    def forward(self, crops: Tensor, obfuscated: Tensor) -> Tensor:
        """Crops (B, 3, N, N) in [-1, 1] and their obfuscations in [0, 1] to (B, 3, N, N) in [0, 1]."""
        change: Tensor = self.unet(torch.cat([crops, obfuscated * 2 - 1], 1)).regenerated
        return (obfuscated + change.float()).clamp(0, 1)


class Fused(Pupil):
    """The fusion, and a recogniser of what it makes.

    Args:
        obfuscation: what pixels are held to.
        size: N.
        embedding_size: D.
    """

    def __init__(self, obfuscation: Blur, size: int, embedding_size: int) -> None:
        super().__init__()
        self.obfuscation, self.fusion = obfuscation, Fusion()
        config = RecognizerConfig("ir_lite", embedding_size, "standardized")
        self.recognizer = Recognizer(config, 3, size, "protected")

    def forward(self, crops: Tensor, random: torch.Generator) -> list[Tensor]:
        """See :class:`Pupil`."""
        obfuscated = self.obfuscation.protect(crops, random)
        fused = self.fusion(crops, obfuscated)
        self.beside = LOOKS * nnf.l1_loss(fused, obfuscated)
        return [self.recognizer(fused)]


__all__ = ["Fused", "Fusion", "ProFace"]

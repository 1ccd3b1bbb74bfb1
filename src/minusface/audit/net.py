"""The network of attackers that rebuild the photo from what they see.

Legend: B batch, N side of a crop, I channels the network reads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minusface.protect import UNet
from minusface.protect.generator import start_lively


class RecoveryNet(nn.Module):
    """The generator's U-Net with another entrance and exit, added to what a blind guess would say.

    Args:
        width: of the U-Net.
        mean: (outputs, N, N), the mean of what is sought: the guess of who sees nothing.
        reach: (outputs,) how far what is sought usually lies from its mean.
        shift: (I,) taken from the inputs.
        scale: (I,) the inputs are divided by it.
    """

    mean: Tensor
    reach: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(
        self, width: int, mean: Tensor, reach: Tensor, shift: Tensor, scale: Tensor
    ) -> None:
        super().__init__()
        self.unet = UNet(len(shift), width)
        self.unet.project = nn.Conv2d(width, len(mean), 1)
        start_lively(self.unet)
        for name, value in zip(
            ("mean", "reach", "shift", "scale"), (mean, reach, shift, scale), strict=True
        ):
            self.register_buffer(name, value.float().clone())

    def forward(self, seen: Tensor) -> Tensor:
        """(B, I, N, N) to (B, outputs, N, N) float32, not clamped."""
        scaled = (seen - self.shift[:, None, None]) / self.scale[:, None, None]
        inner = scaled.contiguous(memory_format=torch.channels_last)
        change: Tensor = self.unet(inner).regenerated
        return self.mean + change.float() * self.reach[:, None, None]

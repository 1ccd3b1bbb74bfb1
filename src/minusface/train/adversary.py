"""An attacker within stage 1: it rebuilds photos from protected images, and the generator works against it.

Not in the paper. The gradient of the attacker's loss is turned round where it enters the protected image
(Ganin and Lempitsky 2015), so that one step trains both: the attacker to rebuild, the generator to leave
nothing to rebuild from. An attacker trained afterwards, longer, may find what this one did not: audit it.

Legend: B batch, N side of a crop.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from minusface.protect.generator import UNet, start_lively
from minusface.recognize import standardize


class _Reversed(torch.autograd.Function):
    """The same forwards; backwards the gradient times ``-weight``."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return images.view_as(images)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * -ctx.weight, None


class Adversary(nn.Module):
    """The audit's attacker, smaller: a U-Net from protected images to photos.

    Args:
        width: of the U-Net.
        weight: of its loss, where it works on the generator.
    """

    def __init__(self, width: int, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.unet = UNet(3, width)
        start_lively(self.unet)

    def forward(self, protected: Tensor) -> Tensor:
        """Protected images (B, 3, N, N) in [0, 1] to photos (B, 3, N, N), RGB around [-1, 1], float32."""
        seen: Tensor = _Reversed.apply(protected, self.weight)  # type: ignore[no-untyped-call]
        rebuilt: Tensor = self.unet(standardize(seen)).regenerated
        return rebuilt.float()

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
from minusface.recognize import Unmix, standardize


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
        unmixed: N, to let it read what no permutation changes, too; None for protected images alone.
    """

    def __init__(self, width: int, weight: float, unmixed: int | None = None) -> None:
        super().__init__()
        self.weight = weight
        self.unmix = None if unmixed is None else Unmix(unmixed)
        self.unet = UNet(3, width)
        if self.unmix is not None:
            self.unet = UNet(3 + self.unmix.channels(3), width)
            self.unet.project = nn.Conv2d(width, 3, 1)
        start_lively(self.unet)

    def forward(self, protected: Tensor) -> Tensor:
        """Protected images (B, 3, N, N) in [0, 1] to photos (B, 3, N, N), RGB around [-1, 1], float32."""
        seen: Tensor = _Reversed.apply(protected, self.weight)  # type: ignore[no-untyped-call]
        inputs = standardize(seen)
        if self.unmix is not None:
            inputs = torch.cat([inputs, self.unmix(seen)], 1)
        rebuilt: Tensor = self.unet(inputs).regenerated
        return rebuilt.float()

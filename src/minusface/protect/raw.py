"""The toy case's codec.

Legend: B batch, N crop side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RawCodec(nn.Module):
    """No transform: the paper's toy case, which subtracts in the space of pixels (section 3.1)."""

    linear = True
    invertible = True
    channels = 3

    def __init__(self, size: int = 112) -> None:
        super().__init__()
        self.size = size

    def encode(self, images: Tensor) -> Tensor:
        """The images themselves, (B, 3, N, N) in [-1, 1]."""
        return images

    def decode(
        self, features: Tensor, permutation: Tensor | None = None, *, clamp: bool = True
    ) -> Tensor:
        """To [0, 1], held there if asked; a permutation (B, 3) swaps colours."""
        if permutation is not None:
            rows = torch.arange(len(features), device=features.device)[:, None]
            features = features[rows, permutation]
        pixels = (features + 1) / 2
        return pixels.clamp(0, 1) if clamp else pixels

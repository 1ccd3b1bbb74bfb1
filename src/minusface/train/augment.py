"""What training does to crops before a task sees them, on the device and from a given generator.

Legend: B batch, H, W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor

from minusface.devices import sent
from minusface.share import Share


def to_crops(images: Tensor) -> Tensor:
    """Bytes (B, 3, H, W), RGB, to floats in [-1, 1]."""
    return images.float() / 127.5 - 1.0


def mirrored(crops: Tensor, flipped: Tensor) -> Tensor:
    """Crops (B, 3, H, W), mirrored where ``flipped`` (B,) says so."""
    return torch.where(flipped[:, None, None, None], crops.flip(-1), crops)


def augment(
    crops: Tensor,
    random: torch.Generator,
    *,
    flip: bool = True,
    shift: int = 0,
    share: Share | None = None,
) -> tuple[Tensor, Tensor]:
    """Mirror each crop with probability one half, and move it by up to ``shift`` pixels each way.

    Args:
        crops: (B, 3, H, W).
        random: a CPU generator.
        flip: whether to mirror.
        shift: largest move in pixels; the border is repeated.
        share: which samples of the whole batch these are; by default all.

    Returns:
        The crops and a (B,) bool mask of the mirrored ones.
    """
    height, width = crops.shape[2:]
    share = Share.whole(len(crops)) if share is None else share
    flipped = share.of(torch.rand(share.total, generator=random) < (0.5 if flip else 0.0))
    offsets = share.of(torch.randint(0, 2 * shift + 1, (2, share.total), generator=random).T)
    flipped_here = sent(flipped, crops.device)
    crops = mirrored(crops, flipped_here)
    if shift == 0:
        return crops, flipped_here
    padded = nnf.pad(crops, (shift,) * 4, mode="replicate")
    moved = [
        padded[i, :, top : top + height, left : left + width]
        for i, (top, left) in enumerate(offsets.tolist())
    ]
    return torch.stack(moved), flipped_here

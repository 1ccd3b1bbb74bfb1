"""Faces that nobody has: two crops of a batch, one where a smooth field is high, the other where it is low.

For a recogniser that imitates a twin: a teacher's file knows the photos alone, a twin can be asked about
any face. Aligned crops have their eyes, noses and mouths at the same places, so that what comes out is a face
still: the one's eyes with the other's mouth, or both at once.

Legend: B batch, S those of it that are blended, H, W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor

from minusface import collectives
from minusface.devices import sent
from minusface.share import Share

# Places a side at which a field is drawn; between them it is smooth.
KNOTS = 4
# A field's ups and downs are scaled by up to this, before the sigmoid: near 0 both faces are seen at once
# everywhere, at the other end each place shows one.
STEEPEST = 5.0
# Standard deviation of a field's mean: how much of it is the one's.
LEAN = 1.0


def field(lean: Tensor, steep: Tensor, knots: Tensor, size: tuple[int, int]) -> Tensor:
    """How much of each place is the one's: (S, 1, H, W) in (0, 1), smooth.

    Args:
        lean: (S, 1, 1, 1) standard normal, of the field's mean.
        steep: (S, 1, 1, 1) in [0, 1].
        knots: (S, 1, KNOTS, KNOTS) standard normal.
        size: H and W.
    """
    drawn = lean * LEAN + steep * STEEPEST * knots
    return torch.sigmoid(nnf.interpolate(drawn, size=size, mode="bicubic", align_corners=True))


def blend(
    crops: Tensor, chance: float, random: torch.Generator, share: Share | None = None
) -> tuple[Tensor, Tensor]:
    """Some crops of a batch, each blended with the one before it in the whole batch.

    Args:
        crops: (B, 3, H, W). Not changed.
        chance: of each crop.
        random: a CPU generator.
        share: which samples of the whole batch these are; by default all.

    Returns:
        The crops, and the numbers (S,) of the blended ones, on their device.
    """
    share = Share.whole(len(crops)) if share is None else share
    picked = share.of(torch.rand(share.total, generator=random) < chance)
    lean = share.of(torch.randn(share.total, 1, 1, 1, generator=random))
    steep = share.of(torch.rand(share.total, 1, 1, 1, generator=random))
    knots = share.of(torch.randn(share.total, 1, KNOTS, KNOTS, generator=random))
    before = _before(crops, share)
    # Counted on the CPU, where they were drawn: a GPU's host need not wait.
    chosen = torch.nonzero(picked)[:, 0]
    here = sent(chosen, crops.device)
    if len(chosen) == 0:
        return crops, here
    lean, steep, knots = (sent(drawn[chosen], crops.device) for drawn in (lean, steep, knots))
    own = field(lean, steep, knots, (crops.shape[2], crops.shape[3])).to(crops)
    mixed = torch.lerp(before[here], crops[here], own)
    return crops.index_copy(0, here, mixed), here


def _before(crops: Tensor, share: Share) -> Tensor:
    """Of each crop the one before it in the whole batch, which another process may hold; called by all."""
    if collectives.size() == 1:
        return crops.roll(1, 0)
    every = collectives.gather_values(crops)
    numbers = collectives.gather_values(sent(share.rows, crops.device))
    places = torch.empty_like(numbers)
    places[numbers] = torch.arange(len(numbers), device=crops.device)
    return every[places[(sent(share.rows, crops.device) - 1) % share.total]]

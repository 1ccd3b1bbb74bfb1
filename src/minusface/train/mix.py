"""Faces that nobody has, from photos: two people's photos blended, and their geometry changed.

For a student that imitates a network. A few thousand photos are learned by heart; of faces in between the
network can be asked as often as one likes. Aligned crops have their eyes, noses and mouths at the same
places, so what comes out is a face still.

Legend: B batch, N side of a crop in pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor

from minusface.train.blend import KNOTS, field

# Part of the faces that are one person's, and of those whose geometry stays.
ALONE, UNBENT = 0.3, 0.2
# A smooth displacement is drawn at so many places a side, with a deviation of up to so many pixels of 112.
BENDS, BEND = 5, 3.0
# Each side of a face is stretched by up to this.
STRETCH = 0.06


def mixed(first: Tensor, second: Tensor, random: torch.Generator, alone: float = ALONE) -> Tensor:
    """One new face of each two.

    Args:
        first: (B, 3, N, N) bytes, RGB.
        second: the same, drawn apart.
        random: a CPU generator.
        alone: the part of them that are the first's alone, bent.

    Returns:
        (B, 3, N, N) bytes, on the CPU.
    """
    count, side = len(first), first.shape[-1]
    one, other = (_mirrored(pixels.float(), random) for pixels in (first, second))
    lean = torch.randn(count, 1, 1, 1, generator=random)
    steep = torch.rand(count, 1, 1, 1, generator=random)
    knots = torch.randn(count, 1, KNOTS, KNOTS, generator=random)
    own = field(lean, steep, knots, (side, side))
    unmixed = torch.rand(count, 1, 1, 1, generator=random) < alone
    made = torch.where(unmixed, one, torch.lerp(other, one, own))
    return _bent(made, random).clamp(0, 255).round().to(torch.uint8)


def _mirrored(pixels: Tensor, random: torch.Generator) -> Tensor:
    chosen = torch.rand(len(pixels), 1, 1, 1, generator=random) < 0.5
    return torch.where(chosen, pixels.flip(-1), pixels)


def _bent(pixels: Tensor, random: torch.Generator) -> Tensor:
    """Stretched, and displaced smoothly; the border is repeated."""
    count, side = len(pixels), pixels.shape[-1]
    most = torch.rand(count, 1, 1, 1, generator=random) * BEND * 2 / 112
    most = most * (torch.rand(count, 1, 1, 1, generator=random) >= UNBENT)
    knots = most * torch.randn(count, 2, BENDS, BENDS, generator=random)
    bends = nnf.interpolate(knots, size=(side, side), mode="bicubic", align_corners=True)
    stretch = 1 + (torch.rand(count, 1, 1, 2, generator=random) * 2 - 1) * STRETCH
    same = torch.eye(2, 3)[None]
    grid = nnf.affine_grid(same, [1, 3, side, side], align_corners=False)
    grid = grid * stretch + bends.permute(0, 2, 3, 1)
    return nnf.grid_sample(pixels, grid, "bicubic", padding_mode="border", align_corners=False)

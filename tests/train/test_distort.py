"""Distortions: each does what its name says, repeats under its seed and leaves its input alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from minusface.config import AugmentConfig
from minusface.train import distort as module
from minusface.train.distort import blur, distort, jitter, jpeg, occlude, recolour, to_grey

Step = Callable[[Tensor, torch.Generator], Tensor]
STEPS: list[Step] = [jitter, recolour, to_grey, occlude, blur, jpeg]


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth_crops(count: int = 6, side: int = 48) -> Tensor:
    """Soft coloured pictures, which JPEG and blur change little."""
    coarse = torch.rand(count, 3, 4, 4, generator=draws(7)) * 1.6 - 0.8
    return torch.nn.functional.interpolate(coarse, size=side, mode="bicubic").clamp(-1, 1)


@pytest.mark.parametrize("step", STEPS, ids=lambda s: s.__name__)
def test_shape_range_repeat_and_input_untouched(step: Step) -> None:
    crops = smooth_crops()
    before = crops.clone()
    made = step(crops, draws())
    assert made.shape == crops.shape
    assert made.dtype == crops.dtype
    assert made.min() >= -1 - 1e-5
    assert made.max() <= 1 + 1e-5
    assert torch.equal(crops, before)
    assert torch.equal(made, step(crops, draws()))
    assert not torch.equal(made, crops)


def test_nothing_is_drawn_or_changed_at_chance_zero() -> None:
    crops, random = smooth_crops(), draws()
    state = random.get_state()
    assert torch.equal(distort(crops, random, AugmentConfig()), crops)
    assert torch.equal(random.get_state(), state)


def test_each_chance_picks_its_part() -> None:
    crops = torch.rand(400, 3, 8, 8, generator=draws(3)) - 0.5
    made = distort(crops, draws(), AugmentConfig(grey=0.25))
    grey = (made[:, 0] == made[:, 1]).flatten(1).all(1)
    assert 0.15 < grey.float().mean() < 0.35
    assert torch.equal(made[~grey], crops[~grey])


def test_grey_is_luma() -> None:
    made = to_grey(torch.tensor([1.0, -1.0, 0.5])[None, :, None, None].expand(1, 3, 4, 4), draws())
    torch.testing.assert_close(made, torch.full((1, 3, 4, 4), 0.299 - 0.587 + 0.5 * 0.114))


def test_blur_keeps_the_mean_and_lowers_the_contrast() -> None:
    crops = torch.rand(4, 3, 64, 64, generator=draws(1)) * 2 - 1
    made = blur(crops, draws())
    assert (made.mean((1, 2, 3)) - crops.mean((1, 2, 3))).abs().max() < 0.02
    assert (made.std((1, 2, 3)) < 0.9 * crops.std((1, 2, 3))).all()
    flat = torch.full((2, 3, 20, 20), 0.3)
    torch.testing.assert_close(blur(flat, draws()), flat)


def test_jpeg_keeps_the_colour_order() -> None:
    """A red image stays red: swapped channels would make it blue."""
    red = torch.tensor([0.8, -0.8, -0.8])[None, :, None, None].expand(3, 3, 32, 32).contiguous()
    assert (jpeg(red, draws()) - red).abs().max() < 0.1


def test_occlusion_covers_one_rectangle_within_its_bounds() -> None:
    crops = torch.full((40, 3, 50, 60), 5.0)  # a value no patch takes
    made = occlude(crops, draws())
    low, high = module.PATCH_SIDE
    for hidden in (made != 5).any(1):
        rows, columns = hidden.any(1), hidden.any(0)
        assert hidden.sum() == rows.sum() * columns.sum()
        assert int(low * 50) <= rows.sum() <= high * 50
        assert int(low * 60) <= columns.sum() <= high * 60


def test_jitter_turns_about_the_centre() -> None:
    crops = torch.zeros(8, 3, 49, 49)
    crops[:, :, 24, 24] = 1.0
    made = jitter(crops, draws())
    assert (made[:, 0].flatten(1).argmax(1) == 24 * 49 + 24).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_agrees_with_cpu() -> None:
    crops, all_of_it = smooth_crops(), AugmentConfig(0.5, 0.5, 0.5, 0.5, 0.5, 0.5)
    made = distort(crops.cuda(), draws(), all_of_it)
    assert (made.cpu() - distort(crops, draws(), all_of_it)).abs().mean() < 0.01

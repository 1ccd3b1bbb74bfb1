"""The permutation that shows least: against the slow measure, and what choosing may not change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from minusface.config import CodecConfig, GeneratorConfig
from minusface.errors import MinusfaceError
from minusface.protect import Protector, draw_permutation
from minusface.protect.choice import edges, shown
from tests.reference import choice as slow

SIZE = 32


def faces(batch: int = 2, seed: int = 0) -> Tensor:
    """Smooth pictures with something to see, (B, 3, N, N) in [-1, 1]."""
    small = torch.rand(batch, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(small, size=SIZE, mode="bicubic").clamp(-1, 1)


def model(n_duplicate: int = 1) -> Protector:
    torch.manual_seed(0)
    made = Protector(CodecConfig("dct", SIZE, 8), GeneratorConfig(4), n_duplicate)
    return made.eval().requires_grad_(False)


def orders(*shape: int, seed: int = 1) -> Tensor:
    drawn = draw_permutation(int(np.prod(shape)), 192, torch.Generator().manual_seed(seed))
    return drawn.view(*shape, 192)


def picture(image: Tensor) -> slow.Array:
    return image.permute(1, 2, 0).double().numpy()


def test_measure_is_the_slow_one() -> None:
    crops, images = faces(3), torch.rand(3, 4, 3, SIZE, SIZE)
    # One follows the photo's outlines in other colours.
    images[:, 1] = 0.5 + 0.1 * crops.flip(1)
    found = shown(crops, images)
    for b in range(3):
        assert np.allclose(edges(crops)[b].numpy(), slow.edges(picture(crops[b])), atol=1e-5)
        for k in range(4):
            assert abs(found[b, k] - slow.shown(picture(crops[b]), picture(images[b, k]))) < 1e-4
    assert (found[:, 1] > 0.8).all()
    assert (found[:, [0, 2, 3]] < 0.3).all()


def test_flat_images_show_nothing() -> None:
    crops = faces(1)
    assert shown(crops, torch.full((1, 2, 3, SIZE, SIZE), 0.5)).abs().max() == 0
    assert shown(torch.zeros(1, 3, SIZE, SIZE), torch.rand(1, 2, 3, SIZE, SIZE)).abs().max() == 0


@pytest.mark.parametrize("copies", [1, 2])
def test_the_least_of_all_tries_is_kept(copies: int) -> None:
    protector, crops, tried = model(copies), faces(3), orders(3, copies, 5)
    images, chosen = protector.choose(crops, tried)
    assert images.shape == (3, 3 * copies, SIZE, SIZE)
    for copy in range(copies):
        each = [model()(crops, tried[:, copy, k]) for k in range(5)]
        values = shown(crops, torch.stack(each, 1))
        best = values.argmin(1)
        assert (values.amin(1) < values.mean(1) - 0.01).all()
        for b in range(3):
            assert torch.equal(chosen[b, copy], tried[b, copy, best[b]])
            kept = images[b, 3 * copy : 3 * copy + 3]
            assert torch.allclose(kept, each[int(best[b])][b], atol=1e-5)


def test_protect_with_tries() -> None:
    protector, crops = model(), faces(3)
    given = orders(3, 4)
    found = protector.protect(crops, given, tries=4, batch_size=2)
    want, _ = protector.choose(crops, given[:, None])
    assert torch.allclose(found.pixels, want, atol=1e-5)
    # One try is the method as it is, to the last bit.
    one = protector.protect(crops, given[:, :1], tries=1)
    assert torch.equal(one.pixels, protector.protect(crops, given[:, 0]).pixels)
    # Fresh permutations from the system's entropy.
    a, b = protector.protect(crops, tries=4), protector.protect(crops, tries=4)
    assert not torch.equal(a.pixels, b.pixels)
    assert protector.protect(crops[:0], tries=4).pixels.shape == (0, 3, SIZE, SIZE)


def test_refusals() -> None:
    protector, crops = model(), faces(2)
    for tries in (0, -1, 65):
        with pytest.raises(MinusfaceError, match=f"tries {tries}: expected 1 to 64"):
            protector.protect(crops, tries=tries)
    with pytest.raises(MinusfaceError, match=r"expected \(2, 4, 192\)"):
        protector.protect(crops, orders(2, 3), tries=4)

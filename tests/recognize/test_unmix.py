"""The receiver's input transform that no mixture of colours changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minusface.config import RecognizerConfig
from minusface.data.synthetic import SyntheticFaces
from minusface.errors import MinusfaceError
from minusface.protect import Protector, draw_permutation
from minusface.recognize import Recognizer, Unmix, warm_start
from minusface.recognize import unmix as module
from minusface.types import FaceCrop
from tests.reference.unmix import unmixed


def noise(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 15), st.integers(0, 15), st.booleans())
def test_as_computed_pixel_by_pixel(seed: int, y: int, x: int, wide: bool) -> None:
    image = noise(seed, 1, 3, 16, 16)
    wanted = unmixed(
        image[0].numpy().astype(np.float64),
        y,
        x,
        deviation=module.NEIGHBOURHOOD * 16,
        coarse=module.COARSE,
        ridge=module.RIDGE,
        floor=module.FLOOR,
        knee=module.KNEE,
        reach=module.REACH if wide else None,
    )
    found = Unmix(16, wide)(image)[0, :, y, x].numpy()
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-3)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_no_mixture_of_colours_changes_it(seed: int) -> None:
    """But for the ridge, which is small against three lively colours."""
    images = noise(seed, 2, 3, 32, 32)
    random = torch.Generator().manual_seed(seed)
    turned, _ = torch.linalg.qr(torch.randn(3, 3, generator=random))
    mixture = turned * (0.8 + 0.4 * torch.rand(3, generator=random))
    mixed = torch.einsum("kc,bchw->bkhw", mixture, images)
    unmix = Unmix(32, wide=True)
    products = len(unmix.products)
    found, again = (unmix(x)[:, :products] for x in (images, mixed + 0.3))
    assert float((found - again).square().mean().sqrt()) < 0.03 * float(found.std())
    torch.testing.assert_close(found[:, :21], Unmix(32)(images))


@pytest.mark.parametrize(("wide", "channels"), [(False, 21), (True, 58)])
def test_each_image_of_several_is_unmixed_by_itself(wide: bool, channels: int) -> None:
    images = noise(1, 2, 6, 16, 16)
    unmix = Unmix(16, wide)
    both = unmix(images)
    assert both.shape == (2, unmix.channels(6), 16, 16) == (2, 2 * channels, 16, 16)
    torch.testing.assert_close(both[:, channels:], unmix(images[:, 3:]))


@pytest.mark.parametrize("wide", [False, True])
def test_it_is_the_same_where_images_have_gradients(wide: bool) -> None:
    images = noise(4, 9, 3, 16, 16)
    unmix, learned = Unmix(16, wide), images.clone().requires_grad_()
    found = unmix(learned)
    torch.testing.assert_close(found.detach(), unmix(images))
    found.square().sum().backward()
    assert learned.grad is not None
    assert bool(learned.grad.isfinite().all())


def test_what_is_unmixed_widely_begins_where_the_narrow_one_ended() -> None:
    torch.manual_seed(0)
    images = noise(5, 2, 6, 32, 32)
    narrow, wide = (
        Recognizer(RecognizerConfig("ir_lite", 16, name), in_channels=6, size=32).eval()
        for name in ("unmixed", "unmixed_wide")
    )
    assert warm_start(wide, narrow.state_dict()) == []
    with torch.no_grad():
        torch.testing.assert_close(wide(images), narrow(images), atol=1e-5, rtol=1e-4)
    assert warm_start(narrow, wide.state_dict()) == ["input_layer.0.weight"]


@settings(max_examples=10, deadline=None)
@given(st.floats(0.0, 1.0))
def test_flat_images_become_nearly_nothing(value: float) -> None:
    flat = torch.full((1, 3, 16, 16), value)
    assert float(Unmix(16, wide=True)(flat).abs().max()) < 1e-3


def test_half_precision_in_float32_out() -> None:
    images = noise(2, 1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        found = Unmix(16)(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, Unmix(16)(images))


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("learned", [False, True])
def test_narrow_numbers_are_the_wide_ones_rounded_once(wide: bool, learned: bool) -> None:
    images = noise(2, 11, 3, 16, 16).requires_grad_(learned)
    unmix = Unmix(16, wide)
    found = unmix(images, torch.bfloat16)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, unmix(images).bfloat16())


@pytest.mark.parametrize("wide", [False, True])
def test_products_of_one_response_are_made_together(wide: bool) -> None:
    unmix = Unmix(16, wide)
    told = {
        channel: (i, j)
        for i, js, places in unmix.runs
        for some, place in places
        for j, channel in zip(
            range(js.start, js.stop)[some], range(place.start, place.stop), strict=True
        )
    }
    assert [told[channel] for channel in sorted(told)] == list(unmix.products)
    assert len(unmix.runs) == (10 if wide else 6)


def test_sides_that_do_not_divide_are_refused() -> None:
    with pytest.raises(MinusfaceError, match=r"size 18, expected a multiple of 4"):
        Unmix(18)


@pytest.mark.parametrize(("name", "channels"), [("unmixed", 21), ("unmixed_wide", 58)])
def test_a_recogniser_reads_its_channels_and_still_takes_images(name: Any, channels: int) -> None:
    recognizer = Recognizer(RecognizerConfig("ir_lite", 16, name), size=32).eval()
    assert recognizer.first.in_channels == channels
    assert recognizer.prepare(noise(3, 2, 3, 32, 32)).shape == (2, channels, 32, 32)
    assert recognizer.spec()["in_channels"] == 3
    assert not any("unmix" in name for name in recognizer.state_dict())
    again = Recognizer.from_spec(recognizer.spec())
    assert again.first.in_channels == channels


def test_two_permutations_of_a_face_look_more_alike_than_two_faces() -> None:
    """Which they do not as they are: what the transform is for."""
    faces = SyntheticFaces(4, 1, seed=0)
    crops = FaceCrop.from_uint8(np.stack([faces[k].image for k in range(4)])).pixels
    protector = Protector.load("default")
    random = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        a, b = (protector(crops, draw_permutation(4, 192, random)) for _ in range(2))
    unmix = Unmix(crops.shape[-1])

    def alike(x: Tensor, y: Tensor) -> Tensor:
        rows = [(r - r.mean((2, 3), keepdim=True)).flatten(1) for r in (x, y)]
        return (
            torch.nn.functional.normalize(rows[0], dim=1)
            @ torch.nn.functional.normalize(rows[1], dim=1).T
        )

    found, plain = alike(unmix(a), unmix(b)), alike(a, b)
    others = ~torch.eye(4, dtype=torch.bool)
    assert float(found.diagonal().min()) > float(found[others].max()) + 0.1
    assert float(plain.diagonal().mean()) < float(found.diagonal().mean()) - 0.1

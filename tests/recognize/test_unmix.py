"""The receiver's input transform that no mixture of colours changes."""

from __future__ import annotations

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
from minusface.recognize import Recognizer, Unmix
from minusface.recognize import unmix as module
from minusface.types import FaceCrop
from tests.reference.unmix import unmixed


def noise(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 15), st.integers(0, 15))
def test_as_computed_pixel_by_pixel(seed: int, y: int, x: int) -> None:
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
    )
    found = Unmix(16)(image)[0, :, y, x].numpy()
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
    found, again = Unmix(32)(images), Unmix(32)(mixed + 0.3)
    assert float((found - again).square().mean().sqrt()) < 0.03 * float(found.std())


def test_each_image_of_several_is_unmixed_by_itself() -> None:
    images = noise(1, 2, 6, 16, 16)
    both = Unmix(16)(images)
    assert both.shape == (2, 42, 16, 16)
    torch.testing.assert_close(both[:, 21:], Unmix(16)(images[:, 3:]))


@settings(max_examples=10, deadline=None)
@given(st.floats(0.0, 1.0))
def test_flat_images_become_nearly_nothing(value: float) -> None:
    assert float(Unmix(16)(torch.full((1, 3, 16, 16), value)).abs().max()) < 1e-3


def test_half_precision_in_float32_out() -> None:
    images = noise(2, 1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        found = Unmix(16)(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, Unmix(16)(images))


def test_sides_that_do_not_divide_are_refused() -> None:
    with pytest.raises(MinusfaceError, match=r"size 18, expected a multiple of 4"):
        Unmix(18)


def test_a_recogniser_reads_its_channels_and_still_takes_images() -> None:
    recognizer = Recognizer(RecognizerConfig("ir_lite", 16, "unmixed"), size=32).eval()
    assert recognizer.first.in_channels == 21
    assert recognizer.prepare(noise(3, 2, 3, 32, 32)).shape == (2, 21, 32, 32)
    assert recognizer.spec()["in_channels"] == 3
    assert not any("unmix" in name for name in recognizer.state_dict())
    again = Recognizer.from_spec(recognizer.spec())
    assert again.first.in_channels == 21


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

"""Round trips and refusals of what flows through the package, and the wording of choices."""

from __future__ import annotations

import contextlib

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from minusface.errors import MinusfaceError, choice_error
from minusface.types import RANGE_SLACK, FaceCrop, Match, ProtectedImage, Template

SIDES = st.integers(1, 6)
quick = settings(max_examples=40, deadline=None)


@st.composite
def pictures(draw: st.DrawFn) -> np.ndarray:
    """(B, H, W, 3) bytes."""
    shape = (draw(st.integers(1, 3)), draw(SIDES), draw(SIDES), 3)
    return draw(arrays(np.uint8, shape))


@st.composite
def protected(draw: st.DrawFn) -> Tensor:
    """(B, 3n, N, N) whose values are whole 255ths."""
    side = draw(SIDES)
    shape = (draw(st.integers(1, 3)), 3 * draw(st.integers(1, 3)), side, side)
    return torch.from_numpy(draw(arrays(np.uint8, shape)).astype(np.float32)) / 255


def one_line(error: pytest.ExceptionInfo[MinusfaceError], *parts: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for part in parts:
        assert part in text


@quick
@given(pictures())
def test_crop_bytes_round_trip(images: np.ndarray) -> None:
    crop = FaceCrop.from_uint8(images)
    assert crop.pixels.dtype == torch.float32
    assert crop.pixels.shape == (len(images), 3, *images.shape[1:3])
    assert len(crop) == len(images)
    np.testing.assert_array_equal(crop.to_uint8(), images)
    # Colour order and scale, pixel by pixel.
    for channel in range(3):
        plane = images[0, :, :, channel].astype(np.float32) / 127.5 - 1
        np.testing.assert_allclose(crop.pixels[0, channel].numpy(), plane, atol=1e-6)


def test_crop_takes_one_image_and_a_list() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    stacked = FaceCrop.from_uint8(images).pixels
    assert torch.equal(FaceCrop.from_uint8(list(images)).pixels, stacked)
    assert torch.equal(FaceCrop.from_uint8(images[1]).pixels, stacked[1:])
    assert torch.equal(FaceCrop.from_uint8(images[:, ::-1]).pixels, stacked.flip(2))


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((1, 4, 4, 1), np.uint8),
        np.zeros((1, 4, 4, 3), np.float32),
        np.zeros((1, 1, 4, 4, 3), np.uint8),
    ],
    ids=["grey", "rgba", "one channel", "floats", "five axes"],
)
def test_crop_refuses_other_arrays(images: np.ndarray) -> None:
    with pytest.raises(MinusfaceError) as error:
        FaceCrop.from_uint8(images)
    one_line(error, "face crop", str(images.dtype), "expected uint8 (B, H, W, 3)")


@pytest.mark.parametrize("kind", [FaceCrop, ProtectedImage])
@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (torch.zeros(3, 4, 4), "shape (3, 4, 4)"),
        (torch.zeros(1, 4, 4, 4), "shape (1, 4, 4, 4)"),
        (torch.zeros(1, 0, 4, 4), "shape (1, 0, 4, 4)"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "torch.uint8"),
        (torch.full((1, 3, 4, 4), float("nan")), "NaN"),
        (torch.full((1, 3, 4, 4), float("inf")), "infinity"),
        (torch.full((1, 3, 4, 4), -float("inf")), "infinity"),
        (torch.full((1, 3, 4, 4), 1.01), "1.01"),
        (torch.full((1, 3, 4, 4), -1.01), "-1.01"),
        (torch.full((1, 3, 4, 4), 255.0), "255"),
    ],
)
def test_images_refuse(
    kind: type[FaceCrop] | type[ProtectedImage], pixels: Tensor, said: str
) -> None:
    with pytest.raises(MinusfaceError) as error:
        kind(pixels)
    one_line(error, said, "expected")


def test_one_bad_pixel_is_found() -> None:
    for value in (float("nan"), float("inf"), 1.5, -1.5):
        pixels = torch.zeros(3, 3, 4, 4)
        pixels[2, 1, 3, 0] = value
        for kind in (FaceCrop, ProtectedImage):
            with pytest.raises(MinusfaceError):
                kind(pixels)


def test_ranges_differ_and_have_little_slack() -> None:
    below = torch.full((1, 3, 2, 2), -0.5)
    FaceCrop(below)
    with pytest.raises(MinusfaceError, match=r"expected \[0, 1\]"):
        ProtectedImage(below)
    ProtectedImage(torch.full((1, 3, 2, 2), 1 + RANGE_SLACK / 2))
    with pytest.raises(MinusfaceError):
        ProtectedImage(torch.full((1, 3, 2, 2), 1 + RANGE_SLACK * 2))


def test_crop_refuses_two_images_a_row() -> None:
    ProtectedImage(torch.zeros(1, 6, 2, 2))
    with pytest.raises(MinusfaceError, match="6 channels, expected 3"):
        FaceCrop(torch.zeros(1, 6, 2, 2))


def test_empty_batches_pass() -> None:
    assert len(FaceCrop(torch.zeros(0, 3, 4, 4))) == 0
    assert ProtectedImage(torch.zeros(0, 6, 4, 4)).to_uint8().shape == (0, 8, 4, 3)


@quick
@given(protected())
def test_protected_bytes_round_trip(pixels: Tensor) -> None:
    image = ProtectedImage(pixels)
    copies, side = pixels.shape[1] // 3, pixels.shape[2]
    tall = image.to_uint8()
    assert tall.shape == (len(pixels), copies * side, side, 3)
    torch.testing.assert_close(ProtectedImage.from_uint8(tall).pixels, pixels, rtol=0, atol=1e-7)
    for copy in range(copies):
        tile = tall[0, copy * side : (copy + 1) * side]
        own = pixels[0, 3 * copy : 3 * copy + 3].permute(1, 2, 0) * 255
        np.testing.assert_array_equal(tile, own.round().numpy().astype(np.uint8))


@quick
@given(protected())
def test_png_round_trip_is_lossless(pixels: Tensor) -> None:
    files = ProtectedImage(pixels).to_png()
    assert len(files) == len(pixels)
    assert all(data.startswith(b"\x89PNG") for data in files)
    back = ProtectedImage.from_png(files)
    torch.testing.assert_close(back.pixels, pixels, rtol=0, atol=1e-7)


@quick
@given(st.floats(0, 1, width=32))
def test_eight_bits_cost_at_most_half_a_step(value: float) -> None:
    image = ProtectedImage(torch.full((1, 3, 2, 2), value))
    back = ProtectedImage.from_png(image.to_png()).pixels
    assert float((back - value).abs().max()) <= 0.5 / 255 + 1e-6


def test_png_is_rgb_to_any_reader() -> None:
    pixels = torch.zeros(1, 3, 4, 4)
    pixels[:, 0] = 1.0
    bgr = cv2.imdecode(np.frombuffer(ProtectedImage(pixels).to_png()[0], np.uint8), 1)
    assert bgr[0, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((4, 4, 3), np.uint8), "(4, 4, 3)"),
        (np.zeros((1, 4, 4, 4), np.uint8), "(1, 4, 4, 4)"),
        (np.zeros((1, 4, 4, 3), np.float32), "float32"),
        (np.zeros((1, 6, 4, 3), np.uint8), "6x4"),
        (np.zeros((1, 4, 0, 3), np.uint8), "4x0"),
    ],
)
def test_protected_refuses_other_bytes(images: np.ndarray, said: str) -> None:
    with pytest.raises(MinusfaceError) as error:
        ProtectedImage.from_uint8(images)
    one_line(error, said, "expected")


@pytest.mark.parametrize("cut", [0, 1, 20])
def test_png_refuses_damage_and_numbers_it(cut: int) -> None:
    whole = ProtectedImage(torch.zeros(1, 3, 4, 4)).to_png()[0]
    with pytest.raises(MinusfaceError) as error:
        ProtectedImage.from_png([whole, whole[:cut]])
    one_line(error, "protected image 1", "not a readable PNG")


def test_png_refuses_mixed_sizes() -> None:
    small, large = (ProtectedImage(torch.zeros(1, 3, n, n)).to_png()[0] for n in (4, 8))
    with pytest.raises(MinusfaceError, match="different sizes"):
        ProtectedImage.from_png([small, large])


def test_png_of_an_empty_batch() -> None:
    with contextlib.suppress(MinusfaceError):
        assert len(ProtectedImage.from_png([])) == 0


def test_crop_list_of_two_sizes() -> None:
    images = [np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)]
    with pytest.raises(MinusfaceError):
        FaceCrop.from_uint8(images)


@pytest.mark.parametrize(
    "vectors",
    [torch.ones(4), torch.ones(1, 1, 4), torch.tensor([[1.0, float("nan")]])],
    ids=["one axis", "three axes", "NaN"],
)
def test_template_refuses(vectors: Tensor) -> None:
    with pytest.raises(MinusfaceError) as error:
        Template(vectors)
    one_line(error, str(tuple(vectors.shape)), "expected finite (B, D)")


def test_template_similarity_is_every_pair() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (
        torch.nn.functional.normalize(torch.randn(n, 8, generator=generator), dim=1) for n in (3, 2)
    )
    found = Template(a).similarity(Template(b))
    assert found.shape == (3, 2)
    for i in range(3):
        for j in range(2):
            assert float(found[i, j]) == pytest.approx(float((a[i] * b[j]).sum()), abs=1e-6)
    assert len(Template(a)) == 3


def test_match_reaches_its_threshold() -> None:
    assert Match(0.3, 0.3).same
    assert Match(0.31, 0.3).same
    assert not Match(0.29, 0.3).same


def test_types_are_not_each_other() -> None:
    pixels = torch.rand(1, 3, 4, 4)
    assert not isinstance(FaceCrop(pixels), ProtectedImage)
    assert not isinstance(ProtectedImage(pixels), FaceCrop)
    assert FaceCrop(pixels) != ProtectedImage(pixels)


def test_choice_error_names_the_nearest_and_lists_all() -> None:
    error = choice_error("backbone", "ir50", ["mobilefacenet", "ir_50", "ir_18"])
    assert str(error) == (
        "unknown backbone 'ir50'; did you mean 'ir_50'? (known: ir_18, ir_50, mobilefacenet)"
    )
    far = str(choice_error("backbone", "zzzzzz", ["ir_50"]))
    assert "did you mean" not in far
    assert "known: ir_50" in far
    assert isinstance(error, ValueError)

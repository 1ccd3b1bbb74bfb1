"""Protections behind one interface."""

from __future__ import annotations

import pytest
import torch

from minusface.config import CodecConfig, GeneratorConfig
from minusface.errors import MinusfaceError
from minusface.peers import Blur, MinusFace, Openable, Pixelation, Protection, Unprotected, views_of
from minusface.peers.base import mean_of
from minusface.protect import Protector


def crops(count: int = 3, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def minusface(choice: str = "random", copies: int = 1) -> MinusFace:
    torch.manual_seed(0)
    protector = Protector(CodecConfig(size=32), GeneratorConfig(2), copies)
    return MinusFace(protector, choice, secret=b"k" * 32)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "protection", [Unprotected(), Pixelation(5), Blur(3.0), minusface(), minusface("secret", 2)]
)
def test_what_every_protection_promises(protection: Protection) -> None:
    random = torch.Generator().manual_seed(0)
    found = protection.protect(crops(), random)
    assert found.shape == (3, 3 * protection.images, 32, 32)
    assert found.min() >= 0
    assert found.max() <= 1
    again = protection.protect(crops(), torch.Generator().manual_seed(0))
    assert torch.equal(found, again)
    assert views_of(protection, crops(), random, 4).protected.shape == (4, *found.shape)
    assert protection.fingerprint()
    assert protection.name


def test_pixels_of_a_block_are_equal_and_keep_the_mean() -> None:
    found = Pixelation(8).protect(crops(), torch.Generator())
    assert torch.equal(found[..., :8, :8], found[..., :1, :1].expand(-1, -1, 8, 8))
    expected = ((crops() + 1) / 2).mean((2, 3))
    assert torch.allclose(found.mean((2, 3)), expected, atol=1e-5)


def test_blur_keeps_the_mean_colour_of_a_flat_image() -> None:
    flat = torch.full((1, 3, 32, 32), 0.5)
    assert torch.allclose(Blur(2).protect(flat, torch.Generator()), torch.full_like(flat, 0.75))


def test_choices_of_the_permutation() -> None:
    same = crops(1).expand(2, -1, -1, -1)
    random = torch.Generator().manual_seed(0)
    drawn = minusface().protect(same, random)
    assert not torch.equal(drawn[0], drawn[1])
    for choice in ("fixed", "secret"):
        found = minusface(choice).protect(same, random)
        assert torch.equal(found[0], found[1])
    different = minusface("secret").permutation(crops(2), random)
    assert not torch.equal(different[0], different[1])


@pytest.mark.parametrize("copies", [1, 2])
def test_the_fast_mean_is_the_mean_of_draws(copies: int) -> None:
    one = minusface(copies=copies)
    # Small residues, as a trained generator leaves them, so that nothing is clamped.
    faces = crops() * 0.02
    fast = mean_of(one, faces, torch.Generator().manual_seed(3), 16)
    slow = one.views(faces, torch.Generator().manual_seed(3), 16).protected.mean(0)
    assert torch.allclose(fast, slow, atol=2e-3)


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_undoing_explains_the_images_it_was_made_from(copies: int) -> None:
    one = minusface(copies=copies)
    assert isinstance(one, Openable)
    opened = one.open(crops() * 0.02, torch.Generator().manual_seed(2))
    guess = one.undo(opened.protected, opened.permutation)
    assert guess.shape == opened.residue.shape
    seen_again = one.protector.obfuscate(guess, opened.permutation)
    assert torch.allclose(seen_again, opened.protected, atol=2e-3)
    assert guess.norm() <= opened.residue.norm() * 1.001


def test_bad_settings_are_one_line() -> None:
    with pytest.raises(MinusfaceError, match="block of 1"):
        Pixelation(1)
    with pytest.raises(MinusfaceError, match="sigma 0"):
        Blur(0)

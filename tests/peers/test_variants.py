"""MinusFace's variants, each against what sets it apart."""

from __future__ import annotations

import pytest
import torch

from minusface.config import CodecConfig, GeneratorConfig
from minusface.errors import MinusfaceError
from minusface.peers import MinusFace
from minusface.peers.base import Repeating, views_of
from minusface.peers.variants import (
    VARIANTS,
    rotated,
    signed,
    trained_besides,
    unclamped,
    variants_of,
)
from minusface.protect import Protector

SIZE = 32


@pytest.fixture(scope="module")
def own() -> MinusFace:
    torch.manual_seed(0)
    return MinusFace(Protector(CodecConfig("dct", SIZE, 8), GeneratorConfig(4)))


def crops(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=seed(1)) * 2 - 1


def seed(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


@pytest.mark.parametrize("kind", VARIANTS)
def test_what_every_variant_promises(own: MinusFace, kind: str) -> None:
    (variant,) = variants_of(own, [kind])
    found = variant.protect(crops(), seed())
    assert found.shape == (3, 3 * variant.images, SIZE, SIZE)
    assert found.min() >= 0
    assert found.max() <= 1
    assert torch.equal(found, variant.protect(crops(), seed()))
    assert not torch.equal(found, variant.protect(crops(), seed(1)))
    assert variant.name == f"minusface-{kind}"
    assert variant.fingerprint() != own.fingerprint()
    assert isinstance(variant, Repeating)
    drawn = views_of(variant, crops(), seed(), 2).protected
    assert torch.allclose(drawn[0], found, atol=1e-6)
    assert not torch.allclose(drawn[0], drawn[1])


def test_fingerprints_differ(own: MinusFace) -> None:
    found = [variant.fingerprint() for variant in variants_of(own, VARIANTS)]
    assert len(set(found)) == len(found)


def test_without_subtraction_and_shuffle_the_crop_would_come_back(own: MinusFace) -> None:
    (variant,) = variants_of(own, ["no-subtraction"])
    codec = own.protector.codec
    smooth = torch.linspace(-0.8, 0.8, SIZE).expand(2, 3, SIZE, SIZE).contiguous()
    features = variant._residue(smooth)  # type: ignore[attr-defined]
    assert torch.allclose(codec.decode(features), (smooth + 1) / 2, atol=0.01)


def test_a_mask_leaves_channels_in_their_places(own: MinusFace) -> None:
    (variant,) = variants_of(own, ["mask"])
    # Unshuffled, the mean of many draws tends to three quarters of the residue's own picture.
    mean = variant.mean_of(crops(1), seed(), 400) - 0.5  # type: ignore[attr-defined]
    whole = own.protector.codec.decode(own.protector.residue(crops(1))) - 0.5
    part = float((mean * whole).sum() / whole.square().sum())
    assert part == pytest.approx(0.75, abs=0.03)


def test_eight_bits_have_256_levels(own: MinusFace) -> None:
    (variant,) = variants_of(own, ["8-bit"])
    levels = variant.protect(crops(), seed()) * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)


def test_what_the_clamp_cuts_off_is_kept() -> None:
    wide = MinusFace(Protector(CodecConfig("dct", SIZE, 8), GeneratorConfig(4)))
    last = wide.protector.generator.project
    assert last.bias is not None
    with torch.no_grad():
        # Residues so large that most pixels lie outside.
        last.bias.copy_(torch.randn(192, generator=seed(2)) * 300)
    cut = wide.protect(crops(), seed())
    assert ((cut == 0) | (cut == 1)).float().mean() > 0.3
    before = unclamped(wide.protector, wide.protector.residue(crops()), seed())
    assert torch.allclose(before.clamp(0, 1), cut, atol=1e-5)
    soft, stretched = (
        variant.protect(crops(), seed())
        for variant in variants_of(wide, ["soft-clamp", "rescaled"])
    )
    near = (before - 0.5).abs() < 1.5
    undone = 0.5 + torch.atanh(soft * 2 - 1) / 2
    assert torch.allclose(undone[near], before[near], atol=1e-3)
    assert ((before[near] < 0) | (before[near] > 1)).any()
    for image, source in zip(stretched, before, strict=True):
        assert (float(image.min()), float(image.max())) == (0.0, 1.0)
        line = torch.stack([image.flatten(), source.flatten()])
        assert torch.corrcoef(line)[0, 1] > 0.9999
        assert torch.allclose(image * 255, (image * 255).round(), atol=1e-4)


def test_signs_and_rotations_keep_the_energy_and_hide_the_sign(own: MinusFace) -> None:
    residue = own.protector.residue(crops(1))
    for change in (signed, rotated):
        drawn = [change(own.protector, residue, seed(n)) - 0.5 for n in range(300)]
        mean = torch.stack(drawn).mean(0)
        # Every draw's negative is as likely: means vanish, as those of permutations do not.
        assert mean.abs().mean() < 0.2 * torch.stack(drawn).abs().mean()


def test_more_images_of_one_crop_are_of_permutations_of_their_own(own: MinusFace) -> None:
    (variant,) = variants_of(own, ["duplicate-2"])
    first, second = variant.protect(crops(), seed()).split(3, dim=1)
    assert not torch.allclose(first, second)


def test_refusals(own: MinusFace) -> None:
    with pytest.raises(MinusfaceError, match="variant 'soup'"):
        variants_of(own, ["soup"])
    with pytest.raises(MinusfaceError, match="expected NAME=CHECKPOINT"):
        trained_besides(["soup"], SIZE, torch.device("cpu"))

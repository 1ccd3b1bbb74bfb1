"""Generator, shuffle and protector: parity with the reference, determinism, refusals."""

from __future__ import annotations

import json
import pickle
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from minusface import checkpoint
from minusface.config import CodecConfig, GeneratorConfig
from minusface.errors import MinusfaceError
from minusface.protect import (
    Protector,
    UNet,
    draw_mask,
    draw_permutation,
    draw_permutation_from_entropy,
    permutation_of_key,
    rename_reference,
)
from minusface.protect.codec import BlockCodec
from minusface.types import FaceCrop, ProtectedImage
from tests.reference import codec as literal
from tests.reference.weights import by_rule


def small(n_duplicate: int = 1, seed: int = 0) -> Protector:
    protector = Protector(CodecConfig(size=16, ratio=4), GeneratorConfig(width=4), n_duplicate)
    generator = torch.Generator().manual_seed(seed)
    for parameter in protector.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=generator)
    return protector.eval()


def crops(batch: int, size: int = 16) -> Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("tries", [1, 2])
def test_something_can_learn_from_protected_images(tries: int) -> None:
    conv = torch.nn.Conv2d(3, 2, 3)
    conv(small().protect(crops(2), tries=tries).pixels).sum().backward()
    assert conv.weight.grad is not None


def test_no_crops_make_no_images() -> None:
    assert small(2).protect(crops(0)).pixels.shape == (0, 6, 16, 16)


@pytest.mark.parametrize("backbone", ["IR_18", "IR_50"])
def test_reference_parity(shared: Path, backbone: str) -> None:
    from minusface.recognize import build_backbone

    names = json.loads((shared / "golden" / "tface_state_dict_names.json").read_text())
    golden = np.load(shared / "golden" / "model.npz")
    inputs = np.load(shared / "golden" / "dct.npz")
    pixels = torch.from_numpy(inputs["images"]).permute(0, 3, 1, 2).float() / 127.5 - 1
    permutation = torch.from_numpy(inputs["permutation"]).long()
    protector = Protector(CodecConfig(), GeneratorConfig(width=64)).eval()

    def check(name: str, ours: Tensor) -> None:
        theirs = golden[f"{name}"]
        assert np.abs(ours.numpy() - theirs).max() <= 1e-3 * np.abs(theirs).max(), name

    def embed(stage: str, channels: int, state: dict[str, Tensor], images: Tensor) -> None:
        model = build_backbone(backbone.lower(), channels, 512).eval()
        model.load_state_dict(
            {k.removeprefix("recognizer."): v for k, v in state.items() if k.startswith("recog")}
        )
        check(f"{stage}_{backbone}_embedding", model(images))

    with torch.inference_mode():
        state = by_rule(names[f"stage1_{backbone}"])
        ours = rename_reference({k: v for k, v in state.items() if k.startswith("generator.")})
        protector.generator.load_state_dict(ours)
        made = protector.subtract(pixels)
        check(f"stage1_{backbone}_regenerated", protector.codec.decode(made.regenerated) * 2 - 1)
        check(f"stage1_{backbone}_residue", protector.codec.decode(made.residue) * 2 - 1)
        check(f"stage1_{backbone}_latent", made.latent[:, ::64])
        embed("stage1", 192, state, made.residue)
        protected = protector(pixels, permutation)
        check(f"stage2_{backbone}_protected", protected)
        embed("stage2", 3, by_rule(names[f"stage2_{backbone}"]), protected)


def test_reference_width_and_names(shared: Path) -> None:
    names = json.loads((shared / "golden" / "tface_state_dict_names.json").read_text())
    shapes = {k: v for k, v in names["stage1_IR_18"].items() if k.startswith("generator.")}
    renamed = rename_reference({k: torch.empty(v, device="meta") for k, v in shapes.items()})
    ours = UNet(192, 64).state_dict()
    assert {k: tuple(v.shape) for k, v in renamed.items()} == {
        k: tuple(v.shape) for k, v in ours.items()
    }
    assert sum(v.numel() for v in ours.values()) == 34_634_624


def test_forward_is_the_papers_formula() -> None:
    protector, pixels = small(), crops(3)
    order = draw_permutation(3, 48, torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = literal.encode(pixels, 4)
        residue = features - protector.generator(features).regenerated
        expected = literal.decode(literal.shuffle(residue, order), 4)
        torch.testing.assert_close(protector(pixels, order), expected, atol=1e-4, rtol=0)


def test_same_permutation_same_bits() -> None:
    protector, pixels = small(n_duplicate=2), crops(3)
    order = draw_permutation(6, 48, torch.Generator().manual_seed(0)).view(3, 2, 48)
    first, again = protector.protect(pixels, order), protector.protect(pixels, order)
    assert torch.equal(first.pixels, again.pixels)
    alone = protector.protect(pixels[1:2], order[1:2])
    torch.testing.assert_close(first.pixels[1:2], alone.pixels, atol=1e-5, rtol=0)
    assert first.pixels.shape == (3, 6, 16, 16)


def test_entropy_gives_new_permutations() -> None:
    protector, pixels = small(), crops(2)
    one, two = protector.protect(pixels), protector.protect(pixels)
    assert not torch.equal(one.pixels, two.pixels)


def test_duplicates_are_the_single_images_side_by_side() -> None:
    double, single, pixels = small(n_duplicate=2), small(), crops(2)
    order = draw_permutation(4, 48, torch.Generator().manual_seed(0)).view(2, 2, 48)
    both = double.protect(pixels, order).pixels
    for copy in range(2):
        alone = single.protect(pixels, order[:, copy]).pixels
        torch.testing.assert_close(both[:, 3 * copy : 3 * copy + 3], alone, atol=1e-6, rtol=0)


def test_masking_blanks_channels() -> None:
    protector, pixels = small(), crops(2)
    kept = draw_mask(2, 48, 0.25, torch.Generator().manual_seed(0))
    assert kept.sum(1).tolist() == [36, 36]
    with torch.no_grad():
        residue = protector.subtract(pixels).residue * kept[:, :, None, None]
        torch.testing.assert_close(protector(pixels, kept), protector.codec.decode(residue))


@pytest.mark.parametrize("from_entropy", [False, True])
def test_permutations_are_permutations(from_entropy: bool) -> None:
    drawn = (
        draw_permutation_from_entropy(400, 12)
        if from_entropy
        else draw_permutation(400, 12, torch.Generator().manual_seed(5))
    )
    assert torch.equal(drawn.sort(1).values, torch.arange(12).expand(400, -1))
    # Uniform: 400 draws put each channel first about 33 times; 5 standard deviations aside.
    counts = torch.bincount(drawn[:, 0], minlength=12)
    assert counts.min() > 5
    assert counts.max() < 62


def test_permutation_of_key_depends_on_its_key_alone() -> None:
    together = permutation_of_key(["a", "b", "c"], 192, seed=1)
    assert torch.equal(together[1:2], permutation_of_key(["b"], 192, seed=1))
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(together, permutation_of_key(["a", "b", "c"], 192, seed=1, draw=1))
    assert not torch.equal(together, permutation_of_key(["a", "b", "c"], 192, seed=2))


def test_png_round_trip_rounds_to_8_bits(tmp_path: Path) -> None:
    protected = small(n_duplicate=2).protect(crops(3))
    back = ProtectedImage.from_png(protected.to_png())
    assert back.pixels.shape == protected.pixels.shape
    assert float((back.pixels - protected.pixels).abs().max()) <= 0.5 / 255 + 1e-6


def test_save_and_load(tmp_path: Path) -> None:
    protector, pixels = small(), crops(2)
    order = draw_permutation(2, 48, torch.Generator().manual_seed(0))
    tensors = {f"generator.{k}": v for k, v in protector.generator.state_dict().items()}
    card = checkpoint.Card(task="stage1", model=protector.spec())
    checkpoint.save(tmp_path / "run", card, {"model": tensors})
    loaded = Protector.load(tmp_path / "run")
    # Frozen as what is loaded: some processors add up in another order once weights are laid out.
    protector.requires_grad_(False)
    assert torch.equal(
        loaded.protect(pixels, order).pixels, protector.protect(pixels, order).pixels
    )
    assert not any(p.requires_grad for p in loaded.parameters())


def test_refusals(tmp_path: Path) -> None:
    protector, pixels = small(), crops(2)
    with pytest.raises(MinusfaceError, match="NaN"):
        protector.protect(torch.full((1, 3, 16, 16), float("nan")))
    with pytest.raises(MinusfaceError, match=r"expected \[-1, 1\]"):
        protector.protect(pixels * 255)
    with pytest.raises(MinusfaceError, match=r"crops: shape \(2, 3, 8, 8\)"):
        protector.protect(pixels[:, :, ::2, ::2])
    with pytest.raises(MinusfaceError, match="does not hold each"):
        protector.protect(pixels, torch.zeros(2, 48, dtype=torch.int64))
    with pytest.raises(MinusfaceError, match=r"expected \(2, 1, 48\)"):
        protector.protect(pixels, torch.arange(48)[None])
    with pytest.raises(MinusfaceError, match="divisible by 16"):
        UNet(3, 4)(torch.zeros(1, 3, 24, 24))
    with pytest.raises(MinusfaceError, match="n_duplicate 0"):
        Protector(CodecConfig(), GeneratorConfig(width=4), 0)
    with pytest.raises(MinusfaceError, match="not a tensor of the reference"):
        rename_reference({"generator.backbone.middle.weight": torch.zeros(1)})
    checkpoint.save(tmp_path / "plain", checkpoint.Card("plain", {}), {"model": {}})
    with pytest.raises(MinusfaceError, match="holds no generator"):
        Protector.load(tmp_path / "plain")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tries", [1, 2])
def test_crops_of_other_types_of_floats(dtype: torch.dtype, tries: int) -> None:
    protector, pixels = small(), crops(3).to(dtype)
    orders = draw_permutation(3 * tries, 48, torch.Generator().manual_seed(2)).view(3, tries, 48)
    found = protector.protect(pixels, orders, tries=tries).pixels
    assert found.dtype == torch.float32
    assert torch.equal(found, protector.protect(pixels.float(), orders, tries=tries).pixels)


def test_permutations_of_other_types() -> None:
    protector, pixels = small(), crops(2)
    order = draw_permutation(2, 48, torch.Generator().manual_seed(2))
    expected = protector.protect(pixels, order).pixels
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16):
        assert torch.equal(protector.protect(pixels, order.to(dtype)).pixels, expected), dtype
    for other in (order.float(), order.double(), order.to(torch.complex64)):
        with pytest.raises(MinusfaceError, match=r"permutation: torch\..*, expected integers"):
            protector.protect(pixels, other)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batches_of_no_crops(batch_size: int) -> None:
    with pytest.raises(MinusfaceError, match=f"batch_size {batch_size}, expected 1 or more"):
        small().protect(crops(2), batch_size=batch_size)


@pytest.mark.parametrize("codec", ["dct", "dwt", "raw"])
def test_a_protector_can_be_pickled(codec: Any) -> None:
    config = CodecConfig(codec, 16, 4) if codec != "raw" else CodecConfig("raw", 16)
    protector = Protector(config, GeneratorConfig(width=4)).eval().requires_grad_(False)
    order = draw_permutation(2, protector.codec.channels, torch.Generator().manual_seed(2))
    expected = protector.protect(crops(2), order).pixels
    again = pickle.loads(pickle.dumps(protector))
    assert torch.equal(again.protect(crops(2), order).pixels, expected)


@pytest.mark.parametrize("width", [4, 8])
def test_a_generator_that_learned_in_between_protects_with_its_new_weights(width: int) -> None:
    torch.manual_seed(width)
    protector = Protector(CodecConfig(size=16, ratio=4), GeneratorConfig(width=width)).eval()
    order = draw_permutation(2, 48, torch.Generator().manual_seed(2))
    for _ in range(2):
        before = protector.requires_grad_(False).protect(crops(2), order).pixels
        protector.requires_grad_(True)
        # It writes where Python does not see it.
        optimizer = torch.optim.AdamW(protector.parameters(), 0.05, fused=True)
        protector(crops(2), order).square().sum().backward()
        optimizer.step()
        after = protector.requires_grad_(False).protect(crops(2), order).pixels
        assert not torch.allclose(before, after, atol=1e-3)
        assert torch.equal(deepcopy(protector).protect(crops(2), order).pixels, after)


def test_empty_batch() -> None:
    assert small().protect(FaceCrop(torch.zeros(0, 3, 16, 16))).pixels.shape == (0, 3, 16, 16)


def test_residue_in_place_is_the_residue() -> None:
    protector, pixels = small(), crops(3)
    with torch.no_grad():
        torch.testing.assert_close(
            protector.residue(pixels), protector.subtract(pixels).residue, atol=1e-3, rtol=1e-4
        )
    assert protector.residue(pixels.requires_grad_()).requires_grad


def test_decode_projected_is_decode_of_the_projection() -> None:
    codec, project = small().codec, torch.nn.Conv2d(5, 48, 1)
    hidden = torch.randn(3, 5, 16, 16, generator=torch.Generator().manual_seed(0)) * 20
    results = []
    for fused in (True, False):
        leaf = hidden.clone().requires_grad_()
        project.zero_grad()
        assert project.bias is not None
        assert isinstance(codec, BlockCodec)
        if fused:
            pixels = codec.decode_projected(leaf, project.weight, project.bias)
        else:
            pixels = codec.decode(project(leaf))
        pixels.square().sum().backward()
        results.append((pixels.detach(), leaf.grad, project.weight.grad, project.bias.grad))
    for a, b in zip(*results, strict=True):
        assert b is not None
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))

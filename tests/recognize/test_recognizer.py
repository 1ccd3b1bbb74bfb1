"""The recogniser: input transforms, refusals, checkpoints, warm starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minusface import checkpoint
from minusface.config import RecognizerConfig
from minusface.errors import MinusfaceError
from minusface.recognize import Recognizer, standardize, warm_start
from minusface.types import FaceCrop, ProtectedImage

SMALL = RecognizerConfig("ir_lite", 16)


def small(**changes: Any) -> Recognizer:
    return Recognizer(**{"config": SMALL, "size": 32, **changes})


def noise(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 1.0), st.floats(0.0, 1.0))
def test_standardised_channels_have_fixed_moments(seed: int, scale: float, shift: float) -> None:
    x = noise(seed, 2, 6, 8, 8)
    found = standardize(x * scale + shift)
    torch.testing.assert_close(found.mean((2, 3)), torch.zeros(2, 6), atol=1e-4, rtol=0)
    deviation = found.std((2, 3), correction=0)
    torch.testing.assert_close(deviation, torch.full((2, 6), 0.5), atol=0, rtol=0.05)
    # Contrast and brightness, each channel's own, do not matter.
    torch.testing.assert_close(found, standardize(x), atol=0.02, rtol=0.05)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.0, 1.0))
def test_constant_images_become_zero(value: float) -> None:
    found = standardize(torch.full((1, 3, 16, 16), value))
    assert float(found.abs().max()) < 1e-2


def test_standardise_has_a_finite_gradient_on_constant_images() -> None:
    x = torch.full((1, 3, 8, 8), 0.5, requires_grad=True)
    standardize(x).square().sum().backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


@pytest.mark.parametrize(
    ("kind", "transform", "wanted"),
    [
        ("protected", "as_is", lambda x: x),
        ("protected", "rescaled", lambda x: x * 2 - 1),
        ("protected", "standardized", standardize),
        ("crop", "as_is", lambda x: x),
        ("crop", "rescaled", lambda x: x),
        ("crop", "standardized", standardize),
        ("features", "rescaled", lambda x: x),
        ("features", "standardized", lambda x: x),
    ],
)
def test_prepare(kind: Any, transform: Any, wanted: Any) -> None:
    config = RecognizerConfig("ir_lite", 16, transform)
    x = noise(0, 2, 3, 32, 32)
    assert torch.equal(small(config=config, kind=kind).prepare(x), wanted(x))


def test_embeddings_are_unit_rows_whatever_the_batch() -> None:
    recognizer = small(in_channels=6).train()
    pixels = noise(1, 5, 6, 32, 32)
    found = recognizer.embed(ProtectedImage(pixels), batch_size=2)
    assert recognizer.training, "the mode it had must come back"
    torch.testing.assert_close(found.vectors.norm(dim=1), torch.ones(5))
    assert not found.vectors.requires_grad
    recognizer.eval()
    again = recognizer.embed(ProtectedImage(pixels))
    torch.testing.assert_close(again.vectors, found.vectors, atol=1e-5, rtol=1e-4)
    raw = recognizer(pixels)
    torch.testing.assert_close(
        torch.nn.functional.normalize(raw, dim=1).detach(), found.vectors, atol=1e-5, rtol=1e-4
    )
    assert recognizer.embed(ProtectedImage(pixels[:0])).vectors.shape == (0, 16)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("transform", ["rescaled", "unmixed"])
def test_images_of_other_types_of_floats(dtype: torch.dtype, transform: Any) -> None:
    recognizer = small(config=RecognizerConfig("ir_lite", 16, transform)).eval()
    pixels = noise(1, 3, 3, 32, 32).to(dtype)
    found = recognizer.embed(ProtectedImage(pixels)).vectors
    assert found.dtype == torch.float32
    assert torch.equal(found, recognizer.embed(ProtectedImage(pixels.float())).vectors)
    if transform == "rescaled":
        # Of wider weights, images are as wide.
        wider = recognizer.double().embed(ProtectedImage(pixels)).vectors
        torch.testing.assert_close(wider, found, atol=1e-3, rtol=0)


def test_something_can_learn_from_templates() -> None:
    pixels = noise(1, 2, 3, 32, 32)
    head = torch.nn.Linear(16, 2)
    head(small().embed(ProtectedImage(pixels)).vectors).sum().backward()
    assert head.weight.grad is not None


def test_mode_comes_back_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    recognizer = small().train()

    def fail(x: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(recognizer.backbone, "forward", fail)
    with pytest.raises(RuntimeError):
        recognizer.embed(ProtectedImage(noise(0, 1, 3, 32, 32)))
    assert recognizer.training


def test_a_photo_is_refused_where_a_protected_image_is_due() -> None:
    crop = FaceCrop(noise(0, 1, 3, 32, 32))
    image = ProtectedImage(noise(0, 1, 3, 32, 32))
    with pytest.raises(MinusfaceError, match="a photo must be protected first"):
        small().embed(crop)
    with pytest.raises(MinusfaceError, match="a photo must be protected first"):
        small().embed(crop.pixels)  # type: ignore[arg-type]
    with pytest.raises(MinusfaceError, match="expected FaceCrop, not ProtectedImage"):
        small(kind="crop").embed(image)
    assert len(small(kind="crop").embed(crop)) == 1
    with pytest.raises(MinusfaceError, match="stage 2"):
        small(kind="features", in_channels=192).embed(image)


def test_wrong_shapes_and_settings_are_refused() -> None:
    with pytest.raises(MinusfaceError, match=r"\(6, 32, 32\), expected \(3, 32, 32\)"):
        small().embed(ProtectedImage(noise(0, 1, 6, 32, 32)))
    with pytest.raises(MinusfaceError, match=r"\(3, 48, 48\), expected"):
        small().embed(ProtectedImage(noise(0, 1, 3, 48, 48)))
    with pytest.raises(MinusfaceError, match="batch_size 0"):
        small().embed(ProtectedImage(noise(0, 1, 3, 32, 32)), batch_size=0)
    with pytest.raises(MinusfaceError, match="4 input channels"):
        small(in_channels=4)
    with pytest.raises(MinusfaceError, match=r"unknown kind of recogniser 'crops'.*'crop'"):
        small(kind="crops")
    config = RecognizerConfig("ir_lite", 16, "scaled")  # type: ignore[arg-type]
    with pytest.raises(MinusfaceError, match="unknown input transform 'scaled'"):
        small(config=config)


def save(folder: Path, recognizer: Recognizer, prefix: str = "recognizer.", **spec: Any) -> Path:
    card = checkpoint.Card("stage2", {"recognizer": {**recognizer.spec(), **spec}})
    tensors = {f"{prefix}{name}": t for name, t in recognizer.state_dict().items()}
    checkpoint.save(folder, card, {"model": {**tensors, "generator.x": torch.zeros(1)}})
    return folder


def test_checkpoint_comes_back(tmp_path: Path) -> None:
    config = RecognizerConfig("mobilefacenet", 24, "rescaled")
    recognizer = small(config=config, in_channels=9).eval()
    loaded = Recognizer.load(save(tmp_path, recognizer))
    assert loaded.spec() == recognizer.spec()
    assert not loaded.training
    image = ProtectedImage(noise(3, 2, 9, 32, 32))
    assert torch.equal(loaded.embed(image).vectors, recognizer.embed(image).vectors)


def test_a_precision_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, image = save(tmp_path, small()), ProtectedImage(noise(3, 2, 3, 32, 32))
    narrow = Recognizer.load(path, "bfloat16")
    assert (Recognizer.load(path).precision, narrow.precision) == ("float32", "bfloat16")
    for able in (True, False):
        for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
            monkeypatch.setattr(torch.cpu, probe, lambda able=able: able, raising=False)
        expected = "bfloat16" if able else "float32"
        assert Recognizer.load(path, "auto").precision == expected
    with pytest.raises(MinusfaceError, match="unknown precision 'float16'"):
        Recognizer.load(path, "float16")  # type: ignore[arg-type]
    monkeypatch.undo()
    found, exact = narrow.embed(image).vectors, Recognizer.load(path).embed(image).vectors
    assert not torch.equal(found, exact)
    assert float((found * exact).sum(1).min()) > 0.99
    assert narrow.spec() == small().spec(), "checkpoints say nothing of it"


def test_a_device_that_knows_no_autocast() -> None:
    """What counts operations runs there."""
    found = small().to("meta")(torch.empty(2, 3, 32, 32, device="meta"))
    assert found.shape == (2, 16)


def test_checkpoint_with_the_references_names_loads(tmp_path: Path) -> None:
    recognizer = small()
    card = checkpoint.Card("stage2", {"recognizer": recognizer.spec()})
    tensors = {f"recognizer.{name}": t for name, t in recognizer.backbone.state_dict().items()}
    checkpoint.save(tmp_path, card, {"model": tensors})
    loaded = Recognizer.load(tmp_path)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, recognizer.state_dict()[name])


def test_stage1_checkpoint_loads_but_embeds_nothing(tmp_path: Path) -> None:
    loaded = Recognizer.load(save(tmp_path, small(kind="features", in_channels=192)))
    assert loaded.kind == "features"
    with pytest.raises(MinusfaceError, match="frequency features"):
        loaded.embed(ProtectedImage(noise(0, 1, 3, 32, 32)))


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "none", checkpoint.Card("generator", {}), {"model": {}})
    with pytest.raises(MinusfaceError, match=r"\(generator\) holds no recogniser"):
        Recognizer.load(tmp_path / "none")
    with pytest.raises(MinusfaceError, match=r"embedding_size is '16', expected int"):
        Recognizer.load(save(tmp_path / "type", small(), embedding_size="16"))
    with pytest.raises(MinusfaceError, match=r"expected .*backbone"):
        Recognizer.load(save(tmp_path / "field", small(), depth=3))
    with pytest.raises(MinusfaceError, match="unknown backbone 'resnet'"):
        Recognizer.load(save(tmp_path / "name", small(), backbone="resnet"))
    with pytest.raises(MinusfaceError, match="shape"):
        Recognizer.load(save(tmp_path / "size", small(), embedding_size=8))
    with pytest.raises(MinusfaceError, match="missing"):
        Recognizer.load(save(tmp_path / "prefix", small(), prefix="other."))


def test_warm_start_leaves_only_another_stem_at_its_init() -> None:
    source = small(kind="features", in_channels=192)
    target = small()
    stem = target.backbone.input_layer[0].weight.clone()
    assert warm_start(target, source.state_dict()) == ["input_layer.0.weight"]
    own, given = target.backbone.state_dict(), source.backbone.state_dict()
    assert torch.equal(own["input_layer.0.weight"], stem)
    assert all(
        torch.equal(own[name], given[name]) for name in own if own[name].shape == given[name].shape
    )
    assert torch.equal(own["body.5.res_layer.1.weight"], given["body.5.res_layer.1.weight"])


def test_warm_start_from_the_same_shapes_is_whole() -> None:
    source, target = small(kind="crop"), small()
    assert warm_start(target, source.backbone.state_dict()) == []
    image = noise(0, 2, 3, 32, 32)
    np.testing.assert_array_equal(
        source.eval()(image).detach().numpy(), target.eval()(image).detach().numpy()
    )


def test_warm_start_from_another_backbone_is_refused() -> None:
    deep = small(config=RecognizerConfig("ir_34", 16))
    before = {name: t.clone() for name, t in deep.state_dict().items()}
    with pytest.raises(MinusfaceError, match="another backbone than ir_34"):
        warm_start(deep, small().state_dict())
    with pytest.raises(MinusfaceError, match=r"\d+ of \d+ shapes differ"):
        warm_start(small(config=RecognizerConfig("ir_18", 16)), small().state_dict())
    assert all(torch.equal(t, before[name]) for name, t in deep.state_dict().items())

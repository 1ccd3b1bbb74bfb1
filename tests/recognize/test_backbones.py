"""Backbones: shapes, the reference's names and outputs, gradients, precision."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from minusface.errors import MinusfaceError
from minusface.recognize import BACKBONES, build_backbone
from minusface.recognize.iresnet import IResNet, SqueezeExcitation, ir_18, ir_50, ir_lite
from minusface.recognize.mobilefacenet import Depthwise
from tests.reference.weights import by_rule

REFERENCE = {"IR_18": ir_18, "IR_50": ir_50}


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_backbone_maps_images_to_embeddings(name: str) -> None:
    network = build_backbone(name, 6, 24, size=32).train()
    out = network(torch.randn(2, 6, 32, 32))
    assert out.shape == (2, 24)
    assert out.dtype == torch.float32
    out.square().sum().backward()
    missing = [n for n, p in network.named_parameters() if p.grad is None]
    assert not missing
    assert all(bool(p.grad.isfinite().all()) for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", ["ir_lite", "mobilefacenet"])
def test_feature_stem_at_full_size(name: str) -> None:
    network = build_backbone(name, 192, 64).eval()
    assert network(torch.randn(1, 192, 112, 112)).shape == (1, 64)


@pytest.mark.parametrize("name", sorted(REFERENCE))
@pytest.mark.parametrize(("stage", "channels"), [("stage1", 192), ("stage2", 3)])
def test_names_and_shapes_are_the_references(
    shared: Path, name: str, stage: str, channels: int
) -> None:
    listed = json.loads((shared / "golden" / "tface_state_dict_names.json").read_text())
    wanted = {
        key.removeprefix("recognizer."): tuple(shape)
        for key, shape in listed[f"{stage}_{name}"].items()
        if key.startswith("recognizer.")
    }
    own = REFERENCE[name](channels).state_dict()
    assert {key: tuple(tensor.shape) for key, tensor in own.items()} == wanted


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_embeddings_are_the_references(shared: Path, name: str) -> None:
    golden = np.load(shared / "golden" / "model.npz", allow_pickle=False)
    network = REFERENCE[name]()
    shapes = {f"recognizer.{key}": tuple(t.shape) for key, t in network.state_dict().items()}
    filled = by_rule(shapes)
    network.load_state_dict({key.removeprefix("recognizer."): t for key, t in filled.items()})
    with torch.no_grad():
        found = network.eval()(torch.from_numpy(golden[f"stage2_{name}_protected"])).numpy()
    wanted = golden[f"stage2_{name}_embedding"]
    assert np.linalg.norm(found - wanted) <= 1e-3 * np.linalg.norm(wanted)


def test_shortcut_without_new_channels_only_subsamples() -> None:
    unit = ir_18(size=16).body[0]
    x = torch.randn(1, 64, 8, 8)
    assert torch.equal(unit.shortcut_layer(x), x[:, :, ::2, ::2])


def test_squeeze_excitation_gates_channels() -> None:
    layer = SqueezeExcitation(32)
    nn.init.zeros_(layer.fc2.weight)
    x = torch.randn(2, 32, 4, 4)
    torch.testing.assert_close(layer(x), x / 2)
    se_units = [m for m in build_backbone("ir_se_18", 3, 8, 16).modules() if type(m) is type(layer)]
    assert len(se_units) == 8


def test_bfloat16_and_channels_last_agree_with_float32() -> None:
    torch.manual_seed(0)
    network = ir_lite(3, 64, size=64).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        plain = network(x)
        last = network.to(memory_format=torch.channels_last)
        same = last(x.to(memory_format=torch.channels_last))
        with torch.autocast("cpu", torch.bfloat16):
            half = last(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(same, plain, rtol=1e-4, atol=1e-4)
    assert half.dtype == torch.float32
    assert float(torch.cosine_similarity(half, plain).min()) > 0.99


def test_training_steps_work_under_autocast() -> None:
    network = build_backbone("mobilefacenet", 3, 16, 32).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        loss = network(torch.randn(4, 3, 32, 32)).square().mean()
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())


def test_parameter_counts() -> None:
    count = {
        name: sum(p.numel() for p in build_backbone(name, 3, 512).parameters()) / 1e6
        for name in ("ir_18", "ir_lite", "mobilefacenet")
    }
    assert count["ir_18"] == pytest.approx(24.0, abs=0.1)
    assert count["ir_lite"] < 10
    # The paper has 0.99 M with an embedding of 128.
    mobile = sum(p.numel() for p in build_backbone("mobilefacenet", 3, 128).parameters()) / 1e6
    assert mobile == pytest.approx(0.99, abs=0.03)


def test_unknown_names_and_sizes_are_refused() -> None:
    with pytest.raises(MinusfaceError, match=r"did you mean 'ir_50'.*mobilefacenet"):
        build_backbone("ir50", 3, 512)
    with pytest.raises(MinusfaceError, match="multiple of 16"):
        build_backbone("ir_18", 3, 512, 100)
    with pytest.raises(MinusfaceError, match="multiple of 16"):
        build_backbone("mobilefacenet", 3, 512, 0)
    with pytest.raises(MinusfaceError, match="in_channels 0"):
        build_backbone("ir_18", 0, 512)
    with pytest.raises(MinusfaceError, match="four positive"):
        IResNet(units=(2, 2, 2))
    with pytest.raises(MinusfaceError, match="stem_stride 3"):
        IResNet(units=(1, 1, 1, 1), stem_stride=3)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (7, 1, 0)])
def test_depthwise_is_a_convolution(kernel: int, stride: int, padding: int) -> None:
    """Values and gradients; also where autocast would take the narrow kernels."""
    torch.manual_seed(0)
    ours = Depthwise(8, 8, kernel, stride, padding, groups=8, bias=False)
    images = torch.randn(3, 8, 7, 7)

    def gradients(narrow: bool, run: Callable[[Tensor], Tensor]) -> list[Tensor]:
        entered = (images.bfloat16() if narrow else images).clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            made = run(entered)
        assert made.dtype == entered.dtype
        return [made, *torch.autograd.grad(made.float().square().sum(), [entered, ours.weight])]

    def plain(x: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(x, ours.weight, None, stride, padding, groups=8)

    for found, wanted in zip(gradients(False, ours), gradients(False, plain), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    wide = gradients(False, plain)
    for found, wanted in zip(gradients(True, ours), wide, strict=True):
        assert (found.float() - wanted).abs().mean() < 0.02 * wanted.abs().mean()

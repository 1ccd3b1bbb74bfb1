"""Packed convolutions give what the layers give, and follow their weights."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as nnf
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from minusface import packed
from minusface.config import RecognizerConfig
from minusface.devices import multiplies_bfloat16
from minusface.kept import Kept, forget, may_learn
from minusface.protect.generator import UNet
from minusface.recognize import Recognizer


def lively(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """As after training."""
    for values in (norm.running_mean, norm.bias):
        if values is not None:
            nn.init.normal_(values)
    for values in (norm.running_var, norm.weight):
        if values is not None:
            nn.init.uniform_(values, 0.3, 2.0)
    return norm.eval()


@settings(max_examples=40, deadline=None)
@given(
    batch=st.sampled_from([1, 3]),
    inside=st.sampled_from([1, 3, 16, 21]),
    outside=st.sampled_from([1, 8, 32]),
    side=st.sampled_from([4, 7, 14, 30]),
    stride=st.sampled_from([1, 2]),
    kernel=st.sampled_from([1, 3]),
    bias=st.booleans(),
    norm=st.sampled_from(["none", "plain", "affine"]),
    after=st.sampled_from(["nothing", "relu", "sum"]),
    innermost=st.booleans(),
)
def test_a_convolution_and_what_follows(
    batch: int, inside: int, outside: int, side: int, stride: int, kernel: int, bias: bool,
    norm: str, after: str, innermost: bool,
) -> None:  # fmt: skip
    torch.manual_seed(0)
    conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=bias)
    behind = None if norm == "none" else lively(nn.BatchNorm2d(outside, affine=norm == "affine"))
    frozen(conv, *([] if behind is None else [behind]))
    order = torch.channels_last if innermost else torch.contiguous_format
    x = torch.randn(batch, inside, side, side).contiguous(memory_format=order)
    with torch.no_grad():
        expected = conv(x) if behind is None else behind(conv(x))
        onto = torch.randn_like(expected) if after == "sum" else None
        kept = None if onto is None else onto.clone()
        if after == "relu":
            expected = expected.relu()
        elif onto is not None:
            expected = expected + onto
        both = packed.pack(conv, packed.folded(conv, behind), x.shape, x.dtype)
        for _ in range(2):
            found = both(x, relu=after == "relu", onto=onto)
            torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)
        if behind is None and onto is None:
            assert torch.equal(packed.convolve(x, conv, relu=after == "relu"), found)
        assert onto is None or torch.equal(onto, kept), "the summand was written to"


@settings(max_examples=20, deadline=None)
@given(
    batch=st.sampled_from([1, 4]), channels=st.sampled_from([2, 16]), side=st.sampled_from([7, 14])
)
def test_a_transposed_convolution(batch: int, channels: int, side: int) -> None:
    torch.manual_seed(0)
    conv = nn.ConvTranspose2d(2 * channels, channels, 3, 2, 1, output_padding=1)
    frozen(conv)
    x = torch.randn(batch, 2 * channels, side, side).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(packed.upsample(x, conv), conv(x), atol=1e-4, rtol=1e-4)
        if packed.usable(x.bfloat16(), narrow=True):
            found = packed.upsample(x.bfloat16(), conv)
            assert found.dtype == torch.bfloat16
            torch.testing.assert_close(found.float(), conv(x), atol=0.03, rtol=0.03)


def frozen(*layers: nn.Module) -> None:
    for layer in layers:
        layer.requires_grad_(False)


def step(conv: nn.Conv2d) -> None:
    """By a fused optimiser, which writes where Python does not see it."""
    conv.requires_grad_(True)
    with torch.enable_grad():
        may_learn(conv)
        optimizer = torch.optim.AdamW(conv.parameters(), 0.1, fused=True)
        conv(torch.ones(1, 3, 8, 8)).sum().backward()
        optimizer.step()


def load(conv: nn.Conv2d) -> None:
    conv.load_state_dict(nn.Conv2d(3, 4, 3, padding=1).state_dict())


@torch.inference_mode()
def load_while_serving(conv: nn.Conv2d) -> None:
    load(conv)


def exchange(conv: nn.Conv2d) -> None:
    conv.weight.data = conv.weight.data * 2


def write_unseen(conv: nn.Conv2d) -> None:
    conv.weight.data.mul_(2)
    forget(conv)


@pytest.mark.parametrize("change", [step, load, load_while_serving, exchange, write_unseen])
@torch.no_grad()
def test_changed_weights_are_packed_anew(change: Callable[..., None]) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3, padding=1).requires_grad_(False)
    x = torch.randn(1, 3, 8, 8)
    before = packed.convolve(x, conv)
    change(conv)
    conv.requires_grad_(False)
    after = packed.convolve(x, conv)
    assert not torch.allclose(before, after, atol=1e-3)
    torch.testing.assert_close(after, conv(x), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_what_was_packed_goes_with_its_layer() -> None:
    gc.collect()
    before = len(packed._PACKED[torch.float32]._found)
    conv = nn.Conv2d(3, 4, 3).requires_grad_(False)
    packed.convolve(torch.randn(1, 3, 8, 8), conv)
    assert len(packed._PACKED[torch.float32]._found) == before + 1
    del conv
    gc.collect()
    assert len(packed._PACKED[torch.float32]._found) == before


def test_what_it_is_not_for() -> None:
    x = torch.randn(1, 3, 8, 8)
    assert not packed.usable(x), "gradients"
    with torch.no_grad():
        assert packed.usable(x)
        assert not packed.usable(x.bfloat16())
        assert not packed.usable(x.to("meta"))
        assert not packed.usable(nn.Parameter(x))
        with torch.autocast("cpu"):
            assert not packed.usable(x)
        with torch.backends.mkldnn.flags(enabled=False):
            assert not packed.usable(x)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "unet": lambda: (UNet(6, 4), torch.randn(2, 6, 32, 32)),
    **{
        name: lambda name=name: (  # type: ignore[misc]
            Recognizer(RecognizerConfig(name, 16), size=32), torch.rand(2, 3, 32, 32)
        )
        for name in ("ir_lite", "ir_lite_96", "ir_18", "ir_se_18", "mobilefacenet")
    },
}  # fmt: skip


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[packed.Packed]:
    """The packed convolutions that were computed."""
    found: list[packed.Packed] = []
    plain = packed.Packed.__call__

    def call(self: packed.Packed, *args: Any, **options: Any) -> Tensor:
        found.append(self)
        return plain(self, *args, **options)

    monkeypatch.setattr(packed.Packed, "__call__", call)
    return found


def out(network: nn.Module, x: Tensor) -> Tensor:
    found = network(x)
    return found if isinstance(found, Tensor) else found.regenerated


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("recompute", [False, True])
def test_weights_that_learned_in_between_are_packed_anew(name: str, recompute: bool) -> None:
    torch.manual_seed(0)
    network, x = NETWORKS[name]()
    for module in network.modules():
        if hasattr(module, "recompute"):
            module.recompute = recompute
    network.eval().requires_grad_(False)
    for _ in range(2):
        with torch.no_grad():
            before = out(network, x)
        network.requires_grad_(True)
        optimizer = torch.optim.AdamW(network.parameters(), 0.1, fused=True)
        out(network, x).square().sum().backward()
        optimizer.step()
        network.requires_grad_(False)
        with torch.no_grad():
            after = out(network, x)
            assert torch.equal(after, out(copy.deepcopy(network), x))
            assert not torch.allclose(before, after, atol=1e-3)


def test_what_is_frozen_stays_packed_in_passes_with_gradients(counted: list[packed.Packed]) -> None:
    network, x = NETWORKS["unet"]()
    network.eval().requires_grad_(False)
    with torch.no_grad():
        out(network, x)
    made = Kept.made
    out(network, x.requires_grad_(True)).sum().backward()
    with torch.no_grad():
        out(network, x.detach())
    assert counted
    assert Kept.made == made


class Louder(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 3


@torch.no_grad()
def test_a_convolution_with_a_forward_of_its_own_is_asked(counted: list[packed.Packed]) -> None:
    torch.manual_seed(0)
    network, x = UNet(6, 4).eval().requires_grad_(False), torch.randn(2, 6, 32, 32)
    plain = out(network, x)
    loud = copy.deepcopy(network)
    for pair in (*loud.down, *loud.merge):
        conv = pair[2]
        conv.__class__ = Louder
    counted.clear()
    found = out(loud, x)
    assert counted, "the others are packed"
    assert not torch.allclose(found, plain, atol=1e-3)
    with torch.backends.mkldnn.flags(enabled=False):
        torch.testing.assert_close(found, out(loud, x), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("place", ["down.1", "down.1.0", "down.1.1", "up.0", "merge.2.3"])
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("narrow", [False, True])
@torch.no_grad()
def test_hooks_are_called(place: str, before: bool, narrow: bool) -> None:
    if narrow and not multiplies_bfloat16("cpu"):
        pytest.skip("this CPU multiplies no bfloat16")
    torch.manual_seed(0)
    network, x = UNet(6, 4).eval().requires_grad_(False), torch.randn(2, 6, 32, 32)
    if narrow:
        x = x.bfloat16()
    plain, seen = network.hidden(x)[0], []
    layer = network.get_submodule(place)
    if before:
        handle = layer.register_forward_pre_hook(lambda *told: seen.append(told))
    else:
        handle = layer.register_forward_hook(lambda *told: seen.append(told))
    found = network.hidden(x)[0]
    assert len(seen) == 1
    assert found.dtype == x.dtype
    close = 0.05 if narrow else 1e-4
    torch.testing.assert_close(found, plain, atol=close, rtol=close)
    handle.remove()
    network.hidden(x)
    assert len(seen) == 1


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_give_the_same_with_and_without(name: str, counted: list[packed.Packed]) -> None:
    torch.manual_seed(0)
    network, x = NETWORKS[name]()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            lively(module)
    network.eval().requires_grad_(False)
    plain = out(network, x).detach()
    assert not counted
    kept = x.clone()
    with torch.no_grad():
        served = out(network, x)
        used = len(set(counted))
        again = out(copy.deepcopy(network), x)
    assert torch.equal(x, kept), "the input was written to"
    torch.testing.assert_close(served, plain, atol=1e-4, rtol=1e-3)
    assert torch.equal(served, again)
    convolutions = sum(isinstance(m, nn.Conv2d | nn.ConvTranspose2d) for m in network.modules())
    # But the last 1x1 convolution, the squeezing one, and gates.
    fewer = {"unet": 1, "ir_lite_96": 1, "ir_se_18": 16, "mobilefacenet": convolutions}
    assert used >= convolutions - fewer.get(name, 0)
    with torch.no_grad():
        counted.clear()
        learning = out(network.requires_grad_(True), x)
        torch.testing.assert_close(learning, plain, atol=1e-4, rtol=1e-3)
        assert not counted, "a fused optimiser may write to them unseen"
        if name != "unet":
            out(network.requires_grad_(False).train(), x)
            assert not counted, "statistics of a batch cannot be packed"


def test_the_trial_leaves_all_generators_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    packed._works.cache_clear()
    before = torch.get_rng_state()
    assert packed._works()
    assert torch.equal(torch.get_rng_state(), before)
    assert not seeded, "torch.manual_seed seeds GPUs, which nothing puts back"


def test_a_torch_without_the_operators_goes_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network, x = NETWORKS["ir_lite"]()
    network.eval().requires_grad_(False)
    with torch.no_grad():
        served = network(x)
        monkeypatch.setattr(packed.Packed, "__call__", lambda *_, **__: torch.zeros(1))
        packed._works.cache_clear()
        assert not packed._works(), "it must notice that they give something else"
        torch.testing.assert_close(network(x), served, atol=1e-4, rtol=1e-3)
    packed._works.cache_clear()


@settings(max_examples=20, deadline=None)
@given(
    batch=st.sampled_from([1, 3]),
    inside=st.sampled_from([3, 16, 58]),
    stride=st.sampled_from([1, 2]),
    norm=st.booleans(),
    onto=st.booleans(),
)
@pytest.mark.skipif(not multiplies_bfloat16("cpu"), reason="this CPU multiplies no bfloat16")
def test_narrow_maps(batch: int, inside: int, stride: int, norm: bool, onto: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(inside, 16, 3, stride, 1, bias=False)
    behind = lively(nn.BatchNorm2d(16)) if norm else None
    frozen(conv, *([behind] if behind else []))
    x = torch.randn(batch, inside, 14, 14).bfloat16()
    with torch.no_grad():
        expected = conv(x.float()) if behind is None else behind(conv(x.float()))
        beside = torch.randn_like(expected).bfloat16() if onto else None
        expected = expected if beside is None else expected + beside.float()
        assert packed.usable(x, narrow=True)
        narrow, wider = (
            packed.pack(conv, packed.folded(conv, behind), x.shape, dtype)
            for dtype in (torch.bfloat16, torch.float32)
        )
        found = narrow(x, onto=beside)
        wide = wider(x.float(), onto=None if beside is None else beside.float())
    assert found.dtype == torch.bfloat16
    if behind is None and beside is None:
        assert torch.equal(packed.convolve(x, conv), found)
        assert torch.equal(packed.convolve(x.float(), conv), wide), "the two are kept apart"
    torch.testing.assert_close(wide, expected, atol=2e-4, rtol=1e-4)
    # A result's rounding is 2^-8 of it; those of the weights add up as the root of their number.
    assert float((found.float() - expected).norm() / expected.norm()) < 2**-7


@pytest.mark.parametrize("name", ["ir_lite_96", "ir_se_18", "mobilefacenet"])
@pytest.mark.parametrize("able", [True, False])
def test_a_recogniser_in_bfloat16(
    name: str, able: bool, counted: list[packed.Packed], monkeypatch: pytest.MonkeyPatch
) -> None:
    if able and not multiplies_bfloat16("cpu"):
        pytest.skip("this CPU multiplies no bfloat16")
    if not able:
        monkeypatch.setattr(packed, "usable", lambda x, narrow=False: not narrow)
    torch.manual_seed(0)
    model = Recognizer(RecognizerConfig(name, 16), size=32)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            lively(module)
    model.eval().requires_grad_(False)
    x = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        wide = model(x)
        counted.clear()
        model.precision = "bfloat16"
        narrow = model(x)
        assert bool(counted) == (able and name != "mobilefacenet")
    assert narrow.dtype == torch.float32
    assert not torch.equal(narrow, wide)
    assert float(nnf.cosine_similarity(narrow, wide).min()) > 0.98, "norms drawn at random"
    assert torch.equal(model(x), model.backbone(model.prepare(x))), "gradients are of float32"
    with torch.no_grad():
        counted.clear()
        again = model.requires_grad_(True)(x)
        assert not counted, "a fused optimiser may write to them unseen"
        assert float(nnf.cosine_similarity(again, wide).min()) > 0.98

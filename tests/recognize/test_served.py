"""A frozen network, merged and packed, gives what its layers give, and follows them."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from minusface import packed
from minusface.config import RecognizerConfig
from minusface.recognize import Recognizer, served
from minusface.recognize.iresnet import IResNet
from minusface.train.compiled import compile_recognizer

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "squeezed": {"squeeze": 6},
    "gated": {"se": True},
    # A shortcut that only leaves out pixels, and one that is no layer.
    "narrow": {"widths": (8, 8, 8, 8), "stem_stride": 2},
}


def network(kind: str = "squeezed", seed: int = 0, far: float = 0.5) -> IResNet:
    """As after training; shifts of batch norms are ``far`` of their scales away."""
    torch.manual_seed(seed)
    options = {"units": (2, 1, 2, 1), "widths": (8, 12, 16, 16), **SHAPES[kind]}
    made = IResNet(5, 7, 32, **options)
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.normal_(cast(Tensor, layer.running_mean))
            nn.init.uniform_(cast(Tensor, layer.running_var), 0.3, 2.0)
            if layer.affine:
                nn.init.uniform_(layer.weight, 0.3, 2.0)
                nn.init.uniform_(layer.bias, -far, far)
        elif isinstance(layer, nn.PReLU):
            nn.init.uniform_(layer.weight, -0.5, 0.9)
    return made.eval().requires_grad_(False)


def maps(batch: int = 2) -> Tensor:
    return torch.randn(batch, 5, 32, 32, generator=torch.Generator().manual_seed(1))


def layers(net: IResNet, x: Tensor) -> Tensor:
    return net.after_first(net.first(x))


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("innermost", [True, False])
@torch.no_grad()
def test_embeddings_are_those_of_the_layers(kind: str, innermost: bool) -> None:
    net, x = network(kind), maps()
    if innermost:
        x = x.contiguous(memory_format=torch.channels_last)
    kept = x.clone()
    assert served.serving(net, x) is not None
    for part in (x, x[:1], x[:0]):
        torch.testing.assert_close(net(part), layers(net, part), atol=2e-4, rtol=1e-3)
    assert torch.equal(x, kept), "the input was written to"


@torch.no_grad()
def test_norms_before_convolutions_cost_nothing_where_they_can_be_merged() -> None:
    def norms(net: IResNet) -> list[bool]:
        made = served.serving(net, maps())
        assert made is not None
        return [unit.norm is not None for unit in made.units]

    # The first has none before it that could add its shift; gates multiply.
    assert norms(network("plain")) == [True, False, False, False, False, False]
    assert all(norms(network("gated")))
    far = network("plain", far=50.0)
    assert sum(norms(far)) > 1, "a shift so far would cost digits"
    torch.testing.assert_close(far(maps()), layers(far, maps()), atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_a_channel_that_is_switched_off() -> None:
    net = network()
    cast(Any, net.body[2]).res_layer[0].weight[3] = 0.0
    torch.testing.assert_close(net(maps()), layers(net, maps()), atol=2e-4, rtol=1e-3)


def halve(net: IResNet) -> None:
    net.first.weight *= 0.5


def load(net: IResNet) -> None:
    net.load_state_dict(network(seed=5).state_dict())


def exchange(net: IResNet) -> None:
    net.first.weight.data = net.first.weight.data * 2


def replace(net: IResNet) -> None:
    net.body[1] = network(seed=7).body[1]


def another_parameter(net: IResNet) -> None:
    unit = cast(Any, net.body[1])
    unit.res_layer[3].weight = nn.Parameter(torch.full((8,), 0.7), requires_grad=False)


def statistics(net: IResNet) -> None:
    norm = cast(Any, net.body[1]).res_layer[0]
    norm.train()(maps()[:, :1].expand(-1, 8, -1, -1) * 3)
    norm.eval()


@pytest.mark.parametrize("change", [halve, load, exchange, replace, another_parameter, statistics])
@torch.no_grad()
def test_changed_weights_are_merged_anew(change: Callable[[IResNet], None]) -> None:
    net = network()
    before = net(maps())
    first = served.serving(net, maps())
    assert served.serving(net, maps()) is first
    change(net)
    after = net(maps())
    assert not torch.allclose(before, after, atol=1e-3)
    torch.testing.assert_close(after, layers(net, maps()), atol=2e-4, rtol=1e-3)


@torch.no_grad()
def test_what_learns_or_gathers_statistics_is_computed_layer_by_layer() -> None:
    net = network()
    net(maps())
    norm = cast(Any, net.body[1]).res_layer[0]
    norm.weight.requires_grad_(True)
    assert served.serving(net, maps()) is None
    torch.testing.assert_close(net(maps()), layers(net, maps()))
    norm.requires_grad_(False)
    norm.train()
    assert served.serving(net, maps()) is None
    norm.eval()
    assert served.serving(net, maps()) is not None


@torch.no_grad()
def test_hooks_within_are_called() -> None:
    net, seen = network(), []
    plain = net(maps())
    for name in ("body.1.res_layer.1", "body.2.res_layer.0", "body.2", "input_layer.2"):
        layer = net.get_submodule(name)
        for put in (layer.register_forward_hook, layer.register_forward_pre_hook):
            handle = cast(Any, put)(lambda *told: seen.append(told))
            assert served.serving(net, maps()) is None
            torch.testing.assert_close(net(maps()), plain, atol=2e-4, rtol=1e-3)
            assert len(seen) == 1
            seen.clear()
            handle.remove()
    assert served.serving(net, maps()) is not None
    # The network's own are called in any case.
    net.register_forward_hook(lambda *told: seen.append(told))
    assert served.serving(net, maps()) is not None
    net(maps())
    assert len(seen) == 1


def test_weights_that_learned_in_a_compiled_pass_are_merged_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def compiled(function: Callable[[Tensor], Tensor], **options: Any) -> Any:
        def run(hidden: Tensor) -> Tensor:
            with monkeypatch.context() as patched:
                patched.setattr(torch.compiler, "is_compiling", lambda: True)
                return function(hidden)

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    recognizer = Recognizer(RecognizerConfig("ir_lite", 8), size=32)
    compile_recognizer(recognizer, torch.device("cpu"))
    net, x = cast(IResNet, recognizer.backbone), torch.rand(2, 3, 32, 32)
    net.eval().requires_grad_(False)
    with torch.no_grad():
        before = net(x)
    net.requires_grad_(True).training = True
    # It writes where Python does not see it.
    optimizer = torch.optim.AdamW(net.parameters(), 0.05, fused=True)
    net(x).square().sum().backward()
    optimizer.step()
    net.requires_grad_(False).training = False
    with torch.no_grad():
        after = net(x)
        assert not torch.allclose(before, after, atol=1e-3)
        torch.testing.assert_close(after, layers(net, x), atol=2e-4, rtol=1e-3)


class Louder(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 3


class Shifted(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


@pytest.mark.parametrize(("place", "kind"), [(4, Louder), (0, Shifted)])
@torch.no_grad()
def test_layers_with_a_forward_of_their_own_are_asked(place: int, kind: type[nn.Module]) -> None:
    net = network()
    before = net(maps())
    other = copy.deepcopy(net)
    cast(Any, other.body[1]).res_layer[place].__class__ = kind
    assert served.serving(other, maps()) is None
    after = other(maps())
    assert not torch.allclose(before, after, atol=1e-3)
    torch.testing.assert_close(after, layers(other, maps()))


@torch.no_grad()
def test_a_layer_whose_forward_was_exchanged_is_asked() -> None:
    net = network()
    net(maps())
    cast(Any, net.body[1]).res_layer[1].forward = lambda x: x
    assert served.serving(net, maps()) is None


def test_it_is_forgotten_with_its_network_and_copied_with_none() -> None:
    net = network()
    with torch.no_grad():
        found = net(maps())
        gc.collect()
        count = len(served._MADE[torch.float32])
        again = copy.deepcopy(net)
        assert torch.equal(again(maps()), found)
    assert len(served._MADE[torch.float32]) == count + 1
    del again
    gc.collect()
    assert len(served._MADE[torch.float32]) == count


@pytest.mark.parametrize("kind", SHAPES)
@torch.no_grad()
def test_narrow_maps(kind: str) -> None:
    net, x = network(kind), maps()
    if not packed.usable(x.bfloat16(), narrow=True):
        pytest.skip("this CPU multiplies no bfloat16")
    wide = net(x)
    narrow = net(x.bfloat16().contiguous(memory_format=torch.channels_last))
    assert narrow.dtype == torch.float32
    assert float(nnf.cosine_similarity(narrow, wide).min()) > 0.98, "norms drawn at random"
    assert torch.equal(net(x), wide), "the two are kept apart"

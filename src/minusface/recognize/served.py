"""An IR network that only serves: its weights merged, laid out and looked up once for the whole network.

Of one crop a call, a tenth of the time is spent on asking each layer for its weights, and another one on
batch norms that are passes of their own. Those behind a convolution go into it. The one that a residual unit
begins with stands before a convolution that pads with zeros, so that its scale alone goes into the filters;
what it adds, in units of that scale, the unit before adds already: what is handed on is x + shift / scale, of
which 0 is the padding's 0, and convolutions beside take their part of it off again.

Legend: B batch, K channels of a map, S squeezed channels, D embedding, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from minusface import packed
from minusface.kept import Kept, Watched
from minusface.packed import Packed, folded, scale_and_shift

if TYPE_CHECKING:
    from minusface.recognize.iresnet import IResNet, ResidualUnit

# A shift of more than so many standard deviations of a channel would cost digits of bfloat16.
FAR = 4.0
# By the type that is computed in.
_MADE = {torch.float32: Kept(), torch.bfloat16: Kept()}


def serving(network: IResNet, x: Tensor) -> Served | None:
    """What computes a network's embeddings of maps as ``x``; None where its weights may learn, or merging
    would pass over a hook or a forward of somebody's own.

    Args:
        network: an IR network.
        x: (B, C, H, W), :func:`minusface.packed.usable`.
    """
    kept = _MADE[x.dtype]
    found: tuple[Watched, Served] | None = kept.held(network)
    if found is None or not found[0].unchanged():
        kept.drop(network)
        watched = Watched(network)
        if not watched.frozen() or not watched.plain():
            return None
        found = watched, Served(network, x)
        kept.hold(network, found)
    return found[1]


@dataclass(frozen=True, eq=False)
class Unit:
    """A residual unit.

    Args:
        norm: what it begins with, where that is in no convolution.
        one: the first convolution.
        slope: (K,) of the PReLU behind it.
        two: the second one.
        gate: squeeze-excitation, in the weights' type.
        beside: the shortcut; None for the maps as they are.
    """

    norm: nn.Module | None
    one: Packed
    slope: Tensor
    two: Packed
    gate: nn.Module | None
    beside: Packed | nn.Module | None
    wide: torch.dtype

    def __call__(self, x: Tensor) -> Tensor:
        """(B, K_in, H, W) to (B, K_out, H/stride, W/stride)."""
        hidden = torch.prelu(self.one(x if self.norm is None else self.norm(x)), self.slope)
        beside = x if self.beside is None else self.beside(x)
        if self.gate is None:
            return self.two(hidden, onto=beside)
        return cast(Tensor, self.gate(self.two(hidden).to(self.wide)).to(x.dtype) + beside)


class Served:
    """A frozen IR network in evaluation mode: (B, C, H, W) to raw embeddings (B, D).

    Args:
        network: of which nothing but some small layers is held.
        x: maps as they will come.
    """

    def __init__(self, network: IResNet, x: Tensor) -> None:
        self.wide = network.first.weight.dtype
        stem, norm, act = cast(Any, tuple(network.input_layer))
        self.stem = packed.pack(stem, folded(stem, norm), x.shape, x.dtype)
        self.slope = _slope(act, x.dtype)
        body = cast("list[ResidualUnit]", list(network.body))
        offsets = _offsets(body)
        self.units: list[Unit] = []
        shape = _after(stem, x.shape)
        for unit, inside, outside in zip(body, offsets, offsets[1:], strict=False):
            made, shape = _unit(unit, inside, outside, shape, x.dtype)
            self.units.append(made)
        self._last_layers(network)

    def _last_layers(self, network: IResNet) -> None:
        norm, _, _, self.linear, last = cast(Any, tuple(network.output_layer))
        self.norm: nn.Module | None = norm
        if "squeeze" in network._modules:
            scale, shift = scale_and_shift(norm)
            weight_sk = network.squeeze.weight.detach().flatten(1).double()
            self.squeeze_ks = (weight_sk * scale).T.contiguous().to(self.wide)
            self.squeezed_s = (weight_sk @ shift).to(self.wide)
            self.norm = None
        self.scale_d, self.shift_d = (v.to(last.running_mean.dtype) for v in scale_and_shift(last))

    def __call__(self, x: Tensor) -> Tensor:
        """See the class."""
        hidden = torch.prelu(self.stem(x), self.slope)
        for unit in self.units:
            hidden = unit(hidden)
        raw = self.linear(self._flat(hidden)).to(self.scale_d.dtype)
        return torch.addcmul(self.shift_d, raw, self.scale_d)

    def _flat(self, hidden: Tensor) -> Tensor:
        """The last maps, normed, squeezed, and as rows: (B, K, H, W) to (B, S * H * W)."""
        if self.norm is not None:
            return cast(Tensor, self.norm(hidden.to(self.wide))).flatten(1)
        # A 1x1 convolution is a product; channels are innermost already.
        pixels = hidden.permute(0, 2, 3, 1).reshape(-1, hidden.shape[1]).to(self.wide)
        squeezed = torch.addmm(self.squeezed_s, pixels, self.squeeze_ks)
        places = hidden.shape[2] * hidden.shape[3]
        return squeezed.view(len(hidden), places, squeezed.shape[1]).transpose(1, 2).flatten(1)


def _unit(
    unit: ResidualUnit,
    inside: Tensor | None,
    outside: Tensor | None,
    like: Sequence[int],
    dtype: torch.dtype,
) -> tuple[Unit, Sequence[int]]:
    """A unit of maps of shape ``like``, and the shape that follows.

    Args:
        unit: the layers.
        inside: (K_in,) what the maps have too much; None where the unit's norm comes first.
        outside: (K_out,) what those that it hands on are to have too much.
        like: (B, K_in, H, W).
        dtype: of the maps.
    """
    before, one, norm, act, two, last, *gates = cast(Any, tuple(unit.res_layer))
    first, second = folded(one, norm), folded(two, last)
    more = torch.zeros(two.out_channels, dtype=torch.float64)
    if outside is not None:
        more += outside
    if inside is not None:
        scale, _ = scale_and_shift(before)
        first = ((first[0].double() * scale[None, :, None, None]).float(), first[1])
    short: Any = unit.shortcut_layer
    beside: Packed | nn.Module | None = None if isinstance(short, nn.Identity) else short
    if isinstance(short, nn.Sequential):
        reducing, behind = cast(Any, tuple(short))
        filters, bias = folded(reducing, behind)
        assert bias is not None
        if inside is not None:
            bias = (bias.double() - filters.flatten(1).double() @ inside).float()
        beside = packed.pack(reducing, (filters, bias), like, dtype)
    elif inside is not None:
        more -= inside
    assert second[1] is not None
    second = (second[0], (second[1].double() + more).float())
    middle = _after(one, like)
    made = Unit(
        before if inside is None else None,
        packed.pack(one, first, like, dtype),
        _slope(act, dtype),
        packed.pack(two, second, middle, dtype),
        gates[0] if gates else None,
        beside,
        one.weight.dtype,
    )
    return made, _after(two, middle)


def _offsets(units: Sequence[ResidualUnit]) -> list[Tensor | None]:
    """What maps have too much before each unit, and behind the last: (K,) float64 each, None for nothing."""
    found: list[Tensor | None] = [None]
    for before, unit in pairwise(units):
        norm: Any = unit.res_layer[0]
        scale, shift = scale_and_shift(norm)
        away = (shift / scale + norm.running_mean.double()) * (norm.running_var + norm.eps).rsqrt()
        # Gates multiply: nothing can be added before them. A scale of 0 gives no number.
        gated = len(before.res_layer) > 6
        usual = bool((away.abs() <= FAR).all())
        found.append(shift / scale if usual and not gated else None)
    return [*found, None]


def _slope(act: nn.Module, dtype: torch.dtype) -> Tensor:
    return cast(nn.PReLU, act).weight.detach().to(dtype)


def _after(conv: nn.Conv2d, shape: Sequence[int]) -> Sequence[int]:
    """The shape of a convolution's maps."""
    padding = cast("tuple[int, int]", conv.padding)
    sides = (
        (side + 2 * pad - kernel) // stride + 1
        for side, pad, kernel, stride in zip(
            shape[2:], padding, conv.kernel_size, conv.stride, strict=True
        )
    )
    return (shape[0], conv.out_channels, *sides)

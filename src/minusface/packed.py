"""Convolutions on a CPU that only serve: their weights laid out once as oneDNN reads them.

Left alone, torch lays a layer's weights out anew at every call, sends small maps to kernels without oneDNN,
and writes a map once more for the batch norm, the activation and the sum that follow. Of one crop a call
that is a fifth to a third of the time. What is packed here is kept for as long as its weights stay the same.

The operators are those that torch's own compiler calls. Where a build of torch has none, or they give
something else, nothing is packed.

Legend: B batch, K channels of a map, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from minusface.devices import multiplies_bfloat16
from minusface.kept import Kept, as_torch, hooked


def _can_be(conv: nn.Module, *weights: Tensor | None) -> bool:
    """Whether a convolution can be packed: frozen, without hooks, without a forward of its own."""
    return not (
        any(tensor is not None and tensor.requires_grad for tensor in weights)
        or hooked(conv)
        or "forward" in vars(conv)
        or not as_torch(conv)
    )


@dataclass(frozen=True, eq=False)
class Packed:
    """A convolution of laid out weights; they may hold what comes before and after it, too.

    Args:
        weight: as oneDNN reads it.
        bias: of the maps' type.
        shape: padding, stride, dilation, groups; of a transposed convolution padding, that of the output,
            stride, dilation, groups.
        transposed: whether it is one.
    """

    weight: Tensor
    bias: Tensor | None
    shape: tuple[Any, ...]
    transposed: bool = False

    def __call__(self, x: Tensor, relu: bool = False, onto: Tensor | None = None) -> Tensor:
        """Maps of ``x``; with a ReLU behind it, or added to ``onto``."""
        operators = torch.ops.mkldnn
        after: tuple[Any, ...] = ("relu" if relu else "none", [], "")
        if self.transposed:
            run = operators._convolution_transpose_pointwise.default
        elif onto is None:
            run = operators._convolution_pointwise.default
        else:
            run = operators._convolution_pointwise.binary
            both = run(x, onto, self.weight, self.bias, *self.shape, "add", None, None, [], None)
            return cast(Tensor, both)
        return cast(Tensor, run(x, self.weight, self.bias, *self.shape, *after))


# By the type that is computed in.
_PACKED = {torch.float32: Kept(), torch.bfloat16: Kept()}


def usable(x: Tensor, narrow: bool = False) -> bool:
    """Whether a map is such as this is for: float32, on a CPU, eager, without a gradient.

    Args:
        x: the map.
        narrow: bfloat16 is welcome, too, where the CPU multiplies it itself.
    """
    return bool(
        type(x) is Tensor
        and x.device.type == "cpu"
        and (x.dtype == torch.float32 or (narrow and x.dtype == torch.bfloat16))
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch._C._is_tracing()
        and torch.backends.mkldnn.enabled
        and _works(x.dtype)
    )


def convolve(x: Tensor, conv: nn.Conv2d, *, relu: bool = False) -> Tensor:
    """A convolution, packed where its weights are frozen and it does nothing else.

    Args:
        x: (B, K, H, W), :func:`usable`. Of bfloat16 so is the result; sums are float32.
        conv: padded with zeros.
        relu: a ReLU behind it.
    """
    weights = [conv.weight, conv.bias]
    if not _can_be(conv, *weights):
        found = conv(x.to(conv.weight.dtype))
        return cast(Tensor, nnf.relu(found) if relu else found).to(x.dtype)
    kept: Packed = _PACKED[x.dtype].get(
        conv, weights, lambda: pack(conv, folded(conv, None), x.shape, x.dtype)
    )
    return kept(x, relu)


def upsample(x: Tensor, conv: nn.ConvTranspose2d) -> Tensor:
    """A transposed convolution of a :func:`usable` map; packed as :func:`convolve` does."""
    if not _can_be(conv, conv.weight):
        return cast(Tensor, conv(x.to(conv.weight.dtype))).to(x.dtype)
    shape = (_pair(conv.padding), conv.output_padding, conv.stride, conv.dilation, conv.groups)

    def made() -> Packed:
        weight = torch.ops.mkldnn._reorder_convolution_transpose_weight(
            conv.weight.detach().to(x.dtype), *shape, list(x.shape)
        )
        bias = None if conv.bias is None else conv.bias.detach().to(x.dtype)
        return Packed(weight, bias, shape, transposed=True)

    kept: Packed = _PACKED[x.dtype].get(conv, [conv.weight, conv.bias], made)
    return kept(x)


def pack(
    conv: nn.Conv2d,
    weights: tuple[Tensor, Tensor | None],
    like: Sequence[int],
    dtype: torch.dtype,
) -> Packed:
    """Weights laid out.

    Args:
        conv: whose stride, padding and groups they have.
        weights: filters and bias, as :func:`folded` gives them.
        like: shape of the maps that will come; others may come, too.
        dtype: of the maps.
    """
    shape = (_pair(conv.padding), conv.stride, conv.dilation, conv.groups)
    filters, bias = weights
    packed = torch.ops.mkldnn._reorder_convolution_weight(filters.to(dtype), *shape, list(like))
    return Packed(packed, None if bias is None else bias.to(dtype), shape)


def scale_and_shift(norm: nn.BatchNorm2d | nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """What a batch norm in evaluation mode multiplies by, and adds then: (K,) each, float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.detach().double()


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor | None]:
    """Filters and bias with a batch norm behind them in them; its arithmetic in float64, once."""
    weight, bias = conv.weight.detach(), None if conv.bias is None else conv.bias.detach()
    if norm is None:
        return weight, bias
    scale, shift = scale_and_shift(norm)
    if bias is not None:
        shift = shift + bias.double() * scale
    return (weight.double() * scale[:, None, None, None]).float(), shift.float()


@cache
def _works(dtype: torch.dtype = torch.float32) -> bool:
    """Whether this build of torch has the operators, and they do what is wanted of such maps."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if dtype == torch.bfloat16 and not multiplies_bfloat16("cpu"):
        return False
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        # Not torch.manual_seed, which reaches GPUs' generators, too.
        torch.default_generator.manual_seed(0)
        conv, norm = nn.Conv2d(4, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8).eval()
        deconv = nn.ConvTranspose2d(8, 4, 3, 2, 1, output_padding=1)
        for layer in (conv, norm, deconv):
            layer.requires_grad_(False)
        x, other = torch.randn(1, 4, 8, 8), torch.randn(1, 8, 4, 4)
        found, given, beside = norm(conv(x)), x.to(dtype), other.to(dtype)
        try:
            both = pack(conv, folded(conv, norm), given.shape, dtype)
            same = [
                (both(given, relu=True), found.relu()),
                (both(given, onto=beside), found + other),
                (upsample(beside, deconv), nnf.conv_transpose2d(other, *_of(deconv))),
            ]
        except (AttributeError, RuntimeError, TypeError):
            return False
        close = 1e-4 if dtype == torch.float32 else 0.1
        return all(torch.allclose(one.float(), two, atol=close) for one, two in same)


def _pair(padding: str | tuple[int, ...]) -> tuple[int, ...]:
    assert not isinstance(padding, str), "padding by name"
    return padding


def _of(conv: nn.ConvTranspose2d) -> tuple[Any, ...]:
    return conv.weight, conv.bias, conv.stride, conv.padding, conv.output_padding

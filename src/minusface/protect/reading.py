"""What the training stages ask of the features of crops, wherever they are computed.

On a CPU nothing writes the features down, see :mod:`minusface.protect.rows`; elsewhere, and under a
compiler, they are there.

Legend: B batch, F channels, O channels of a convolution, N side of a crop in pixels.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from minusface.devices import autocast_type, without_autocast
from minusface.protect.codec import BlockCodec
from minusface.protect.rows import Lines, Rows


class Features(Protocol):
    """Features x = e(X) of crops, for what is linear in them."""

    def convolve(self, conv: nn.Conv2d) -> Tensor:
        """A 3x3 convolution, padding 1, stride 1 or 2: (B, O, N/stride, N/stride), channels innermost."""
        ...

    def weigh(self, order: Tensor) -> Tensor:
        """Shuffled by (B, F) permutations and weighed as the decoder does: shifted YCbCr (B, 3, N*N)."""
        ...


class UnwrittenFeatures:
    """See :class:`Features`; nothing of their size is there."""

    def __init__(self, rows: Rows, lines: Lines) -> None:
        self.rows, self.lines = rows, lines

    def convolve(self, conv: nn.Conv2d) -> Tensor:
        """See :class:`Features`."""
        return self.rows.convolve(self.lines, conv)

    def weigh(self, order: Tensor) -> Tensor:
        """See :class:`Features`."""
        return self.rows.weigh(self.lines, order)


class WrittenFeatures:
    """See :class:`Features`."""

    def __init__(self, codec: BlockCodec, features: Tensor) -> None:
        self.codec = codec
        # Once: every convolution and its gradients would turn them around.
        self.features = features.contiguous(memory_format=torch.channels_last)

    def convolve(self, conv: nn.Conv2d) -> Tensor:
        """See :class:`Features`."""
        response: Tensor = conv(self.features)
        return response

    @torch.no_grad()
    def weigh(self, order: Tensor) -> Tensor:
        """See :class:`Features`."""
        with without_autocast(self.features.device.type):
            return self.codec.weigh(self.features, order)


def read(
    codec: BlockCodec, rows: Rows, crops: Tensor, dtype: torch.dtype | None = None
) -> Features:
    """The features of crops (B, 3, N, N) in [-1, 1]; by default in the type that autocast asks for."""
    if dtype is None:
        dtype = autocast_type(crops.device.type) or crops.dtype
    if can_stay_unwritten(crops):
        return UnwrittenFeatures(rows, rows.lines(crops, dtype))
    return WrittenFeatures(codec, codec.encode(crops, dtype))


def can_stay_unwritten(crops: Tensor) -> bool:
    """Whether crops are such as rows are for: on a CPU, eager, float32, without a gradient."""
    return (
        crops.device.type == "cpu"
        and crops.dtype == torch.float32
        and not (torch.is_grad_enabled() and crops.requires_grad)
        and not torch.compiler.is_compiling()
    )

"""MobileFaceNet (arXiv 1804.07573, table 1): about a million parameters, for phones and CPUs.

Legend: B batch, C input channels, K channels, D embedding.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from minusface.kept import may_learn
from minusface.recognize.iresnet import check_size, init_weights
from minusface.recognize.prelu import PReLU
from minusface.recognize.strided import strided_depthwise


class Stage(NamedTuple):
    """A row of the paper's table 1: ``repeats`` bottlenecks, the first with ``stride``."""

    expansion: int
    channels: int
    repeats: int
    stride: int


STEM = 64
STAGES = (
    Stage(2, 64, 5, 2),
    Stage(4, 128, 1, 2),
    Stage(2, 128, 6, 1),
    Stage(4, 128, 1, 2),
    Stage(2, 128, 2, 1),
)
LAST = 512


class Depthwise(nn.Conv2d):
    """A depthwise convolution that keeps clear of a CPU's slow bfloat16 kernels."""

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Conv2d; the result has the input's type."""
        if x.device.type != "cpu" or not torch.is_grad_enabled():
            return super().forward(x)
        if x.shape[-2:] == self.kernel_size and self.padding == (0, 0):
            # One place only: a weighted sum, whose gradients are products.
            with torch.autocast("cpu", enabled=False):
                wide = x.to(self.weight.dtype)
                return (wide * self.weight[:, 0]).sum((2, 3), keepdim=True).to(x.dtype)
        if torch.compiler.is_compiling() and self.stride != (1, 1):
            # A compiler joins the changes of type to what is around.
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.to(self.weight.dtype)).to(x.dtype)
        if x.dtype == torch.bfloat16 and self.stride != (1, 1):
            stride, padding = self.stride, self.padding
            return strided_depthwise(
                x,
                self.weight,
                cast("tuple[int, int]", stride),
                cast("tuple[int, int]", padding),
            )
        return super().forward(x)


def _conv(
    inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1, linear: bool = False
) -> nn.Sequential:
    """Convolution without bias, batch norm and, unless linear, PReLU."""
    kind = Depthwise if groups > 1 else nn.Conv2d
    conv = kind(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(outside)]
    return nn.Sequential(*layers) if linear else nn.Sequential(*layers, PReLU(outside))


class Bottleneck(nn.Module):
    """Inverted residual: 1x1 expansion, 3x3 depthwise, linear 1x1; a shortcut where shapes agree."""

    def __init__(self, inside: int, outside: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inside * expansion
        self.layers = nn.Sequential(
            _conv(inside, hidden, 1),
            _conv(hidden, hidden, 3, stride, groups=hidden),
            _conv(hidden, outside, 1, linear=True),
        )
        self.shortcut = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        """(B, K_in, H, W) to (B, K_out, H/stride, W/stride)."""
        out = cast(Tensor, self.layers(x))
        return x + out if self.shortcut else out


class MobileFaceNet(nn.Module):
    """(B, C, size, size) floats to raw embeddings (B, D), not of unit length.

    Args:
        in_channels: C; 3 for images.
        embedding_size: D.
        size: side of the input in pixels, a multiple of 16.

    Raises:
        MinusfaceError: a size that does not divide.
    """

    def __init__(self, in_channels: int = 3, embedding_size: int = 512, size: int = 112) -> None:
        super().__init__()
        side = check_size(size)
        self.input_layer = nn.Sequential(
            _conv(in_channels, STEM, 3, 2), _conv(STEM, STEM, 3, groups=STEM)
        )
        body: list[nn.Module] = []
        inside = STEM
        for stage in STAGES:
            for number in range(stage.repeats):
                stride = stage.stride if number == 0 else 1
                body.append(Bottleneck(inside, stage.channels, stride, stage.expansion))
                inside = stage.channels
        self.body = nn.Sequential(*body, _conv(inside, LAST, 1))
        # The global depthwise convolution: a learned weight for every place instead of a mean.
        self.pool = nn.Sequential(
            Depthwise(LAST, LAST, side, groups=LAST, bias=False), nn.BatchNorm2d(LAST)
        )
        self.output_layer = nn.Sequential(
            nn.Flatten(),
            nn.Linear(LAST, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size),
        )
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, size, size) to (B, D), in the parameters' precision even under autocast."""
        return self.after_first(self.first(x))

    @property
    def first(self) -> nn.Conv2d:
        """The first convolution, without bias."""
        return cast(nn.Conv2d, cast(nn.Sequential, self.input_layer[0])[0])

    def after_first(self, hidden: Tensor) -> Tensor:
        """All but the first convolution: its output to (B, D)."""
        may_learn(self)
        stem = cast(nn.Sequential, self.input_layer[0])[1:]
        hidden = self.output_layer[:2](self.pool(self.body(self.input_layer[1:](stem(hidden)))))
        norm = cast(nn.BatchNorm1d, self.output_layer[2])
        return cast(Tensor, norm(hidden.to(norm.weight.dtype)))


def mobilefacenet(
    in_channels: int = 3, embedding_size: int = 512, size: int = 112
) -> MobileFaceNet:
    """MobileFaceNet with the paper's widths."""
    return MobileFaceNet(in_channels, embedding_size, size)

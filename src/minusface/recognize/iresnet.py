"""The IR family: residual networks for faces, from images or frequency features to embeddings.

The unit is that of "Improved Residual" recognisers (ArcFace, arXiv 1801.07698, section 3.2.1, after
He et al.): BN, 3x3 conv, BN, PReLU, 3x3 conv with the stride, BN, beside a shortcut. Module names
and shapes are those of the paper's reference recogniser, so that its state dicts load unchanged.

Legend: B batch, C input channels, H, W pixels, K channels of a level, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import cast

from torch import Tensor, nn

from minusface import packed
from minusface.errors import MinusfaceError
from minusface.kept import may_learn
from minusface.recognize.prelu import PReLU
from minusface.recognize.served import serving
from minusface.recompute import recomputed
from minusface.share import Dropout

WIDTHS = (64, 128, 256, 512)
REDUCTION = 16
DROPOUT = 0.4
TOTAL_STRIDE = 16


def check_size(size: int) -> int:
    """The side of the last feature map for inputs of this side.

    Raises:
        MinusfaceError: ``size`` is not a positive multiple of 16.
    """
    if size < TOTAL_STRIDE or size % TOTAL_STRIDE:
        raise MinusfaceError(f"backbone: size {size}, expected a multiple of {TOTAL_STRIDE}")
    return size // TOTAL_STRIDE


def init_weights(module: nn.Module) -> None:
    """Kaiming-normal convolutions and linear layers with zero biases; other layers keep their own."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            # a (the PReLU slope) as the layers that follow start with it.
            nn.init.kaiming_normal_(layer.weight, a=0.25, mode="fan_out")
        elif isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


class SqueezeExcitation(nn.Module):
    """Channel gates from the channels' means (arXiv 1709.01507): (B, K, H, W) to the same."""

    def __init__(self, channels: int, reduction: int = REDUCTION) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=False)
        self.relu = nn.ReLU()
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=False)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Scale every channel by its gate in (0, 1)."""
        gate = self.fc2(self.relu(self.fc1(self.pool(x))))
        return cast(Tensor, x * self.sigmoid(gate))


class ResidualUnit(nn.Module):
    """One IR unit: (B, K_in, H, W) to (B, K_out, H/stride, W/stride)."""

    def __init__(self, inside: int, outside: int, stride: int, se: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.BatchNorm2d(inside),
            nn.Conv2d(inside, outside, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outside),
            PReLU(outside),
            nn.Conv2d(outside, outside, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outside),
        ]
        if se:
            layers.append(SqueezeExcitation(outside))
        self.res_layer = nn.Sequential(*layers)
        self.shortcut_layer: nn.Module
        if inside != outside:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )
        elif stride > 1:
            # A 1x1 window is subsampling; unlike slicing it keeps channels_last on the way back.
            self.shortcut_layer = nn.AvgPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Residual plus shortcut."""
        return cast(Tensor, self.res_layer(x) + self.shortcut_layer(x))


class IResNet(nn.Module):
    """An IR network: (B, C, size, size) floats to raw embeddings (B, D), not of unit length.

    The embedding leaves the last batch norm, which has no affine part, in the parameters' precision even
    under autocast. In evaluation bfloat16 input is convolved as such (:func:`minusface.packed.usable`), by
    the parameters' roundings.

    Args:
        in_channels: C; 3 for images, 192 for frequency features.
        embedding_size: D.
        size: side of the input in pixels, a multiple of 16.
        units: residual units a level, four levels.
        widths: channels a level.
        stem_stride: 1 (the reference: the first level halves the side) or 2 (the stem does, and the
            first level keeps it: about a quarter of the cost at the same widths).
        se: squeeze-excitation at the end of every residual branch.
        dropout: before the last linear layer.
        squeeze: channels that a 1x1 convolution leaves of the last map before the linear layer, most of
            whose weights it spares; None for no such layer.

    Raises:
        MinusfaceError: a size that does not divide, or lists that are not of four positive numbers.
    """

    def __init__(
        self,
        in_channels: int = 3,
        embedding_size: int = 512,
        size: int = 112,
        *,
        units: Sequence[int],
        widths: Sequence[int] = WIDTHS,
        stem_stride: int = 1,
        se: bool = False,
        dropout: float = DROPOUT,
        squeeze: int | None = None,
    ) -> None:
        super().__init__()
        side = check_size(size)
        if len(units) != 4 or len(widths) != 4 or min(*units, *widths) < 1:
            raise MinusfaceError(
                f"backbone: units {list(units)}, widths {list(widths)}; expected four positive each"
            )
        if stem_stride not in (1, 2):
            raise MinusfaceError(f"backbone: stem_stride {stem_stride}, expected 1 or 2")
        self.input_layer = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 3, stem_stride, 1, bias=False),
            nn.BatchNorm2d(widths[0]),
            PReLU(widths[0]),
        )
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(widths[3]),
            Dropout(dropout),
            nn.Flatten(),
            nn.Linear((squeeze or widths[3]) * side * side, embedding_size),
            nn.BatchNorm1d(embedding_size, affine=False),
        )
        if squeeze:
            self.squeeze = nn.Conv2d(widths[3], squeeze, 1, bias=False)
        strides = (2 // stem_stride, 2, 2, 2)
        body: list[nn.Module] = []
        inside = widths[0]
        for count, width, stride in zip(units, widths, strides, strict=True):
            for number in range(count):
                body.append(ResidualUnit(inside, width, stride if number == 0 else 1, se))
                inside = width
        self.body = nn.Sequential(*body)
        # Where in the body the levels end.
        self.ends = tuple(accumulate(units))
        self.recompute = False
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, size, size) to (B, D)."""
        if not self.training and packed.usable(x, narrow=True):
            served = serving(self, x)
            if served is not None:
                return served(x)
            x = x.to(self.first.weight.dtype)
        return self.after_first(self.first(x))

    @property
    def first(self) -> nn.Conv2d:
        """The first convolution, without bias."""
        return cast(nn.Conv2d, self.input_layer[0])

    def after_first(self, hidden: Tensor, levels: list[Tensor] | None = None) -> Tensor:
        """All but the first convolution: its output to (B, D).

        Args:
            hidden: the first convolution's output.
            levels: given a list, what each of the four levels ends with, (B, K, H, W), is appended to it.
        """
        may_learn(self)
        for number, layer in enumerate((self.input_layer[1:], *self.body)):
            hidden = recomputed(layer, layer, hidden) if self.recompute else layer(hidden)
            if levels is not None and number in self.ends:
                levels.append(hidden)
        return self._embedding(hidden)

    def _embedding(self, hidden: Tensor) -> Tensor:
        """What follows the last level: (B, K, H, W) to (B, D)."""
        hidden = self.output_layer[:2](hidden)
        if "squeeze" in self._modules:
            hidden = self.squeeze(hidden)
        hidden = self.output_layer[2:4](hidden)
        norm = self.output_layer[4]
        return cast(Tensor, norm(hidden.to(cast(Tensor, norm.running_mean).dtype)))

    def norm_after(self, level: int) -> nn.BatchNorm2d:
        """The batch norm that reads what a level (0 to 3) ends with."""
        if level == len(self.ends) - 1:
            return cast(nn.BatchNorm2d, self.output_layer[0])
        return cast(nn.BatchNorm2d, cast(ResidualUnit, self.body[self.ends[level]]).res_layer[0])


def ir_18(in_channels: int = 3, embedding_size: int = 512, size: int = 112) -> IResNet:
    """IR-18: 2, 2, 2, 2 units."""
    return IResNet(in_channels, embedding_size, size, units=(2, 2, 2, 2))


def ir_34(in_channels: int = 3, embedding_size: int = 512, size: int = 112) -> IResNet:
    """IR-34: 3, 4, 6, 3 units."""
    return IResNet(in_channels, embedding_size, size, units=(3, 4, 6, 3))


def ir_50(in_channels: int = 3, embedding_size: int = 512, size: int = 112) -> IResNet:
    """IR-50: 3, 4, 14, 3 units; the paper's recogniser."""
    return IResNet(in_channels, embedding_size, size, units=(3, 4, 14, 3))


def ir_100(in_channels: int = 3, embedding_size: int = 512, size: int = 112) -> IResNet:
    """IR-100: 3, 13, 30, 3 units."""
    return IResNet(in_channels, embedding_size, size, units=(3, 13, 30, 3))


def ir_se_18(in_channels: int = 3, embedding_size: int = 512, size: int = 112) -> IResNet:
    """IR-18 with squeeze-excitation."""
    return IResNet(in_channels, embedding_size, size, units=(2, 2, 2, 2), se=True)


def ir_se_34(in_channels: int = 3, embedding_size: int = 512, size: int = 112) -> IResNet:
    """IR-34 with squeeze-excitation."""
    return IResNet(in_channels, embedding_size, size, units=(3, 4, 6, 3), se=True)


def ir_se_50(in_channels: int = 3, embedding_size: int = 512, size: int = 112) -> IResNet:
    """IR-50 with squeeze-excitation."""
    return IResNet(in_channels, embedding_size, size, units=(3, 4, 14, 3), se=True)


def ir_se_100(in_channels: int = 3, embedding_size: int = 512, size: int = 112) -> IResNet:
    """IR-100 with squeeze-excitation."""
    return IResNet(in_channels, embedding_size, size, units=(3, 13, 30, 3), se=True)


def ir_lite(in_channels: int = 3, embedding_size: int = 512, size: int = 112) -> IResNet:
    """A small one for CPUs: the stem halves the side, widths 32 to 256, two units a level."""
    return IResNet(
        in_channels,
        embedding_size,
        size,
        units=(2, 2, 2, 2),
        widths=(32, 64, 128, 256),
        stem_stride=2,
    )


SQUEEZED = 96


def ir_lite_96(in_channels: int = 3, embedding_size: int = 512, size: int = 112) -> IResNet:
    """ir_lite whose last map is squeezed to 96 channels: a quarter of its weights less."""
    return IResNet(
        in_channels,
        embedding_size,
        size,
        units=(2, 2, 2, 2),
        widths=(32, 64, 128, 256),
        stem_stride=2,
        squeeze=SQUEEZED,
    )

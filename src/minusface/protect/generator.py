"""The generator: a U-Net that regenerates the features it is given (paper section 3.3 and supplement).

It is a pure module, apart from its training. Legend: B batch, F feature channels, H, W pixels, K width.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from minusface import packed
from minusface.config import GeneratorConfig
from minusface.errors import MinusfaceError
from minusface.kept import hooked, may_learn
from minusface.recompute import recomputed

LEVELS = 5
# Four halvings: crops must divide evenly, or the skips would not fit.
STRIDE = 2 ** (LEVELS - 1)

# Names of the reference implementation's checkpoints -> ours.
_REFERENCE_NAMES = (
    (re.compile(r"^left_conv_(\d)\.conv_ReLU\.(\d)\."), "down.{}.{}."),
    (re.compile(r"^right_conv_([1-4])\.conv_ReLU\.(\d)\."), "merge.{}.{}."),
    (re.compile(r"^deconv_(\d)\."), "up.{}."),
    (re.compile(r"^right_conv_5\."), "project."),
)


class Regeneration(NamedTuple):
    """What the generator makes of features."""

    regenerated: Tensor
    """(B, F, H, W), in the units of the features."""
    latent: Tensor
    """(B, 16 K, H/16, W/16), the bottleneck, not negative."""


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3x3 convolutions, each followed by ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.ReLU(inplace=True),
    )


def _double(pair: nn.Sequential, hidden: Tensor, start: int = 0) -> Tensor:
    """What :func:`double_conv` gave, of a map; from its layer ``start`` on, 0 or 2."""
    if not packed.usable(hidden, narrow=True):
        return cast(Tensor, (pair[start:] if start else pair)(hidden))
    layers = list(pair)[start:]
    if hooked(pair, *layers):
        wide = hidden.to(cast(nn.Conv2d, layers[0]).weight.dtype)
        return cast(Tensor, (pair[start:] if start else pair)(wide)).to(hidden.dtype)
    for conv in layers[::2]:
        hidden = packed.convolve(hidden, cast(nn.Conv2d, conv), relu=True)
    return hidden


class UNet(nn.Module):
    """Five levels of two convolutions, skips by concatenation, a 1x1 convolution at the end.

    Args:
        channels: F, of input and output: 192 for the codecs, 3 for the toy case.
        width: K, channels of the first level; 64 gives the reference's 34.6 M parameters.
    """

    def __init__(self, channels: int = 192, width: int = 64) -> None:
        super().__init__()
        if width < 1:
            raise MinusfaceError(f"generator width {width}: expected at least 1")
        self.channels, self.width = channels, width
        self.recompute = False
        widths = [width * 2**level for level in range(LEVELS)]
        ins = [channels, *widths[:-1]]
        self.down = nn.ModuleList(double_conv(a, b) for a, b in zip(ins, widths, strict=True))
        deep_to_shallow = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 3, stride=2, padding=1, output_padding=1)
            for a, b in deep_to_shallow
        )
        self.merge = nn.ModuleList(double_conv(a, b) for a, b in deep_to_shallow)
        self.project = nn.Conv2d(width, channels, 1)

    def forward(self, features: Tensor) -> Regeneration:
        """Regenerate features (B, F, H, W); H and W divisible by 16."""
        hidden, latent = self.hidden(features)
        return Regeneration(self.project(hidden), latent)

    def hidden(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """All but the last 1x1 convolution: (B, K, H, W), and the latent."""
        return self._below(self._run(self._descend, 0, features))

    @property
    def first(self) -> nn.Conv2d:
        """The convolution that reads the features."""
        return cast(nn.Conv2d, cast(nn.Sequential, self.down[0])[0])

    def after_first(self, response: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`hidden`, from what the first convolution makes of the features: changed in place."""
        return self._below(self._run(self._finish, 0, response.relu_()))

    def _below(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """All but the first level's way down."""
        may_learn(self)
        if hidden.shape[-1] % STRIDE or hidden.shape[-2] % STRIDE:
            raise MinusfaceError(
                f"generator: features of {hidden.shape[-2]}x{hidden.shape[-1]}, "
                f"expected sides divisible by {STRIDE}"
            )
        skips = [hidden]
        for level in range(1, LEVELS):
            hidden = self._run(self._descend, level, hidden)
            skips.append(hidden)
        latent = skips.pop()
        for level in range(LEVELS - 1):
            hidden = self._run(self._ascend, level, hidden, skips.pop())
        return hidden, latent

    def _run(self, function: Callable[..., Tensor], level: int, *inputs: Tensor) -> Tensor:
        if self.recompute:
            return recomputed(self, partial(function, level), *inputs)
        return function(level, *inputs)

    def _descend(self, level: int, hidden: Tensor) -> Tensor:
        pooled = nn.functional.max_pool2d(hidden, 2) if level else hidden
        return _double(cast(nn.Sequential, self.down[level]), pooled)

    def _finish(self, level: int, hidden: Tensor) -> Tensor:
        """What follows the first activation of a level."""
        return _double(cast(nn.Sequential, self.down[level]), hidden, 2)

    def _ascend(self, level: int, hidden: Tensor, skip: Tensor) -> Tensor:
        up = cast(nn.ConvTranspose2d, self.up[level])
        wide = packed.upsample(hidden, up) if packed.usable(hidden, narrow=True) else up(hidden)
        return _double(cast(nn.Sequential, self.merge[level]), torch.cat([skip, wide], dim=1))


def start_lively(unet: UNet) -> None:
    """Initial weights under which activations keep their size, and a small output; in place.

    Without norms torch's own initialisation fades over eighteen layers: hundreds of steps are lost where
    nothing else pulls the network along.
    """
    for module in unet.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(cast(Tensor, module.bias))
    nn.init.normal_(unet.project.weight, std=0.01)


def build_generator(config: GeneratorConfig, channels: int) -> UNet:
    """The generator of a config, for a codec's number of channels."""
    return UNet(channels, config.width)


def rename_reference(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A reference generator's state dict under our names.

    Args:
        tensors: with or without the prefixes ``generator.`` and ``backbone.``.

    Raises:
        MinusfaceError: a name that the reference's generator does not have.
    """
    renamed = {}
    for name, tensor in tensors.items():
        bare = name.removeprefix("generator.").removeprefix("backbone.")
        for pattern, ours in _REFERENCE_NAMES:
            match = pattern.match(bare)
            if match:
                level, *rest = match.groups() or ("1",)
                bare_ours = ours.format(int(level) - 1, *rest) + bare[match.end() :]
                renamed[bare_ours] = tensor
                break
        else:
            raise MinusfaceError(f"{name}: not a tensor of the reference's generator")
    return renamed

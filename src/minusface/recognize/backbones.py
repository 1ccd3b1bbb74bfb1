"""Every backbone by its name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from minusface.errors import MinusfaceError, choice_error
from minusface.recognize.iresnet import (
    ir_18,
    ir_34,
    ir_50,
    ir_100,
    ir_lite,
    ir_lite_96,
    ir_se_18,
    ir_se_34,
    ir_se_50,
    ir_se_100,
)
from minusface.recognize.mobilefacenet import mobilefacenet

BACKBONES: dict[str, Callable[[int, int, int], nn.Module]] = {
    function.__name__: function
    for function in (
        ir_18,
        ir_34,
        ir_50,
        ir_100,
        ir_se_18,
        ir_se_34,
        ir_se_50,
        ir_se_100,
        ir_lite,
        ir_lite_96,
        mobilefacenet,
    )
}


def build_backbone(name: str, in_channels: int, embedding_size: int, size: int = 112) -> nn.Module:
    """A backbone by name: (B, in_channels, size, size) floats to raw embeddings (B, embedding_size).

    Raises:
        MinusfaceError: an unknown name (the known ones are listed), a size that is no multiple of 16,
            or a number of channels below 1.
    """
    if name not in BACKBONES:
        raise choice_error("backbone", name, BACKBONES)
    if in_channels < 1 or embedding_size < 1:
        raise MinusfaceError(
            f"backbone: in_channels {in_channels}, embedding_size {embedding_size}; expected 1 or more"
        )
    return BACKBONES[name](in_channels, embedding_size, size)

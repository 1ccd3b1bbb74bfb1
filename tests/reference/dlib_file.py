"""Dlib's face recognition network as dlib's documentation describes it, and a file of the form dlib writes.

Slow and obvious: layer after layer, nothing folded, sums of maps written out by their corner.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

# From the photo on: (channels, whether the first convolution halves the map).
RESIDUALS = [
    *[(32, False)] * 3,
    *[(64, True), (64, False), (64, False), (64, False)],
    *[(128, True), (128, False), (128, False)],
    *[(256, True), (256, False), (256, False)],
    (256, True),
]


@dataclass
class Layer:
    """A convolution and the affine layer behind it."""

    weight: Tensor
    bias: Tensor
    gamma: Tensor
    beta: Tensor


def random_layers(seed: int) -> tuple[list[Layer], Tensor]:
    """Layers whose maps neither grow nor vanish, and the last matrix."""
    random = np.random.default_rng(seed)

    def layer(count: int, inputs: int, side: int) -> Layer:
        scale = (2.0 / (inputs * side * side)) ** 0.5
        drawn = (
            random.standard_normal((count, inputs, side, side)) * scale,
            random.standard_normal(count) * 0.1,
            random.uniform(0.5, 1.0, count),
            random.standard_normal(count) * 0.1,
        )
        return Layer(*(torch.tensor(values, dtype=torch.float32) for values in drawn))

    layers, before = [layer(32, 3, 7)], 32
    for count, _ in RESIDUALS:
        layers += [layer(count, before, 3), layer(count, count, 3)]
        before = count
    return layers, torch.tensor(random.standard_normal((256, 128)) / 16, dtype=torch.float32)


def apply(layer: Layer, x: Tensor, stride: int, padding: int) -> Tensor:
    """Convolution, then the affine layer."""
    x = nnf.conv2d(x, layer.weight, layer.bias, stride=stride, padding=padding)
    return x * layer.gamma[:, None, None] + layer.beta[:, None, None]


def descriptor(layers: list[Layer], last: Tensor, chip: Tensor) -> Tensor:
    """The 128 numbers of one chip (3, 150, 150), bytes as floats."""
    x = (chip - torch.tensor([122.782, 117.001, 104.298])[:, None, None]) / 256
    x = nnf.max_pool2d(torch.relu(apply(layers[0], x, 2, 0)), 3, 2)
    rest = iter(layers[1:])
    for _, halves in RESIDUALS:
        y = torch.relu(apply(next(rest), x, 2 if halves else 1, 0 if halves else 1))
        y = apply(next(rest), y, 1, 1)
        if halves:
            x = nnf.avg_pool2d(x, 2, 2)
        whole = torch.zeros([max(a, b) for a, b in zip(x.shape, y.shape, strict=True)])
        whole[: x.shape[0], : x.shape[1], : x.shape[2]] += x
        whole[: y.shape[0], : y.shape[1], : y.shape[2]] += y
        x = torch.relu(whole)
    return x.mean((1, 2)) @ last


def number(value: int) -> bytes:
    """A whole number as dlib writes it: how many bytes, then the bytes, the lowest first."""
    count = max(1, (value.bit_length() + 7) // 8)
    return bytes([count]) + value.to_bytes(count, "little")


def tensor(values: Tensor, *sizes: int) -> bytes:
    """A tensor as dlib writes it: version, four sizes, floats."""
    told = b"".join(map(number, sizes))
    return number(2) + told + values.reshape(-1).numpy().astype("<f4").tobytes()


def named(name: str) -> bytes:
    """A layer's name."""
    return number(len(name)) + name.encode()


def written(layers: list[Layer], last: Tensor) -> bytes:
    """The file, but for what no reader needs."""
    parts = [b"\x01\x01\x01", named("loss_metric_2"), named("input_rgb_image_sized")]
    for layer in layers:
        own = torch.cat([layer.weight.flatten(), layer.bias])
        affine = torch.cat([layer.gamma, layer.beta])
        parts += [named("con_4"), tensor(own, len(own), 1, 1, 1), b"\x01\x00"]
        parts += [named("affine_"), tensor(affine, 1, 2 * len(layer.gamma), 1, 1), b"\x01\x00"]
    parts += [named("fc_2"), number(128), number(256), tensor(last, 256, 128, 1, 1), b"\x01\x00"]
    return b"".join(parts)

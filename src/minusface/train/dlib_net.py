"""Dlib's face recognition network, read from dlib's own file and run by torch.

``dlib_face_recognition_resnet_model_v1.dat`` (public domain, CC0; the package ``face_recognition_models``
carries it) is a residual network of 29 convolutions on chips of 150 pixels, with 128 numbers for a face. Dlib
itself, as packaged, takes twenty-five times as long; the numbers are the same to the sixth digit.

Legend: B batch, K channels of a map, N side of a crop in pixels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from minusface.errors import MinusfaceError

SIZE = 128
CHIP = 150
# What is taken off red, green and blue, and the scale of the rest: dlib's input layer.
MEANS, SCALE = (122.782, 117.001, 104.298), 256.0
# Channels of the fourteen residual blocks; those that halve the map's side.
BLOCKS = (32, 32, 32, 64, 64, 64, 64, 128, 128, 128, 256, 256, 256, 256)
HALVING = (3, 7, 10, 13)
# Where a chip lies in an aligned crop of 112 pixels: chip pixels a crop pixel, and the crop's point that
# the middle between a chip's eyes shows. Found by the agreement with embeddings of chips that dlib cut from
# photos (cosine 0.95; those of a photo and of its mirror image agree by 0.94).
ZOOM, BETWEEN_EYES, EYES_ON_CHIP = 1.6, (54.9, 51.6), (74.0, 47.1)
CROP = 112
LAYER = re.compile(rb"\x01.(con_4|affine_|fc_2)", re.DOTALL)
EXPECTED = "expected dlib_face_recognition_resnet_model_v1.dat"


class DlibNet(nn.Module):
    """The network: crops to descriptors.

    Args:
        layers: 29 pairs of a convolution's weight (K, I, S, S) and bias (K,), affine layers folded in.
        last: (256, 128), the map from averages to a descriptor.
    """

    means: Tensor
    last: Tensor

    def __init__(self, layers: list[tuple[Tensor, Tensor]], last: Tensor) -> None:
        super().__init__()
        self.register_buffer("means", torch.tensor(MEANS).view(1, 3, 1, 1))
        self.register_buffer("last", last)
        for number, (weight, bias) in enumerate(layers):
            self.register_buffer(f"weight{number}", weight)
            self.register_buffer(f"bias{number}", bias)

    @classmethod
    def load(cls, path: Path | str) -> DlibNet:
        """Read dlib's file; nothing in it is executed.

        Raises:
            MinusfaceError: unreadable, or another network.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise MinusfaceError(f"{path}: cannot read ({error.strerror or error})") from error
        try:
            return cls(*_layers(data))
        except (ValueError, IndexError, RuntimeError, OverflowError) as error:
            # RuntimeError: torch's word for numbers that are not as many as a layer has.
            raise MinusfaceError(f"{path}: damaged or another network, {EXPECTED}") from error

    @torch.no_grad()
    def embed(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Descriptors of aligned crops and of their mirror images, as dlib gives them: by Euclidean distance.

        Args:
            crops: (B, 3, N, N) in [-1, 1], RGB, aligned as :mod:`minusface.faces` does.

        Returns:
            Twice (B, 128), float32.
        """
        pixels = (crops.float() + 1) * 127.5
        return self(chips(pixels)), self(chips(pixels.flip(-1), mirrored=True))

    def forward(self, chips: Tensor) -> Tensor:
        """Chips (B, 3, 150, 150), bytes as floats, RGB, to descriptors (B, 128)."""
        x = (chips - self.means) / SCALE
        x = nnf.max_pool2d(nnf.relu(self._convolve(x, 0, stride=2)), 3, 2)
        for block in range(len(BLOCKS)):
            halves = block in HALVING
            y = self._convolve(
                x, 2 * block + 1, stride=2 if halves else 1, padding=0 if halves else 1
            )
            y = self._convolve(nnf.relu(y), 2 * block + 2, padding=1)
            x = nnf.relu(_added(nnf.avg_pool2d(x, 2, 2) if halves else x, y))
        return x.mean((2, 3)) @ self.last

    def _convolve(self, x: Tensor, number: int, stride: int = 1, padding: int = 0) -> Tensor:
        weight, bias = self.get_buffer(f"weight{number}"), self.get_buffer(f"bias{number}")
        return nnf.conv2d(x, weight, bias, stride=stride, padding=padding)


def chips(pixels: Tensor, mirrored: bool = False) -> Tensor:
    """Chips (B, 3, 150, 150) cut from aligned crops (B, 3, N, N); the border is repeated.

    Args:
        pixels: bytes as floats.
        mirrored: the crops are mirror images. A face's chip is not quite in the middle.
    """
    side = pixels.shape[-1] / CROP
    x, y = BETWEEN_EYES
    x = CROP - 1 - x if mirrored else x
    # From a chip's pixels to the crop's, as affine_grid counts: -1 and 1 are the corner pixels' middles.
    grow = side * (CHIP - 1) / (ZOOM * (pixels.shape[-1] - 1))
    rows = []
    for place, (eye, on_chip) in enumerate(zip((x, y), EYES_ON_CHIP, strict=True)):
        middle = (eye + 0.5 - ((CROP - 1) / 2 + 0.5)) * side
        middle = middle + ((CHIP - 1) / 2 - on_chip) * side / ZOOM
        shift = middle / ((pixels.shape[-1] - 1) / 2)
        rows.append([grow if axis == place else 0.0 for axis in range(2)] + [shift])
    turn = torch.tensor([rows], device=pixels.device).expand(len(pixels), -1, -1)
    grid = nnf.affine_grid(turn, [len(pixels), 3, CHIP, CHIP], align_corners=True)
    cut = nnf.grid_sample(pixels, grid, "bicubic", padding_mode="border", align_corners=True)
    return cut.round().clamp(0, 255)


def _added(x: Tensor, y: Tensor) -> Tensor:
    """The sum of two maps, what one of them lacks in channels, rows or columns taken as 0."""
    _, channels, height, width = map(max, x.shape, y.shape)
    sides = (
        nnf.pad(
            one, (0, width - one.shape[3], 0, height - one.shape[2], 0, channels - one.shape[1])
        )
        for one in (x, y)
    )
    return sum(sides, start=x.new_zeros(()))


def _layers(data: bytes) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Convolutions with their affine layers folded in, and the last map."""
    found: dict[str, list[npt.NDArray[np.float32]]] = {"con_4": [], "affine_": [], "fc_2": []}
    for match in LAYER.finditer(data):
        name, at = match[1].decode(), match.end()
        if name == "fc_2":
            # Its outputs and inputs are told before its numbers.
            _, at = _number(data, at)
            _, at = _number(data, at)
        found[name].append(_tensor(data, at))
    shapes = list(_shapes())
    (last,) = found["fc_2"]
    if len(found["con_4"]) != len(shapes) or len(found["affine_"]) != len(shapes):
        raise ValueError("another number of layers")
    layers = []
    for shape, own, affine in zip(shapes, found["con_4"], found["affine_"], strict=True):
        count = shape[0]
        factor, offset = torch.from_numpy(affine.copy()).view(2, count)
        weight = torch.from_numpy(own[:-count].copy()).view(shape) * factor.view(-1, 1, 1, 1)
        layers.append((weight, torch.from_numpy(own[-count:].copy()) * factor + offset))
    return layers, torch.from_numpy(last.copy()).view(BLOCKS[-1], SIZE)


def _shapes() -> Iterator[tuple[int, int, int, int]]:
    """Of the convolutions' weights, in the file's order."""
    before = BLOCKS[0]
    yield before, 3, 7, 7
    for width in BLOCKS:
        yield width, before, 3, 3
        yield width, width, 3, 3
        before = width


def _number(data: bytes, at: int) -> tuple[int, int]:
    """One of dlib's whole numbers and where it ends: how many bytes, then the bytes."""
    count = data[at] & 15
    return int.from_bytes(data[at + 1 : at + 1 + count], "little"), at + 1 + count


def _tensor(data: bytes, at: int) -> npt.NDArray[np.float32]:
    """The numbers of one of dlib's tensors: its version (2), four sizes, then floats."""
    version, at = _number(data, at)
    sizes = []
    for _ in range(4):
        size, at = _number(data, at)
        sizes.append(size)
    if version != 2:
        raise ValueError("another version of dlib's tensors")
    values = np.frombuffer(data, "<f4", int(np.prod(sizes)), at)
    if not np.isfinite(values).all():
        raise ValueError("NaN or infinity")
    return values

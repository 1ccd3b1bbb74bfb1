"""What flows through the package, as distinct types: a photo cannot pass for a protected image.

Each type holds a batch. Legend: B batch, N copies an image (``n_duplicate``), H, W pixels, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from minusface.errors import MinusfaceError
from minusface.pixels import UInt8 as UInt8

# Rounding in float32 may step over the range's end by this much; more is a caller's mistake.
RANGE_SLACK = 1e-3


def _check_images(what: str, pixels: Tensor, low: float, high: float) -> None:
    """Refuse a batch that is not (B, 3n, H, W), holds NaN or infinity, or leaves [low, high]."""
    if pixels.ndim != 4 or pixels.shape[1] == 0 or pixels.shape[1] % 3:
        raise MinusfaceError(f"{what}: shape {tuple(pixels.shape)}, expected (B, 3n, H, W)")
    if not pixels.is_floating_point():
        raise MinusfaceError(f"{what}: {pixels.dtype}, expected floats in [{low:g}, {high:g}]")
    if pixels.numel() == 0:
        return
    least, most = (float(v) for v in torch.aminmax(pixels.detach()))
    if not (np.isfinite(least) and np.isfinite(most)):
        raise MinusfaceError(
            f"{what}: holds NaN or infinity, expected values in [{low:g}, {high:g}]"
        )
    if least < low - RANGE_SLACK or most > high + RANGE_SLACK:
        raise MinusfaceError(
            f"{what}: values in [{least:.3g}, {most:.3g}], expected [{low:g}, {high:g}]"
        )


@dataclass(frozen=True, eq=False)
class FaceCrop:
    """Aligned face photos. They never leave the client.

    Args:
        pixels: (B, 3, H, W) floats in [-1, 1], RGB, aligned to the ArcFace five-point template.

    Raises:
        MinusfaceError: wrong shape, NaN, or values outside [-1, 1].
    """

    pixels: Tensor

    def __post_init__(self) -> None:
        _check_images("face crop", self.pixels, -1.0, 1.0)
        if self.pixels.shape[1] != 3:
            raise MinusfaceError(f"face crop: {self.pixels.shape[1]} channels, expected 3 (RGB)")

    def __len__(self) -> int:
        return len(self.pixels)

    @classmethod
    def from_uint8(cls, images: UInt8 | Sequence[UInt8]) -> FaceCrop:
        """From RGB bytes, (H, W, 3) or (B, H, W, 3) or a list of (H, W, 3) of one size."""
        if not isinstance(images, np.ndarray):
            if len({image.shape for image in images}) != 1:
                raise MinusfaceError("face crops of different sizes, or none, in one batch")
            images = np.stack(images)
        stack = images
        if stack.ndim == 3:
            stack = stack[None]
        if stack.ndim != 4 or stack.shape[-1] != 3 or stack.dtype != np.uint8:
            raise MinusfaceError(
                f"face crop: {stack.dtype} {stack.shape}, expected uint8 (B, H, W, 3), RGB"
            )
        pixels = torch.from_numpy(np.ascontiguousarray(stack)).permute(0, 3, 1, 2)
        return cls(pixels.to(torch.float32) / 127.5 - 1.0)

    def to_uint8(self) -> UInt8:
        """To RGB bytes (B, H, W, 3), rounded."""
        return _to_bytes((self.pixels + 1.0) / 2.0)


@dataclass(frozen=True, eq=False)
class ProtectedImage:
    """What leaves the client: images meant to look like noise, one or more a crop.

    Args:
        pixels: (B, 3n, H, W) floats in [0, 1]; n independent permutations stacked along the channels.

    Raises:
        MinusfaceError: wrong shape, NaN, or values outside [0, 1].
    """

    pixels: Tensor

    def __post_init__(self) -> None:
        _check_images("protected image", self.pixels, 0.0, 1.0)

    def __len__(self) -> int:
        return len(self.pixels)

    def to_uint8(self) -> UInt8:
        """To bytes (B, n*H, W, 3): the n images of a crop one below the other, rounded to 8 bits."""
        batch, channels, height, width = self.pixels.shape
        tiles = self.pixels.reshape(batch, channels // 3, 3, height, width)
        tall = tiles.transpose(1, 2).reshape(batch, 3, channels // 3 * height, width)
        return _to_bytes(tall)

    def to_png(self) -> list[bytes]:
        """One lossless 8-bit PNG a crop; the n images of a crop stand one below the other."""
        files = []
        for image in self.to_uint8():
            ok, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            assert ok, "PNG encoding of a valid uint8 image cannot fail"
            files.append(data.tobytes())
        return files

    @classmethod
    def from_uint8(cls, images: UInt8) -> ProtectedImage:
        """From bytes (B, n*W, W, 3), the layout of :meth:`to_uint8` for square images."""
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise MinusfaceError(
                f"protected image: {images.dtype} {images.shape}, expected uint8 (B, n*W, W, 3)"
            )
        batch, tall, width, _ = images.shape
        if width == 0 or tall % width:
            raise MinusfaceError(
                f"protected image: {tall}x{width}, expected squares stacked vertically"
            )
        pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        tiles = pixels.reshape(batch, 3, tall // width, width, width).transpose(1, 2)
        return cls(tiles.reshape(batch, -1, width, width).to(torch.float32) / 255.0)

    @classmethod
    def from_png(cls, files: Sequence[bytes]) -> ProtectedImage:
        """From PNG files as written by :meth:`to_png`."""
        if not files:
            raise MinusfaceError("protected images: none given, expected one PNG or more")
        images = []
        for number, data in enumerate(files):
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
            if image is None:
                raise MinusfaceError(f"protected image {number}: not a readable PNG")
            images.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        if len({image.shape for image in images}) > 1:
            raise MinusfaceError("protected images of different sizes in one batch")
        return cls.from_uint8(np.asarray(images, np.uint8).reshape(len(images), *images[0].shape))


@dataclass(frozen=True, eq=False)
class Template:
    """Embeddings of faces, unit length, comparable by dot product.

    Args:
        vectors: (B, D) floats, each row of length 1.
    """

    vectors: Tensor

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or not bool(torch.isfinite(self.vectors).all()):
            raise MinusfaceError(
                f"template: shape {tuple(self.vectors.shape)}, expected finite (B, D)"
            )

    def __len__(self) -> int:
        return len(self.vectors)

    def similarity(self, other: Template) -> Tensor:
        """Cosine of every row with every row of ``other``: (B, B2) in [-1, 1]."""
        return self.vectors @ other.vectors.T


@dataclass(frozen=True)
class Match:
    """The answer to "is it the same person?": cosine ``score`` in [-1, 1] against ``threshold``."""

    score: float
    threshold: float

    @property
    def same(self) -> bool:
        """True when the score reaches the threshold."""
        return self.score >= self.threshold


def _to_bytes(pixels: Tensor) -> UInt8:
    """(B, 3, H, W) floats in [0, 1] to (B, H, W, 3) bytes, rounded to nearest."""
    scaled = (pixels.detach().float().clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
    return np.asarray(scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy(), np.uint8)


def verify(a: Template, b: Template, threshold: float) -> list[Match]:
    """Row by row: do two templates belong to the same person?

    Args:
        a: (B, D).
        b: (B, D).
        threshold: least cosine of the same person, in [-1, 1].

    Returns:
        B matches.

    Raises:
        MinusfaceError: different shapes, or a threshold outside [-1, 1].
    """
    if a.vectors.shape != b.vectors.shape:
        raise MinusfaceError(
            f"templates: {tuple(a.vectors.shape)} and {tuple(b.vectors.shape)}, expected the same"
        )
    if not -1 <= threshold <= 1:
        raise MinusfaceError(f"threshold {threshold}: a cosine, expected -1 to 1")
    scores = (a.vectors * b.vectors).sum(1)
    return [Match(float(score), threshold) for score in scores]

"""Every distinct image of a benchmark embedded once a draw; what is done is kept on disk.

Legend: K images, B a batch of them, R draws, D embedding size, H, W pixels.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from minusface.errors import MinusfaceError
from minusface.evaluate.reader import Reader
from minusface.files import write_atomically
from minusface.types import UInt8

# Images a file of the cache: a stopped evaluation repeats so many at most.
PART = 256


class PairEmbedder(Protocol):
    """A model under test, from crop to embedding."""

    def embed(self, images: Tensor, keys: Sequence[str], draw: int, flip: bool) -> Tensor:
        """Embed crops.

        Args:
            images: (B, 3, H, W) uint8, RGB.
            keys: B names. What is random is drawn from the name and ``draw`` alone, so that numbers do not
                depend on batches.
            draw: number of the draw, from 0.
            flip: sum the embeddings of the crop and of its mirror image, both protected with the same
                permutation.

        Returns:
            (B, D) finite floats, of any length but zero.
        """
        ...


@dataclass(frozen=True)
class Cache:
    """Where embeddings are kept, and of what. They are biometric data: readable by their owner only.

    Args:
        folder: shared by all evaluations.
        model: fingerprint of the checkpoint and of whatever else decides its embeddings (the seed of the
            permutations, 8 bits or not).
        data: fingerprint of the images.
    """

    folder: Path
    model: str
    data: str

    def part(self, keys: Sequence[str], draws: int, flip: bool) -> Path:
        """The file of some images."""
        said = json.dumps([self.model, self.data, draws, flip, list(keys)])
        name = hashlib.sha256(said.encode("utf-8", "surrogateescape")).hexdigest()[:40]
        return self.folder / f"{name}.safetensors"


def embed_images(
    embedder: PairEmbedder,
    read: Reader,
    keys: Sequence[str],
    *,
    draws: int = 1,
    flip: bool = True,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
    cache: Cache | None = None,
) -> Tensor:
    """Embeddings of images.

    Args:
        embedder: the model.
        read: from a key to (H, W, 3) bytes, RGB.
        keys: K names.
        draws: R, how often all permutations are drawn anew.
        flip: embed the mirror image too.
        batch_size: images embedded at a time.
        progress: called with the embeddings done and those to do.
        cache: where what is done is kept and found again.

    Returns:
        (R, K, D) float32 rows of unit length.

    Raises:
        MinusfaceError: an image cannot be read or differs in size from its batch, an embedding is NaN or
            zero, numbers out of range.
    """
    for what, number in (("draws", draws), ("batch size", batch_size)):
        if number < 1:
            raise MinusfaceError(f"{what} {number}: expected 1 or more")
    parts: list[Tensor] = []
    done, total = 0, len(keys) * draws
    for start in range(0, len(keys), PART):
        some = list(keys[start : start + PART])
        path = None if cache is None else cache.part(some, draws, flip)
        rows = _cached(path, draws, len(some))
        if rows is None:
            found = []
            for names, images in batches(read, some, batch_size):
                found.append(_draw(embedder, images, names, draws, flip))
                done += draws * len(names)
                if progress is not None:
                    progress(done, total)
            rows = torch.cat(found, dim=1)
            if path is not None:
                write_atomically(path, save({"embeddings": rows}))
                path.chmod(0o600)
        else:
            done += draws * len(some)
            if progress is not None:
                progress(done, total)
        parts.append(rows)
    return torch.cat(parts, dim=1)


def _draw(
    embedder: PairEmbedder, images: Tensor, keys: Sequence[str], draws: int, flip: bool
) -> Tensor:
    """(R, B, D) of a batch."""
    with torch.no_grad():
        return torch.stack(
            [unit_rows(embedder.embed(images, keys, draw, flip), keys) for draw in range(draws)]
        )


def _cached(path: Path | None, draws: int, images: int) -> Tensor | None:
    """A part that is there and whole."""
    if path is None or not path.is_file():
        return None
    try:
        rows = load(path.read_bytes())["embeddings"]
    except (SafetensorError, OSError, KeyError):
        return None
    return rows if rows.ndim == 3 and rows.shape[:2] == (draws, images) else None


def batches(
    read: Reader, keys: Sequence[str], batch_size: int
) -> Iterator[tuple[list[str], Tensor]]:
    """Keys and images (B, 3, H, W) uint8."""
    for start in range(0, len(keys), batch_size):
        batch = list(keys[start : start + batch_size])
        images: list[UInt8] = []
        for key in batch:
            image = read(key)
            if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
                raise MinusfaceError(
                    f"{key}: {image.dtype} {image.shape}, expected uint8 (H, W, 3), RGB"
                )
            if images and image.shape != images[0].shape:
                raise MinusfaceError(
                    f"{key}: image of shape {image.shape}, others of the batch {images[0].shape}"
                )
            images.append(image)
        yield batch, torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def unit_rows(embeddings: Tensor, keys: Sequence[str]) -> Tensor:
    """Embeddings (B, D) to float32 rows of length one on the CPU."""
    if embeddings.ndim != 2 or len(embeddings) != len(keys):
        raise MinusfaceError(
            f"embeddings of shape {tuple(embeddings.shape)} for {len(keys)} images, "
            "expected one row an image"
        )
    rows = embeddings.detach().to("cpu", torch.float64)
    lengths = rows.norm(dim=1, keepdim=True)
    for key, length in zip(keys, lengths.flatten().tolist(), strict=True):
        if not math.isfinite(length):
            raise MinusfaceError(f"{key}: its embedding holds NaN or infinity")
        if length == 0:
            raise MinusfaceError(f"{key}: its embedding is zero, which has no direction")
    unit: Tensor = (rows / lengths).to(torch.float32)
    return unit

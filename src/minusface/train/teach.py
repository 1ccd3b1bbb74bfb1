"""Teacher files: a network asked once about every image of a face folder, and about its mirror image.

Legend: B batch, K images, D embedding, N side of a crop in pixels.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from minusface.data import FaceDataset
from minusface.errors import MinusfaceError
from minusface.files import write_atomically
from minusface.recognize.teachers import Float64, OnnxTeacher
from minusface.train.augment import to_crops
from minusface.train.dlib_net import DlibNet

BATCH = 32


class Network(Protocol):
    """A face recogniser that can be asked about any crop."""

    def embed(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Crops (B, 3, N, N) in [-1, 1], RGB, to embeddings (B, D) of them and of their mirror images."""
        ...


class OnnxNetwork:
    """An ONNX embedder as InsightFace's are: (B, 3, N, N) in [-1, 1], RGB, to (B, D).

    Raises:
        MinusfaceError: see :class:`minusface.recognize.teachers.OnnxTeacher`.
    """

    def __init__(self, path: Path | str) -> None:
        self._teacher = OnnxTeacher(path)

    def embed(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Network`; unit rows."""
        unmirrored = torch.zeros(len(crops), dtype=torch.bool)
        plain, mirrored = (
            self._teacher.targets((), pixels, unmirrored) for pixels in (crops, crops.flip(-1))
        )
        return plain, mirrored


def open_network(path: Path | str) -> Network:
    """The network in a file: dlib's ``.dat`` or an ``.onnx``.

    Raises:
        MinusfaceError: another ending, or no usable network.
    """
    ending = Path(path).suffix.lower()
    if ending == ".dat":
        return DlibNet.load(path)
    if ending == ".onnx":
        return OnnxNetwork(path)
    raise MinusfaceError(
        f"{path}: a network is dlib's .dat or an .onnx file, not {ending or 'this'}"
    )


def descriptors(
    network: Network, dataset: FaceDataset, advance: Callable[[int], None] = lambda _: None
) -> tuple[list[str], Float64, Float64]:
    """Keys (K) of all images, and embeddings (K, D) of them and of their mirror images.

    Raises:
        MinusfaceError: an image cannot be read.
    """
    keys: list[str] = []
    rows: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(dataset), BATCH):
        samples = [dataset[i] for i in range(start, min(start + BATCH, len(dataset)))]
        keys += [sample.key for sample in samples]
        rows.append(network.embed(to_crops(stacked([sample.image for sample in samples]))))
        advance(len(samples))
    plain, mirrored = (torch.cat(part).double().numpy() for part in zip(*rows, strict=True))
    return keys, plain, mirrored


def stacked(images: Sequence[np.ndarray]) -> Tensor:
    """Images (N, N, 3) to a batch (B, 3, N, N), bytes."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def write_teacher(
    path: Path,
    keys: Sequence[str],
    plain: Float64,
    mirrored: Float64,
    centre: Float64 | None = None,
) -> None:
    """A ``.npz`` that ``distill.teacher`` takes, in half precision, whole or not at all.

    Args:
        path: where to.
        keys: (K) names, distinct.
        plain: (K, D).
        mirrored: (K, D).
        centre: (D,), to be taken off in the place of the mean over the training images.
    """
    arrays: dict[str, np.ndarray] = {
        "names": np.array(keys),
        "plain": plain.astype(np.float16),
        "flipped": mirrored.astype(np.float16),
    }
    if centre is not None:
        arrays["centre"] = centre.astype(np.float32)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    # Embeddings of people: for their owner alone.
    write_atomically(path, buffer.getvalue(), 0o600)

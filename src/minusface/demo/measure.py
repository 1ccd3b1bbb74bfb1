"""Recognition on held-out pairs, and how much protected images look like the crops.

Protected images are made once and measured in all ways: the generator is what costs time, and a draw
shares it with the others. Permutations come from (key, draw, seed) as in ``minusface evaluate``.

Legend: B batch, K distinct images, D embedding, F channels, N side of a crop.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minusface.config import Precision
from minusface.demo.source import Source
from minusface.evaluate import VerificationResult, evaluate_pairs, psnr, ssim
from minusface.evaluate.embedders import load_embedder
from minusface.protect import Protector, permutation_of_key
from minusface.recognize import Recognizer
from minusface.train.augment import to_crops
from minusface.types import ProtectedImage

BATCH = 32
Show = Callable[[float, str], None]


@dataclass(frozen=True)
class Protected:
    """What was measured on protected images."""

    floats: VerificationResult
    eight_bit: VerificationResult
    ssim: float
    psnr: float
    crops: int
    """How many SSIM and PSNR are means over."""


@dataclass
class Recorded:
    """Embeddings computed before, served to the evaluation by key and draw."""

    tables: list[dict[str, Tensor]] = field(default_factory=list)

    def embed(self, images: Tensor, keys: Sequence[str], draw: int, flip: bool) -> Tensor:
        """See :class:`minusface.evaluate.PairEmbedder`."""
        return torch.stack([self.tables[draw][key] for key in keys])


def measure_other(checkpoint: Path, name: str, source: Source, show: Show) -> VerificationResult:
    """An unprotected or a stage-1 recogniser, which draw nothing."""
    embedder = load_embedder(checkpoint)
    return evaluate_pairs(
        embedder,
        source.read,
        source.pairs,
        name=name,
        progress=lambda done, all_: show(done / all_, f"{done} of {all_} images"),
    )

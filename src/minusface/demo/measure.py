"""Recognition on held-out pairs, and how much protected images look like the crops.

Everything behind the generator is measured in one run over the images: the generator is what costs time,
and its residue serves stage 1, all draws of stage 2, and rounding to 8 bits. The numbers are those of
``minusface evaluate``, image by image.

Legend: B batch, D embedding, F channels, N side of a crop, n copies an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from minusface.demo.source import Source
from minusface.evaluate import VerificationResult, evaluate_pairs, psnr, ssim
from minusface.evaluate.embedders import load_embedder
from minusface.protect import Protector, permutation_of_key
from minusface.recognize import Recognizer
from minusface.types import FaceCrop

BATCH = 32
Show = Callable[[float, str], None]


@dataclass(frozen=True)
class Measured:
    """What was measured behind the generator."""

    floats: VerificationResult
    """Protected images."""
    eight_bit: VerificationResult
    """Those of the first draw, rounded to 8 bits."""
    residue: VerificationResult | None
    """Stage 1's recogniser, on the residue."""
    ssim: float
    psnr: float
    crops: int
    """How many SSIM and PSNR are means over."""


class Recorded:
    """Embeddings computed before, served by key and draw: a :class:`minusface.evaluate.PairEmbedder`."""

    def __init__(self, draws: int) -> None:
        self.rows: list[dict[str, Tensor]] = [{} for _ in range(draws)]

    def add(self, draw: int, keys: Sequence[str], embeddings: Tensor) -> None:
        """Add unit embeddings (B, D) to what is there: an image's and its mirror image's are summed."""
        rows = self.rows[draw]
        for key, row in zip(keys, nnf.normalize(embeddings.float(), dim=1), strict=True):
            rows[key] = rows[key] + row if key in rows else row

    def embed(self, images: Tensor, keys: Sequence[str], draw: int, flip: bool) -> Tensor:
        """The recorded (B, D)."""
        return torch.stack([self.rows[draw][key] for key in keys])

    def result(self, name: str, source: Source) -> VerificationResult:
        """What the recorded embeddings say of the pairs."""
        return evaluate_pairs(self, source.read, source.pairs, name=name, draws=len(self.rows))


def measure_plain(checkpoint: Path, source: Source, show: Show) -> VerificationResult:
    """The recogniser of unprotected crops."""

    def progress(done: int, of: int) -> None:
        show(done / of, f"unprotected, {done} of {of} images")

    return evaluate_pairs(
        load_embedder(checkpoint), source.read, source.pairs, name="plain", progress=progress
    )


def measure_protected(
    checkpoint: Path,
    stage1: Path | None,
    source: Source,
    *,
    draws: int,
    seed: int,
    similar: int,
    show: Show,
) -> Measured:
    """Recognisers of protected images, as floats and as 8 bits, and of the residue.

    Args:
        checkpoint: of stage 2.
        stage1: the checkpoint that its generator came from.
        source: pairs and how to read them.
        draws: how often permutations are drawn anew.
        seed: of the permutations.
        similar: how many crops are compared with their protected images.
        show: told the part done and a note.

    Raises:
        MinusfaceError: a damaged checkpoint, an unreadable image.
    """
    reader = None if stage1 is None else Recognizer.load(stage1)
    sweep = _Sweep(Protector.load(checkpoint), Recognizer.load(checkpoint), reader, draws, seed)
    likeness: list[tuple[float, float]] = []
    keys = source.pairs.keys
    for start in range(0, len(keys), BATCH):
        part = keys[start : start + BATCH]
        crops = FaceCrop.from_uint8(np.stack([source.read(key) for key in part])).pixels
        protected = sweep.run(crops, part)
        wanted = similar - len(likeness)
        if wanted > 0:
            pair = (crops[:wanted] + 1) / 2, protected[:wanted, :3]
            likeness += zip(ssim(*pair).tolist(), psnr(*pair).tolist(), strict=True)
        done = start + len(part)
        show(done / len(keys), f"protected, {done} of {len(keys)} images, {draws} draws")
    alike, ratio = np.array(likeness).mean(0)
    return Measured(
        floats=sweep.floats.result("stage2", source),
        eight_bit=sweep.eight_bit.result("stage2, 8 bits", source),
        residue=None if reader is None else sweep.residue.result("stage1", source),
        ssim=float(alike),
        psnr=float(ratio),
        crops=len(likeness),
    )


class _Sweep:
    """One run over the held-out images; ``reader`` is stage 1's recogniser of the residue."""

    def __init__(
        self,
        protector: Protector,
        recognizer: Recognizer,
        reader: Recognizer | None,
        draws: int,
        seed: int,
    ) -> None:
        self.protector, self.recognizer, self.reader = protector, recognizer, reader
        self.seed = seed
        self.floats, self.eight_bit, self.residue = Recorded(draws), Recorded(1), Recorded(1)
        for model in (protector, recognizer, reader):
            if model is not None:
                model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def run(self, crops: Tensor, keys: Sequence[str]) -> Tensor:
        """Record the embeddings of crops (B, 3, N, N) and of their mirror images.

        Returns:
            The crops' protected images under the first draw.
        """
        first: Tensor | None = None
        for view in (crops, crops.flip(-1)):
            residue = self.protector.residue(view)
            if self.reader is not None:
                self.residue.add(0, keys, self.reader(residue))
            for draw in range(len(self.floats.rows)):
                images = self.protected(residue, keys, draw)
                self.floats.add(draw, keys, self.recognizer(images))
                if draw == 0:
                    self.eight_bit.add(0, keys, self.recognizer((images * 255).round() / 255))
                    first = images if first is None else first
        assert first is not None, "there is at least one draw"
        return first

    def protected(self, residue: Tensor, keys: Sequence[str], draw: int) -> Tensor:
        """X_p (B, 3n, N, N) in [0, 1] of residues (B, F, N, N)."""
        codec = self.protector.codec
        orders = [
            permutation_of_key([f"{key}#{copy}" for key in keys], codec.channels, self.seed, draw)
            for copy in range(self.protector.n_duplicate)
        ]
        return torch.cat([codec.decode(residue, order) for order in orders], dim=1)

"""A bare face embedder in ONNX under test, whatever range and order of colours it wants.

Legend: B batch, H, W pixels, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from minusface.errors import MinusfaceError, choice_error
from minusface.evaluate.embedding import PairEmbedder
from minusface.recognize.teachers import OnnxTeacher

# Bytes to what the model reads: pixel * scale + shift.
RANGES = {"[-1,1]": (1 / 127.5, -1.0), "[0,1]": (1 / 255, 0.0), "[0,255]": (1.0, 0.0)}
COLOURS = ("RGB", "BGR")


class OnnxEmbedder:
    """A recogniser of plain crops: one input (B, 3, H, W) float32, an output (B, D).

    Its batch may be fixed, to 1 or more. It knows no permutations: every draw gives the same.

    Args:
        path: the model.
        values: what its pixels range over: ``[-1,1]`` (InsightFace's custom), ``[0,1]`` or ``[0,255]``.
        colours: ``RGB`` or ``BGR``.

    Raises:
        MinusfaceError: onnxruntime is not installed, no model of this form, the recogniser of an export, or
            an unknown choice.
    """

    draws_matter = False

    def __init__(self, path: Path | str, values: str = "[-1,1]", colours: str = "RGB") -> None:
        if values not in RANGES:
            raise choice_error("range of values", values, RANGES)
        if colours not in COLOURS:
            raise choice_error("order of colours", colours, COLOURS)
        self._model = OnnxTeacher(path)
        self.path, self.values, self.colours = str(path), values, colours

    @property
    def size(self) -> int:
        """D."""
        return self._model.size

    def embed(self, images: Tensor, keys: Sequence[str], draw: int, flip: bool) -> Tensor:
        """See :class:`PairEmbedder`: the sum of the unit embeddings of an image and its mirror image.

        Raises:
            MinusfaceError: images of another size than the model's, or an embedding that is not finite.
        """
        scale, shift = RANGES[self.values]
        pixels = images.to(torch.float32) * scale + shift
        if self.colours == "BGR":
            pixels = pixels.flip(1)
        unused = torch.zeros(len(images), dtype=torch.bool)
        views = [pixels, pixels.flip(-1)] if flip else [pixels]
        rows = torch.stack([self._model.targets(keys, view, unused) for view in views]).sum(0)
        if not bool(torch.isfinite(rows).all()):
            bad = int((~torch.isfinite(rows).all(1)).nonzero()[0])
            raise MinusfaceError(f"{keys[bad]}: {self.path} gives NaN or infinity")
        return rows


__all__ = ["COLOURS", "RANGES", "OnnxEmbedder", "PairEmbedder"]

"""What an unprotected twin sees on its way to an embedding, for a recogniser of protected images to imitate.

No part of the paper. An embedding of 128 numbers tells a student little of how to get there; the maps of a
network of the same form, at the same places of the same face, tell it at every pixel.

Legend: B batch, V permutations an image (views), K channels of a map, H, W its pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from minusface.errors import MinusfaceError
from minusface.recognize.iresnet import IResNet
from minusface.recognize.recognizer import Recognizer

# Of the IR networks' four levels. Before them there is mostly what a protected image no longer holds.
LEVELS = (2, 3)


class Twin(nn.Module):
    """A frozen recogniser of unprotected crops.

    Args:
        recognizer: the twin.
        student: what shall imitate it.

    Raises:
        MinusfaceError: the twin reads no crops, or the two are not IR networks of one form.
    """

    def __init__(self, recognizer: Recognizer, student: Recognizer) -> None:
        super().__init__()
        if recognizer.kind != "crop":
            raise MinusfaceError(
                f"distill.twin: a recogniser of {recognizer.kind!r}, expected an unprotected one (task plain)"
            )
        forms = [(r.config.backbone, r.size) for r in (recognizer, student)]
        if forms[0] != forms[1] or not isinstance(recognizer.backbone, IResNet):
            raise MinusfaceError(
                f"distill.twin: {forms[0][0]} for crops of {forms[0][1]} pixels beside a student "
                f"{forms[1][0]} for {forms[1][1]}; expected one IR backbone for both"
            )
        self.recognizer = recognizer.eval().requires_grad_(False)

    @classmethod
    def load(cls, path: Path | str, student: Recognizer) -> Twin:
        """From a checkpoint of task plain.

        Raises:
            MinusfaceError: no such checkpoint, or see above.
        """
        return cls(Recognizer.load(path), student)

    def train(self, mode: bool = True) -> Twin:
        """Never in training mode."""
        return super().train(False)

    @torch.no_grad()
    def sees(self, crops: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Of crops (B, 3, N, N) in [-1, 1]: the embeddings, unit rows (B, D), and the maps (B, K, H, W)
        of :data:`LEVELS`."""
        embeddings, levels = self.recognizer.with_levels(crops)
        return nnf.normalize(embeddings.float(), dim=1), [levels[level] for level in LEVELS]

    def distance(self, levels: list[Tensor], targets: list[Tensor]) -> Tensor:
        """Mean squared distance of a student's levels to the twin's maps, relative to the variance
        of each channel on the twin's training data: 1 for whoever knows no more than the channels' means.

        Args:
            levels: all four of the student, (V*B, K, H, W) view after view.
            targets: of the twin, (B, K, H, W).
        """
        backbone = cast(IResNet, self.recognizer.backbone)
        total = levels[-1].new_zeros((), dtype=torch.float32)
        for level, target in zip(LEVELS, targets, strict=True):
            variance = cast(Tensor, backbone.norm_after(level).running_var)
            scale = (variance + 1e-5).rsqrt()[:, None, None]
            views = levels[level].float().reshape(-1, *target.shape)
            total = total + ((views - target.float()) * scale).square().mean()
        return total / len(LEVELS)

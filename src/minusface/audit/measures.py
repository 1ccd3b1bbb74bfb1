"""How much of a face an attacker got back: by pixels, and by identity.

Pixels do not measure identity: a face may be recognised from an image of low SSIM. Both are told.
Legend: B batch, N side of a crop, T test images, D embedding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minusface.audit.access import BATCH
from minusface.audit.finding import Measures
from minusface.audit.ruler import Ruler
from minusface.audit.scene import Scene
from minusface.errors import MinusfaceError
from minusface.evaluate import metrics, psnr, score_pairs, ssim
from minusface.evaluate.pairs import PairList


def likeness(found: Tensor, truth: Tensor) -> Measures:
    """SSIM and PSNR in dB, means over images (B, 3, N, N) in [0, 1]; PSNR of equal images counts as 99."""
    return {
        "ssim": float(ssim(found, truth).mean()),
        "psnr": float(psnr(found, truth).clamp(max=99).mean()),
    }


def verification(a: Tensor, b: Tensor, pairs: PairList) -> Measures:
    """Accuracy and AUC where pairs' first images are rows of ``a`` and their second rows of ``b``.

    Args:
        a: (T, D) unit rows, as the pairs number them.
        b: the same.
        pairs: of the test images.
    """
    scores = cross_scores(a, b, pairs)
    folds = metrics.kfold_accuracy(scores, pairs.same, pairs.folds)
    return {"accuracy": folds.mean, "auc": metrics.auc(scores, pairs.same)}


def cross_scores(a: Tensor, b: Tensor, pairs: PairList) -> metrics.Floats:
    """(P,) cosines of first images in ``a`` with second images in ``b``."""
    both = torch.cat([a, b])
    return score_pairs(both, pairs.a_index, pairs.b_index + len(a))


def operating_threshold(scores: metrics.Floats, pairs: PairList) -> float:
    """The threshold that tells most of these pairs right: nobody has chosen it beforehand."""
    return metrics.best_threshold(scores, pairs.same)


def passed(scores: metrics.Floats, pairs: PairList, threshold: float) -> float:
    """Part of the genuine pairs that reach the threshold."""
    return float((scores[pairs.same] >= threshold).mean())


class Judge:
    """Judges recovered faces of one scene by an independent recogniser.

    Args:
        scene: whose test photos were attacked.
        ruler: the independent recogniser.
        lpips: a perceptual distance, where a file with one is given.
        similar: how many images SSIM, PSNR and LPIPS are means over.
    """

    def __init__(
        self, scene: Scene, ruler: Ruler, lpips: Lpips | None = None, similar: int = 96
    ) -> None:
        self.scene, self.ruler, self.lpips, self.similar = scene, ruler, lpips, similar
        self.plain = ruler.embed_photos(scene.test)
        scores = cross_scores(self.plain, self.plain, scene.pairs)
        self.threshold = operating_threshold(scores, scene.pairs)
        self.accuracy = verification(self.plain, self.plain, scene.pairs)["accuracy"] or 0.0
        self.passing = passed(scores, scene.pairs, self.threshold)

    def recovered(self, found: Tensor) -> Measures:
        """What recovered test photos tell.

        Args:
            found: (T, 3, N, N) in [0, 1], in the order of the scene's test photos.

        Returns:
            ``ssim``, ``psnr``, ``lpips`` to the photo; ``cosine`` of its template with the photo's;
            ``accuracy`` and ``auc`` of telling recovered from other photos of the same person and of
            others; ``replay``, the part of genuine pairs that pass at :attr:`threshold`.
        """
        places = range(min(self.similar, len(found)))
        truth = (self.scene.test.crops(places) + 1) / 2
        measures = likeness(found[: len(truth)].cpu(), truth)
        if self.lpips is not None:
            measures["lpips"] = self.lpips.distance(found[: len(truth)].cpu(), truth)
        rows = self.ruler.embed(found.cpu() * 2 - 1)
        measures["cosine"] = float((rows * self.plain).sum(1).mean())
        measures |= verification(rows, self.plain, self.scene.pairs)
        scores = cross_scores(rows, self.plain, self.scene.pairs)
        measures["replay"] = passed(scores, self.scene.pairs, self.threshold)
        return measures


class Lpips:
    """A perceptual distance from a file the user has: nothing is downloaded.

    The model takes two batches (B, 3, H, W) in [-1, 1], RGB, and gives B distances, 0 for equal images: an
    ONNX file with two inputs. TorchScript is not taken: such a file is a program.

    Raises:
        MinusfaceError: no such file, or no model of this form.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise MinusfaceError(f"{path}: no such file, expected a perceptual distance model")
        self.fingerprint = hashlib.sha256(self.path.read_bytes()).hexdigest()
        """SHA-256 (hex) of the file: with another one, other distances."""
        self._run = self._open()

    def _open(self) -> Callable[[Tensor, Tensor], Tensor]:
        try:
            import onnxruntime
        except ImportError as error:
            raise MinusfaceError(
                '--lpips needs onnxruntime: pip install "minusface[teacher]"'
            ) from error
        try:
            session = onnxruntime.InferenceSession(
                str(self.path), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own errors share no public base
            raise MinusfaceError(f"{self.path}: not a usable ONNX model") from error
        names = [entry.name for entry in session.get_inputs()]
        if len(names) != 2:
            raise MinusfaceError(f"{self.path}: {len(names)} inputs, expected two images")

        def run(a: Tensor, b: Tensor) -> Tensor:
            result = session.run(None, dict(zip(names, (a.numpy(), b.numpy()), strict=True)))[0]
            return torch.from_numpy(np.asarray(result))

        return run

    @torch.no_grad()
    def distance(self, a: Tensor, b: Tensor) -> float:
        """The mean distance of images (B, 3, N, N) in [0, 1].

        Raises:
            MinusfaceError: the model gives something else than one number an image.
        """
        found = []
        for x, y in zip(torch.split(a, BATCH), torch.split(b, BATCH), strict=True):
            try:
                rows = self._run(x * 2 - 1, y * 2 - 1)
            except Exception as error:  # whatever a foreign model raises
                said = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise MinusfaceError(f"{self.path}: cannot compare images ({said})") from error
            if rows.numel() != len(x):
                raise MinusfaceError(
                    f"{self.path}: {rows.numel()} numbers for {len(x)} pairs, expected one each"
                )
            found.append(rows.flatten().float())
        return float(torch.cat(found).mean())

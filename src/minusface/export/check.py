"""What an export is worth: parity with PyTorch, accuracy and thresholds on a list of pairs.

Legend: B batch, K distinct images, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from minusface.errors import MinusfaceError
from minusface.evaluate.embedders import ProtectedEmbedder
from minusface.evaluate.embedding import PairEmbedder, embed_images
from minusface.evaluate.pairs import PairList
from minusface.evaluate.reader import Reader
from minusface.evaluate.verification import score_pairs, verification_result
from minusface.export.write import example
from minusface.protect import Protector, permutation_of_key
from minusface.recognize import Recognizer
from minusface.runtime import ClientModel, RecognizerModel, from_bytes, to_bytes

Floats64 = npt.NDArray[np.float64]

BATCHES = (1, 3)
TOLERANCE = 1e-4
FMRS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
# So many impostor pairs must lie above a threshold for its rate to be told.
LEAST_ABOVE = 10


def check_parity(path: Path | str, out: Path | str, variants: Sequence[str]) -> dict[str, Any]:
    """Greatest difference from PyTorch on noise at batches 1 and 3.

    Returns:
        Half, variant, batch (as text) -> difference, in units of X_p (range 1) and of unit templates.

    Raises:
        MinusfaceError: a float32 model differs by more than 1e-4.
    """
    protector, recognizer = Protector.load(path), Recognizer.load(path)
    found: dict[str, Any] = {"client": {}, "recognizer": {}}
    for variant in variants:
        client, server = ClientModel(out, variant, 1), RecognizerModel(out, variant, 1)
        for batch in BATCHES:
            crop, order = example(protector, "client", batch)
            pixels = crop.permute(0, 3, 1, 2).float() / 127.5 - 1.0
            expected = protector.protect(pixels, order)
            made = client.protect(crop.numpy(), order.numpy())
            templates = recognizer.embed(expected).vectors.numpy()
            embedded = server.embed(expected.pixels.numpy())
            for half, ours, theirs in (
                ("client", made, expected.pixels.numpy()),
                ("recognizer", embedded, templates),
            ):
                worst = float(np.abs(ours - theirs).max())
                found[half].setdefault(variant, {})[str(batch)] = worst
                if variant == "float32" and not worst <= TOLERANCE:
                    raise MinusfaceError(
                        f"{out}: {half}.onnx differs from PyTorch by {worst:.1e} at batch {batch}, "
                        f"expected at most {TOLERANCE:g}"
                    )
    return found


class OnnxPair:
    """An export as a model under test: crops through both halves and 8 bits, as in use: best of its tries.

    Args:
        folder: an export folder.
        variant: of both halves.
        seed: of the permutations, drawn as :class:`ProtectedEmbedder` draws them.
    """

    draws_matter = True

    def __init__(self, folder: Path | str, variant: str = "float32", seed: int = 0) -> None:
        self.client, self.server = ClientModel(folder, variant), RecognizerModel(folder, variant)
        self.seed = seed

    def embed(self, images: Tensor, keys: Sequence[str], draw: int, flip: bool) -> Tensor:
        """See :class:`PairEmbedder`."""
        card = self.client.card
        orders = [
            permutation_of_key([f"{key}#{number}" for key in keys], card.channels, self.seed, draw)
            for number in range(card.n_duplicate * card.usual_tries)
        ]
        order = torch.stack(orders, 1).numpy()
        rows = []
        for view in [images, images.flip(-1)] if flip else [images]:
            crops = view.permute(0, 2, 3, 1).contiguous().numpy()
            sent = to_bytes(self.client.protect(crops, order))
            rows.append(torch.from_numpy(self.server.embed(from_bytes(sent))))
        return torch.stack(rows).sum(0)


def measure(
    path: Path | str,
    out: Path | str,
    variants: Sequence[str],
    pairs: PairList,
    read: Reader,
    progress: Callable[[int], object] = lambda done: None,
) -> tuple[dict[str, Any], dict[str, float]]:
    """Accuracy of PyTorch and of each variant on pairs, and thresholds of the float32 models.

    Everything as in use: one image of a face, 8 bits, no mirror image, of as many permutations as clients
    try the one that shows least. With a folder a person, impostors for the thresholds are all pairs of
    different people among the images; otherwise those that are listed. A rate is left out where fewer than
    10 impostors exceed its threshold.

    Args:
        path: the checkpoint.
        out: its export.
        variants: which.
        pairs: what to verify.
        read: from a key to its crop.
        progress: called with 1 after each model.

    Returns:
        The card's ``accuracy`` and ``thresholds``.
    """
    exported = {variant: OnnxPair(out, variant) for variant in variants}
    tries = next((pair.client.card.usual_tries for pair in exported.values()), 1)
    models: dict[str, PairEmbedder] = {
        "torch": ProtectedEmbedder(
            Recognizer.load(path), Protector.load(path), eight_bits=True, tries=tries
        )
    }
    models |= exported
    accuracy: dict[str, Any] = {"pairs": len(pairs), "flip": False, "models": {}}
    thresholds: dict[str, float] = {}
    for name, model in models.items():
        rows = embed_images(model, read, pairs.keys, flip=False, batch_size=16)[0]
        scores = score_pairs(rows, pairs.a_index, pairs.b_index)
        result = verification_result(name, [scores], pairs, flip=False)
        accuracy["models"][name] = {
            "accuracy": result.accuracy,
            "auc": result.auc,
            "eer": result.eer,
        }
        if name == "float32":
            impostors = _impostors(rows, pairs, scores)
            thresholds = thresholds_of(impostors)
            genuine = scores[pairs.same]
            accuracy["impostors"] = len(impostors)
            accuracy["fnmr"] = {k: float((genuine < t).mean()) for k, t in thresholds.items()}
        progress(1)
    return accuracy, thresholds


def thresholds_of(impostors: Floats64) -> dict[str, float]:
    """``fmr_1e-3`` and so on: the least cosine that at most this part of the impostors reaches."""
    found = {}
    falling = np.sort(impostors)[::-1]
    for rate in FMRS:
        above = int(len(impostors) * rate)
        if above < LEAST_ABOVE:
            continue
        # Just over the first impostor that would be one too many.
        exponent = int(np.floor(np.log10(rate) + 0.5))
        found[f"fmr_1e{exponent}"] = float(np.nextafter(falling[above], np.inf))
    return found


def _impostors(rows: Tensor, pairs: PairList, scores: Floats64) -> Floats64:
    """Cosines of different people."""
    people = [key.rpartition("/")[0] for key in pairs.keys]
    if not all(people) or len(set(people)) < 2:
        return np.asarray(scores[~pairs.same], np.float64)
    numbers = np.unique(people, return_inverse=True)[1]
    cosines = (rows @ rows.T).numpy().astype(np.float64)
    different = np.triu(numbers[:, None] != numbers[None, :], 1)
    return np.asarray(cosines[different], np.float64)


__all__ = ["OnnxPair", "check_parity", "measure", "thresholds_of"]

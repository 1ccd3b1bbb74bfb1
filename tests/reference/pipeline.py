"""The paper's two training steps, literally: the baseline of benchmarks and of tests.

Upsampled images, a residue that is formed, permutations applied sample by sample, one pass a view.
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from tests.reference import codec


def stage_one_loss(
    generator: nn.Module, recognizer: nn.Module, head: nn.Module, crops: Tensor, labels: Tensor
) -> Tensor:
    """5 * L1(X, d(g(e(X)))) + ArcFace(f(x - g(x))), crops in [-1, 1]."""
    features = codec.encode(crops)
    regenerated = generator(features)[0]
    image = codec.decode(regenerated) * 2 - 1
    embeddings = recognizer(features - regenerated)
    return 5 * nnf.l1_loss(image, crops) + nnf.cross_entropy(head(embeddings, labels), labels)


def stage_two_loss(
    generator: nn.Module,
    recognizer: nn.Module,
    head: nn.Module,
    crops: Tensor,
    labels: Tensor,
    permutation: Tensor,
) -> Tensor:
    """ArcFace(f(d(s(x - g(x))))), the generator frozen; crops repeated once a view."""
    with torch.no_grad():
        features = codec.encode(crops)
        residue = features - generator(features)[0]
        protected = codec.decode(codec.shuffle(residue, permutation))
    return nnf.cross_entropy(head(recognizer(protected), labels), labels)

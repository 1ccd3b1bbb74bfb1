"""Losses of training written out one number at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tests.reference.heads import Array, cosine


def l1(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> float:
    """Mean absolute difference."""
    differences = [abs(float(x) - float(y)) for x, y in zip(a.ravel(), b.ravel(), strict=True)]
    return sum(differences) / len(differences)


def cross_entropy(logits: Array, labels: Sequence[int]) -> float:
    """Mean negative logarithm of the softmax at the true class."""
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        largest = max(float(value) for value in row)
        normaliser = sum(math.exp(float(value) - largest) for value in row)
        total -= float(row[label]) - largest - math.log(normaliser)
    return total / len(labels)


def consistency(embeddings: Array, views: int) -> float:
    """1 - mean cosine over the images' pairs of views; (V*B, D), view after view."""
    batch = len(embeddings) // views
    cosines = [
        cosine(embeddings[a * batch + image], embeddings[b * batch + image])
        for image in range(batch)
        for a in range(views)
        for b in range(a)
    ]
    return 1 - sum(cosines) / len(cosines)


def sparsity(latent: Array, target: float) -> float:
    """Mean over channels of KL(target, mean of x / (1 + x)), as of two coins; latent (B, C, H, W).

    A mean is held 1e-6 off 0 and 1.
    """
    total = 0.0
    for channel in range(latent.shape[1]):
        values = [float(x) / (1 + float(x)) for x in latent[:, channel].ravel()]
        mean = min(max(sum(values) / len(values), 1e-6), 1 - 1e-6)
        total += target * math.log(target / mean)
        total += (1 - target) * math.log((1 - target) / (1 - mean))
    return total / latent.shape[1]


def distillation(embeddings: Array, targets: Array) -> float:
    """Mean of 1 - cosine."""
    cosines = [cosine(a, b) for a, b in zip(embeddings, targets, strict=True)]
    return 1 - sum(cosines) / len(cosines)


def relation(student: Array, targets: Array, bank: Array, temperature: float) -> float:
    """Mean over rows of KL(teacher's distribution over the bank, student's)."""
    total = 0.0
    for one, other in zip(student, targets, strict=True):
        meant, said = (
            _distribution([cosine(row, seen) / temperature for seen in bank])
            for row in (other, one)
        )
        total += sum(p * math.log(p / q) for p, q in zip(meant, said, strict=True))
    return total / len(student)


def _distribution(values: list[float]) -> list[float]:
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]

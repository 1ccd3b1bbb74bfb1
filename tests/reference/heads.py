"""The margin heads one sample and one class at a time, with angles written out."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def cosine(a: Array, b: Array) -> float:
    """Cosine of two vectors."""
    value = float(sum(x * y for x, y in zip(a, b, strict=True)))
    return value / math.sqrt(float((a * a).sum()) * float((b * b).sum()))


def arcface_target(cos: float, margin: float) -> float:
    """cos(theta + m), or the line past pi."""
    theta = math.acos(cos)
    if theta + margin < math.pi:
        return math.cos(theta + margin)
    return cos - margin * math.sin(margin)


def arcface(e: Array, centres: Array, labels: list[int], scale: float, margin: float) -> Array:
    """Logits (B, C)."""
    out = np.zeros((len(e), len(centres)))
    for i, label in enumerate(labels):
        for j, centre in enumerate(centres):
            cos = cosine(e[i], centre)
            out[i, j] = scale * (arcface_target(cos, margin) if j == label else cos)
    return out


def cosface(e: Array, centres: Array, labels: list[int], scale: float, margin: float) -> Array:
    """Logits (B, C)."""
    out = np.zeros((len(e), len(centres)))
    for i, label in enumerate(labels):
        for j, centre in enumerate(centres):
            out[i, j] = scale * (cosine(e[i], centre) - (margin if j == label else 0.0))
    return out


def curricularface(
    e: Array, centres: Array, labels: list[int], scale: float, margin: float, t: float
) -> tuple[Array, float]:
    """Logits (B, C) and the new t, which is updated before it is used."""
    targets = [cosine(e[i], centres[label]) for i, label in enumerate(labels)]
    t = 0.99 * t + 0.01 * sum(targets) / len(targets)
    out = np.zeros((len(e), len(centres)))
    for i, label in enumerate(labels):
        moved = math.cos(math.acos(targets[i]) + margin)
        for j, centre in enumerate(centres):
            cos = cosine(e[i], centre)
            if j == label:
                out[i, j] = scale * arcface_target(cos, margin)
            elif cos > moved:
                out[i, j] = scale * cos * (t + cos)
            else:
                out[i, j] = scale * cos
    return out, t


def adaface(
    e: Array,
    centres: Array,
    labels: list[int],
    scale: float,
    margin: float,
    mean: float,
    std: float,
) -> tuple[Array, float, float]:
    """Logits (B, C) and the new running mean and deviation, updated before they are used."""
    norms = [min(max(math.sqrt(float((row * row).sum())), 1e-3), 100.0) for row in e]
    batch_mean = sum(norms) / len(norms)
    batch_std = math.sqrt(sum((n - batch_mean) ** 2 for n in norms) / (len(norms) - 1))
    mean, std = 0.99 * mean + 0.01 * batch_mean, 0.99 * std + 0.01 * batch_std
    out = np.zeros((len(e), len(centres)))
    for i, label in enumerate(labels):
        quality = min(max((norms[i] - mean) / (std + 1e-3) * 0.333, -1.0), 1.0)
        for j, centre in enumerate(centres):
            cos = cosine(e[i], centre)
            if j == label:
                theta = math.acos(min(max(cos, -1 + 1e-3), 1 - 1e-3)) - margin * quality
                cos = math.cos(min(max(theta, 1e-3), math.pi - 1e-3)) - (margin * quality + margin)
            out[i, j] = scale * cos
    return out, mean, std

"""Embeddings of people who are not there."""

from __future__ import annotations

import numpy as np


def cloud(people: int, images: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows around a random direction a person."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((people, 1, 16))
    rows = (centres + spread * random.standard_normal((people, images, 16))).reshape(-1, 16)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), np.repeat(np.arange(people), images)

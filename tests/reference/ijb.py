"""IJB's templates in plain loops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def pool(
    features: np.ndarray,
    templates: Sequence[int],
    media: Sequence[int],
    scores: Sequence[float] | None = None,
) -> tuple[list[int], np.ndarray]:
    """Mean of each medium's images, sum of a template's media, unit length; one template after another."""
    ids, pooled = sorted(set(templates)), []
    for template in ids:
        total = np.zeros(features.shape[1])
        own = [i for i, t in enumerate(templates) if t == template]
        for medium in sorted({media[i] for i in own}):
            rows = []
            for i in own:
                if media[i] == medium:
                    weight = 1.0 if scores is None else scores[i]
                    rows.append(features[i].astype(np.float64) * weight)
            total = total + sum(rows) / len(rows)
        pooled.append(total / np.sqrt((total * total).sum()))
    return ids, np.array(pooled)

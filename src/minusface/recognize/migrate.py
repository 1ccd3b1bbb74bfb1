"""From another system's templates to ours, without photos.

A model that was distilled from a teacher embeds protected images where the teacher embeds photos, less the
mean of the training images. So a gallery that the teacher once made can be searched with protected probes.
Legend: N templates, D embedding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as nnf

from minusface.checkpoint import Card
from minusface.errors import MinusfaceError
from minusface.recognize.cohort import Cohort
from minusface.types import Template


def centre_of(card: Card) -> npt.NDArray[np.float64]:
    """(D,) the teacher's mean embedding, as the card of a distilled model keeps it.

    Raises:
        MinusfaceError: the model was not distilled from a file of embeddings, or its card does not say so.
    """
    teacher: dict[str, Any] = card.data.get("teacher") or {}
    centre = np.asarray(teacher.get("centre") or [], np.float64)
    if not len(centre):
        raise MinusfaceError(
            f"{card.task} checkpoint: its card names no teacher's centre, expected a model distilled from "
            "a file of embeddings"
        )
    return centre


def from_teacher(
    embeddings: npt.NDArray[np.floating[Any]],
    centre: npt.NDArray[np.float64],
    cohort: Cohort | None = None,
) -> Template:
    """Raw embeddings (N, D) of the teacher, as it gives them for photos, as templates of ours.

    Args:
        embeddings: finite, of any length.
        centre: of :func:`centre_of`.
        cohort: of the model that embeds the probes, if it has one.

    Raises:
        MinusfaceError: another D, or values that are not finite.
    """
    if embeddings.ndim != 2 or embeddings.shape[1] != len(centre):
        raise MinusfaceError(f"embeddings {embeddings.shape}, expected (N, {len(centre)})")
    if not np.isfinite(embeddings).all():
        raise MinusfaceError("embeddings hold NaN or infinity")
    rows = nnf.normalize(torch.from_numpy(embeddings.astype(np.float64) - centre), dim=1).float()
    return Template(rows if cohort is None else cohort(rows))

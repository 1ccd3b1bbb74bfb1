"""From another system's templates to ours, without photos.

A model that was distilled from a teacher embeds protected images where the teacher embeds photos, less the
mean of the training images. So a gallery that the teacher once made can be searched with protected probes.
Legend: N templates, D embedding.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as nnf

from minusface.checkpoint import Card
from minusface.errors import MinusfaceError
from minusface.recognize.cohort import Cohort
from minusface.types import Template

LARGEST = float(np.finfo(np.float64).max)


def centre_of(card: Card, where: str | None = None) -> npt.NDArray[np.float64]:
    """(D,) the teacher's mean embedding, as the card of a distilled model keeps it.

    Args:
        card: of the model.
        where: what to call it in errors.

    Raises:
        MinusfaceError: the model was not distilled from a file of embeddings, or its card does not say so.
    """
    where = f"{card.task} checkpoint" if where is None else where
    teacher = card.data.get("teacher") or {}
    if not isinstance(teacher, dict):
        raise MinusfaceError(
            f"{where}: damaged card, its data.teacher is a {type(teacher).__name__}, expected a mapping"
        )
    centre = teacher.get("centre") or []
    if not isinstance(centre, list) or not all(map(_is_number, centre)):
        raise MinusfaceError(
            f"{where}: damaged card, its data.teacher.centre is no list of numbers, expected one for each "
            "of an embedding"
        )
    if not centre:
        raise MinusfaceError(
            f"{where}: its card names no teacher's centre, expected a model distilled from a file of "
            "embeddings"
        )
    return np.asarray(centre, np.float64)


def _is_number(value: object) -> bool:
    """Whether it is one that a float holds; NaN and infinity are none."""
    return type(value) in (int, float) and abs(cast(float, value)) <= LARGEST


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

"""Verification across two spaces: a gallery from elsewhere, probes from a protected image.

Legend: K images, P pairs, D embedding, R draws.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minusface.evaluate.embedding import PairEmbedder, embed_images
from minusface.evaluate.pairs import PairList
from minusface.evaluate.reader import folder_reader
from minusface.evaluate.verification import (
    VerificationResult,
    score_pairs,
    verification_result,
)


def evaluate_migration(
    embedder: PairEmbedder,
    gallery_kd: Tensor,
    faces: Path | str,
    pairs: PairList,
    *,
    draws: int = 1,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> list[VerificationResult]:
    """The gallery's templates among themselves, the probes among themselves, and probes against gallery.

    In each pair the first image is the probe and the second the one enrolled; no mirror images.

    Args:
        embedder: the model that embeds the probes.
        gallery_kd: (K, D) unit templates of ``pairs.keys``, in their order.
        faces: the face folder of the pairs' keys.
        pairs: what to verify.
        draws: how often permutations are drawn anew.
        batch_size: images embedded at a time.
        progress: called with the embeddings done and those to do.

    Raises:
        MinusfaceError: an image cannot be read; pairs of one kind or one fold only.
    """
    rows_rkd = embed_images(
        embedder,
        folder_reader(faces),
        pairs.keys,
        draws=draws,
        flip=False,
        batch_size=batch_size,
        progress=progress,
    )
    a, b = pairs.a_index, pairs.b_index
    old = score_pairs(gallery_kd, a, b)
    both = [score_pairs(rows, a, b) for rows in rows_rkd]
    # Probes and gallery one below the other, so that one pair of numbers reaches into both.
    shift = np.int64(len(gallery_kd))
    across = [score_pairs(torch.cat([rows, gallery_kd]), a, b + shift) for rows in rows_rkd]
    return [
        verification_result("gallery and probe by the teacher", [old], pairs, flip=False),
        verification_result("gallery and probe protected", both, pairs, flip=False),
        verification_result("gallery by the teacher, probe protected", across, pairs, flip=False),
    ]

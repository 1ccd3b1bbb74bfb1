"""IJB-B and IJB-C: templates of several images and video frames, compared 1:1 and searched 1:N.

A template is the sum of its media, a medium (an image, or the frames of a video) the mean of its images'
embeddings, weighted by the detector's scores where asked for.

Legend: N images, D embedding, T templates, P pairs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from minusface.errors import MinusfaceError
from minusface.evaluate.identification import Search, search
from minusface.evaluate.large_scale import (
    Floating,
    OperatingPoints,
    operating_points,
    score_indexed,
)
from minusface.evaluate.metrics import Floats
from minusface.evaluate.pairs import Ints
from minusface.evaluate.suites.ijb import IjbList, IjbPairs

FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
# Images pooled at a time: their embeddings are copied in float64.
CHUNK = 1 << 14


def pool_templates(
    features: Floating, templates: Ints, media: Ints, scores: npt.ArrayLike | None = None
) -> tuple[Ints, Floats]:
    """From embeddings of images to templates: the mean of each medium, their sum, at unit length.

    Args:
        features: (N, D) of the images, each an image's and its mirror image's summed where the flip test
            is wanted; unit length, or as the network gives them where their lengths shall count.
        templates: (N,) template of each.
        media: (N,) medium of each.
        scores: (N,) weights of the images: the detector's scores. None for equal ones.

    Returns:
        The T templates' numbers, rising, and (T, D) float64 rows of unit length in that order.

    Raises:
        MinusfaceError: numbers that do not fit, features that are not finite, or a template of zero length.
    """
    features = np.asarray(features)
    weights = None if scores is None else np.asarray(scores, np.float64)
    shapes = [np.shape(templates), np.shape(media), *([] if weights is None else [weights.shape])]
    if features.ndim != 2 or any(shape != features.shape[:1] for shape in shapes):
        raise MinusfaceError(
            f"embeddings: {features.shape} for templates and media of {shapes}, expected one an image"
        )
    order = np.lexsort((media, templates))
    sorted_t, sorted_m = np.asarray(templates)[order], np.asarray(media)[order]
    new_t = np.diff(sorted_t, prepend=sorted_t[:1] - 1) != 0
    new_m = new_t | (np.diff(sorted_m, prepend=sorted_m[:1]) != 0)
    starts = np.flatnonzero(new_t)
    pooled = np.empty((len(starts), features.shape[1]), np.float64)
    ends = np.append(starts[1:], len(order))
    done = 0
    while done < len(starts):
        # Whole templates only, one at least.
        last = max(done + 1, int(np.searchsorted(ends, starts[done] + CHUNK, side="right")))
        part = slice(int(starts[done]), int(ends[last - 1]))
        rows = features[order[part]].astype(np.float64)
        if weights is not None:
            rows *= weights[order[part], None]
        first_m = np.flatnonzero(new_m[part])
        means = np.add.reduceat(rows, first_m)
        means /= np.diff(first_m, append=len(rows))[:, None]
        first_t = np.flatnonzero(new_t[part][first_m])
        pooled[done:last] = np.add.reduceat(means, first_t)
        done = last
    return sorted_t[starts], _unit(pooled, sorted_t[starts])


def _unit(rows: Floats, templates: Ints) -> Floats:
    lengths = np.linalg.norm(rows, axis=1)
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(bad):
        what = "zero" if lengths[bad[0]] == 0 else "NaN or infinite"
        raise MinusfaceError(f"template {templates[bad[0]]}: its embedding is {what}")
    return np.asarray(rows / lengths[:, None], np.float64)


def rows_of(templates: Ints, wanted: Ints, where: str = "the pairs") -> Ints:
    """Rows of some templates among those pooled: (T,) rising, and any shape, to that shape.

    Raises:
        MinusfaceError: a template without images.
    """
    rows = np.searchsorted(templates, wanted)
    found = templates[np.minimum(rows, len(templates) - 1)] == wanted
    if not found.all():
        missing = np.asarray(wanted)[~found]
        raise MinusfaceError(
            f"template {missing.flat[0]} of {where} has no images ({len(np.unique(missing))} such "
            "templates): files of different benchmarks?"
        )
    return rows.astype(np.int64)


def verify_templates(
    templates: Ints, pooled: Floating, pairs: IjbPairs, fars: npt.ArrayLike = FARS
) -> OperatingPoints:
    """IJB 1:1: TAR at false-accept rates, the cosines in float32.

    Args:
        templates: (T,) numbers, rising: of :func:`pool_templates`.
        pooled: (T, D) of unit length.
        pairs: which to compare.
        fars: false-accept rates.

    Raises:
        MinusfaceError: a template without images; as :func:`operating_points`.
    """
    rows = np.asarray(pooled, np.float32)
    a, b = rows_of(templates, pairs.a), rows_of(templates, pairs.b)
    return operating_points(score_indexed(rows, a, b), pairs.same, fars)


def search_templates(
    templates: Ints, pooled: Floating, gallery: IjbList, probes: IjbList
) -> Search:
    """IJB 1:N: each probe template against a gallery, in float32.

    Probes whose subject is in the other gallery only have no mate here: they make the open set. See
    :func:`minusface.evaluate.identification.cmc` and ``open_set``.

    Args:
        templates: (T,) numbers, rising: of :func:`pool_templates`.
        pooled: (T, D) of unit length.
        gallery: G1 or G2 (S1 or S2 in IJB-B).
        probes: the mixed probes.

    Raises:
        MinusfaceError: a template without images.
    """
    rows = np.asarray(pooled, np.float32)
    enrolled = rows[rows_of(templates, gallery.templates, "the gallery")]
    seen = rows[rows_of(templates, probes.templates, "the probes")]
    return search(enrolled, gallery.subjects, seen, probes.subjects)

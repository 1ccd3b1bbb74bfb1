"""Who is it? Searches of a gallery: closed set, open set, and among a growing number of distractors.

Scores are dot products of rows of unit length; ties count against the one searched for.
Legend: G gallery rows, S subjects in the gallery, P probes, M distractors, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from minusface.errors import MinusfaceError
from minusface.evaluate.large_scale import Floating, allowed, score_indexed
from minusface.evaluate.metrics import Floats
from minusface.evaluate.pairs import Ints

RANKS = (1, 5, 10)
FPIRS = (1e-2, 1e-1)
# Bytes of scores held at a time.
CHUNK_BYTES = 1 << 26
# Distractors compared at a time.
COLUMNS = 1 << 13


class Search(NamedTuple):
    """What each of P probes found."""

    rank: Ints
    """(P,) place of its subject, from 1: subjects in the gallery that score no less. 0: it is not there."""
    mate: Floating
    """(P,) best score with its subject; NaN where it is not there."""
    best: Floating
    """(P,) best score with anyone."""


class OpenSet(NamedTuple):
    """Misses at given false alarms; NaN where the probes without a mate are too few to tell."""

    target: Floats
    """(F,) the false-positive identification rates asked for."""
    fpir: Floats
    """(F,) those reached: part of probes without a mate that find someone."""
    fnir: Floats
    """(F,) part of probes with a mate that miss it: not among the first, or below the threshold."""
    threshold: Floats
    """(F,) lowest score that is reported; the next number above the highest score where none may be."""


class DistractorCurve(NamedTuple):
    """Identification rates among distractors."""

    sizes: tuple[int, ...]
    """Numbers of distractors."""
    ranks: tuple[int, ...]
    rates: Floats
    """(sizes, ranks) part of pairs whose mate is among the first so many."""


def search(
    gallery: Floating,
    gallery_subjects: npt.ArrayLike,
    probes: Floating,
    probe_subjects: npt.ArrayLike,
) -> Search:
    """Compare each probe with the gallery; a subject's score is that of its best row.

    Args:
        gallery: (G, D).
        gallery_subjects: (G,) who each row shows, of any type that compares.
        probes: (P, D).
        probe_subjects: (P,) who each probe shows, of the same type; not all need be in the gallery.

    Raises:
        MinusfaceError: shapes that do not fit, an empty gallery, no probes, or scores that are not finite.
    """
    owners, seekers = np.asarray(gallery_subjects), np.asarray(probe_subjects)
    _check("gallery", gallery, owners)
    _check("probes", probes, seekers)
    if gallery.shape[1] != probes.shape[1]:
        raise MinusfaceError(
            f"embeddings of {gallery.shape[1]} numbers in the gallery, {probes.shape[1]} of the probes"
        )
    order = np.argsort(owners, kind="stable")
    subjects, starts = np.unique(owners[order], return_index=True)
    rows = gallery[order]
    own = np.minimum(np.searchsorted(subjects, seekers), len(subjects) - 1)
    mated = subjects[own] == seekers
    kind = np.result_type(gallery, probes)
    mate, best = np.empty(len(probes), kind), np.empty(len(probes), kind)
    rank = np.empty(len(probes), np.int64)
    step = max(1, CHUNK_BYTES // (len(rows) * kind.itemsize))
    for start in range(0, len(probes), step):
        part = slice(start, start + step)
        scores = probes[part] @ rows.T
        if len(subjects) < len(rows):
            scores = np.maximum.reduceat(scores, starts, axis=1)
        best[part] = scores.max(1)
        mate[part] = scores[np.arange(len(scores)), own[part]]
        rank[part] = (scores >= mate[part, None]).sum(1)
    if not (np.isfinite(best).all() and np.isfinite(mate).all()):
        raise MinusfaceError("scores: some are NaN or infinite, expected finite embeddings")
    mate[~mated], rank[~mated] = np.nan, 0
    return Search(rank, mate, best)


def cmc(found: Search, ranks: Sequence[int] = RANKS) -> dict[int, float]:
    """Closed set: the part of probes with a mate whose mate is among the first so many subjects.

    Raises:
        MinusfaceError: no probe has a mate, or a rank below 1.
    """
    places = found.rank[found.rank > 0]
    if not len(places):
        raise MinusfaceError(f"none of {len(found.rank)} probes has a mate in the gallery")
    for rank in ranks:
        _positive("rank", rank)
    return {rank: float((places <= rank).mean()) for rank in ranks}


def open_set(found: Search, fpirs: npt.ArrayLike = FPIRS, rank: int = 1) -> OpenSet:
    """Open set: FNIR where FPIR is just not exceeded; nothing is interpolated.

    Reported is who scores at least the threshold. A probe with a mate is missed unless the mate is reported
    and among the first ``rank``; one without a mate is a false alarm where anyone is reported.

    Args:
        found: of probes with mates and without.
        fpirs: (F,) targets in (0, 1]; those below one in all probes without a mate give NaN.
        rank: how far down the list a mate counts as found.

    Raises:
        MinusfaceError: no probe with a mate, or none without, or numbers out of range.
    """
    mated = found.rank > 0
    _positive("rank", rank)
    if mated.all() or not mated.any():
        raise MinusfaceError(
            f"{int(mated.sum())} probes with a mate and {int((~mated).sum())} without, "
            "expected some of each"
        )
    targets = np.atleast_1d(np.asarray(fpirs, np.float64))
    strangers = np.sort(found.best[~mated])
    mates, reachable = found.mate[mated], np.sort(found.mate[mated & (found.rank <= rank)])
    counts = allowed(targets, len(strangers))
    # The best stranger that must stay out; minus infinity where all may come in.
    out = np.where(
        counts == len(strangers),
        -np.inf,
        strangers[np.maximum(len(strangers) - 1 - counts, 0)],
    )
    first_s = np.searchsorted(strangers, out, side="right")
    first_m = np.searchsorted(reachable, out, side="right")
    infinity = strangers.dtype.type(np.inf)
    lowest = np.minimum(
        np.append(strangers, infinity)[first_s], np.append(reachable, infinity)[first_m]
    )
    above = np.nextafter(max(strangers[-1], mates.max()), infinity)
    columns = (
        (len(strangers) - first_s) / len(strangers),
        (len(mates) - (len(reachable) - first_m)) / len(mates),
        np.where(np.isinf(lowest), above, lowest),
    )
    return OpenSet(targets, *(np.where(counts == 0, np.nan, column) for column in columns))


def against_distractors(
    probes: Floating,
    subjects: npt.ArrayLike,
    distractors: Floating,
    sizes: Sequence[int],
    ranks: Sequence[int] = (1,),
) -> DistractorCurve:
    """MegaFace's protocol: find a person's other image among strangers.

    Each ordered pair of images of one person is a search: the second image and the first M distractors are
    the gallery. Distractors are read in slices, so that a memory map will do.

    Args:
        probes: (P, D) images of known people.
        subjects: (P,) who they are; at least one has two images.
        distractors: (M, D) of people who are not among them.
        sizes: numbers of distractors, the first so many; from 1 to M.
        ranks: how far down the list a mate counts as found.

    Raises:
        MinusfaceError: shapes that do not fit, no two images of a person, or numbers out of range.
    """
    owners = np.asarray(subjects)
    _check("probes", probes, owners)
    if np.ndim(distractors) != 2 or distractors.shape[1] != probes.shape[1]:
        raise MinusfaceError(
            f"distractors: {np.shape(distractors)}, expected (M, {probes.shape[1]}) as the probes"
        )
    for size in sizes:
        if not 1 <= size <= len(distractors):
            raise MinusfaceError(f"{size} distractors: expected 1 to {len(distractors)}")
    if not sizes or not ranks:
        raise MinusfaceError("no numbers of distractors or no ranks, expected one of each at least")
    for rank in ranks:
        _positive("rank", rank)
    first, second = ordered_pairs(owners)
    own = score_indexed(probes, first, second)
    if not np.isfinite(own).all():
        raise MinusfaceError("scores: some are NaN or infinite, expected finite embeddings")
    top = np.full((len(probes), max(ranks)), -np.inf, probes.dtype)
    by_size, done = {}, 0
    for size in sorted(set(sizes)):
        _raise_top(top, probes, distractors, done, size)
        done = size
        # A mate is among the first k when it beats the k-th best distractor.
        by_size[size] = [float((own > top[first, -rank]).mean()) for rank in ranks]
    return DistractorCurve(tuple(sizes), tuple(ranks), np.array([by_size[size] for size in sizes]))


def ordered_pairs(subjects: npt.ArrayLike) -> tuple[Ints, Ints]:
    """All ordered pairs of two rows of one subject, as two lists of rows.

    Raises:
        MinusfaceError: there is none.
    """
    owners = np.asarray(subjects)
    order = np.argsort(owners, kind="stable")
    _, starts, counts = np.unique(owners[order], return_index=True, return_counts=True)
    # Each row meets all rows of its subject, itself included, which then goes.
    each = np.repeat(counts, counts)
    first = np.repeat(np.arange(len(owners)), each)
    within = np.arange(len(first)) - np.repeat(np.cumsum(each) - each, each)
    second = np.repeat(np.repeat(starts, counts), each) + within
    others = first != second
    if not others.any():
        raise MinusfaceError(f"{len(owners)} probes, no two of one person")
    return order[first[others]].astype(np.int64), order[second[others]].astype(np.int64)


def _raise_top(
    top: Floating, probes: Floating, distractors: Floating, start: int, stop: int
) -> None:
    """Bring each probe's best scores (P, ranks), rising, up to date with more distractors."""
    step = max(1, CHUNK_BYTES // (COLUMNS * probes.itemsize))
    depth = top.shape[1]
    for low in range(start, stop, COLUMNS):
        columns = np.asarray(distractors[low : min(low + COLUMNS, stop)], probes.dtype).T
        for row in range(0, len(probes), step):
            part = slice(row, row + step)
            scores = np.concatenate([top[part], probes[part] @ columns], axis=1)
            if not np.isfinite(scores[:, depth:]).all():
                raise MinusfaceError("scores: some are NaN or infinite, expected finite embeddings")
            top[part] = np.sort(np.partition(scores, -depth, axis=1)[:, -depth:], axis=1)


def _check(what: str, rows: Floating, subjects: npt.NDArray[np.generic]) -> None:
    if rows.ndim != 2 or subjects.shape != rows.shape[:1] or not len(rows):
        raise MinusfaceError(
            f"{what}: embeddings {rows.shape} of subjects {subjects.shape}, "
            "expected (N, D) and (N,), one or more"
        )
    if rows.dtype not in (np.float32, np.float64):
        raise MinusfaceError(f"{what}: {rows.dtype}, expected float32 or float64")


def _positive(what: str, number: int) -> None:
    if number < 1:
        raise MinusfaceError(f"{what} {number}: expected 1 or more")

"""Searching a gallery in plain loops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def by_subject(
    probe: np.ndarray, gallery: np.ndarray, subjects: Sequence[int]
) -> list[tuple[float, int]]:
    """The best score of each subject, with the subject."""
    best: dict[int, float] = {}
    for row, subject in zip(gallery, subjects, strict=True):
        score = float(sum(a * b for a, b in zip(probe.tolist(), row.tolist(), strict=True)))
        best[subject] = max(best.get(subject, -np.inf), score)
    return [(score, subject) for subject, score in best.items()]


def rank(found: list[tuple[float, int]], subject: int) -> int:
    """Place of the subject, who stands behind everyone with the same score; 0 where it is not there."""
    own = [score for score, other in found if other == subject]
    if not own:
        return 0
    return 1 + sum(1 for score, other in found if other != subject and score >= own[0])


def closed_set(
    gallery: np.ndarray,
    gallery_subjects: Sequence[int],
    probes: np.ndarray,
    probe_subjects: Sequence[int],
    within: int,
) -> float:
    """Part of the probes with a mate whose mate is among the first."""
    places = [
        rank(by_subject(probe, gallery, gallery_subjects), subject)
        for probe, subject in zip(probes, probe_subjects, strict=True)
    ]
    mated = [place for place in places if place]
    return sum(place <= within for place in mated) / len(mated)


def open_set(
    gallery: np.ndarray,
    gallery_subjects: Sequence[int],
    probes: np.ndarray,
    probe_subjects: Sequence[int],
    fpir: float,
    within: int = 1,
) -> float | None:
    """The least FNIR among all thresholds whose FPIR is at most the target."""
    strangers, mates = [], []
    for probe, subject in zip(probes, probe_subjects, strict=True):
        found = by_subject(probe, gallery, gallery_subjects)
        place = rank(found, subject)
        if place:
            own = next(score for score, other in found if other == subject)
            mates.append((own, place))
        else:
            strangers.append(max(score for score, _ in found))
    if 1 / len(strangers) > fpir:
        return None
    rates = []
    for threshold in [np.inf, *strangers, *(score for score, _ in mates)]:
        if sum(score >= threshold for score in strangers) / len(strangers) <= fpir:
            missed = sum(not (own >= threshold and place <= within) for own, place in mates)
            rates.append(missed / len(mates))
    return min(rates)


def against_distractors(
    probes: np.ndarray, subjects: Sequence[int], distractors: np.ndarray, size: int, within: int
) -> float:
    """MegaFace: each ordered pair of one person, its second image hidden among distractors."""
    right = total = 0
    for i, probe in enumerate(probes):
        for j, mate in enumerate(probes):
            if i == j or subjects[i] != subjects[j]:
                continue
            own = float(probe @ mate)
            ahead = sum(float(probe @ other) >= own for other in distractors[:size])
            total += 1
            right += ahead < within
    return right / total

"""Error by group: what one threshold does to women and men, to the old and the young, to whoever has labels.

False matches are counted between people of the same group, as in the face recognition vendor test's part on
demographics (NISTIR 8280): an impostor is rarely of another sex or age than the person he claims to be, and
pairs across groups hide what happens within.

Legend: K images, D embedding, R resamplings.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from minusface.errors import MinusfaceError
from minusface.evaluate.calibration import INTERVAL, check_numbers, pair_rates, resampled
from minusface.evaluate.metrics import Floats
from minusface.evaluate.pairs import Ints

HEADER = ("name", "group")


@dataclass(frozen=True)
class GroupPoint:
    """What a threshold does to a group. Intervals are of 95 %, over people."""

    group: str
    images: int
    people: int
    impostors: int
    """Pairs of different people, both of the group."""
    fmr: float
    """The part of them at or above the threshold."""
    fmr_low: float
    fmr_high: float
    fnmr: float | None
    """The part of genuine pairs below it, each person's mean counting once; None without genuine pairs."""
    fnmr_low: float | None
    fnmr_high: float | None


def read_groups(path: Path | str) -> dict[str, str]:
    """Groups of people or images, from a file of ``NAME,GROUP`` lines (commas or tabs).

    A name is a person's folder, or ``Person/file.jpg`` for one image; a first line ``name,group`` is passed
    over.

    Raises:
        MinusfaceError: a file that cannot be read, a line of other columns, or a name of two groups.
    """
    try:
        text = Path(path).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise MinusfaceError(
            f"{path}: cannot be read as text, expected lines NAME,GROUP"
        ) from error
    found: dict[str, str] = {}
    lines = text.splitlines()
    tabs = any("\t" in line for line in lines)
    try:
        rows = list(csv.reader(lines, delimiter="\t" if tabs else ","))
    except csv.Error as error:
        raise MinusfaceError(f"{path}: {error}, expected lines NAME,GROUP") from error
    for number, row in enumerate(rows, 1):
        cells = tuple(cell.strip() for cell in row)
        if not any(cells) or (number == 1 and tuple(map(str.lower, cells)) == HEADER):
            continue
        if len(cells) != 2 or not all(cells):
            raise MinusfaceError(
                f"{path}, line {number}: {','.join(cells)[:60]!r}, expected NAME,GROUP"
            )
        name, group = cells
        if found.setdefault(name, group) != group:
            raise MinusfaceError(
                f"{path}, line {number}: {name} is {group} here, {found[name]} before"
            )
    if not found:
        raise MinusfaceError(f"{path}: no line NAME,GROUP in it")
    return found


def groups_of(keys: Sequence[str], groups: Mapping[str, str], where: str) -> list[str | None]:
    """Each image's group: its own, else its person's, else None.

    Args:
        keys: ``Person/file.jpg`` of each.
        groups: from :func:`read_groups`.
        where: the file, for errors.

    Raises:
        MinusfaceError: no image has one, or a group has images of one person alone.
    """
    names = [key.partition("/")[0] for key in keys]
    found = [groups.get(key, groups.get(name)) for key, name in zip(keys, names, strict=True)]
    members: dict[str, set[str]] = {}
    for group, name in zip(found, names, strict=True):
        if group is not None:
            members.setdefault(group, set()).add(name)
    if not members:
        raise MinusfaceError(
            f"{where}: names none of the people, such as {names[0]}, nor of their images, such as {keys[0]}"
        )
    for group, people in members.items():
        if len(people) < 2:
            raise MinusfaceError(
                f"{where}: group {group} has one person of the faces in it, expected two or more"
            )
    return found


def by_group(
    rows_kd: npt.ArrayLike,
    people_k: npt.ArrayLike,
    groups: Sequence[str | None],
    thresholds: Mapping[str, float],
    seed: int = 0,
) -> dict[str, list[GroupPoint]]:
    """Errors of thresholds within each group, by threshold; groups in alphabetical order.

    Args:
        rows_kd: (K, D) embeddings of unit length, made as they are in use.
        people_k: (K,) who each shows.
        groups: K groups; images without one are left out.
        thresholds: by name, the least cosine that counts as the same person.
        seed: of the resampling.

    Raises:
        MinusfaceError: a group of fewer than two people.
    """
    rows, owners = np.asarray(rows_kd, np.float64), np.asarray(people_k)
    labels = np.array(["" if group is None else group for group in groups])
    points: dict[str, list[GroupPoint]] = {name: [] for name in thresholds}
    for group in sorted(set(labels.tolist()) - {""}):
        inside = labels == group
        people, who = np.unique(owners[inside], return_inverse=True)
        if len(people) < 2:
            raise MinusfaceError(f"group {group}: one person in it, expected two or more")
        pairs = _Pairs(rows[inside], who, seed)
        for name, threshold in thresholds.items():
            points[name].append(pairs.at(group, threshold))
    return points


def worst_group(metrics: Mapping[str, Any], name: str, where: str) -> GroupPoint | None:
    """The group with most false matches at a threshold, as a card tells it; None where it was not measured.

    Args:
        metrics: of the card.
        name: of the threshold, ``fmr_1e-2``.
        where: what to call the card in errors.

    Raises:
        MinusfaceError: damaged groups.
    """
    try:
        points = [GroupPoint(**fields) for fields in metrics.get("groups", {}).get(name, [])]
    except (TypeError, AttributeError) as error:
        raise MinusfaceError(f"{where}: damaged groups in its card") from error
    for number, point in enumerate(points):
        check_numbers(vars(point), f"{where}: damaged groups in its card: {name}[{number}]")
    return max(points, key=lambda point: point.fmr, default=None)


class Summary(NamedTuple):
    """How unequal groups are, as ratios of the worst to the geometric mean (NISTIR 8429): 1 is equal."""

    fmr: float | None
    fnmr: float | None


def inequity(points: Sequence[GroupPoint]) -> Summary:
    """Of groups' false-match and miss rates; None where a group has none, or an error of 0."""
    fmrs = [point.fmr for point in points]
    fnmrs = [0.0 if point.fnmr is None else point.fnmr for point in points]
    return Summary(*(_worst_over_mean(rates) for rates in (fmrs, fnmrs)))


def _worst_over_mean(rates: Sequence[float]) -> float | None:
    if len(rates) < 2 or min(rates) <= 0:
        return None
    return float(max(rates) / np.exp(np.mean(np.log(rates))))


class _Pairs:
    """All pairs of a group's images, scored once for all thresholds."""

    def __init__(self, rows: Floats, who: Ints, seed: int) -> None:
        first, second = np.triu_indices(len(rows), 1)
        self.images, self.people = len(rows), int(who.max()) + 1
        self.first, self.second = who[first], who[second]
        self.scores: Floats = (rows @ rows.T)[first, second]
        self.same = self.first == self.second
        self.drawn = resampled(self.people, seed)

    def at(self, group: str, threshold: float) -> GroupPoint:
        """The group's errors at a threshold."""
        over, same, other = self.scores >= threshold, self.same, ~self.same
        ends = [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2]
        rates = pair_rates(self.drawn, self.first[other], self.second[other], over[other])
        low, high = np.quantile(rates, ends).tolist()
        fnmr, fnmr_low, fnmr_high = _missed(self.drawn, self.first[same], ~over[same], ends)
        return GroupPoint(
            group=group,
            images=self.images,
            people=self.people,
            impostors=int(other.sum()),
            fmr=float(over[other].mean()),
            fmr_low=low,
            fmr_high=high,
            fnmr=fnmr,
            fnmr_low=fnmr_low,
            fnmr_high=fnmr_high,
        )


def _missed(
    drawn: Floats, who: Ints, missed: npt.NDArray[np.bool_], ends: Sequence[float]
) -> tuple[float | None, float | None, float | None]:
    """People's mean part of missed pairs and its interval; None without pairs."""
    if not len(who):
        return None, None, None
    pairs = np.bincount(who, minlength=drawn.shape[1])
    has = pairs > 0
    own = np.bincount(who, missed, minlength=drawn.shape[1])[has] / pairs[has]
    weights = drawn[:, has]
    means = weights @ own / np.maximum(weights.sum(1), 1)
    low, high = np.quantile(means, ends).tolist()
    return float(own.mean()), low, high

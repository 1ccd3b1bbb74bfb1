"""Thresholds for use: which cosine keeps false matches below a rate, and how sure that is.

Pairs that share people are not independent: intervals come from drawing people, not pairs, anew.

Legend: K images, D embedding, P people, R resamplings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from minusface.errors import MinusfaceError
from minusface.evaluate.metrics import Floats
from minusface.evaluate.pairs import Ints

Bools = npt.NDArray[np.bool_]

FMRS = (1e-1, 1e-2, 1e-3)
# A rate is left out where fewer false matches than this decide it.
LEAST_MATCHES = 10
RESAMPLINGS = 400
INTERVAL = 0.95


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and what to expect of it."""

    target: float
    """The false-match rate asked for."""
    threshold: float
    """Least cosine that counts as the same person."""
    fmr: float
    """The part of impostor pairs at or above it."""
    fmr_low: float
    """Lower end of the 95 % interval over people."""
    fmr_high: float
    """Its upper end."""
    fnmr: float | None
    """The part of genuine pairs below it, each person's mean counting once; None without genuine pairs."""
    impostors: int
    """Pairs of different people behind the rates."""
    people: int
    """People behind the rates."""
    fmr_p95: float | None = None
    """What one person in twenty exceeds: the 95th percentile of people's own false-match rates. Far above
    ``fmr`` where a threshold treats people unequally; None in cards from before it was measured."""

    @property
    def name(self) -> str:
        """``fmr_1e-2`` and so on: how cards, commands and the service call it."""
        return rate_name(self.target)


def rate_name(rate: float) -> str:
    """``fmr_1e-3`` for 0.001."""
    mantissa, _, exponent = f"{rate:.0e}".partition("e")
    return f"fmr_{mantissa}e{int(exponent)}"


def calibrate(
    rows_kd: npt.ArrayLike,
    people_k: npt.ArrayLike,
    targets: Sequence[float] = FMRS,
    seed: int = 0,
) -> list[OperatingPoint]:
    """Thresholds at false-match rates, from all pairs of different people.

    Args:
        rows_kd: (K, D) embeddings of unit length, made as they are in use.
        people_k: (K,) who each shows.
        targets: false-match rates.
        seed: of the resampling.

    Returns:
        A point for each rate that at least ten false matches decide, the highest rate first.

    Raises:
        MinusfaceError: shapes that do not fit, fewer than two people, or too few pairs for every rate.
    """
    rows, owners = np.asarray(rows_kd, np.float64), np.asarray(people_k)
    if rows.ndim != 2 or owners.shape != rows.shape[:1]:
        raise MinusfaceError(
            f"calibration: embeddings {rows.shape} of people {owners.shape}, expected (K, D) and (K,)"
        )
    people, who = np.unique(owners, return_inverse=True)
    if len(people) < 2:
        raise MinusfaceError(f"calibration: images of {len(people)} person, expected two or more")
    first, second = np.triu_indices(len(rows), 1)
    scores = (rows @ rows.T)[first, second]
    same = who[first] == who[second]
    impostors = scores[~same]
    falling = np.sort(impostors)[::-1]
    drawn = resampled(len(people), seed)
    points = []
    for target in sorted(targets, reverse=True):
        accepted = int(len(impostors) * target)
        if accepted < LEAST_MATCHES or accepted >= len(impostors):
            continue
        # Just over the first impostor that would be one too many.
        threshold = float(np.nextafter(falling[accepted], np.inf))
        hit = ~same & (scores >= threshold)
        rates = pair_rates(drawn, who[first[~same]], who[second[~same]], hit[~same])
        low, high = np.quantile(rates, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2]).tolist()
        fmr = float((impostors >= threshold).mean())
        fnmr = _misses(scores[same] < threshold, who[first[same]])
        own = _own_rates(who[first], who[second], ~same, hit)
        p95 = float(np.quantile(own, INTERVAL))
        points.append(
            OperatingPoint(
                target, threshold, fmr, low, high, fnmr, len(impostors), len(people), p95
            )
        )
    if not points:
        raise MinusfaceError(
            f"calibration: {len(impostors)} impostor pairs, expected "
            f"{LEAST_MATCHES / max(targets):,.0f} or more"
        )
    return points


def resampled(people: int, seed: int) -> Floats:
    """(R, P) how often each person is drawn."""
    random = np.random.default_rng(seed)
    return np.asarray(random.multinomial(people, [1 / people] * people, RESAMPLINGS), np.float64)


def pair_rates(drawn: Floats, first: Ints, second: Ints, hit: Bools) -> Floats:
    """(R,) false-match rates when a pair counts as often as both its people were drawn."""
    people = drawn.shape[1]
    code = np.minimum(first, second) * people + np.maximum(first, second)
    pairs, counts = np.unique(code, return_counts=True)
    hits, hit_counts = np.unique(code[hit], return_counts=True)

    def total(codes: Ints, weights: Ints) -> Floats:
        a, b = codes // people, codes % people
        return np.array([float((draw[a] * draw[b] * weights).sum()) for draw in drawn])

    return total(hits, hit_counts) / np.maximum(total(pairs, counts), 1)


def _own_rates(first: Ints, second: Ints, counted: Bools, hit: Bools) -> Floats:
    """(P,) each person's false-match rate: the part of the counted pairs with them that are hit."""
    people = int(max(first.max(), second.max())) + 1
    hits, pairs = (
        np.bincount(first[some], minlength=people) + np.bincount(second[some], minlength=people)
        for some in (hit, counted)
    )
    return np.asarray(hits / np.maximum(pairs, 1), np.float64)


def _misses(missed: Bools, who: Ints) -> float | None:
    """Each person's part of missed pairs, averaged over people; None without pairs."""
    if not len(missed):
        return None
    _, person = np.unique(who, return_inverse=True)
    return float((np.bincount(person, missed) / np.bincount(person)).mean())


def to_card(points: Sequence[OperatingPoint]) -> dict[str, Any]:
    """For a card's metrics: by name, the highest rate first."""
    return {point.name: asdict(point) for point in points}


def from_card(metrics: dict[str, Any], where: str) -> dict[str, OperatingPoint]:
    """Back from :func:`to_card`.

    Raises:
        MinusfaceError: the card has no thresholds, or damaged ones.
    """
    held = metrics.get("thresholds")
    if not held:
        raise MinusfaceError(
            f"{where}: no thresholds in its card; minusface calibrate {where} --faces DIR measures them"
        )
    try:
        points = {name: OperatingPoint(**fields) for name, fields in held.items()}
    except (TypeError, AttributeError) as error:
        raise MinusfaceError(f"{where}: damaged thresholds in its card") from error
    for name, point in points.items():
        check_numbers(asdict(point), f"{where}: damaged thresholds in its card: {name}")
        if not 0 < point.target < 1:
            raise MinusfaceError(
                f"{where}: damaged thresholds in its card: {name}.target {point.target}, "
                "expected more than 0 and less than 1"
            )
    return points


_COUNTS = ("images", "people", "impostors")
# Where there are no genuine pairs, or in cards from before it was measured.
_MAY_LACK = ("fnmr", "fnmr_low", "fnmr_high", "fmr_p95")
_RATES = ("target", "fmr", "fmr_low", "fmr_high", *_MAY_LACK)


def check_numbers(fields: dict[str, Any], where: str) -> None:
    """Refuse rates, counts and thresholds from a card that are none.

    Args:
        fields: by the names that cards give them; others are passed over.
        where: file and place in it, for errors.

    Raises:
        MinusfaceError: another type, NaN, or beyond what there can be; the field is named.
    """
    for name, value in fields.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is None and name in _MAY_LACK:
            continue
        if name in _COUNTS:
            good, expected = type(value) is int and value >= 1, "a whole number from 1 on"
        elif name in _RATES:
            good, expected = number and 0 <= value <= 1, "a number from 0 to 1"
        elif name == "threshold":
            # A cosine, with room for rounding.
            good, expected = number and abs(value) <= 1.001, "a number from -1 to 1"
        else:
            continue
        if not good:
            raise MinusfaceError(f"{where}.{name} is {str(value)[:40]!r}, expected {expected}")

"""Results of benchmarks that are more than a list of pairs: named rates over draws, and their table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

Rates = dict[str, float | None]
NOTHING = "–"


@dataclass(frozen=True)
class RatesResult:
    """Rates as parts of one, means over the draws; None where there are too few pairs to tell."""

    name: str
    counts: dict[str, int]
    """How much was compared: images, templates, pairs."""
    rates: Rates
    """By name: ``TAR@FAR 1e-06``, ``rank-1``, ``FNIR@FPIR 0.01`` and so on."""
    spread: Rates
    """Standard deviation over the draws; None for a single one."""
    per_draw: list[Rates] = field(default_factory=list)
    curve: list[tuple[float, float]] = field(default_factory=list)
    """(FAR, TAR) rising, of the first draw; empty where nothing is verified."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return dict(vars(self))


def over_draws(
    name: str,
    counts: dict[str, int],
    per_draw: Sequence[Rates],
    curve: Sequence[tuple[float, float]] = (),
) -> RatesResult:
    """Mean and standard deviation over draws, which all hold the same names."""
    keys = per_draw[0]
    return RatesResult(
        name,
        counts,
        {key: _over(per_draw, key, statistics.fmean) for key in keys},
        {
            key: _over(per_draw, key, statistics.stdev) if len(per_draw) > 1 else None
            for key in keys
        },
        list(per_draw),
        list(curve),
    )


def mean_rates(parts: Sequence[Rates]) -> Rates:
    """The mean of each rate; None where one of the parts has none."""
    return {key: _over(parts, key, statistics.fmean) for key in parts[0]}


def _over(
    parts: Sequence[Rates], key: str, function: Callable[[list[float]], float]
) -> float | None:
    values = [value for part in parts if (value := part[key]) is not None]
    return function(values) if len(values) == len(parts) else None


def rates_table(results: Sequence[RatesResult]) -> str:
    """One row a result, in per cent, Markdown; the deviation over draws beside. A table for each kind of
    benchmark, kinds being told apart by what they count."""
    kinds = dict.fromkeys(tuple(result.counts) for result in results)
    return "\n".join(
        _table([result for result in results if tuple(result.counts) == kind]) for kind in kinds
    )


def _table(results: Sequence[RatesResult]) -> str:
    counted = list(results[0].counts)
    keys = list(dict.fromkeys(key for result in results for key in result.rates))
    lines = [["model", *counted, *keys], ["---", *["---:"] * (len(counted) + len(keys))]]
    for result in results:
        cells = [str(result.counts[what]) for what in counted]
        lines.append([result.name, *cells, *(_cell(result, key) for key in keys)])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _cell(result: RatesResult, key: str) -> str:
    value, spread = result.rates.get(key), result.spread.get(key)
    if value is None:
        return NOTHING
    return f"{100 * value:.2f}" + ("" if spread is None else f" ± {100 * spread:.2f}")

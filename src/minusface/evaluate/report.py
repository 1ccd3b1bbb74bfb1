"""Results as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from minusface.evaluate.rates import RatesResult
from minusface.evaluate.verification import VerificationResult
from minusface.files import write_atomically

NOTHING = "–"
COLUMNS = ("name", "pairs", "draws", "accuracy", "accuracy_std", "accuracy_spread", "eer", "auc")


def markdown_table(results: Sequence[VerificationResult]) -> str:
    """One row a result, in per cent. A dash: nothing is drawn at random, or too few pairs to tell."""
    fars = sorted({far for result in results for far in result.tar_at_far}, reverse=True)
    header = ["model", "pairs", "accuracy", "over draws", "EER", "AUC"]
    header += [f"TAR@FAR {far:g}" for far in fars]
    lines = [header, ["---", *("---:" for _ in header[1:])]]
    lines += [_row(result, fars) for result in results]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def csv_table(results: Sequence[VerificationResult], searches: Sequence[RatesResult] = ()) -> str:
    """One row a result, rates as parts of one; an empty field: nothing random, too few pairs to tell, or not
    measured there."""
    fars = sorted({far for result in results for far in result.tar_at_far}, reverse=True)
    counted = list(dict.fromkeys(key for result in searches for key in result.counts))
    named = list(dict.fromkeys(key for result in searches for key in result.rates))
    out = io.StringIO()
    header = [*COLUMNS, *(f"tar_at_far_{far:g}" for far in fars)] if results else ["name", "draws"]
    extra = [key for key in counted if key not in header]
    header += [*extra, *named, *(f"{key} spread" for key in named)]
    writer = csv.DictWriter(out, header, lineterminator="\n")
    writer.writeheader()
    for result in results:
        row = {column: getattr(result, column) for column in COLUMNS}
        writer.writerow(row | {f"tar_at_far_{far:g}": result.tar_at_far.get(far) for far in fars})
    for search in searches:
        spread = {f"{key} spread": value for key, value in search.spread.items()}
        known = {"name": search.name, "draws": len(search.per_draw)}
        writer.writerow({**known, **search.counts, **search.rates, **spread})
    return out.getvalue()


class Reported(Protocol):
    """A result that JSON can hold."""

    def to_dict(self) -> dict[str, Any]:
        """Its fields."""
        ...


def to_json(results: Sequence[Reported]) -> str:
    """A JSON list of the results' ``to_dict``, ended by a newline."""
    return json.dumps([result.to_dict() for result in results], indent=1, allow_nan=False) + "\n"


def write_json(results: Sequence[VerificationResult], path: Path | str) -> None:
    """Write :func:`to_json` to a file, whole or not at all.

    Raises:
        MinusfaceError: the disk is full or refuses.
    """
    write_atomically(Path(path), to_json(results).encode())


def _row(result: VerificationResult, fars: Sequence[float]) -> list[str]:
    cells = [
        _cell(result.name),
        str(result.pairs),
        f"{100 * result.accuracy:.2f} ± {100 * result.accuracy_std:.2f}",
        _percent(result.accuracy_spread, "± "),
        _percent(result.eer),
        f"{result.auc:.4f}",
    ]
    return cells + [_percent(result.tar_at_far.get(far)) for far in fars]


def _percent(value: float | None, sign: str = "") -> str:
    return NOTHING if value is None else f"{sign}{100 * value:.2f}"


def _cell(text: str) -> str:
    """Text that cannot break out of its cell."""
    return " ".join(text.split()).replace("|", "\\|") or "model"

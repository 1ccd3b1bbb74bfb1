"""Verification results as a Markdown table, as JSON and as an ROC plot."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from minusface.errors import MinusfaceError, choice_error
from minusface.evaluate.verification import VerificationResult
from minusface.files import write_atomically

# Okabe and Ito's palette, told apart by the colour-blind too, without its yellow.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
DASHES = ("-", "--", ":")
FORMATS = ("png", "svg", "pdf")
# A fixed salt and no date: equal results give equal files.
UNDATED = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
NOTHING = "–"


def markdown_table(results: Sequence[VerificationResult]) -> str:
    """One row a result, in per cent. A dash: nothing is drawn at random, or too few pairs to tell."""
    fars = sorted({far for result in results for far in result.tar_at_far}, reverse=True)
    header = ["model", "pairs", "accuracy", "over draws", "EER", "AUC"]
    header += [f"TAR@FAR {far:g}" for far in fars]
    lines = [header, ["---", *("---:" for _ in header[1:])]]
    lines += [_row(result, fars) for result in results]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def csv_table(results: Sequence[VerificationResult]) -> str:
    """One row a result, rates as parts of one; an empty field: nothing random, or too few pairs to tell."""
    fars = sorted({far for result in results for far in result.tar_at_far}, reverse=True)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = (
        "name",
        "pairs",
        "draws",
        "accuracy",
        "accuracy_std",
        "accuracy_spread",
        "eer",
        "auc",
    )
    writer.writerow([*columns, *(f"tar_at_far_{far:g}" for far in fars)])
    for result in results:
        fields = [getattr(result, column) for column in columns]
        writer.writerow([*fields, *(result.tar_at_far.get(far) for far in fars)])
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


def write_roc_plot(results: Sequence[VerificationResult], path: Path | str) -> None:
    """Draw the ROCs over a logarithmic FAR axis, PNG, SVG or PDF by the file's suffix.

    A curve starts where its pairs can tell: at one in all impostor pairs.

    Raises:
        MinusfaceError: no results, another suffix, matplotlib is missing, or the disk refuses.
    """
    path = Path(path)
    form = path.suffix.lower().removeprefix(".")
    if form not in FORMATS:
        raise choice_error("picture format", form, FORMATS)
    if not results:
        raise MinusfaceError(f"{path}: no results to plot")
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MinusfaceError(
            'matplotlib is needed for ROC plots: pip install "minusface[report]"'
        ) from error
    data = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "minusface", "font.size": 10}):
        figure = Figure(figsize=(6.4, 4.8), layout="constrained")
        _draw(figure.add_subplot(), results)
        # Below the axes: in them it would cover a curve.
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
        figure.savefig(data, format=form, dpi=150, metadata=UNDATED[form])
    write_atomically(path, data.getvalue())


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


def _steps(result: VerificationResult) -> tuple[list[float], list[float]]:
    """The greatest TAR within each FAR, from one in all impostor pairs up to 1."""
    first = 1 / (result.pairs - result.genuine)
    far, tar = np.array(result.curve()).T
    # Of points above one another the topmost.
    top = np.append(np.flatnonzero(np.diff(far)), len(far) - 1)
    far, tar = far[top], tar[top]
    start = np.searchsorted(far, first, side="right") - 1
    return [first, *far[start + 1 :].tolist()], tar[start:].tolist()


def _draw(axes: Any, results: Sequence[VerificationResult]) -> None:
    from matplotlib.ticker import PercentFormatter

    ranked = sorted(results, key=lambda result: -result.auc)
    lowest_far, lowest_tar = 1.0, 1.0
    for number, result in enumerate(ranked):
        far, tar = _steps(result)
        lowest_far, lowest_tar = min(lowest_far, far[0]), min(lowest_tar, tar[0])
        axes.step(
            far,
            tar,
            where="post",
            color=COLOURS[number % len(COLOURS)],
            linestyle=DASHES[number // len(COLOURS) % len(DASHES)],
            linewidth=1.8,
            label=f"{result.name or 'model'} (AUC {result.auc:.3f})",
            clip_on=False,
            zorder=3,
        )
    chance = np.geomspace(min(lowest_far, 0.5), 1, 200)
    axes.plot(chance, chance, color="#999999", linestyle=(0, (2, 2)), linewidth=1, label="guessing")
    axes.set(xscale="log", xlabel="False-accept rate", ylabel="True-accept rate")
    axes.set_xlim(min(lowest_far, 0.5), 1)
    # Good curves crowd at the top: show the part they use, a fifth of the axis at least.
    axes.set_ylim(min(0.8, np.floor(10 * lowest_tar) / 10), 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(visible=True, which="major", color="#e3e3e3", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)

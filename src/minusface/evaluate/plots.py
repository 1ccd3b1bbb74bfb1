"""ROC and DET curves as pictures."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minusface.errors import MinusfaceError
from minusface.evaluate.rates import RatesResult
from minusface.evaluate.verification import VerificationResult
from minusface.files import write_atomically

# Okabe and Ito's palette, told apart by the colour-blind too, without its yellow.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
DASHES = ("-", "--", ":")
FORMATS = ("png", "svg", "pdf")
# A fixed salt and no date: equal results give equal files.
UNDATED = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
Result = VerificationResult | RatesResult
Draw = Callable[[Any, "list[Curve]"], None]


class Curve(NamedTuple):
    """What is drawn of a result."""

    label: str
    far: list[float]
    """Rising, from what its pairs can tell."""
    tar: list[float]
    """The greatest within each FAR."""


def write_roc_plot(results: Sequence[Result], path: Path | str) -> None:
    """Draw the ROCs over a logarithmic FAR axis, PNG, SVG or PDF by the file's suffix.

    A curve starts where its pairs can tell: at one in all impostor pairs. Results without one are left out.

    Raises:
        MinusfaceError: no curves, another suffix, matplotlib is missing, or the disk refuses.
    """
    _write(results, path, _draw_roc)


def write_det_plot(results: Sequence[Result], path: Path | str) -> None:
    """Draw false rejects (FNMR) over false accepts (FMR), both logarithmic: a DET plot.

    Raises:
        MinusfaceError: as :func:`write_roc_plot`.
    """
    _write(results, path, _draw_det)


def check_picture(path: Path | str) -> str:
    """The format that a file's suffix names.

    Raises:
        MinusfaceError: none of the known ones.
    """
    form = Path(path).suffix.lower().removeprefix(".")
    if form not in FORMATS:
        raise MinusfaceError(f"{path}: curves are drawn into a .png, .svg or .pdf file")
    return form


def _write(results: Sequence[Result], path: Path | str, draw: Draw) -> None:
    path = Path(path)
    form = check_picture(path)
    curves = _curves(results)
    if not curves:
        raise MinusfaceError(f"{path}: no results to plot")
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MinusfaceError(
            'matplotlib is needed for plots: pip install "minusface[report]"'
        ) from error
    data = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "minusface", "font.size": 10}):
        figure = Figure(figsize=(6.4, 4.8), layout="constrained")
        draw(figure.add_subplot(), curves)
        # Below the axes: in them it would cover a curve.
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
        figure.savefig(data, format=form, dpi=150, metadata=UNDATED[form])
    write_atomically(path, data.getvalue())


def _curves(results: Sequence[Result]) -> list[Curve]:
    """The best first."""
    ranked: list[tuple[float, Curve]] = []
    for result in results:
        name = result.name or "model"
        if isinstance(result, RatesResult):
            if result.curve:
                far, tar = (list(column) for column in zip(*result.curve, strict=True))
                ranked.append((float(np.mean(tar)), Curve(name, far, tar)))
        else:
            ranked.append((result.auc, Curve(f"{name} (AUC {result.auc:.3f})", *_steps(result))))
    return [curve for _, curve in sorted(ranked, key=lambda one: -one[0])]


def _steps(result: VerificationResult) -> tuple[list[float], list[float]]:
    """The greatest TAR within each FAR, from one in all impostor pairs up to 1."""
    first = 1 / (result.pairs - result.genuine)
    far, tar = np.array(result.curve()).T
    # Of points above one another the topmost.
    top = np.append(np.flatnonzero(np.diff(far)), len(far) - 1)
    far, tar = far[top], tar[top]
    start = np.searchsorted(far, first, side="right") - 1
    return [first, *far[start + 1 :].tolist()], tar[start:].tolist()


def _lines(axes: Any, curves: list[Curve], misses: bool) -> None:
    for number, curve in enumerate(curves):
        axes.step(
            curve.far,
            [1 - tar for tar in curve.tar] if misses else curve.tar,
            where="post",
            color=COLOURS[number % len(COLOURS)],
            linestyle=DASHES[number // len(COLOURS) % len(DASHES)],
            linewidth=1.8,
            label=curve.label,
            clip_on=misses,
            zorder=3,
        )
    chance = np.geomspace(min(_lowest(curves), 0.5), 1, 200)
    guesses = 1 - chance if misses else chance
    axes.plot(
        chance, guesses, color="#999999", linestyle=(0, (2, 2)), linewidth=1, label="guessing"
    )
    axes.set_xscale("log")
    axes.set_xlim(min(_lowest(curves), 0.5), 1)
    axes.grid(visible=True, which="major", color="#e3e3e3", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def _lowest(curves: list[Curve]) -> float:
    return min(curve.far[0] for curve in curves)


def _draw_roc(axes: Any, curves: list[Curve]) -> None:
    from matplotlib.ticker import PercentFormatter

    _lines(axes, curves, misses=False)
    axes.set(xlabel="False-accept rate", ylabel="True-accept rate")
    # Good curves crowd at the top: show the part they use, a fifth of the axis at least.
    axes.set_ylim(min(0.8, np.floor(10 * min(curve.tar[0] for curve in curves)) / 10), 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _draw_det(axes: Any, curves: list[Curve]) -> None:
    _lines(axes, curves, misses=True)
    axes.set_yscale("log")
    axes.set(xlabel="False match rate (FMR)", ylabel="False non-match rate (FNMR)")
    # Zero misses have no place on a logarithmic axis: it ends where the smallest rate is.
    seen = [1 - tar for curve in curves for tar in curve.tar if tar < 1]
    axes.set_ylim(max(1e-6, 10.0 ** np.floor(np.log10(min(seen, default=1e-2)))), 1)

"""Results of evaluations as a table, as JSON, as a plot."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

from minusface.checkpoint import write_atomically
from minusface.errors import MinusfaceError
from minusface.evaluate.verification import FARS, VerificationResult


def markdown_table(results: Sequence[VerificationResult]) -> str:
    """One row a result; rates in percent, "-" for what the pairs are too few to measure."""
    fars = [f"{far:g}" for far in FARS]
    head = [
        "model",
        "accuracy",
        "spread over draws",
        "AUC",
        "EER",
        *(f"TAR@FAR {far}" for far in fars),
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for result in results:
        spread = f"{100 * result.accuracy_spread:.2f} ({result.draws})" if result.draws > 1 else "-"
        cells = [
            result.name,
            f"{100 * result.accuracy:.2f} ± {100 * result.accuracy_std:.2f}",
            spread,
            f"{100 * result.auc:.2f}",
            f"{100 * result.eer:.2f}",
            *(_percent(result.tar_at_far[far]) for far in fars),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def to_json(results: Sequence[VerificationResult], curves: bool = False) -> str:
    """A list of results, with the ROC's points when asked."""
    return json.dumps([result.to_dict(curves) for result in results], indent=1) + "\n"


def write_roc_plot(results: Sequence[VerificationResult], path: Path | str) -> None:
    """TAR over FAR, the latter on a logarithmic axis; PNG, SVG or PDF by the file's ending.

    Raises:
        MinusfaceError: matplotlib is not installed, an ending it does not know, or a full disk.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MinusfaceError(
            'a ROC plot needs matplotlib: pip install "minusface[report]"'
        ) from error
    path = Path(path)
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("png", "svg", "pdf"):
        raise MinusfaceError(f"{path}: a ROC plot is a .png, .svg or .pdf file")
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lowest = 1.0
    for result in results:
        points = [(far, tar) for far, tar in result.curve if far > 0]
        if points:
            lowest = min(lowest, points[0][0])
            label = f"{result.name} (AUC {100 * result.auc:.1f} %)"
            axes.plot(
                *zip(*points, strict=True), drawstyle="steps-post", label=label, linewidth=1.8
            )
    chance = [lowest * (1 / lowest) ** (i / 99) for i in range(100)]
    axes.plot(chance, chance, color="0.6", linestyle=":", linewidth=1, label="chance")
    axes.set(xscale="log", xlabel="FAR", ylabel="TAR", xlim=(lowest, 1), ylim=(0, 1.01))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=150)
    write_atomically(path, buffer.getvalue())

"""The audit's numbers as tables: for the report, and as text for documents."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from minusface.audit.finding import Finding, find, strongest_link, strongest_recovery
from minusface.audit.linkage import SERVED
from minusface.audit.plan import Audit
from minusface.audit.statement import TRIES

DECIBELS = ("psnr",)
OUTLINES = ("contours", "contours of others", "contours, unmixed", "contours of others, unmixed")
PLAIN = ("ssim", "lpips", "cosine", "auc", "d_sys", "explained", *OUTLINES)
HEADS = {
    "ssim": "SSIM",
    "psnr": "PSNR, dB",
    "lpips": "LPIPS",
    "auc": "AUC",
    "d_sys": "D_sys",
    "eer": "EER",
}
TEXTS = ("attacker", "learning")
METHODS = (
    *("service accuracy", "served alike", "seen: SSIM", "contours", "unmixed", "faces found"),
    *("recovered: SSIM", "PSNR, dB", "AUC", "replay", "linked, 1:1", "linked, top-1"),
    *("PNG, bytes", "client, ms"),
)
LEGEND = (
    "The service's accuracy is better when higher, all measures of attacks when lower. Served alike: pairs "
    "told right, both sides protected, by a recogniser trained on each method in the same way and for this "
    "audit's budget, so that methods compare; the service's own was trained longer. Unmixed: contours behind "
    "a filter that no shuffle changes. Recovered: each number is of the attacker of equal access that got "
    "most by it, with a filter, without, or on re-encoded channels; linked and served alike: of the student. "
    "– : not measured, or there is no such thing."
)
CHOSEN = " Contours of {}: of several images the client sent the one that shows least by this very measure."
NONE = "–"


class Method(NamedTuple):
    """A row of the table of methods."""

    name: str
    cells: list[str]
    """As METHODS."""
    kind: str
    """``own``, ``control`` or empty."""


def methods(audit: Audit, target: str) -> list[Method]:
    """Every protection, and the blind guess, with what METHODS names."""
    found = []
    for cost in audit.costs:
        attacked = _attacked(audit.findings, cost.target)
        sent = [f"{cost.png_bytes:,.0f}", f"{cost.client_ms:.1f}"]
        cells = [value("accuracy", cost.accuracy), *attacked, *sent]
        found.append(Method(cost.target, cells, "own" if cost.target == target else ""))
    attacked = _attacked(audit.findings, "blind guess")
    return [*found, Method("blind guess", [NONE, *attacked, NONE, NONE], "control")]


def _attacked(findings: list[Finding], target: str) -> list[str]:
    seen = find(findings, "viewing", target)
    alike = strongest_link(findings, target, SERVED)
    # What links photos themselves is the judge: trained for long, not as the others' recognisers were.
    if alike is not None and alike.control == "must succeed":
        alike = None
    return [
        value_of(alike, SERVED),
        *(
            value_of(seen, name)
            for name in ("ssim", "contours", "contours, unmixed", "faces found")
        ),
        *(
            value_of(strongest_recovery(findings, target, name), name)
            for name in ("ssim", "psnr", "auc", "replay")
        ),
        *(value_of(strongest_link(findings, target, name), name) for name in ("accuracy", "top-1")),
    ]


def overview(audit: Audit, target: str) -> str:
    """Method x measures, as HTML."""
    lines = [
        row(one.name, [escape(cell) for cell in one.cells], one.kind)
        for one in methods(audit, target)
    ]
    choosy = ", ".join(cost.target for cost in audit.costs if TRIES in cost.target)
    legend = LEGEND + (CHOSEN.format(choosy) if choosy else "")
    return table(["", *METHODS], lines) + f'<p class="soft">{escape(legend, quote=False)}</p>'


def markdown(audit: Audit, target: str) -> str:
    """The same as a Markdown table."""
    lines = [f"| | {' | '.join(METHODS)} |", f"|---|{'---:|' * len(METHODS)}"]
    for one in methods(audit, target):
        name = f"**{one.name}**" if one.kind == "own" else one.name
        lines.append(f"| {name} | {' | '.join(one.cells)} |")
    return "\n".join(lines) + "\n"


def value_of(finding: Finding | None, measure: str) -> str:
    """A measure as text."""
    return NONE if finding is None else value(measure, finding.measures.get(measure))


def value(measure: str, number: float | None) -> str:
    """A number as its measure is written: dB, a plain number or percent."""
    if number is None:
        return NONE
    if measure in DECIBELS:
        return f"{number:.1f}"
    if measure in PLAIN or measure.endswith("AUC"):
        return f"{number:.3f}"
    return f"{100 * number:.1f}\u00a0%"


def row(name: str, cells: Sequence[str], kind: str) -> str:
    """A row of a table in HTML; the cells are HTML already."""
    body = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr class="{kind}"><th scope="row">{escape(name)}</th>{body}</tr>'


def table(heads: Sequence[str], lines: Sequence[str]) -> str:
    """A table in HTML."""
    wordy = ' class="text"'
    top = "".join(
        f'<th scope="col"{wordy if head in TEXTS else ""}>{escape(head)}</th>' for head in heads
    )
    return (
        f'<div class="wide"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )

"""Curves of the report as SVG: an attack's success against what the attacker spent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#c2571a", "#4a6fa5", "#6b8f3c", "#8d5ba6", "#a8892b", "#3b8f8f", "#b0466b", "#7a7a7a")
LEFT, TOP, WIDTH, HEIGHT = 52, 24, 380, 200


@dataclass(frozen=True)
class Line:
    """One curve; more than one point."""

    name: str
    points: tuple[tuple[float, float], ...]
    dashed: bool = False


def chart(title: str, across: str, up: str, lines: Sequence[Line], *, log: bool = True) -> str:
    """A chart with its legend; nothing where no line has two points.

    Args:
        title: above it.
        across: what the horizontal axis is.
        up: what the vertical one is.
        lines: the curves.
        log: a logarithmic horizontal axis.
    """
    drawn = [line for line in lines if len(line.points) > 1]
    if not drawn:
        return ""
    xs = [_across(x, log) for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points]
    low, high = _round_range(min(ys), max(ys))
    left, right = min(xs), max(max(xs), min(xs) + 1e-9)

    def at(x: float, y: float) -> tuple[float, float]:
        part = (_across(x, log) - left) / (right - left)
        return LEFT + WIDTH * part, TOP + HEIGHT * (1 - (y - low) / (high - low))

    parts = [*_grid(low, high), *_ticks(drawn, at)]
    for number, line in enumerate(drawn):
        colour = COLOURS[number % len(COLOURS)]
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in line.points))
        dash = ' stroke-dasharray="5 4"' if line.dashed else ""
        parts.append(
            f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'
        )
        y = TOP + 10 + 18 * number
        parts.append(
            f'<rect x="{LEFT + WIDTH + 16}" y="{y - 5}" width="12" height="3" fill="{colour}"/>'
            f'<text x="{LEFT + WIDTH + 34}" y="{y}">{escape(line.name)}</text>'
        )
    parts.append(
        f'<text x="{LEFT + WIDTH / 2}" y="{TOP + HEIGHT + 34}" text-anchor="middle">{escape(across)}</text>'
    )
    parts.append(f'<text x="4" y="{TOP - 10}">{escape(up)}</text>')
    tall = max(TOP + HEIGHT + 44, TOP + 20 + 18 * len(drawn))
    return (
        f'<h3>{escape(title)}</h3><svg viewBox="0 0 720 {tall}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


def _across(x: float, log: bool) -> float:
    return math.log10(max(x, 1e-12)) if log else x


def _round_range(low: float, high: float) -> tuple[float, float]:
    """Limits of the vertical axis, a little wider than the values, on round numbers."""
    wide = max(high - low, 1e-6)
    step = 10 ** math.floor(math.log10(wide))
    return math.floor(low / step) * step, math.ceil(high / step + 1e-9) * step


def _grid(low: float, high: float) -> list[str]:
    parts = []
    for part in (0.0, 0.5, 1.0):
        y = TOP + HEIGHT * (1 - part)
        value = low + (high - low) * part
        parts.append(
            f'<line class="grid" x1="{LEFT}" y1="{y}" x2="{LEFT + WIDTH}" y2="{y}"/>'
            f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{value:.3g}</text>'
        )
    return parts


def _ticks(lines: Sequence[Line], at: object) -> list[str]:
    """The horizontal values that are there, as far as they have room."""
    assert callable(at)
    values = sorted({x for line in lines for x, _ in line.points})
    parts, last = [], -math.inf
    for value in values:
        x = at(value, 0.0)[0]
        if x - last > 42:
            parts.append(
                f'<text x="{x:.1f}" y="{TOP + HEIGHT + 16}" text-anchor="middle">{value:g}</text>'
            )
            last = x
    return parts

"""The cohort's coordinate by loops over plain numbers, and the score correction it stands for."""

from __future__ import annotations

import math
from collections.abc import Sequence

Row = Sequence[float]


def dot(a: Row, b: Row) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def unit(a: Row) -> list[float]:
    length = math.sqrt(dot(a, a))
    return [x / length for x in a]


def near(embedding: Row, centres: Sequence[Row], count: int = 16) -> float:
    """Mean of the highest cosines with the centres."""
    cosines = sorted((dot(unit(embedding), centre) for centre in centres), reverse=True)
    return sum(cosines[:count]) / count


def template(
    embedding: Row,
    centres: Sequence[Row],
    usual: float,
    count: int = 16,
    slope: float = 3 / (4 * (1 - 0.4)),
) -> list[float]:
    """One coordinate more, of weight 2, by default flat where a cosine of 0.4 decides."""
    last = math.sqrt(2) * (1 - slope * (near(embedding, centres, count) - usual))
    return unit([*unit(embedding), last])


def corrected(a: Row, b: Row, centres: Sequence[Row]) -> float:
    """The cosine less how near either side is to the cohort, in halves."""
    return dot(unit(a), unit(b)) - (near(a, centres) + near(b, centres)) / 2

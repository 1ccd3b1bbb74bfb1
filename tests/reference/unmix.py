"""The products that no mixture of colours changes, a pixel at a time with the inverse written out."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def blurred(picture: Array, y: int, x: int, deviation: float) -> float:
    """Gaussian mean around a pixel of (N, N), cut off at three deviations and at the border."""
    size, total, weights = len(picture), 0.0, 0.0
    for v in range(size):
        for u in range(size):
            if max(abs(v - y), abs(u - x)) > 3 * deviation:
                continue
            weight = math.exp(-((v - y) ** 2 + (u - x) ** 2) / (2 * deviation**2))
            total, weights = total + weight * picture[v, u], weights + weight
    return total / weights


def slope(picture: Array, down: bool) -> Array:
    """Difference of the two neighbours; the border repeats."""
    size, found = len(picture), np.zeros_like(picture)
    for y in range(size):
        for x in range(size):
            after = (min(y + 1, size - 1), x) if down else (y, min(x + 1, size - 1))
            before = (max(y - 1, 0), x) if down else (y, max(x - 1, 0))
            found[y, x] = picture[after] - picture[before]
    return found


def responses(detail: Array) -> list[Array]:
    """Of one colour: itself, slopes across and down, bends across and down, the mixed one."""
    across, down = slope(detail, False), slope(detail, True)
    return [detail, across, down, slope(across, False), slope(down, True), slope(across, True)]


def far_responses(detail: Array, reach: int) -> list[Array]:
    """Of one colour: slopes across and down, bends likewise, over so many pixels; the border repeats."""
    size = len(detail)
    found = [np.zeros_like(detail) for _ in range(4)]
    for y in range(size):
        for x in range(size):
            left, right = detail[y, max(x - reach, 0)], detail[y, min(x + reach, size - 1)]
            above, below = detail[max(y - reach, 0), x], detail[min(y + reach, size - 1), x]
            values = (
                right - left,
                below - above,
                right + left - 2 * detail[y, x],
                above + below - 2 * detail[y, x],
            )
            for map_, value in zip(found, values, strict=True):
                map_[y, x] = value
    return found


def covariance_near(detail: Array, y: int, x: int, deviation: float, coarse: int) -> Array:
    """(3, 3) at a pixel, between the places of the coarse grid, without the ridge."""
    size = detail.shape[1]

    def at(row: int, column: int) -> Array:
        return np.array(
            [
                [blurred(detail[c] * detail[d], row, column, deviation) for d in range(3)]
                for c in range(3)
            ]
        )

    def neighbours(place: int) -> list[tuple[int, float]]:
        first, last = coarse // 2, size - coarse + coarse // 2
        place = min(max(place, first), last)
        low = (place - first) // coarse * coarse + first
        part = (place - low) / coarse
        return [(low, 1 - part)] + ([(low + coarse, part)] if part else [])

    total = np.zeros((3, 3))
    for row, a in neighbours(y):
        for column, b in neighbours(x):
            total += a * b * at(row, column)
    return total


def unmixed(
    image: Array,
    y: int,
    x: int,
    *,
    deviation: float,
    coarse: int,
    ridge: float,
    floor: float,
    knee: float,
    reach: int | None = None,
) -> Array:
    """The products at one pixel of an image (3, N, N), in the order 00, 01 ... 05, 11 ... 55.

    With a reach, those with the far responses follow (06 ... 09, 16 ... 99), and the standardised colours.
    """
    size = image.shape[1]
    detail = np.array(
        [
            [
                [image[c, v, u] - blurred(image[c], v, u, deviation) for u in range(size)]
                for v in range(size)
            ]
            for c in range(3)
        ]
    )
    near = covariance_near(detail, y, x, deviation, coarse)
    inverse = np.linalg.inv(near + np.eye(3) * (np.trace(near) * ridge / 3 + floor))
    by_colour = [responses(detail[c]) for c in range(3)]
    if reach is not None:
        by_colour = [own + far_responses(detail[c], reach) for c, own in enumerate(by_colour)]
    count = len(by_colour[0])
    vectors = [np.array([by_colour[c][k][y, x] for c in range(3)]) for k in range(count)]
    near_pairs = [(i, j) for i in range(6) for j in range(i, 6)]
    far_pairs = [(i, j) for i in range(count) for j in range(i, count) if j >= 6]
    found = []
    for i, j in near_pairs + far_pairs:
        value = float(vectors[i] @ inverse @ vectors[j])
        found.append(value / math.sqrt(abs(value) + knee))
    if reach is not None:
        found += [float((image[c, y, x] - image[c].mean()) / image[c].std() / 2) for c in range(3)]
    return np.array(found)

"""A pen that draws on a turned head, for synthetic faces.

Lengths as in :mod:`minusface.data.identity`; the crop is aligned to the ArcFace template by the drawn face's
own five points, as a photo would be.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from minusface.data.identity import Colour, Identity, Look

Floats = npt.NDArray[np.float64]
Path = Sequence[tuple[float, float]] | Floats

SIDE = 112
# Eyes, nose tip, corners of the mouth in a 112 x 112 crop (the ArcFace template).
TEMPLATE = np.array(
    [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ]
)
# cv2 takes coordinates in sixteenths of a pixel.
SUBPIXEL = 4


class Pen:
    """Draws shapes given on the head's surface into a crop ``side`` pixels wide."""

    def __init__(self, identity: Identity, look: Look, side: int) -> None:
        self.side = side
        self.scale = side / SIDE
        self.canvas = np.empty((side, side, 3), np.uint8)
        cy, sy, cp, sp = (f(a) for a in (look.yaw, look.pitch) for f in (np.cos, np.sin))
        # The first two rows of the rotation about y, then x.
        turn = np.array([[cy, 0.0, sy], [sp * sy, cp, -sp * cy]])
        w = corner_lift(identity, look)
        points = np.array(
            [
                (-identity.eye_half, 0.0, 0.0),
                (identity.eye_half, 0.0, 0.0),
                (0.0, identity.nose_length, identity.nose_depth),
                (-mouth_half(identity, look), identity.mouth_drop - w, 0.0),
                (mouth_half(identity, look), identity.mouth_drop - w, 0.0),
            ]
        )
        points[[0, 1, 3, 4], 2] = bulge(points[[0, 1, 3, 4], 0], points[[0, 1, 3, 4], 1])
        seen = (points @ turn.T) @ (1, 1j)
        wanted = TEMPLATE @ (1, 1j)
        centred, target = seen - seen.mean(), wanted - wanted.mean()
        similarity = (centred.conj() @ target) / (centred.conj() @ centred).real
        offset = wanted.mean() - similarity * seen.mean()
        # Jitter: turn and zoom about the middle of the crop, then shift.
        jitter = look.zoom * np.exp(1j * look.roll)
        middle = SIDE / 2 * (1 + 1j)
        offset = (offset - middle) * jitter + middle + complex(*look.shift)
        similarity *= jitter
        flat = np.array([[similarity.real, -similarity.imag], [similarity.imag, similarity.real]])
        self._matrix = (self.scale * flat @ turn).T
        # A pixel's centre lies at half a pixel: 2x supersampling must not shift the picture.
        self._offset = self.scale * np.array([offset.real, offset.imag]) + (self.scale - 1) / 2

    def project(self, path: Path, lift: float | Floats = 0.0) -> Floats:
        """(N, 2) points on the head, raised by ``lift``, to canvas pixels."""
        flat = np.asarray(path, np.float64)
        solid = np.empty((len(flat), 3))
        solid[:, :2] = flat
        solid[:, 2] = bulge(flat[:, 0], flat[:, 1]) + lift
        projected: Floats = solid @ self._matrix + self._offset
        return projected

    def fill(self, path: Path, colour: Colour, lift: float | Floats = 0.0) -> None:
        """A filled polygon."""
        cv2.fillPoly(self.canvas, [fixed(self.project(path, lift))], colour, cv2.LINE_AA, SUBPIXEL)

    def veil(self, path: Path, colour: Colour, opacity: float) -> None:
        """A filled polygon that lets what lies under it through."""
        before = self.canvas.copy()
        self.fill(path, colour)
        cv2.addWeighted(self.canvas, opacity, before, 1 - opacity, 0, dst=self.canvas)

    def line(
        self,
        path: Path,
        colour: Colour,
        width: float,
        lift: float | Floats = 0.0,
        closed: bool = False,
    ) -> None:
        """A line ``width`` crop pixels wide."""
        points = [fixed(self.project(path, lift))]
        thickness = max(1, round(width * self.scale))
        cv2.polylines(self.canvas, points, closed, colour, thickness, cv2.LINE_AA, SUBPIXEL)

    def dot(self, x: float, y: float, radius: float, colour: Colour, lift: float = 0.0) -> None:
        """A disc."""
        centre = fixed(self.project([(x, y)], lift))[0]
        r = max(1, round(radius * self.scale * (1 << SUBPIXEL)))
        cv2.circle(
            self.canvas, (int(centre[0]), int(centre[1])), r, colour, -1, cv2.LINE_AA, SUBPIXEL
        )

    def occlude(self, where: tuple[float, float, float, float], colour: Colour) -> None:
        """An oval before the face, placed in the crop."""
        x, y, radius, angle = where
        box = (
            (x * self.scale, y * self.scale),
            (2.6 * radius * self.scale, 1.6 * radius * self.scale),
        )
        cv2.ellipse(self.canvas, (*box, float(np.degrees(angle))), colour, -1, cv2.LINE_AA)


def bulge(x: Floats, y: Floats) -> Floats:
    """z of the head's surface."""
    bulge: Floats = -(x * x) / 85.0 - (y - 15.0) ** 2 / 260.0
    return bulge


def fixed(points: Floats) -> npt.NDArray[np.int32]:
    """Pixels to the sixteenths that OpenCV draws by."""
    return np.rint(points * (1 << SUBPIXEL)).astype(np.int32)


@cache
def _spline(count: int, closed: bool, steps: int = 6) -> Floats:
    """Weights of control points in a Catmull-Rom curve through them: (samples, count)."""
    t = np.arange(steps)[:, None] / steps
    basis = 0.5 * np.concatenate(
        [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3], 1
    )
    spans = count if closed else count - 1
    weights = np.zeros((spans * steps + (not closed), count))
    for span in range(spans):
        for tap in range(4):
            at = span + tap - 1
            at = at % count if closed else min(max(at, 0), count - 1)
            weights[span * steps : (span + 1) * steps, at] += basis[:, tap]
    if not closed:
        weights[-1, -1] = 1
    return weights


def smooth(points: Path, closed: bool = False) -> Floats:
    """A smooth curve through points."""
    path = np.asarray(points, np.float64)
    curve: Floats = _spline(len(path), closed) @ path
    return curve


def oval(x: float, y: float, a: float, b: float, count: int = 20) -> Floats:
    """A closed ellipse about (x, y) with half axes a and b: (count, 2)."""
    angle = np.arange(count) * (2 * np.pi / count)
    return np.stack([x + a * np.cos(angle), y + b * np.sin(angle)], 1)


def mirrored(half: Path) -> Floats:
    """A closed outline from its right half, given from top to bottom."""
    right = np.asarray(half, np.float64)
    return np.concatenate([right, right[::-1] * (-1, 1)])


def mouth_half(identity: Identity, look: Look) -> float:
    """Half the width of the mouth with this expression."""
    return identity.mouth_half * (1 + 0.16 * look.smile - 0.08 * look.mouth_open)


def corner_lift(identity: Identity, look: Look) -> float:
    """How far the corners of the mouth lie above its middle."""
    return identity.mouth_curve + 2.6 * look.smile

"""Drawing a synthetic face: flat features on a curved head, turned, aligned and lit."""

from __future__ import annotations

import cv2
import numpy as np

from minusface.data.identity import Colour, Identity, Look
from minusface.data.light import develop, shade
from minusface.data.pen import (
    SIDE,
    Pen,
    corner_lift,
    mirrored,
    mouth_half,
    oval,
    smooth,
)
from minusface.types import UInt8


def draw_face(identity: Identity, look: Look, size: int = SIDE) -> UInt8:
    """A picture of a person: (size, size, 3) bytes, RGB, aligned to the ArcFace template.

    Drawn at twice the size and averaged down. The same arguments give the same bytes.
    """
    pen = Pen(identity, look, 2 * size)
    _draw_behind(pen, identity, look)
    _draw_head(pen, identity)
    _draw_beard(pen, identity, look)
    _draw_mouth(pen, identity, look)
    _draw_nose(pen, identity)
    for side in (-1.0, 1.0):
        _draw_eye(pen, identity, look, side)
        _draw_brow(pen, identity, look, side)
    if identity.glasses != "none":
        _draw_glasses(pen, identity)
    _draw_hair(pen, identity)
    if look.occlusion is not None:
        pen.occlude(look.occlusion, look.occluder)
    small = cv2.resize(pen.canvas, (size, size), interpolation=cv2.INTER_AREA)
    return develop(np.asarray(small, np.uint8), shade(pen, identity, look, size), look)


def _shaded(colour: Colour, factor: float) -> Colour:
    return (
        min(colour[0] * factor, 255),
        min(colour[1] * factor, 255),
        min(colour[2] * factor, 255),
    )


def _mixed(a: Colour, b: Colour, share: float) -> Colour:
    red, green, blue = (p * (1 - share) + q * share for p, q in zip(a, b, strict=True))
    return (red, green, blue)


def _chin(identity: Identity, drop: float = 0.0) -> list[tuple[float, float]]:
    """The right half of the face from temple to chin."""
    return [
        (identity.temple, -12.0),
        (identity.cheek, 14.0),
        (identity.jaw, 38.0),
        (identity.chin_width + 6, identity.chin - 7 + drop),
        (identity.chin_width * 0.5, identity.chin + drop),
    ]


def _draw_behind(pen: Pen, identity: Identity, look: Look) -> None:
    """Background, hair behind the head, neck, ears."""
    fade = np.linspace(0.75, 1.05, pen.side)[:, None] * look.background
    pen.canvas[:] = np.clip(fade, 0, 255).astype(np.uint8)[:, None]
    cheek = identity.cheek
    if identity.hair == "long":
        half = [(14, -74), (cheek + 8, -52), (cheek + 15, 0), (cheek + 14, 60), (cheek + 8, 95)]
        pen.fill(smooth(mirrored(half), True), _shaded(identity.hair_colour, 0.72))
    neck = identity.jaw * 0.78
    pen.fill([(-neck, 30), (neck, 30), (neck, 100), (-neck, 100)], _shaded(identity.skin, 0.68))
    for side in (-1, 1):
        x = side * (identity.temple + 2.5)
        ear = oval(x, 10, 6 * identity.ear, 12 * identity.ear)
        pen.fill(ear, _shaded(identity.skin, 0.86))


def _draw_head(pen: Pen, identity: Identity) -> None:
    """Skin, its marks, its lines."""
    crown = [(20.0, -66.0), (identity.temple - 3, -45.0)]
    pen.fill(smooth(mirrored([*crown, *_chin(identity)]), True), identity.skin)
    dark = _shaded(identity.skin, 0.78)
    line = _mixed(identity.skin, dark, identity.age)
    if identity.age > 0.15:
        for y in (-24.0, -29.0, -34.0):
            pen.line(smooth([(-17, y + 1), (-7, y - 1), (7, y - 1), (17, y + 1)]), line, 0.7)
    for side in (-1, 1):
        x, y = identity.nose_width * side, identity.nose_length
        end = (side * (identity.mouth_half + 5), identity.mouth_drop)
        pen.line(smooth([(x * 1.1, y - 3), (x * 1.1 + side * 4, y + 6), end]), line, 0.9)
        eye = identity.eye_half * side
        w = identity.eye_width
        bag = [(eye - w * 0.8, 5.5), (eye, 7 + identity.age), (eye + w * 0.8, 5.5)]
        pen.line(smooth(bag), line, 0.7)
    for x, y, radius in identity.freckles:
        pen.dot(x, y, radius, _shaded(identity.skin, 0.76))
    for mark in identity.marks:
        if mark.scar:
            dx, dy = mark.size * np.cos(mark.angle), mark.size * np.sin(mark.angle)
            ends = [(mark.x - dx, mark.y - dy), (mark.x + dx, mark.y + dy)]
            pen.line(ends, _mixed(identity.skin, (250, 205, 200), 0.5), 1.1)
        else:
            pen.dot(mark.x, mark.y, mark.size, _shaded(identity.skin, 0.42))


def _draw_beard(pen: Pen, identity: Identity, look: Look) -> None:
    if identity.beard == "none":
        return
    colour = _shaded(identity.hair_colour, 0.85)
    mouth, half = identity.mouth_drop, mouth_half(identity, look)
    over = [(0.0, mouth - 7.5), (half * 0.7, mouth - 6.5), (half + 2.5, mouth + 1)]
    if identity.beard in ("full", "stubble"):
        jaw = [(x + 0.5, y) for x, y in _chin(identity, 1 + 3 * look.mouth_open)[1:]]
        inner = [(half + 5, mouth - 4), (identity.cheek - 8, 16.0)]
        # Down the middle of the lip, out along the moustache, up the cheek, and round the jaw.
        ring = [(0.0, mouth - 7.5), *inner, *jaw]
        pen.veil(mirrored(ring), colour, 0.3 if identity.beard == "stubble" else 0.9)
        return
    tip = [(half * 0.8, mouth - 2), (0.0, mouth - 2)]
    pen.veil(mirrored([*over, *tip]), colour, 0.88)
    if identity.beard == "goatee":
        chin = identity.chin + 3 * look.mouth_open
        patch = [(6.0, mouth + 7), (identity.chin_width * 0.8, chin - 8), (5.0, chin + 1)]
        pen.veil(smooth(mirrored(patch), True), colour, 0.88)


def _draw_mouth(pen: Pen, identity: Identity, look: Look) -> None:
    half, y = mouth_half(identity, look), identity.mouth_drop
    corner = y - corner_lift(identity, look)
    gap = 7.0 * look.mouth_open
    upper, lower = y - 0.12 * gap, y + 0.88 * gap
    thin = 1 - 0.2 * max(look.smile, 0.0)
    top = [(-half, corner), (-half * 0.35, upper - identity.upper_lip * thin - 0.9)]
    top += [(0, upper - identity.upper_lip * thin * 0.75)]
    top += [(half * 0.35, upper - identity.upper_lip * thin - 0.9), (half, corner)]
    seam_top = smooth([(half, corner), (0, upper), (-half, corner)])
    seam_low = smooth([(-half, corner), (0, lower), (half, corner)])
    bottom = [(half, corner), (half * 0.5, lower + identity.lower_lip * thin)]
    bottom += [(0, lower + identity.lower_lip * thin + 0.8)]
    bottom += [(-half * 0.5, lower + identity.lower_lip * thin), (-half, corner)]
    if gap > 0.8:
        pen.fill(np.concatenate([seam_low, seam_top]), (58, 20, 22))
        teeth = [(half * 0.7, upper + 0.2 * (corner - upper)), (0, upper), (-half * 0.7, upper)]
        below = [(-half * 0.55, upper + 0.45 * gap), (half * 0.55, upper + 0.45 * gap)]
        pen.fill(smooth([*teeth, *below], True), (236, 232, 222))
    pen.fill(np.concatenate([smooth(top), seam_top]), _shaded(identity.lips, 0.88))
    pen.fill(np.concatenate([seam_low, smooth(bottom)]), identity.lips)
    pen.line(seam_low, _shaded(identity.lips, 0.5), 0.8)


def _draw_nose(pen: Pen, identity: Identity) -> None:
    width, y, depth = identity.nose_width, identity.nose_length, identity.nose_depth
    dark = _shaded(identity.skin, 0.72)
    ridge = [(identity.bridge, -3.0), (identity.bridge * 0.9, y * 0.6), (width * 0.55, y - 4)]
    ridge += [(width * 0.5, y + 2)]
    heights = np.array([0.15, 0.6, 0.95, 0.8]) * depth
    pen.fill(
        mirrored(ridge), _shaded(identity.skin, 1.05), np.concatenate([heights, heights[::-1]])
    )
    for side in (-1, 1):
        edge = np.asarray(ridge[:3]) * (side, 1)
        pen.line(smooth(edge), _shaded(identity.skin, 0.87), 1.0, 0.5 * depth)
        wing = [(width * 0.85, y - 5.5), (width * 1.12, y - 1), (width * 0.8, y + 2.2)]
        pen.line(smooth(np.asarray(wing) * (side, 1)), dark, 1.0, 0.3 * depth)
        nostril = oval(side * width * 0.5, y + 1.6, width * 0.24, 1.1, 10)
        pen.fill(nostril, _shaded(identity.skin, 0.4), 0.55 * depth)
    base = [(-width * 0.42, y + 2.2), (0, y + 3.4), (width * 0.42, y + 2.2)]
    pen.line(smooth(base), dark, 0.8, 0.7 * depth)


def _draw_eye(pen: Pen, identity: Identity, look: Look, side: float) -> None:
    w, centre = identity.eye_width, side * identity.eye_half
    opening = max(0.12, look.eye_open - 0.12 * max(look.smile, 0.0))
    t = np.linspace(-1, 1, 13)
    upper = -identity.eye_height * opening * (1 - t**2) ** 0.7
    lower = 0.62 * identity.eye_height * (1 - t**2)
    # The outer corner rises with a positive tilt.
    slope = -identity.eye_tilt * side * t * w
    x = centre + t * w
    socket = oval(centre, -1.0, w + 3.0, 6.0 + identity.lid)
    pen.veil(socket, _shaded(identity.skin, 0.8), 0.25 + 0.4 * identity.socket)
    top, low = np.stack([x, upper + slope], 1), np.stack([x, lower + slope], 1)
    pen.fill(np.concatenate([top, low[::-1]]), (236, 234, 230))
    for radius, colour in (
        (identity.iris, identity.iris_colour),
        (identity.iris * 0.45, (14.0, 12.0, 12.0)),
    ):
        disc = oval(centre + look.gaze[0], -0.4 + look.gaze[1], radius, radius)
        disc[:, 1] = np.clip(
            disc[:, 1], np.interp(disc[:, 0], x, top[:, 1]), np.interp(disc[:, 0], x, low[:, 1])
        )
        pen.fill(disc, colour)
    if opening > 0.5:
        pen.dot(centre + look.gaze[0] - 0.9, look.gaze[1] - 1.3, 0.55, (250, 250, 250))
    pen.line(top, _shaded(identity.skin, 0.25), 1.3)
    pen.line(low[2:-2], _shaded(identity.skin, 0.62), 0.7)
    pen.line(top[1:-1] - (0, identity.lid), _shaded(identity.skin, 0.66), 0.7)


def _draw_brow(pen: Pen, identity: Identity, look: Look, side: float) -> None:
    s = np.linspace(-1, 1, 9)
    lifted = identity.brow_gap + 2.4 * look.brow_raise
    frown = 1.6 * min(look.brow_raise, 0.0) * (1 - s) / 2
    middle = -lifted - identity.brow_arch * (1 - (s - 0.25) ** 2) - frown
    middle -= identity.brow_tilt * s * identity.brow_length
    x = side * (identity.eye_half + 0.5 + s * identity.brow_length)
    half = identity.brow_thickness * (0.55 - 0.4 * s) + 0.25
    outline = np.concatenate(
        [np.stack([x, middle - half], 1), np.stack([x, middle + half], 1)[::-1]]
    )
    pen.fill(outline, _mixed(_shaded(identity.hair_colour, 0.7), identity.skin, 0.12))


def _hair_edge(identity: Identity) -> list[tuple[float, float]]:
    """Where hair meets skin, from the left temple to the right."""
    y, t = identity.hairline, identity.temple
    edges: dict[str, list[tuple[float, float]]] = {
        "receding": [(-t - 1, -8), (-t * 0.72, y + 6), (-t * 0.5, y - 18), (0, y - 5)],
        "short": [(-t - 1, 2), (-t * 0.86, y + 16), (-t * 0.55, y + 2), (0, y)],
        "fringe": [(-t - 1, 8), (-t * 0.84, -14), (-t * 0.4, y + 18), (0, y + 19)],
        "long": [(-t - 1, 40), (-t * 0.88, -4), (-t * 0.45, y + 6), (0, y - 5)],
        "curly": [(-t - 2, 6), (-t * 0.84, y + 18), (-t * 0.5, y + 4), (0, y + 1)],
    }
    if identity.hair.startswith("parted"):
        right = identity.hair == "parted_right"
        edge = [(-t - 1, 6.0), (-t * 0.86, y + 20), (-t * 0.2, y + 12), (t * 0.45, y - 4)]
        edge += [(t * 0.85, y + 12), (t + 1, 4.0)]
        return [(-a, b) for a, b in reversed(edge)] if right else edge
    left = edges[identity.hair]
    return [*left, *((-a, b) for a, b in reversed(left[:-1]))]


def _draw_hair(pen: Pen, identity: Identity) -> None:
    if identity.hair == "bald":
        return
    t, colour = identity.temple, identity.hair_colour
    volume = {"short": 2.0, "receding": 1.0, "curly": 7.0, "long": 6.0}.get(identity.hair, 4.0)
    edge = _hair_edge(identity)
    low = edge[-1][1]
    crown = [(t + volume, low), (t + volume, -30.0), (t * 0.7, -64 - volume)]
    crown += [(-x, y) for x, y in reversed(crown)]
    pen.fill(np.concatenate([smooth(edge), smooth(crown)]), colour)
    strand = _shaded(colour, 0.8)
    curve = smooth(edge)
    if identity.hair == "curly":
        for x, y in curve[::3]:
            pen.dot(x, y - 2, 4.6, _shaded(colour, 0.9 if round(x) % 2 else 1.12))
        return
    for number, (x, y) in enumerate(curve[2:-2:3]):
        end = (x * 0.75, -66.0)
        pen.line([(x, y), end], strand if number % 2 else _shaded(colour, 1.25), 0.8)


def _draw_glasses(pen: Pen, identity: Identity) -> None:
    w = identity.eye_half * 0.72
    for side in (-1, 1):
        x = side * identity.eye_half
        if identity.glasses == "round":
            lens = oval(x, 1.0, w, w * 0.92, 24)
        else:
            lens = np.array([(x - w, -6), (x + w, -6), (x + w * 0.9, 8), (x - w * 0.9, 8)])
        pen.line(lens, identity.frame, 1.7, 4.0, closed=True)
        arm = [(side * (identity.eye_half + w), -2.0), (side * (identity.temple + 1), -3.0)]
        pen.line(arm, identity.frame, 1.7, 3.0)
    gap = identity.eye_half - w
    pen.line(smooth([(-gap, 0), (0, -2), (gap, 0)]), identity.frame, 1.7, 6.0)

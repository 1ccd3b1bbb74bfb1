"""Light on a drawn face, and the camera that takes it."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from minusface.data.identity import Identity, Look
from minusface.data.pen import SIDE, SUBPIXEL, Floats, Pen, fixed, oval
from minusface.types import UInt8

Floats32 = npt.NDArray[np.float32]


def shade(pen: Pen, identity: Identity, look: Look, size: int) -> Floats32:
    """What each pixel is multiplied by for light and relief: (size, size)."""
    relief = np.full((size, size), 128, np.uint8)
    ratio = size / pen.side

    def patch(path: Floats, grey: float, lift: float = 0.0) -> None:
        points = fixed(pen.project(path, lift) * ratio)
        cv2.fillPoly(relief, [points], (grey,), cv2.LINE_8, SUBPIXEL)

    lx, ly = look.light
    for side in (-1, 1):
        x = side * (identity.cheek - 6)
        hollow = [(x, 16.0), (side * (identity.mouth_half + 6), identity.mouth_drop - 6)]
        hollow += [(side * (identity.jaw - 4), identity.mouth_drop + 6)]
        patch(np.asarray(hollow), 128 - 34 * identity.cheekbone)
        patch(oval(side * 24, 17, 8, 5, 10), 128 + 26 * identity.cheekbone)
    # The nose and the chin cast their shadows away from the light.
    nose, y = identity.nose_width, identity.nose_length
    cast = [(0.0, 0.0), (-lx * 26, y - 4), (-lx * 22, y + 4 - ly * 12), (0.0, y + 3)]
    patch(np.asarray(cast), 128 - 60 * min(1.0, float(np.hypot(lx, ly)) * 1.6))
    patch(oval(0, y + 5, nose, 2.5, 10), 104)
    patch(oval(0, identity.mouth_drop + identity.lower_lip + 4, 9, 2.5, 10), 106)
    patch(oval(0, -24, 20, 10, 12), 136)
    patch(oval(0, identity.chin - 8, identity.chin_width * 0.6, 5, 10), 140)
    soft = cv2.GaussianBlur(relief, (0, 0), 2.6 * size / SIDE).astype(np.float32) / 128
    (left, top), (right, low) = pen.project([(-46, -60), (46, 66)]) * ratio
    across = (np.arange(size, dtype=np.float32) - (left + right) / 2) / ((right - left) / 2)
    down = (np.arange(size, dtype=np.float32) - (top + low) / 2) / ((low - top) / 2)
    slope = np.float32(lx) * across[None, :] + np.float32(ly) * down[:, None]
    light = np.clip(1 + slope, 0.25, 1.7)
    multiplied: Floats32 = (soft * light).astype(np.float32)
    return multiplied


def develop(image: UInt8, light: Floats32, look: Look) -> UInt8:
    """Light, camera and noise: bytes to bytes."""
    gain = (light * np.float32(look.exposure))[..., None] * np.asarray(look.cast, np.float32)
    lit = image * gain
    lit -= 118
    lit *= np.float32(look.contrast)
    lit += 118
    if look.blur > 0.15:
        lit = cv2.GaussianBlur(lit, (0, 0), look.blur)
    if look.noise > 0.5:
        raw = np.random.default_rng(look.seed).bytes(lit.size)
        grain = np.frombuffer(raw, np.uint8).reshape(lit.shape).astype(np.float32)
        grain -= 127.5
        grain *= np.float32(look.noise / 127.5)
        lit += grain
    return np.asarray(np.clip(lit, 0, 255, out=lit).astype(np.uint8), np.uint8)

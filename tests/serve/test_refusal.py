"""What is taken for a photo; error rates on real ones are measured by benchmarks/refusal.py."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from minusface.data.synthetic import SyntheticFaces
from minusface.serve.refusal import looks_natural


def protected_like(seed: int, side: int = 112) -> np.ndarray:
    """Independent faint patches in each colour around mid-grey."""
    random = np.random.default_rng(seed)
    patches = cv2.resize(random.standard_normal((14, 14, 3)), (side, side))
    return (127 + 20 * patches).clip(0, 255).astype(np.uint8)


def test_drawn_faces_are_refused_and_protected_images_pass() -> None:
    faces = SyntheticFaces(25, 2, 1)
    missed = sum(not looks_natural(np.asarray(faces[n].image)) for n in range(50))
    assert missed <= 4
    assert not any(looks_natural(protected_like(seed)) for seed in range(50))


def test_grey_flat_and_mirrored() -> None:
    face = np.asarray(SyntheticFaces(1, 1, 2)[0].image)
    grey = np.repeat(face.mean(-1, keepdims=True), 3, -1).astype(np.uint8)
    for image in (face, grey, face[:, ::-1], face[:, :, ::-1], 255 - face):
        assert looks_natural(np.ascontiguousarray(image))
    black = np.zeros((112, 112, 3), np.uint8)
    assert looks_natural(black)


def test_one_photo_among_several_is_enough() -> None:
    face = np.asarray(SyntheticFaces(1, 1, 2)[0].image)
    fine = protected_like(0)
    assert not looks_natural(np.concatenate([fine, protected_like(1)]))
    assert looks_natural(np.concatenate([fine, face]))


def test_real_crops_are_refused(shared: Path) -> None:
    files = sorted((shared / "faces" / "lfw-112x112").glob("*/*.jpg"))[:100]
    images = [cv2.imread(str(file))[:, :, ::-1] for file in files]
    assert sum(not looks_natural(image) for image in images) <= 2

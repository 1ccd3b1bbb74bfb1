from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from minusface.data import FolderDataset, Loader, SyntheticFaces, export_folder, synthetic_pairs
from minusface.data.identity import BEARDS, STYLES, Identity, Look, Mark
from minusface.data.pen import TEMPLATE, Pen, corner_lift, mouth_half
from minusface.data.portrait import draw_face
from minusface.errors import MinusfaceError

# Nothing hides anything: to change one thing at a time.
PLAIN = dataclasses.replace(
    Identity.draw(np.random.default_rng(0)),
    hair="bald", beard="none", glasses="none", freckles=(), marks=(), age=0.0,
)  # fmt: skip


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b).mean())


def test_samples_are_what_they_say() -> None:
    faces = SyntheticFaces(3, 4, seed=0)
    assert (len(faces), faces.classes, faces.name) == (12, 3, "synthetic-3x4-seed0")
    samples = list(faces)
    assert len(samples) == 12
    for index, sample in enumerate(samples):
        assert sample.image.shape == (112, 112, 3)
        assert sample.image.dtype == np.uint8
        assert sample.label == index // 4
        assert sample.key == f"synthetic/{index // 4:06d}/{index % 4:04d}"
        assert faces.index(sample.key) == index
    assert len({sample.image.tobytes() for sample in samples}) == 12


def test_bit_for_bit_the_same() -> None:
    first = SyntheticFaces(4, 3, seed=5)
    forward = [first[i].image.tobytes() for i in range(12)]
    second = SyntheticFaces(4, 3, seed=5)
    assert [second[i].image.tobytes() for i in reversed(range(12))] == forward[::-1]


def test_an_image_depends_on_seed_person_and_number_alone() -> None:
    few, many = SyntheticFaces(2, 2, seed=5), SyntheticFaces(9, 7, seed=5)
    for key in ("synthetic/000000/0001", "synthetic/000001/0000"):
        assert np.array_equal(few[few.index(key)].image, many[many.index(key)].image)


def test_workers_draw_the_same() -> None:
    faces = SyntheticFaces(4, 4, seed=5)
    alone = [b.images.numpy() for b in Loader(faces, 4, seed=0).epoch(0)]
    helped = [b.images.numpy() for b in Loader(faces, 4, seed=0, workers=2).epoch(0)]
    assert np.array_equal(alone, helped)


def test_seeds_have_other_people() -> None:
    people = [SyntheticFaces(150, 1, seed=seed).identity(p) for seed in (0, 1) for p in range(150)]
    bones = {(i.chin, i.eye_half, i.nose_length, i.mouth_half) for i in people}
    assert len(bones) == len(set(people)) == 300
    a, b = SyntheticFaces(9, 1, seed=0), SyntheticFaces(9, 1, seed=1)
    assert not {s.image.tobytes() for s in a} & {s.image.tobytes() for s in b}


def test_people_vary() -> None:
    people = [SyntheticFaces(300, 1, seed=0).identity(p) for p in range(300)]
    assert {p.hair for p in people} == set(STYLES)
    assert {p.beard for p in people} == set(BEARDS)
    assert {p.glasses for p in people} == {"none", "round", "square"}
    for field in dataclasses.fields(Identity):
        values = {getattr(p, field.name) for p in people}
        assert len(values) >= 3, field.name
    brightness = [sum(p.skin) for p in people]
    assert max(brightness) > 2 * min(brightness)


def test_looks_differ_more_with_strength() -> None:
    spread = []
    for strength in (0.0, 0.5, 1.0):
        faces = SyntheticFaces(6, 6, seed=3, strength=strength)
        images = np.stack([s.image for s in faces]).reshape(6, 6, 112, 112, 3).astype(float)
        # The background differs at any strength.
        spread.append(images[:, :, 30:, 30:82].std(axis=1).mean())
    assert spread[0] < 1 < spread[1] < spread[2]


@pytest.mark.parametrize(
    "change",
    [
        {"hair": "long"},
        {"beard": "full"},
        {"glasses": "round"},
        {"age": 1.0},
        {"freckles": ((5.0, 15.0, 0.8), (-9.0, 18.0, 0.8))},
        {"marks": (Mark(20.0, 20.0, 1.5, 0.0, False),)},
        {"marks": (Mark(20.0, 20.0, 6.0, 0.7, True),)},
        {"nose_width": PLAIN.nose_width + 2},
        {"eye_height": PLAIN.eye_height + 1},
        {"iris_colour": (20.0, 200.0, 250.0)},
        {"cheekbone": 1.0 - round(PLAIN.cheekbone)},
        {"skin": (80.0, 60.0, 50.0)},
    ],
    ids=str,
)
def test_each_trait_shows(change: dict[str, object]) -> None:
    assert PLAIN.hair == "bald"
    other = dataclasses.replace(PLAIN, **change)  # type: ignore[arg-type]
    changed = draw_face(PLAIN, Look()) != draw_face(other, Look())
    assert changed.any(axis=2).sum() >= 8


@pytest.mark.parametrize(
    "change",
    [
        {"yaw": 0.4}, {"pitch": 0.3}, {"roll": 0.1}, {"shift": (2.0, 0.0)}, {"zoom": 1.05},
        {"smile": 1.0}, {"mouth_open": 1.0}, {"brow_raise": -1.0}, {"eye_open": 0.3},
        {"gaze": (2.0, 0.0)}, {"light": (0.5, 0.0)}, {"exposure": 0.6}, {"cast": (1.1, 1.0, 0.9)},
        {"contrast": 0.8}, {"blur": 1.0}, {"noise": 8.0}, {"occlusion": (20.0, 60.0, 20.0, 0.0)},
        {"background": (250.0, 20.0, 20.0)},
    ],
    ids=str,
)  # fmt: skip
def test_each_part_of_a_look_shows(change: dict[str, object]) -> None:
    other = dataclasses.replace(Look(), **change)  # type: ignore[arg-type]
    assert difference(draw_face(PLAIN, Look()), draw_face(PLAIN, other)) > 0.05


def test_light_comes_from_where_it_is_said_to() -> None:
    lit = draw_face(PLAIN, Look(light=(0.5, 0.0))).astype(float)
    assert lit[40:90, 75:90].mean() > 1.3 * lit[40:90, 22:37].mean()
    warm = draw_face(PLAIN, Look(cast=(1.2, 1.0, 0.8))) / (draw_face(PLAIN, Look()) + 1.0)
    assert warm[60:80, 40:70, 0].mean() > 1.1 > 0.9 > warm[60:80, 40:70, 2].mean()


def landmarks(identity: Identity, look: Look) -> np.ndarray:
    """The five points as drawn, in crop pixels."""
    pen = Pen(identity, look, 112)
    half, y = mouth_half(identity, look), identity.mouth_drop - corner_lift(identity, look)
    eyes = [(-identity.eye_half, 0), (identity.eye_half, 0)]
    flat = pen.project([*eyes, (-half, y), (half, y)])
    x, y = 0.0, identity.nose_length
    bulge = -((y - 15) ** 2) / 260
    nose = pen.project([(x, y)], identity.nose_depth - bulge)
    return np.concatenate([flat[:2], nose, flat[2:]])


def test_faces_lie_on_the_template() -> None:
    distances = []
    for number in range(200):
        rng = np.random.default_rng(number)
        points = landmarks(Identity.draw(rng), Look.draw(rng))
        distances.append(np.linalg.norm(points - TEMPLATE, axis=1))
    assert np.mean(distances) < 4
    assert np.percentile(distances, 99) < 13
    upright = np.mean(
        [landmarks(Identity.draw(np.random.default_rng(n)), Look()) for n in range(99)], 0
    )
    assert np.abs(upright - TEMPLATE).max() < 3


def test_a_pupil_is_dark_where_the_template_has_an_eye() -> None:
    image = draw_face(PLAIN, Look()).astype(float).sum(2)
    for x, y in TEMPLATE[:2]:
        column, row = round(float(x)), round(float(y))
        around = image[row - 4 : row + 5, column - 4 : column + 5]
        assert around.min() < 0.35 * image[60:66, 30:36].mean()


@pytest.mark.parametrize("size", [48, 96, 111, 160])
def test_other_sizes_show_the_same_face(size: int) -> None:
    look = Look(yaw=0.2)
    image = draw_face(PLAIN, look, size)
    assert image.shape == (size, size, 3)
    small = cv2.resize(draw_face(PLAIN, look), (16, 16), interpolation=cv2.INTER_AREA)
    again = cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA)
    assert difference(small, again) < 4


def test_fingerprint_follows_every_parameter() -> None:
    made = [
        SyntheticFaces(3, 4, seed=0), SyntheticFaces(4, 3, seed=0), SyntheticFaces(3, 4, seed=1),
        SyntheticFaces(3, 4, seed=0, size=96), SyntheticFaces(3, 4, seed=0, strength=0.5),
    ]  # fmt: skip
    prints = {faces.fingerprint() for faces in made}
    assert len(prints) == 5
    assert made[0].fingerprint() == SyntheticFaces(3, 4, seed=0).fingerprint()
    assert all(len(f) == len(hashlib.sha256().hexdigest()) for f in prints)


def test_refuses_numbers_out_of_range() -> None:
    for arguments, word in (
        ({"people": 0}, "people 0"),
        ({"images": 0}, "images 0"),
        ({"seed": -1}, "seed -1"),
        ({"size": 4}, "size 4"),
        ({"strength": 1.5}, "strength 1.5"),
    ):
        with pytest.raises(MinusfaceError, match=word):
            SyntheticFaces(**{"people": 2, "images": 2, "seed": 0, **arguments})  # type: ignore[arg-type]
    faces = SyntheticFaces(2, 3, seed=0)
    for key in (
        "a",
        "synthetic/000000/0003",
        "synthetic/000002/0000",
        "synthetic/0/0",
        "x/000000/0000",
    ):
        with pytest.raises(MinusfaceError, match="not in synthetic-2x3-seed0"):
            faces.index(key)
    with pytest.raises(IndexError):
        faces[6]


def test_pairs_are_balanced_true_and_different() -> None:
    faces = SyntheticFaces(10, 4, seed=0)
    pairs = synthetic_pairs(faces, 100, seed=1)
    assert len({frozenset(pair[:2]) for pair in pairs}) == 100
    assert sum(same for _, _, same in pairs) == 50
    for a, b, same in pairs:
        assert a != b
        assert (a.split("/")[1] == b.split("/")[1]) == same
        assert faces.index(a) < 40
    assert pairs == synthetic_pairs(faces, 100, seed=1) != synthetic_pairs(faces, 100, seed=2)
    first_half = sum(same for _, _, same in pairs[:50])
    assert 10 < first_half < 40


def test_pairs_to_the_last_one() -> None:
    assert len(synthetic_pairs(SyntheticFaces(3, 2, seed=0), 6, seed=0)) == 6
    for people, images, count in ((3, 2, 8), (3, 1, 2), (1, 5, 2), (3, 2, 3), (3, 2, 0)):
        with pytest.raises(MinusfaceError, match=f"{count} pairs of synthetic-{people}x{images}"):
            synthetic_pairs(SyntheticFaces(people, images, seed=0), count, seed=0)


def test_export_reads_back_as_a_folder(tmp_path: Path) -> None:
    faces = SyntheticFaces(3, 2, seed=0)
    export_folder(faces, tmp_path / "png")
    back = FolderDataset(tmp_path / "png")
    assert (len(back), back.classes) == (6, 3)
    assert list(back.keys())[3] == "000001/0001.png"
    for a, b in zip(faces, back, strict=True):
        assert a.label == b.label
        assert np.array_equal(a.image, b.image)
    export_folder(back, tmp_path / "jpg", suffix=".jpg")
    lossy = FolderDataset(tmp_path / "jpg")
    assert difference(lossy[5].image, faces[5].image) < 6
    with pytest.raises(MinusfaceError, match="holds something already"):
        export_folder(faces, tmp_path / "png")
    with pytest.raises(MinusfaceError, match="cannot write"):
        export_folder(faces, tmp_path / "png" / "000001" / "0001.png")

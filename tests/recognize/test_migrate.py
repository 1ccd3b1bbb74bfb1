"""A gallery of the teacher's embeddings, searched with protected probes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from minusface.checkpoint import Card
from minusface.errors import MinusfaceError
from minusface.evaluate import Pair, PairList
from minusface.evaluate.migration import evaluate_migration
from minusface.recognize import TeacherFile
from minusface.recognize.migrate import centre_of, from_teacher
from minusface.train.run import teacher_of

PEOPLE, PHOTOS, SIZE = 12, 2, 8


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """Embeddings far from the origin, two a person, close to each other."""
    random = np.random.default_rng(4)
    people = random.normal(size=(PEOPLE, SIZE))
    rows = np.repeat(people, PHOTOS, 0) + 0.1 * random.normal(size=(PEOPLE * PHOTOS, SIZE)) + 3
    names = np.array([f"p{p}/p{p}_{n}.png" for p in range(PEOPLE) for n in range(PHOTOS)])
    path = tmp_path / "teacher.npz"
    np.savez(path, names=names, plain=rows.astype(np.float32), flipped=rows.astype(np.float32))
    return path


def card(data: dict[str, object]) -> Card:
    return Card("stage2", {}, data=data)


def test_templates_are_what_the_student_imitated(teacher: Path) -> None:
    loaded = TeacherFile.load(teacher)
    with np.load(teacher) as file:
        made = from_teacher(file["plain"], centre_of(card(teacher_of(loaded))))
    assert torch.allclose(made.vectors, loaded.plain, atol=1e-5)


def test_a_centre_of_the_training_images_alone(teacher: Path) -> None:
    loaded = TeacherFile.load(teacher, ["p0/p0_0.png", "p1/p1_0.png"])
    with np.load(teacher) as file:
        expected = file["plain"][[0, 2]].astype(np.float64).mean(0)
    assert centre_of(card(teacher_of(loaded))) == pytest.approx(expected, abs=1e-6)


def test_refusals(teacher: Path) -> None:
    assert teacher_of(None) == {}
    with pytest.raises(MinusfaceError, match="names no teacher's centre"):
        centre_of(card({}))
    for wrong in (
        *([1], "x", {"centre": 3}, {"centre": "x"}, {"centre": {"a": 1}}, {"centre": [1, "2"]}),
        *({"centre": [[1.0]]}, {"centre": [True]}, {"centre": [float("nan")]}),
        {"centre": [10**400]},
    ):
        with pytest.raises(
            MinusfaceError, match=r"^runs/x: damaged card, its data\.teacher"
        ) as told:
            centre_of(card({"teacher": wrong}), "runs/x")
        assert "\n" not in str(told.value)
    with pytest.raises(MinusfaceError, match=r"expected \(N, 3\)"):
        from_teacher(np.zeros((2, 4)), np.ones(3))
    with pytest.raises(MinusfaceError, match="NaN"):
        from_teacher(np.full((2, 3), np.nan), np.ones(3))


def test_verification_across_the_two_spaces(teacher: Path) -> None:
    loaded = TeacherFile.load(teacher)
    names = list(loaded.rows)
    pairs = [Pair(f"p{p}/p{p}_0.png", f"p{p}/p{p}_1.png", True) for p in range(PEOPLE)]
    pairs += [
        Pair(f"p{p}/p{p}_0.png", f"p{(p + 1) % PEOPLE}/p{(p + 1) % PEOPLE}_1.png", False)
        for p in range(PEOPLE)
    ]
    listed = PairList.from_pairs(pairs)

    class Student:
        """Gives the first photos' templates right and every second photo's as noise."""

        def embed(
            self, images: torch.Tensor, keys: Sequence[str], draw: int, flip: bool
        ) -> torch.Tensor:
            assert not flip
            noise = torch.randn(len(keys), SIZE, generator=torch.Generator().manual_seed(draw))
            right = torch.tensor([key.endswith("_0.png") for key in keys])
            rows = loaded.lookup(list(keys))[0]
            return torch.where(right[:, None], rows, noise)

    folder = teacher.parent
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        import cv2

        cv2.imwrite(str(folder / name), np.zeros((8, 8, 3), np.uint8))
    gallery = loaded.lookup(listed.keys)[0]
    old, protected, across = evaluate_migration(Student(), gallery, folder, listed, draws=2)
    assert old.auc > 0.95
    # Probes are first photos, which it knows; the enrolled ones are the teacher's.
    assert across.auc == pytest.approx(old.auc)
    assert protected.auc < 0.8
    assert (old.draws, across.draws) == (1, 2)

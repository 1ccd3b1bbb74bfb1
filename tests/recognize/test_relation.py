"""The likeness to all training photos as a target: against plain loops, and what it is there for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minusface.config import DistillConfig, HeadConfig, RecognizerConfig, TrainConfig
from minusface.config_file import useless
from minusface.errors import MinusfaceError
from minusface.recognize import DistillLoss, TeacherFile, relation
from minusface.recognize.relation import RelationLoss
from minusface.train.losses import Faces, IdentityLoss
from minusface.train.settings import check_settings
from tests.reference import losses


def unit(rows: int, size: int, seed: int) -> Tensor:
    return nnf.normalize(torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)))


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 5),
    bank=st.integers(1, 20),
    size=st.integers(2, 9),
    temperature=st.sampled_from([0.03, 0.08, 1.0]),
    seed=st.integers(0, 99),
)
def test_it_is_what_plain_loops_give(
    batch: int, bank: int, size: int, temperature: float, seed: int
) -> None:
    student, target, seen = (unit(n, size, seed + k) for k, n in enumerate((batch, batch, bank)))
    found = float(RelationLoss(seen, temperature)(student, target))
    expected = losses.relation(student.numpy(), target.numpy(), seen.numpy(), temperature)
    assert found == pytest.approx(expected, abs=1e-4, rel=1e-4)
    assert float(RelationLoss(seen, temperature)(target, target)) == pytest.approx(0, abs=1e-6)


def test_mixed_precision_does_not_reach_it() -> None:
    target, seen = unit(4, 32, 0), unit(20, 32, 1)
    student = nnf.normalize(target + 0.02 * unit(4, 32, 2)).requires_grad_(True)
    exact = RelationLoss(seen, 0.08)(student, target)
    (wanted,) = torch.autograd.grad(exact, student)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = RelationLoss(seen, 0.08)(student, target)
    (found,) = torch.autograd.grad(mixed, student)
    assert mixed.dtype == torch.float32
    # In bfloat16 the gradient of a student this near was another one by its own length.
    assert float((found - wanted).norm() / wanted.norm()) < 1e-5


def test_it_tells_at_one_cosine_whom_a_student_takes_a_face_for() -> None:
    """Both students are equally far from the target, one of them towards somebody else."""
    target, other, nobody = torch.eye(3)[:, None]
    loss = RelationLoss(torch.cat([target, other]), 0.1)
    towards, away = (nnf.normalize(target + x) for x in (other, nobody))
    plain = DistillLoss(3, 3)
    assert float(plain(towards, target).cosine) == pytest.approx(float(plain(away, target).cosine))
    assert float(loss(towards, target)) > 3 * float(loss(away, target))


def test_of_many_photos_evenly_spaced_ones_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relation, "MOST", 4)
    bank = unit(10, 3, 0)
    assert torch.equal(RelationLoss(bank, 0.1).bank_md, bank[::3])
    assert len(RelationLoss(bank[:4], 0.1).bank_md) == 4


def teacher_file(folder: Path) -> Path:
    random = np.random.default_rng(0)
    plain, flipped = random.standard_normal((2, 6, 4))
    names = np.array([f"{n}.jpg" for n in range(6)])
    np.savez(folder / "teacher.npz", names=names, plain=plain, flipped=flipped)
    return folder / "teacher.npz"


def test_nobody_outside_the_training_images_is_compared_with(tmp_path: Path) -> None:
    keys = ["4.jpg", "1.jpg"]
    teacher = TeacherFile.load(teacher_file(tmp_path), keys)
    plain, flipped = teacher.lookup(keys)
    assert torch.equal(RelationLoss.of(teacher, 0.1).bank_md, torch.cat([plain, flipped]))
    assert len(TeacherFile.load(teacher_file(tmp_path)).known) == 12


def config(**changes: object) -> TrainConfig:
    distill = DistillConfig(teacher="given", **changes)  # type: ignore[arg-type]
    recognizer = RecognizerConfig("ir_lite", 5)
    return TrainConfig("plain", distill=distill, head=HeadConfig(weight=0.0), recognizer=recognizer)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_it_is_weighed_into_the_total(tmp_path: Path, weight: float) -> None:
    keys = ["0.jpg", "3.jpg", "5.jpg"]
    teacher = TeacherFile.load(teacher_file(tmp_path), keys)
    identity = IdentityLoss(config(weight=weight, relation=0.25, temperature=0.2), 3, teacher)
    labels = torch.arange(3)
    faces = Faces(torch.zeros(3, 3, 16, 16), labels, keys, labels == 1)
    embeddings = torch.randn(6, 5, requires_grad=True)
    found = identity(embeddings, faces, torch.Generator(), views=2)
    parts = weight * (found["cosine"] + found["pairwise"])
    torch.testing.assert_close(found["identity"], parts + 0.25 * found["relation"])
    assert identity.distill is not None
    student = identity.distill.project(embeddings).detach().numpy()
    targets = teacher.targets(keys, faces.crops, faces.flipped).repeat(2, 1).numpy()
    expected = losses.relation(student, targets, teacher.known.numpy(), 0.2)
    assert found["relation"].item() == pytest.approx(expected, rel=1e-4)
    found["relation"].backward()
    assert embeddings.grad is not None
    assert bool(embeddings.grad.abs().sum(1).gt(0).all())


def test_refusals() -> None:
    class Asked:
        size = 4

        def targets(self, keys: object, crops: Tensor, flipped: Tensor) -> Tensor:
            raise AssertionError

    with pytest.raises(MinusfaceError, match=r"distill\.relation: .* expected a \.npz"):
        IdentityLoss(config(relation=0.1), 3, Asked())
    with pytest.raises(MinusfaceError, match=r"distill\.relation"):
        IdentityLoss(config(relation=0.1), 3, None)
    for wrong in ({"relation": -1.0}, {"temperature": 0.0}):
        with pytest.raises(MinusfaceError, match=f"distill.{next(iter(wrong))}"):
            check_settings(config(**wrong))
    lines = useless(config(temperature=0.3))
    assert lines == ["distill.temperature has no effect: distill.relation is 0"]

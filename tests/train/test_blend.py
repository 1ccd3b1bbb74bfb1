"""Faces that nobody has: how they are blended, and whose embedding of them is imitated."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from minusface import collectives
from minusface.config import DistillConfig, HeadConfig, TrainConfig
from minusface.config_file import useless
from minusface.data import SyntheticFaces
from minusface.errors import MinusfaceError
from minusface.recognize.teachers import TeacherFile
from minusface.share import Share
from minusface.train.blend import KNOTS, LEAN, STEEPEST, blend
from minusface.train.build import build_task
from minusface.train.losses import Faces
from minusface.train.run import train
from minusface.train.tasks import StageTwo
from tests.processes import together
from tests.train.drawn import PEOPLE, SIZE, batch
from tests.train.test_twin import DIMENSIONS, settings, starts

__all__ = ["starts"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_pixels_lie_between_the_two_and_all_shares_occur() -> None:
    crops = torch.rand(512, 3, 24, 24, generator=seeded()) * 2 - 1
    blended, here = blend(crops, 1.0, seeded(1))
    assert here.tolist() == list(range(512))
    other = torch.roll(crops, 1, 0)
    assert bool((blended >= torch.minimum(crops, other) - 1e-6).all())
    assert bool((blended <= torch.maximum(crops, other) + 1e-6).all())
    own = ((blended - other) / (crops - other)).mean((1, 2, 3))
    # Neither of the two has more than the other, over all; some are nearly one's alone, some are halves.
    assert float(own.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(own.std()) > 0.15


def test_the_field_at_its_knots_is_what_was_drawn() -> None:
    count, side = 5, 31
    crops = torch.stack([torch.full((3, side, side), float(k)) for k in range(count)])
    blended, _ = blend(crops, 1.0, seeded(3))
    random = seeded(3)
    torch.rand(count, generator=random)
    lean = torch.randn(count, 1, 1, 1, generator=random)
    steep = torch.rand(count, 1, 1, 1, generator=random)
    knots = torch.randn(count, 1, KNOTS, KNOTS, generator=random)
    step = (side - 1) // (KNOTS - 1)
    for face in range(count):
        before = float((face - 1) % count)
        for row in range(KNOTS):
            for column in range(KNOTS):
                height = LEAN * float(lean[face]) + STEEPEST * float(steep[face]) * float(
                    knots[face, 0, row, column]
                )
                own = 1 / (1 + math.exp(-height))
                found = blended[face, :, row * step, column * step]
                wanted = own * face + (1 - own) * before
                assert found.tolist() == pytest.approx([wanted] * 3, abs=1e-4)


@pytest.mark.parametrize("chance", [0.0, 0.3])
def test_only_the_chosen_are_changed(chance: float) -> None:
    crops = torch.rand(400, 3, 8, 8, generator=seeded())
    kept = crops.clone()
    blended, here = blend(crops, chance, seeded(2))
    assert torch.equal(crops, kept)
    others = [row for row in range(400) if row not in set(here.tolist())]
    assert torch.equal(blended[others], crops[others])
    assert len(here) / 400 == pytest.approx(chance, abs=0.08)
    assert not bool((blended[here] == crops[here]).flatten(1).all(1).any())
    assert torch.equal(blended, blend(crops, chance, seeded(2))[0])


def test_who_is_blended_does_not_depend_on_the_processes() -> None:
    crops = torch.rand(8, 3, 8, 8, generator=seeded())
    _, whole = blend(crops, 0.5, seeded(4))
    rows = torch.tensor([1, 3, 5, 7])
    _, part = blend(crops[rows], 0.5, seeded(4), Share(rows, 8))
    assert rows[part].tolist() == [row for row in whole.tolist() if row in rows.tolist()]


def blended_here(rows: list[list[int]]) -> tuple[list[int], np.ndarray]:
    """What one of several processes makes of its samples."""
    mine = torch.tensor(rows[collectives.rank()])
    crops = torch.rand(8, 3, 8, 8, generator=seeded())
    return mine.tolist(), blend(crops[mine], 0.5, seeded(4), Share(mine, 8))[0].numpy()


@pytest.mark.parametrize(
    "rows", [[[0, 1, 2, 3], [4, 5, 6, 7]], [[1, 3, 5, 7], [0, 2, 4, 6]], [[n] for n in range(8)]]
)
def test_what_they_are_blended_with_does_not_either(rows: list[list[int]]) -> None:
    whole, _ = blend(torch.rand(8, 3, 8, 8, generator=seeded()), 0.5, seeded(4))
    for mine, found in together(len(rows), blended_here, rows):
        assert (found == whole[mine].numpy()).all()


@pytest.fixture
def blended(starts: tuple[str, str], tmp_path: Path) -> TrainConfig:
    """A run that imitates a teacher, and on blended crops a twin."""
    faces = SyntheticFaces(PEOPLE, 6, seed=0, size=SIZE)
    names = np.array([faces[index].key for index in range(len(faces))])
    rows = np.random.default_rng(0).standard_normal((2, len(names), DIMENSIONS))
    np.savez(tmp_path / "teacher.npz", names=names, plain=rows[0], flipped=rows[1])
    distill = DistillConfig(
        str(tmp_path / "teacher.npz"), twin=starts[1], twin_weight=0.0, blend=0.5
    )
    return settings(starts, distill=distill, head=HeadConfig(weight=0), out=str(tmp_path / "run"))


def told(config: TrainConfig, faces: Faces, seed: int) -> tuple[StageTwo, Faces, Faces]:
    """The task, the batch and what becomes of it."""
    assert config.distill.teacher is not None
    task = build_task(config, PEOPLE, TeacherFile.load(config.distill.teacher))
    assert isinstance(task, StageTwo)
    seen: list[Faces] = []

    def watched(embeddings: Tensor, faces: Faces, *rest: object) -> dict[str, Tensor]:
        seen.append(faces)
        return {"identity": embeddings.sum() * 0.0}

    task.identity.forward = watched  # type: ignore[method-assign, assignment]
    task(faces, seeded(seed))
    return task, faces, seen[0]


def drawn_batch() -> Faces:
    faces = batch()
    return replace(
        faces, keys=[SyntheticFaces(PEOPLE, 6, seed=0, size=SIZE)[k].key for k in range(6)]
    )


def test_of_whom_the_targets_are(blended: TrainConfig) -> None:
    task, faces, seen = told(blended, drawn_batch(), 7)
    crops, here = blend(faces.crops, 0.5, seeded(7))
    assert 0 < len(here) < 6
    assert torch.equal(seen.crops, crops)
    assert task.identity.teacher is not None
    assert task.twin is not None
    assert seen.targets is not None
    known = task.identity.teacher.targets(faces.keys, faces.crops, faces.flipped)
    for face in range(6):
        wanted = known[face]
        if face in here.tolist():
            with torch.no_grad():
                wanted = task.twin.recognizer(crops[face : face + 1])[0]
            wanted = wanted / wanted.norm()
        assert seen.targets[face].tolist() == pytest.approx(wanted.tolist(), abs=1e-5)


def test_targets_stand_for_the_teacher(blended: TrainConfig) -> None:
    teacher = TeacherFile.load(str(blended.distill.teacher))
    task = build_task(
        replace(blended, distill=replace(blended.distill, blend=0.0)), PEOPLE, teacher
    )
    faces, embeddings = drawn_batch(), torch.randn(6, DIMENSIONS, generator=seeded())
    told_so = replace(faces, targets=teacher.targets(faces.keys, faces.crops, faces.flipped))
    other = replace(faces, targets=-told_so.targets)  # type: ignore[operator]
    by_teacher, by_target, by_other = (
        float(task.identity(embeddings, given, seeded())["cosine"])
        for given in (faces, told_so, other)
    )
    assert by_target == by_teacher
    assert by_other == pytest.approx(2 - by_teacher, abs=1e-5)


def test_a_run_blends_and_repeats(blended: TrainConfig, tmp_path: Path) -> None:
    train(blended)
    train(replace(blended, out=str(tmp_path / "again")))
    train(replace(blended, out=str(tmp_path / "none"), distill=replace(blended.distill, blend=0.0)))
    logs = [
        [json.loads(line)["losses"] for line in (tmp_path / name / "log.jsonl").open()]
        for name in ("run", "again", "none")
    ]
    assert logs[0] == logs[1] != logs[2]
    assert set(logs[0][0]) == {"cosine", "pairwise", "identity", "total"}


def test_what_does_not_go_together_is_refused(
    starts: tuple[str, str], blended: TrainConfig
) -> None:
    def refused(match: str, **changes: object) -> None:
        distill = replace(blended.distill, **changes)  # type: ignore[arg-type]
        with pytest.raises(MinusfaceError, match=match):
            build_task(replace(blended, distill=distill), PEOPLE, None)

    refused(r"distill\.blend 1\.5: expected at least 0 and at most 1", blend=1.5)
    refused(r"distill\.blend: .* expected a distill\.teacher too", teacher=None)
    with pytest.raises(MinusfaceError, match=r"distill\.blend: .* expected head\.weight 0, not 1"):
        build_task(replace(blended, head=HeadConfig()), PEOPLE, None)
    names = np.array(["a", "b"])
    file = Path(str(blended.distill.teacher)).with_name("wide.npz")
    np.savez(file, names=names, plain=np.eye(2, 24), flipped=np.eye(2, 24))
    with pytest.raises(
        MinusfaceError, match=r"the twin's embeddings have 16 numbers, the teacher's 24"
    ):
        build_task(blended, PEOPLE, TeacherFile.load(file))
    assert useless(TrainConfig(distill=DistillConfig(blend=0.5), task="stage2")) == [
        "distill.blend has no effect: distill.twin is not given"
    ]

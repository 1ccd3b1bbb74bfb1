"""Branches that learn from one teacher's file, which knows images by their names."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from minusface.config import BranchConfig, DataConfig, DistillConfig
from minusface.data import FolderDataset, SyntheticFaces
from minusface.recognize import TeacherFile
from minusface.train.run import build
from tests.train.test_run import SIZE, branched, draw_people, refused, settings


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_people(tmp_path_factory.mktemp("faces"))


def recoloured(people: Path, folder: Path) -> Path:
    """Other images under the same names."""
    shutil.copytree(people, folder)
    for path in folder.rglob("*.png"):
        image = cv2.imread(str(path))
        assert image is not None
        assert cv2.imwrite(str(path), np.concatenate([255 - image[:8], image[8:]]))
    return folder


def test_one_name_for_images_of_two_branches(people: Path, tmp_path: Path) -> None:
    keys = list(FolderDataset(people, size=SIZE).keys())
    rows = np.random.default_rng(0).normal(size=(2, len(keys), 8)).astype(np.float32)
    np.savez(tmp_path / "teacher.npz", names=np.array(keys), plain=rows[0], flipped=rows[1])
    taught = DistillConfig(str(tmp_path / "teacher.npz"))
    config = replace(branched(people, tmp_path / "run", 1.0, 1.0), task="plain", distill=taught)
    # Branches of one dataset are taught alike.
    assert isinstance(build(config).task.identity.teacher, TeacherFile)
    first, second = config.data.branches
    others = replace(second, faces=str(recoloured(people, tmp_path / "others")))
    mixed = replace(config, data=DataConfig(branches=(first, others)))
    refused(lambda: build(mixed), f"data.branches: {keys[0]!r}", "teacher.npz", ".onnx teacher")
    # Without a file, names do not matter.
    build(replace(mixed, distill=DistillConfig()))


@pytest.mark.parametrize("stated", [True, False])
def test_branches_that_list_no_names(people: Path, tmp_path: Path, stated: bool) -> None:
    keys = [SyntheticFaces(4, 3, seed=0, size=SIZE)[index].key for index in range(12)]
    rows = np.random.default_rng(0).normal(size=(2, 12, 8)).astype(np.float32)
    arrays = {"names": np.array(keys), "plain": rows[0], "flipped": rows[1]}
    if stated:
        arrays["centre"] = np.ones(8, np.float32)
    np.savez(tmp_path / "teacher.npz", **arrays)
    drawn = BranchConfig("synthetic:4x3", batch_size=2)
    config = settings(
        people, tmp_path / "run", task="plain", data=DataConfig(branches=(drawn,)),
        distill=DistillConfig(str(tmp_path / "teacher.npz")),
    )  # fmt: skip
    teacher = build(config).task.identity.teacher
    assert isinstance(teacher, TeacherFile)
    assert teacher.centre is not None
    wanted = np.ones(8) if stated else rows.astype(np.float64).mean((0, 1))
    np.testing.assert_allclose(teacher.centre, wanted, atol=1e-6)

"""``minusface migrate``: from a distilled training to a gallery without photos."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from minusface.cli import main

SIZE, PEOPLE, IMAGES, LENGTH = 16, 6, 4, 8
KEYS = [f"p{p}/{i}.png" for p in range(PEOPLE) for i in range(IMAGES)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A face folder, the teacher's embeddings of it, pairs, and a model distilled from half an epoch."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("migrate")
    random = np.random.default_rng(0)
    for key in KEYS:
        (root / "faces" / key).parent.mkdir(parents=True, exist_ok=True)
        image = random.integers(0, 255, (SIZE, SIZE, 3)).astype(np.uint8)
        assert cv2.imwrite(str(root / "faces" / key), image)
    people = np.repeat(random.normal(size=(PEOPLE, LENGTH)), IMAGES, 0)
    rows = (people + 0.05 * random.normal(size=people.shape) + 2).astype(np.float32)
    np.savez(root / "teacher.npz", names=np.array(KEYS), plain=rows, flipped=rows)
    lines = [f"p{p}/0.png\tp{p}/1.png\t1\n" for p in range(PEOPLE)]
    lines += [f"p{p}/0.png\tp{(p + 1) % PEOPLE}/1.png\t0\n" for p in range(PEOPLE)]
    (root / "pairs.txt").write_text("".join(lines))
    words = [
        *("--task", "plain", "--out", root / "run", "--data.faces", root / "faces"),
        *("--codec.size", SIZE, "--recognizer.backbone", "ir_lite"),
        *("--recognizer.embedding_size", LENGTH, "--epochs", "0.5", "--batch_size", 4),
        *("--distill.teacher", root / "teacher.npz", "--head.weight", 0),
    ]
    assert main(["train", *map(str, words)]) == 0
    return root


def test_gallery_and_numbers(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [
        *("migrate", place / "teacher.npz", "--checkpoint", place / "run", "--json"),
        *("--out", place / "gallery.npz", "--pairs", place / "pairs.txt"),
        *("--faces", place / "faces"),
    ]
    capsys.readouterr()
    assert main([str(word) for word in asked]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["templates"] == len(KEYS)
    assert [row["name"][:11] for row in told["measured"]] == [
        "gallery and",
        "gallery and",
        "gallery by ",
    ]
    assert told["measured"][0]["auc"] == 1.0
    with np.load(place / "gallery.npz") as file:
        assert file["keys"].tolist() == KEYS
        assert file["people"].tolist() == [key.split("/")[0] for key in KEYS]
        assert np.linalg.norm(file["templates"], axis=1) == pytest.approx(1, abs=1e-5)
        scores = file["templates"] @ file["templates"].T
    same = np.equal.outer(*[[key.split("/")[0] for key in KEYS]] * 2)
    assert scores[same].min() > scores[~same].max()


def test_refusals(place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def line(*words: object) -> str:
        capsys.readouterr()
        assert main(["migrate", *map(str, words)]) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        return said[0]

    own = ("--checkpoint", place / "run")
    assert "nothing to do" in line(place / "teacher.npz", *own)
    before = (place / "teacher.npz").read_bytes()
    (tmp_path / "link.npz").symlink_to(place / "teacher.npz")
    for given in (place / "teacher.npz", tmp_path / "link.npz"):
        for out in (place / "teacher.npz", tmp_path / "link.npz"):
            assert "is the teacher's file itself" in line(given, *own, "--out", out)
    assert (tmp_path / "link.npz").is_symlink()
    assert (place / "teacher.npz").read_bytes() == before
    assert "go together" in line(place / "teacher.npz", *own, "--pairs", place / "pairs.txt")
    short = tmp_path / "short.npz"
    with np.load(place / "teacher.npz") as file:
        np.savez(
            short, names=file["names"][:3], plain=file["plain"][:3], flipped=file["flipped"][:3]
        )
    asked = ("--pairs", place / "pairs.txt", "--faces", place / "faces")
    assert "not among the teacher's 3" in line(short, *own, *asked)
    other = tmp_path / "other.npz"
    np.savez(other, names=np.array(["a"]), plain=np.ones((1, 3)), flipped=np.ones((1, 3)))
    assert f"expected (N, {LENGTH})" in line(other, *own, "--out", tmp_path / "gallery.npz")
    assert not (tmp_path / "gallery.npz").exists()

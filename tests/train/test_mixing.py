"""Teacher files from a network, faces mixed from photos, and their commands."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from minusface.cli import main
from minusface.data import FolderDataset, SyntheticFaces, export_folder
from minusface.errors import MinusfaceError
from minusface.recognize import TeacherFile
from minusface.train import mixing
from minusface.train.mix import mixed
from minusface.train.mixing import Mixing
from minusface.train.teach import descriptors, open_network, write_teacher
from tests.recognize.test_distill import flatten_model
from tests.reference.dlib_file import random_layers, written

SIDE = 112


class Corners:
    """A network whose embedding is the mean brightness of four quarters."""

    def __init__(self) -> None:
        self.asked = 0

    def embed(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        self.asked += len(crops)
        return tuple(  # type: ignore[return-value]
            torch.nn.functional.adaptive_avg_pool2d(side.mean(1, keepdim=True), 2).flatten(1)
            for side in (crops, crops.flip(-1))
        )


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> FolderDataset:
    root = tmp_path_factory.mktemp("mix") / "photos"
    export_folder(SyntheticFaces(4, 2, seed=3), root)
    return FolderDataset(root)


def test_a_teacher_file_holds_every_image_and_its_mirror_image(
    photos: FolderDataset, tmp_path: Path
) -> None:
    keys, plain, mirrored = descriptors(Corners(), photos)
    assert keys == list(photos.keys())
    # Left and right change places.
    np.testing.assert_allclose(mirrored, plain[:, [1, 0, 3, 2]], atol=1e-6)
    write_teacher(tmp_path / "t.npz", keys, plain, mirrored)
    assert os.stat(tmp_path / "t.npz").st_mode & 0o077 == 0
    teacher = TeacherFile.load(tmp_path / "t.npz", keys)
    assert teacher.size == 4
    centre = (plain.mean(0) + mirrored.mean(0)) / 2
    assert teacher.centre is not None
    np.testing.assert_allclose(teacher.centre, centre, atol=1e-3)


def test_mixtures_are_of_both_and_repeat_under_their_seed() -> None:
    black = torch.zeros(64, 3, SIDE, SIDE, dtype=torch.uint8)
    white = torch.full_like(black, 255)
    made = mixed(black, white, torch.Generator().manual_seed(1))
    assert made.dtype == torch.uint8
    assert torch.equal(made, mixed(black, white, torch.Generator().manual_seed(1)))
    assert not torch.equal(made, mixed(black, white, torch.Generator().manual_seed(2)))
    means = made.float().mean((1, 2, 3)) / 255
    alone = float((means == 0).float().mean())
    assert 0.15 < alone < 0.5
    assert float(means.max()) > 0.7
    # Smooth: neighbours differ by little, or a face would have an edge in it.
    assert int((made[..., 1:].int() - made[..., :-1].int()).abs().max()) < 60


def test_how_many_are_one_persons_is_chosen() -> None:
    black = torch.zeros(64, 3, SIDE, SIDE, dtype=torch.uint8)
    white = torch.full_like(black, 255)
    for alone, expected in ((0.0, 0), (1.0, 64)):
        made = mixed(black, white, torch.Generator().manual_seed(1), alone)
        assert int((made == 0).flatten(1).all(1).sum()) == expected


def test_of_two_people_and_never_of_one(tmp_path: Path) -> None:
    root = tmp_path / "shades"
    for person, level in enumerate((10, 90, 170, 250)):
        for image in range(2):
            path = root / f"p{person}" / f"{image}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.full((SIDE, SIDE, 3), level, np.uint8))
    photos = FolderDataset(root)
    Mixing(photos, Corners(), tmp_path / "two", seed=1, alone=0).run(64)
    Mixing(photos, Corners(), tmp_path / "any", seed=1).run(64)

    def flat(out: Path) -> int:
        faces = [cv2.imread(str(path)) for path in sorted(out.glob("faces/mixed-*/*.jpg"))]
        assert len(faces) == 64
        return sum(int(face.max()) - int(face.min()) <= 1 for face in faces)

    assert flat(tmp_path / "two") == 0
    assert flat(tmp_path / "any") > 64 * 0.3


def test_faces_are_bent_by_little() -> None:
    ramp = torch.arange(SIDE).expand(256, 3, SIDE, SIDE).to(torch.uint8) * 2
    made = mixed(ramp, ramp, torch.Generator().manual_seed(0)).float()
    # Unmirrored, by how many pixels the middle moved.
    upright = made[made[:, 0, 56, 100] > made[:, 0, 56, 10]]
    moved = (upright[:, 0, 30:80, 56] - 112).abs() / 2
    assert 0.3 < float(moved.mean()) < 5
    assert float((moved.amax(1) < 1).float().mean()) > 0.1


def test_a_folder_is_grown_and_a_stopped_run_goes_on(
    photos: FolderDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixing, "CHUNK", 5)
    out, network = tmp_path / "grown", Corners()
    done = Mixing(photos, network, out, seed=2).run(12)
    assert (done.photos, done.mixed, done.resumed) == (8, 12, 0)
    dataset = FolderDataset(out / "faces")
    assert len(dataset) == 20
    teacher = TeacherFile.load(out / "teacher.npz", list(dataset.keys()))
    keys, plain, mirrored = descriptors(Corners(), dataset)
    # JPEG and half precision are between the two.
    expected = torch.from_numpy((plain + mirrored) / 2 - teacher.centre)
    expected = torch.nn.functional.normalize(expected, dim=1).float()
    found, flipped = teacher.lookup(keys)
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)
    assert torch.equal(found, flipped)
    own = descriptors(Corners(), photos)
    np.testing.assert_allclose(teacher.centre, (own[1].mean(0) + own[2].mean(0)) / 2, atol=1e-3)
    for number in range(8):
        key = photos.key(number)
        assert (out / "faces" / key).read_bytes() == photos.encoded(number)
    before = (out / "teacher.npz").read_bytes()
    (out / ".parts" / "00001.npz").unlink()
    (out / "faces" / "mixed-00001" / "003.jpg").unlink()
    asked = network.asked
    again = Mixing(photos, network, out, seed=2).run(12)
    assert again.resumed == 7
    # The photos, and one chunk.
    assert network.asked - asked == 8 + 5
    assert (out / "teacher.npz").read_bytes() == before
    assert (out / "faces" / "mixed-00001" / "003.jpg").is_file()
    with pytest.raises(MinusfaceError, match="other photos, network, seed or --alone"):
        Mixing(photos, network, out, seed=3).run(12)
    with pytest.raises(MinusfaceError, match="other photos, network, seed or --alone"):
        Mixing(photos, network, out, seed=2, known="another").run(12)
    with pytest.raises(MinusfaceError, match="other photos, network, seed or --alone"):
        Mixing(photos, network, out, seed=2, alone=0).run(12)
    # Faces that the file would not tell of could not be trained on.
    with pytest.raises(MinusfaceError, match="begun for 12 mixtures, expected as many or more"):
        Mixing(photos, network, out, seed=2).run(11)
    assert network.asked - asked == 8 + 5
    assert Mixing(photos, network, out, seed=2).run(13).resumed == 10
    with pytest.raises(MinusfaceError, match="holds mixtures, expected photos alone"):
        Mixing(dataset, network, tmp_path / "again")
    (out / ".parts" / "settings.json").write_text("{")
    with pytest.raises(MinusfaceError, match=r"settings\.json: damaged"):
        Mixing(photos, network, out, seed=2).run(13)


def test_what_cannot_be_mixed(photos: FolderDataset, tmp_path: Path) -> None:
    one = FolderDataset(photos.root, people=[photos.people[0]])
    with pytest.raises(MinusfaceError, match="one person, expected two or more"):
        Mixing(one, Corners(), tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("x")
    with pytest.raises(MinusfaceError, match="holds other files"):
        Mixing(photos, Corners(), tmp_path / "b").run(1)
    write_teacher(tmp_path / "t.npz", ["nobody"], np.zeros((1, 4)), np.zeros((1, 4)))
    with pytest.raises(MinusfaceError, match="no embedding of"):
        Mixing(photos, Corners(), tmp_path / "c").run(1, tmp_path / "t.npz")
    assert not (tmp_path / "c").exists()
    with pytest.raises(MinusfaceError, match=r"dlib's \.dat or an \.onnx file, not \.pt"):
        open_network("net.pt")


def test_an_onnx_network_sees_both_sides(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "flatten.onnx"
    path.write_bytes(flatten_model("N", (3, 4, 4)))
    crops = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    plain, mirrored = open_network(path).embed(crops)
    for found, seen in ((plain, crops), (mirrored, crops.flip(-1))):
        torch.testing.assert_close(found, torch.nn.functional.normalize(seen.flatten(1), dim=1))


def test_the_commands(
    photos: FolderDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net, out = tmp_path / "net.dat", tmp_path / "t.npz"
    net.write_bytes(written(*random_layers(0)))
    asked = ["--network", str(net), "--json"]
    assert main(["data", "teach", str(photos.root), "--out", str(out), *asked]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": str(out), "images": 8, "size": 128}
    grown = tmp_path / "grown"
    told = ["--teacher", str(out), "--count", "3", "--out", str(grown)]
    assert main(["data", "mix", str(photos.root), *told, *asked[:-1]]) == 0
    assert capsys.readouterr().out.endswith("null --head.weight 0\n"), (
        "mixtures are nobody's photos"
    )
    assert main(["data", "mix", str(photos.root), *told, *asked]) == 0
    assert json.loads(capsys.readouterr().out)["mixed"] == 3
    assert cv2.imread(str(grown / "faces" / "mixed-00000" / "002.jpg")).shape == (SIDE, SIDE, 3)
    # What is printed as the next command learns from it.
    run = [
        "--task",
        "plain",
        "--data.faces",
        f"{grown}/faces",
        "--distill.teacher",
        f"{grown}/teacher.npz",
    ]
    run += [
        "--head.weight",
        "0",
        "--batch_size",
        "11",
        "--epochs",
        "1",
        "--out",
        str(tmp_path / "run"),
    ]
    assert (
        main(
            [
                "train",
                *run,
                "--recognizer.backbone",
                "ir_lite",
                "--recognizer.embedding_size",
                "128",
            ]
        )
        == 0
    )
    capsys.readouterr()
    for bad in (
        ["teach", str(photos.root), "--out", str(tmp_path / "t.txt"), *asked],
        ["mix", str(photos.root), "--out", str(grown), "--count", "0", *asked],
        ["mix", str(photos.root), "--out", str(grown), "--seed", "-1", *asked],
        ["mix", str(photos.root), "--out", str(grown), "--alone", "1.5", *asked],
        ["mix", str(photos.root), "--out", str(grown), "--alone", "nan", *asked],
        ["teach", str(photos.root), "--out", str(out), "--network", str(tmp_path / "none.dat")],
        ["teach", str(photos.root), "--out", str(out / "under.npz"), *asked],
        ["mix", str(photos.root), "--out", str(out / "under"), *asked],
    ):
        assert main(["data", *bad]) == 2
        assert capsys.readouterr().err.count("\n") == 1

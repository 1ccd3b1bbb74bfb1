"""``minusface data``: inspect, convert, align, split, and what they refuse."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from minusface.cli import main
from minusface.data import FolderDataset, SyntheticFaces, export_folder, read_people
from minusface.evaluate import read_pairs


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "faces"
    export_folder(SyntheticFaces(12, 3, seed=1), root)
    return root


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["data", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["data", *map(str, arguments)]) == 2
    out = capsys.readouterr()
    assert out.err.count("\n") == 1
    return out.err


def test_a_dataset_goes_through_every_verb(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rec"
    text = said(capsys, "convert", faces, "--to", "recordio", "--out", out)
    assert "36 images of 12 people" in text
    assert f"next: minusface data inspect recordio:{out}" in text
    found = json.loads(said(capsys, "inspect", f"recordio:{out}", "--all", "--json"))
    assert (found["people"], found["images"]) == (12, 36)
    assert found["sizes"] == {"112x112": 36}
    text = said(capsys, "split", faces, "--out", tmp_path / "lists", "--test", "0.5", "--seed", "4")
    assert "6 people to train on, 6 others" in text
    pairs = read_pairs(tmp_path / "lists" / "pairs.txt", faces)
    assert len(pairs) == 36
    assert int(pairs.same.sum()) == 18
    people = [read_people(tmp_path / "lists" / f"{part}.txt") for part in ("train", "test")]
    assert [len(set(part)) for part in people] == [6, 6]
    assert not set(people[0]) & set(people[1])
    again = ("split", faces, "--out", tmp_path / "lists", "--test", "0.5", "--seed")
    assert said(capsys, *again, "4") == text
    assert "another list is there" in refused(capsys, *again, "5")


def test_training_reads_any_format(faces: Path, tmp_path: Path) -> None:
    assert (
        main(["data", "convert", str(faces), "--to", "tfrecord", "--out", str(tmp_path / "t")]) == 0
    )
    spec = f"tfrecord:{tmp_path / 't' / 't_TFR.txt'}"
    options = ["--task", "plain", "--out", str(tmp_path / "run"), "--data.faces", spec]
    options += ["--epochs", "0.2", "--batch_size", "12", "--recognizer.backbone", "ir_lite"]
    assert main(["train", *options, "--codec.size", "112"]) == 0
    card = json.loads((tmp_path / "run" / "last" / "card.json").read_text())
    assert (card["data"]["images"], card["data"]["people"]) == (36, 12)


@pytest.mark.parametrize(
    "names", [[b"J\xf6rg", b"\xff", b"Ann Lee", b"Z"], [b"0000001", b"0000007", b"1", b"2"]]
)
def test_lists_hold_any_name(names: list[bytes], faces: Path, tmp_path: Path) -> None:
    """Names that are no UTF-8, and numbers, which are no counts."""
    root = tmp_path / "faces"
    for name, person in zip(names, sorted(faces.iterdir()), strict=False):
        shutil.copytree(person, root / os.fsdecode(name))
    lists = tmp_path / "my lists"
    assert main(["data", "split", str(root), "--out", str(lists), "--test", "0.5"]) == 0
    kept = [FolderDataset(root, people=lists / f"{part}.txt").people for part in ("train", "test")]
    assert sorted(map(os.fsencode, kept[0] + kept[1])) == sorted(names)
    pairs = read_pairs(lists / "pairs.txt", root)
    assert {key.split("/")[0] for key in pairs.keys} <= set(kept[1])


def test_names_that_lists_part_at(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(faces, tmp_path / "faces")
    person = min((tmp_path / "faces").iterdir())
    person.rename(person.with_name("a\tb"))
    lists = tmp_path / "lists"
    assert "'a\\tb'" in refused(capsys, "split", tmp_path / "faces", "--out", lists)
    assert not lists.exists()


def test_training_passes_over_damaged_files_of_a_folder(
    faces: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "faces"
    shutil.copytree(faces, root)
    damaged = min(root.rglob("*.png"))
    damaged.write_bytes(b"")
    options = ["--task", "plain", "--data.faces", str(root), "--epochs", "1", "--batch_size", "36"]
    options += ["--recognizer.backbone", "ir_lite", "--codec.size", "112"]
    assert main(["train", *options, "--out", str(tmp_path / "a")]) == 2
    assert str(damaged) in capfd.readouterr().err
    skip = ["--data.on_error", "skip"]
    assert main(["train", *options, *skip, "--out", str(tmp_path / "b")]) == 0
    assert f"skipped {damaged}" in capfd.readouterr().err


def test_alignment_takes_crops_as_they_are(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "crops"
    text = said(capsys, "align", faces, "--out", out, "--workers", "1")
    assert "36 crops of 36 photos" in text
    assert (out / "contact_sheet.jpg").is_file()
    again = json.loads(said(capsys, "align", faces, "--out", out, "--json"))
    assert (again["written"], again["present"]) == (0, 36)


def test_refusals(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'convert'" in refused(capsys, "convertt", faces)
    assert "recordio" in refused(capsys, "convert", faces, "--to", "rec", "--out", tmp_path / "x")
    assert "on_error" in refused(
        capsys, "convert", faces, "--to", "list", "--out", tmp_path / "x", "--on-error", "no"
    )
    assert "no such folder" in refused(capsys, "inspect", tmp_path / "none")
    assert "workers -1" in refused(
        capsys, "align", faces, "--out", tmp_path / "x", "--workers", "-1"
    )
    assert "folder a person" in refused(
        capsys, "split", "synthetic:9x3", "--out", tmp_path / "lists"
    )
    assert not (tmp_path / "x").exists()


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys).startswith("usage: minusface data")
    for verb in ("inspect", "convert", "align", "split"):
        assert verb in said(capsys, verb, "--help")

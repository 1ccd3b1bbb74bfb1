"""The weights that ship: found by name, whole, and giving what they gave when they were packed."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console

from minusface.checkpoint import load_card
from minusface.cli import main
from minusface.config import StartConfig, TrainConfig
from minusface.demo.journey import run
from minusface.demo.record import Options
from minusface.demo.training import Budget
from minusface.protect import Protector
from minusface.recognize import Recognizer
from minusface.train.build import build_task
from minusface.weights import called, packaged, resolve

SHARED = Path(__file__).parents[3] / "shared" / "faces"
LARGEST = 12_000_000


def test_they_are_small_and_whole() -> None:
    assert packaged() == ["default"]
    folder = resolve("default")
    assert folder == resolve(None)
    # Reports are passed on: they name no folder of the machine they were made on.
    assert called(folder) == "default"
    assert called(Path("runs/default")) == "runs/default"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= LARGEST
    assert Protector.load().spec() == Protector.load("default").spec()
    assert Recognizer.load("default").kind == "protected"


def test_pinned_outputs() -> None:
    pin = pytest.importorskip("tests.weights.pin", reason="scikit-image's astronaut")
    now, then = pin.made(), json.loads(pin.PINNED.read_text())
    assert now["protected"] == pytest.approx(then["protected"], abs=1e-3)
    assert now["template"] == pytest.approx(then["template"], abs=1e-3)


def test_the_card_says_what_one_must_know() -> None:
    folder = resolve("default")
    card = load_card(folder)
    assert set(card.metrics["thresholds"]) >= {"fmr_1e-1", "fmr_1e-2", "fmr_1e-3"}
    assert len(card.data["teacher"]["centre"]) == 128
    said = (folder / "MODEL_CARD.md").read_text()
    for word in ("LFW", "dlib", "must not", "recovery", "Commit", "Seed"):
        assert word in said, word


def test_a_damaged_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "mine"
    shutil.copytree(resolve("default"), copy)
    file = next(copy.glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"")
    words = ["protect", str(photo), "--out", str(tmp_path / "out"), "--checkpoint", str(copy)]
    assert main(words) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "damaged" in said[0]
    assert not (tmp_path / "out").exists()


def test_a_training_may_begin_with_them_by_name() -> None:
    protector, recognizer = Protector.load(), Recognizer.load()
    config = TrainConfig(
        task="stage2",
        codec=protector.codec_config,
        generator=protector.generator_config,
        recognizer=recognizer.config,
        start=StartConfig(generator="default", recognizer="default"),
    )
    task = build_task(config, 10, None)
    assert task.protector is not None
    for begun, shipped in ((task.protector, protector), (task.recognizer, recognizer)):
        for one, other in zip(begun.parameters(), shipped.parameters(), strict=True):
            assert torch.equal(one, other)


def test_names_resolve_to_a_folder_of_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(resolve("default"), tmp_path / "ours")
    monkeypatch.setenv("MINUSFACE_HOME", str(tmp_path))
    ours, theirs = Protector.load("ours"), Protector.load("default")
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_the_demo_runs_on_them(tmp_path: Path) -> None:
    options = Options(faces="synthetic", out=str(tmp_path / "demo"))
    tiny = Budget(similarity_crops=5, pairs=40, synthetic=(8, 4), synthetic_held_out=(6, 3))
    found = run(options, Console(file=io.StringIO()), tiny)
    assert found.weights is not None
    assert not (tmp_path / "demo" / "stage2").exists()
    assert "packaged; nothing was trained here" in found.report.read_text()


@pytest.mark.skipif(
    not SHARED.is_dir(), reason="needs LFW crops and the teacher's embeddings in ../shared"
)
def test_a_gallery_of_the_teachers_is_found_with_protected_probes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """End to end: enrolled by dlib from photos, probed with protected images; people never trained on."""
    lines = (SHARED / "lfw-protocol" / "pairsDevTest.txt").read_text().splitlines()
    # The first 80 genuine and the first 80 impostor pairs.
    few = tmp_path / "pairs.txt"
    few.write_text("\n".join(["80", *lines[1:81], *lines[501:581]]) + "\n")
    words = ["migrate", str(SHARED / "lfw-teacher-dlib.npz"), "--pairs", str(few), "--draws", "1"]
    assert main([*words, "--faces", str(SHARED / "lfw-112x112"), "--json"]) == 0
    old, new, across = json.loads(capsys.readouterr().out)["measured"]
    assert old["auc"] > 0.98
    assert across["auc"] > new["auc"] - 0.02
    assert across["auc"] > 0.9

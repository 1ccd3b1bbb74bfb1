"""TFace's train.yaml: every key has an outcome."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from minusface.cli import main
from minusface.config_file import read_config
from minusface.errors import MinusfaceError
from minusface.tface.settings import KEYS, NO_EFFECT, RESUMES, tface_settings

# Every key that the field's file has.
FILE: dict[str, Any] = {
    "SEED": 1337,
    "DATA_ROOT": "/data",
    "INDEX_ROOT": "/index",
    "DATASETS": [
        {"name": "MS1M_TFR", "batch_size": 64, "weight": 1.0, "scale": 64.0, "margin": 0.5}
    ],
    "BACKBONE_RESUME": "",
    "HEAD_RESUME": "",
    "META_RESUME": "",
    "INPUT_SIZE": [112, 112],
    "BACKBONE_NAME": "MobileFaceNet",
    "EMBEDDING_SIZE": 512,
    "MODEL_ROOT": "./ckpt",
    "LOG_ROOT": "./logs",
    "DIST_FC": True,
    "HEAD_NAME": "ArcFace",
    "LOSS_NAME": "DistCrossEntropy",
    "RGB_MEAN": [0.5, 0.5, 0.5],
    "RGB_STD": [0.5, 0.5, 0.5],
    "LRS": [0.01, 0.001, 0.0001, 0.00001],
    "WARMUP_STEP": 0,
    "STAGES": [10, 18, 22],
    "START_EPOCH": 0,
    "NUM_EPOCH": 24,
    "SAVE_EPOCHS": [10, 18, 22],
    "WEIGHT_DECAY": 0.0005,
    "MOMENTUM": 0.9,
    "NUM_WORKERS": 8,
    "AMP": True,
    "METHOD": "MinusFace",
    "TASK": "stage2",
    "NUM_AUG": 3,
    "TASK_BACKBONE": "IR_50",
    "TASK_VER": 3,
    "WORLD_SIZE": 1,
    "RANK": 0,
    "LOCAL_RANK": 0,
    "DIST_BACKEND": "nccl",
    "DIST_URL": "env://",
    "PRETRAIN_CKPT": "runs/stage1",
}


def write(tmp_path: Path, **changes: Any) -> Path:
    content = {k: v for k, v in (FILE | changes).items() if v is not None}
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_file_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path)
    settings, notes = tface_settings(path)
    config = read_config(path, settings=settings)
    assert (config.task, config.seed, config.epochs) == ("stage2", 1337, 24.0)
    assert config.data.faces == "tfrecord:/index/MS1M_TFR.txt@/data"
    assert (config.batch_size, config.data.workers, config.out) == (64, 8, "./ckpt")
    assert (config.recognizer.backbone, config.recognizer.input) == ("ir_50", "as_is")
    assert (config.optimizer.lr, config.schedule.gamma) == (0.01, 0.1)
    assert config.schedule.milestones == (10.0, 18.0, 22.0)
    assert (config.optimizer.weight_decay, config.head.scale) == (0.0005, 64.0)
    assert (config.stage2.permutations, config.start.generator) == (3, "runs/stage1")
    assert {note.key for note in notes} == {*NO_EFFECT, "DATASETS"}


@pytest.mark.parametrize("key", [*FILE, "NUM_DUPS"])
def test_every_key_has_an_outcome(tmp_path: Path, key: str) -> None:
    assert (key in KEYS) + (key in NO_EFFECT) + (key in RESUMES) == 1


def test_softmax_is_the_same_loss(tmp_path: Path) -> None:
    assert (
        tface_settings(write(tmp_path, LOSS_NAME="Softmax"))[0]
        == tface_settings(write(tmp_path))[0]
    )


def test_num_dups_is_num_aug(tmp_path: Path) -> None:
    settings, _ = tface_settings(write(tmp_path, NUM_AUG=None, NUM_DUPS=5))
    assert settings["stage2"]["permutations"] == 5
    with pytest.raises(MinusfaceError, match="one and the same"):
        tface_settings(write(tmp_path, NUM_DUPS=5))


def test_several_datasets_are_branches(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x\t0\n" * 100)
    (tmp_path / "b_TFR.txt").write_text("b_TFR\t0\t0\t0\n" * 60)
    sets = [
        {"name": "a", "batch_size": 10, "margin": 0.4},
        {"name": "b_TFR", "batch_size": 20, "weight": 0.5},
    ]
    path = write(tmp_path, DATASETS=sets, INDEX_ROOT=str(tmp_path), WARMUP_STEP=5)
    settings, _ = tface_settings(path)
    config = read_config(path, settings=settings)
    assert [b.faces for b in config.data.branches] == [
        f"list:{tmp_path}/a.txt@/data",
        f"tfrecord:{tmp_path}/b_TFR.txt@/data",
    ]
    assert [(b.batch_size, b.margin, b.weight) for b in config.data.branches] == [
        (10, 0.4, 1.0),
        (20, 0.5, 0.5),
    ]
    assert config.schedule.warmup == 0.5  # ten steps an epoch


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"TASK": "stage3"}, "TASK: 'stage3' is not known"),
        ({"TASK": None}, "TASK is missing"),
        ({"METHOD": "DuetFace"}, "METHOD: 'DuetFace'"),
        ({"TASK_BACKBONE": "IR_101"}, "TASK_BACKBONE: 'IR_101'"),
        ({"HEAD_NAME": "SphereFace"}, "HEAD_NAME"),
        ({"LOSS_NAME": "Focal"}, "LOSS_NAME.*Softmax"),
        ({"INPUT_SIZE": [112, 96]}, "INPUT_SIZE"),
        ({"RGB_MEAN": [0.4, 0.5, 0.5]}, "RGB_MEAN"),
        ({"LRS": [0.1, 0.01]}, "LRS"),
        ({"LRS": [0.1, 0.01, 0.002, 0.001]}, "one ratio"),
        ({"WARMUP_STEP": 100}, "WARMUP_STEP: 100 steps"),
        ({"START_EPOCH": 3}, "--resume"),
        ({"HEAD_RESUME": "h.pth"}, "HEAD_RESUME"),
        ({"PRETRAIN_CKPT": "s1.pth"}, "import-tface s1.pth"),
        ({"BACKBONE_RESUME": "b.pth"}, "import-tface b.pth"),
        ({"DATASETS": []}, "DATASETS"),
        ({"DATASETS": [{"name": "x", "batchsize": 3}]}, "unknown 'batchsize'"),
        ({"DATASETS": [{"batch_size": 3}]}, "without a name"),
        ({"DATASETS": [{"name": None, "batch_size": 3}]}, "without a name"),
        ({"DATASETS": [{"name": 7, "batch_size": 3}]}, "DATASETS.name: 7"),
        ({"SEED": "one"}, "SEED: 'one'"),
        ({"MOMENTUN": 0.9}, "did you mean 'MOMENTUM'"),
        ({"DATA_ROOT": 3}, "DATA_ROOT: 3, expected a folder"),
        ({"INDEX_ROOT": ["a"]}, r"INDEX_ROOT: \['a'\], expected a folder"),
        ({"MODEL_ROOT": ""}, "MODEL_ROOT: is empty, expected a folder"),
        ({"MODEL_ROOT": 5}, "MODEL_ROOT: 5, expected a folder"),
        ({"PRETRAIN_CKPT": ["a"]}, r"PRETRAIN_CKPT: \['a'\], expected a folder"),
        ({"RGB_MEAN": ["a", "b"]}, "RGB_MEAN: 'a', expected a number"),
        ({"RGB_STD": 0.5}, "RGB_STD: 0.5;"),
        ({"TASK": ["stage1"]}, r"TASK: \['stage1'\] is not known"),
        ({"METHOD": {}}, "METHOD: {} is not known"),
        ({"LRS": [0, 0.1], "STAGES": [1]}, r"LRS: \[0, 0.1\]; expected rates of more than 0"),
        ({"SEED": float("inf")}, "SEED: inf, expected a whole number"),
        ({"NUM_EPOCH": float("nan")}, "NUM_EPOCH: nan, expected a number"),
        ({"MOMENTUM": 10**400}, "MOMENTUM: 1000.*, expected a number"),
        ({"DATASETS": [{"name": "x", "batch_size": 0}]}, "DATASETS.batch_size: 0, expected 1"),
        ({"DATASETS": [{"name": "x", "batch_size": float("nan")}]}, "DATASETS.batch_size: nan"),
        ({"WORLD_SIZE": "all"}, "WORLD_SIZE: 'all', expected a whole number"),
    ],
)
def test_what_cannot_be_followed_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    # So that batches are counted.
    (tmp_path / "x.txt").write_text("a.jpg\t0\n" * 10)
    with pytest.raises(MinusfaceError, match=words) as error:
        tface_settings(write(tmp_path, **{"INDEX_ROOT": str(tmp_path)} | changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["DATA_ROOT", "INDEX_ROOT", "MODEL_ROOT"])
def test_a_folder_left_empty(tmp_path: Path, key: str) -> None:
    path = write(tmp_path, **{key: None})
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{key}:\n")
    with pytest.raises(MinusfaceError, match=f"{key}: is empty, expected a folder"):
        tface_settings(path)


def test_a_date_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("SEED: 2001-99-99\n")
    with pytest.raises(MinusfaceError, match="not YAML"):
        tface_settings(path)


@pytest.mark.parametrize(
    ("started", "stated", "times", "said"),
    [
        ("4", 1, 4, "times torchrun's 4"),
        ("4", 2, 4, "times torchrun's 4"),
        (None, 2, 2, "times WORLD_SIZE's 2"),
        (None, 1, 1, "taken as of one process"),
        ("1", 8, 1, None),
    ],
)
def test_batches_are_those_of_each_process(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    started: str | None,
    stated: int,
    times: int,
    said: str | None,
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if started is not None:
        monkeypatch.setenv("WORLD_SIZE", started)
    (tmp_path / "a.txt").write_text("x\t0\n" * 400)
    sets = [{"name": "a", "batch_size": 10}]
    path = write(
        tmp_path, DATASETS=sets, INDEX_ROOT=str(tmp_path), WARMUP_STEP=5, WORLD_SIZE=stated
    )
    settings, notes = tface_settings(path)
    assert settings["batch_size"] == 10 * times
    # Forty steps an epoch of one process.
    assert settings["schedule"]["warmup"] == pytest.approx(5 * times / 40)
    told = [note.what for note in notes if note.key == "DATASETS"]
    assert len(told) == (said is not None)
    assert said is None or said in told[0]
    branches = [*sets, {"name": "b", "batch_size": 20}]
    made, _ = tface_settings(write(tmp_path, DATASETS=branches, WORLD_SIZE=stated))
    assert [b["batch_size"] for b in made["data"]["branches"]] == [10 * times, 20 * times]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path)
    assert main(["train", "--tface", str(path), "--print-config", "--epochs", "3"]) == 0
    said = capsys.readouterr()
    assert yaml.safe_load(said.out)["epochs"] == 3.0
    assert "AMP has no effect" in said.err
    assert main(["train", "--tface", str(tmp_path / "none.yaml")]) == 2
    assert "cannot read" in capsys.readouterr().err
    assert main(["train", "x.yaml", "--tface", str(path)]) == 2
    assert "no config of ours" in capsys.readouterr().err

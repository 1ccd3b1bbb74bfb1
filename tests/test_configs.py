"""Every shipped config parses, and names what it should."""

from __future__ import annotations

from pathlib import Path

import pytest

from minusface.commands.train import known_keys, load_config, useless
from minusface.config import TrainConfig

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_parses(path: Path) -> None:
    config = load_config(str(path))
    assert config.out == f"runs/{path.stem}"
    if path.stem != "quickstart":
        task, backbone, _ = path.stem.split("_")
        assert config.task == task
        assert config.recognizer.backbone.replace("_", "") == backbone
    assert not [line for line in useless(config) if "generator" not in line]


def test_there_are_the_promised_ones() -> None:
    names = {path.stem for path in CONFIGS}
    assert {"quickstart", "stage1_ir50_ms1mv2", "stage2_ir50_ms1mv2", "stage1_ir18_bupt"} <= names
    assert {f"{t}_mobilefacenet_lfw" for t in ("plain", "stage1", "stage2")} <= names


def test_paper_settings() -> None:
    config = load_config(str(next(p for p in CONFIGS if p.stem == "stage1_ir50_ms1mv2")))
    assert (config.loss.alpha, config.loss.beta, config.epochs, config.batch_size) == (5, 1, 24, 64)
    assert config.optimizer.generator_factor == 0.5
    assert config.schedule.milestones == (10, 18, 22)


def test_known_keys_are_the_configs() -> None:
    keys = known_keys()
    assert "optimizer.generator_factor" in keys
    assert "task" in keys
    assert len(keys) == len(set(keys))
    assert TrainConfig().task == "stage1"

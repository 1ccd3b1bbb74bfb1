"""Every shipped config parses, has settings that count, and names what it should."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from minusface.config import TrainConfig
from minusface.config_file import config_yaml, known_keys, read_config, useless
from minusface.errors import MinusfaceError

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
DEFAULT = sorted((ROOT / "configs" / "default").glob("*.yaml"))
TRIALS = sorted((ROOT / "configs" / "trials").glob("*.yaml"))
LITE = [f"{task}_{net}_lfw" for task in ("plain", "stage1", "stage2")
        for net in ("mobilefacenet", "irlite")]  # fmt: skip
PAPER = [f"{task}_{net}" for task in ("plain", "stage1", "stage2")
         for net in ("ir50_ms1mv2", "ir18_bupt")]  # fmt: skip


def load(stem: str) -> TrainConfig:
    return read_config(ROOT / "configs" / f"{stem}.yaml")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_it_parses_and_means_what_its_name_says(path: Path) -> None:
    config = read_config(path)
    assert config.out == f"runs/{path.stem}"
    if path.stem != "quickstart":
        task, backbone, _ = path.stem.split("_")
        assert config.task == task
        assert config.recognizer.backbone.replace("_", "") == backbone
    assert useless(config) == []


@pytest.mark.parametrize("path", DEFAULT, ids=lambda p: p.stem)
def test_the_default_weights_are_made_by(path: Path) -> None:
    config = read_config(path)
    assert (config.out, config.task) == (f"runs/default/{path.stem}", path.stem.split("_")[0])
    # Between the two halves of stage 2 its last layer is squeezed, before its end it is averaged
    # (runs/weights.sh).
    # The last checkpoints: the best are chosen on the people that the weights are tested on.
    names = ("stage2", "mixed", "mild", "fresh")
    packed = {f"runs/weights/{name}" for name in names}
    script = (ROOT / "runs" / "weights.sh").read_text()
    assert all(f"--out {folder}" in script for folder in packed)
    runs = re.findall(r"^train (\w+)|^for task in (.*?);", script, re.MULTILINE)
    assert path.stem in " ".join(name for several in runs for name in several).split()
    made = {f"runs/default/{other.stem}/last" for other in DEFAULT} | packed
    begins = {config.start.generator, config.start.recognizer, config.distill.twin}
    assert begins <= made | {None}
    assert useless(config) == []


@pytest.mark.parametrize("path", TRIALS, ids=lambda p: p.stem)
def test_trials_go_on_from_what_other_configs_make(path: Path) -> None:
    config = read_config(path)
    assert (config.out, config.task) == (f"runs/trials/{path.stem}", path.stem.split("_")[0])
    made = {f"runs/{other.parent.name}/{other.stem}" for other in [*DEFAULT, *TRIALS]}
    begins = {config.start.generator, config.start.recognizer, config.distill.twin}
    assert begins <= made | {None}
    assert useless(config) == []


def test_the_promised_ones_are_there() -> None:
    assert {path.stem for path in CONFIGS} >= {"quickstart", "toy_ir18_bupt", *LITE, *PAPER}


@pytest.mark.parametrize("stem", PAPER)
def test_paper_settings(stem: str) -> None:
    """Facts of the paper's section on experiments, not of our defaults."""
    config = load(stem)
    optimizer, schedule = config.optimizer, config.schedule
    assert (config.epochs, config.batch_size) == (24, 64)
    assert (optimizer.name, optimizer.lr, optimizer.momentum) == ("sgd", 0.01, 0.9)
    assert (optimizer.weight_decay, optimizer.generator_factor) == (1e-4, 0.5)
    assert (schedule.name, schedule.milestones, schedule.gamma) == ("step", (10, 18, 22), 0.1)
    assert (config.head.name, config.head.scale, config.head.margin) == ("arcface", 64, 0.5)
    assert (config.loss.alpha, config.loss.beta, config.loss.sparsity) == (5, 1, 0)
    assert (config.codec.name, config.codec.size, config.codec.ratio) == ("dct", 112, 8)
    assert (config.stage2.permutations, config.stage2.n_duplicate) == (3, 1)
    assert config.generator.width == 64
    if config.task == "stage2":
        assert config.recognizer.input == "as_is"


@pytest.mark.parametrize("stem", [*LITE, *PAPER])
def test_stage_two_goes_with_its_stage_one(stem: str) -> None:
    config = load(stem)
    if config.task != "stage2":
        return
    before = load(stem.replace("stage2", "stage1"))
    assert config.start.generator == before.out
    assert (config.codec, config.generator) == (before.codec, before.generator)
    if config.start.recognizer is not None:
        plain = load(stem.replace("stage2", "plain"))
        assert config.start.recognizer == plain.out
        assert config.recognizer == plain.recognizer


@pytest.mark.parametrize("stem", LITE)
def test_lite_trains_on_people_it_is_not_tested_on(stem: str) -> None:
    config = load(stem)
    assert config.data.people is not None
    assert config.data.people.endswith("peopleDevTrain.txt")
    assert config.evaluation.pairs is not None
    assert config.evaluation.pairs.endswith("pairsDevTest.txt")
    assert config.head.weight == 0
    assert config.distill.teacher


def test_known_keys_are_the_configs() -> None:
    def dotted(settings: dict[str, Any], prefix: str = "") -> list[str]:
        return [key for name, value in settings.items()
                for key in (dotted(value, f"{prefix}{name}.") if isinstance(value, dict)
                            else [prefix + name])]  # fmt: skip

    assert known_keys() == dotted(yaml.safe_load(config_yaml(TrainConfig())))


def test_a_config_survives_its_own_yaml(tmp_path: Path) -> None:
    config = read_config(None, ["data.people=a: b", "schedule.milestones=[1, 2.5]", "seed=7"])
    assert (config.data.people, config.schedule.milestones) == ("a: b", (1, 2.5))
    (tmp_path / "c.yaml").write_text(config_yaml(config))
    assert read_config(tmp_path / "c.yaml") == config
    assert read_config(tmp_path / "c.yaml", ["seed=8", "seed=9"]).seed == 9


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["task=plain", "generator.width=8"], "generator.width"),
        (["task=plain", "stage2.permutations=5"], "stage2.permutations"),
        (["task=plain", "loss.alpha=2"], "loss.alpha"),
        (["task=stage2", "loss.alpha=2"], "loss.alpha"),
        (["task=stage2", "optimizer.generator_factor=0.1"], "optimizer.generator_factor"),
        (["task=stage1", "recognizer.input=as_is"], "recognizer.input"),
        (["task=plain", "head.weight=0", "head.margin=0.2"], "head.margin"),
        (["task=plain", "distill.pairwise=3"], "distill.pairwise"),
        (["schedule.name=cosine", "schedule.gamma=0.5"], "schedule.gamma"),
        (["task=stage2", "stage2.mask_fraction=0.5"], "stage2.mask_fraction"),
        (["loss.sparsity_target=0.1"], "loss.sparsity_target"),
        (["data.people=list.txt"], "data.people"),
        (["data.faces=folder", "evaluation.every=2"], "evaluation.every"),
    ],
)
def test_settings_without_effect_are_found(overrides: list[str], named: str) -> None:
    (line,) = useless(read_config(None, overrides))
    assert line.startswith(f"{named} has no effect: ")


def test_settings_with_effect_are_not() -> None:
    for overrides in (
        ["task=stage2", "recognizer.input=as_is", "stage2.permutations=5", "start.generator=x"],
        ["task=stage1", "generator.width=8", "loss.alpha=2", "optimizer.generator_factor=0.1"],
        ["task=plain", "head.margin=0.2", "distill.teacher=t.npz", "distill.weight=2"],
        ["head.weight=0", "distill.teacher=t.npz"],
        ["task=stage2", "stage2.obfuscation=mask", "stage2.mask_fraction=0.5"],
        ["task=plain", "recognizer.input=as_is", "codec.size=64"],
    ):
        assert useless(read_config(None, overrides)) == [], overrides


def test_unknown_keys_of_inner_groups(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("data: {augment: {gray: 0.5}}")
    with pytest.raises(
        MinusfaceError, match=r"unknown key 'data.augment.gray'; did you mean 'data.augment.grey'"
    ):
        read_config(file)
    file.write_text("data: {augment: 0.5}")
    with pytest.raises(MinusfaceError, match=r"data.augment: expected keys and values, got 0.5"):
        read_config(file)
    file.write_text("data: {augment: {jpeg: 1.5}}")
    with pytest.raises(
        MinusfaceError, match=r"data.augment.jpeg 1.5: expected at least 0 and at most 1"
    ):
        read_config(file)

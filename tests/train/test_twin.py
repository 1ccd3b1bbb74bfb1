"""A twin whose maps a recogniser of protected images imitates; dropout as a setting."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from minusface.checkpoint import load_part
from minusface.config import (
    CodecConfig,
    DataConfig,
    DistillConfig,
    GeneratorConfig,
    HeadConfig,
    OptimizerConfig,
    RecognizerConfig,
    StartConfig,
    TrainConfig,
)
from minusface.config_file import useless
from minusface.errors import MinusfaceError
from minusface.protect import Protector
from minusface.recognize import Recognizer
from minusface.recognize.twin import LEVELS, Twin
from minusface.share import Dropout
from minusface.train.build import build_task
from minusface.train.run import train
from minusface.train.tasks import StageTwo
from tests.processes import together
from tests.products import saved
from tests.train.drawn import PEOPLE, SIZE, batch

DIMENSIONS = 16


def recognizer(backbone: str = "ir_lite", kind: str = "crop", seed: int = 0) -> Recognizer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = RecognizerConfig(backbone, DIMENSIONS, "standardized")
        made = Recognizer(config, 3, SIZE, kind)  # type: ignore[arg-type]
        made.train()
        with torch.no_grad():
            for _ in range(3):
                made(torch.rand(8, 3, SIZE, SIZE) * 2 - 1)
    return made.eval()


@pytest.fixture
def starts(tmp_path: Path) -> tuple[str, str]:
    """Checkpoints of a generator and of a twin."""
    torch.manual_seed(1)
    protector = Protector(CodecConfig("dct", SIZE, 4), GeneratorConfig(4))
    saved(tmp_path / "generator", "stage1", protector, None)
    saved(tmp_path / "twin", "plain", None, recognizer())
    return str(tmp_path / "generator"), str(tmp_path / "twin")


def settings(starts: tuple[str, str], **changes: object) -> TrainConfig:
    base = TrainConfig(
        task="stage2",
        epochs=1,
        batch_size=8,
        device="cpu",
        log_every=1,
        codec=CodecConfig("dct", SIZE, 4),
        generator=GeneratorConfig(4),
        recognizer=RecognizerConfig("ir_lite", DIMENSIONS),
        head=HeadConfig(scale=8.0),
        distill=DistillConfig(twin=starts[1], twin_weight=0.5),
        optimizer=OptimizerConfig("adamw", lr=1e-3),
        data=DataConfig(faces=f"synthetic:{PEOPLE}x6"),
        start=StartConfig(generator=starts[0]),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def test_levels_lead_to_the_embedding() -> None:
    made, crops = recognizer("ir_lite_96"), batch().crops
    with torch.no_grad():
        embeddings, levels = made.with_levels(crops)
        assert torch.equal(embeddings, made(crops))
    assert [tuple(level.shape[1:]) for level in levels] == [
        (32, 16, 16),
        (64, 8, 8),
        (128, 4, 4),
        (256, 2, 2),
    ]


def test_distance_is_that_of_a_loop_over_views() -> None:
    made = recognizer()
    twin, crops = Twin(made, recognizer("ir_lite", "protected", 5)), batch().crops
    targets = twin.sees(crops)[1]
    student = recognizer(seed=7)
    with torch.no_grad():
        _, levels = student.with_levels(torch.cat([crops, crops * 0.5, -crops]))
        wanted = 0.0
        for level, target in zip(LEVELS, targets, strict=True):
            variance = made.backbone.norm_after(level).running_var  # type: ignore[operator, union-attr]
            for view in range(3):
                for face in range(6):
                    off = (levels[level][6 * view + face] - target[face]).square().mean((1, 2))
                    wanted += float((off / (variance + 1e-5)).mean()) / 18 / len(LEVELS)
        assert float(twin.distance(levels, targets)) == pytest.approx(wanted, rel=1e-5)
        same = twin.distance(made.with_levels(crops)[1], targets)
        assert float(same) == 0.0


def test_who_knows_the_means_alone_is_at_one() -> None:
    made = recognizer()
    twin, crops = Twin(made, made), torch.rand(64, 3, SIZE, SIZE) * 2 - 1
    targets = twin.sees(crops)[1]
    with torch.no_grad():
        _, levels = made.with_levels(crops)
        for level, target in zip(LEVELS, targets, strict=True):
            norm = made.backbone.norm_after(level)  # type: ignore[operator]
            norm.running_var.copy_(target.var((0, 2, 3)))
            levels[level] = target.mean((0, 2, 3), keepdim=True).expand_as(target)
        assert float(twin.distance(levels, targets)) == pytest.approx(1.0, abs=0.02)


def test_the_twin_is_followed_and_stays_as_it_is(starts: tuple[str, str], tmp_path: Path) -> None:
    distill = DistillConfig(twin=starts[1], twin_weight=5.0)
    config = settings(starts, epochs=12, distill=distill, out=str(tmp_path / "run"))
    before = load_part(Path(starts[1]), prefix="recognizer.")
    train(config)
    lines = [json.loads(line)["losses"] for line in (tmp_path / "run" / "log.jsonl").open()]
    assert lines[-1]["twin"] < 0.8 * lines[0]["twin"]
    for losses in lines:
        assert losses["total"] == pytest.approx(losses["identity"] + 5.0 * losses["twin"], rel=1e-5)
    # Not a part of what is saved, and not trained.
    saved = load_part(tmp_path / "run", prefix="")
    assert {name.split(".")[0] for name in saved} == {"recognizer", "generator"}
    task = build_task(config, PEOPLE, None)
    assert isinstance(task, StageTwo)
    assert task.twin is not None
    task.train()
    assert not any(module.training for module in task.twin.modules())
    grouped = {id(p) for group in task.groups().values() for p in group}
    assert not grouped & {id(p) for p in task.twin.parameters()}
    task(batch(), torch.Generator().manual_seed(0))["total"].backward()
    assert all(p.grad is None for p in task.twin.parameters())
    after = task.twin.recognizer.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in after)


def test_it_goes_on_where_it_stopped(starts: tuple[str, str], tmp_path: Path) -> None:
    config = settings(starts, out=str(tmp_path / "one"))
    train(config)
    half = replace(config, out=str(tmp_path / "two"), epochs=0.5)
    train(half)
    train(replace(half, epochs=1), resume=True)
    logs = [(tmp_path / name / "log.jsonl").open().readlines() for name in ("one", "two")]
    first, second = ([json.loads(line)["losses"] for line in log] for log in logs)
    assert first == second
    assert len(first) == 6


def several(config: TrainConfig) -> None:
    train(config)


@pytest.mark.slow
def test_two_processes_make_the_same_step(starts: tuple[str, str], tmp_path: Path) -> None:
    optimizer = OptimizerConfig("sgd", lr=1e-6)
    config = settings(starts, freeze_batchnorm=True, epochs=0.34, optimizer=optimizer)
    outs = [tmp_path / "one", tmp_path / "two"]
    train(replace(config, out=str(outs[0])))
    together(2, several, replace(config, out=str(outs[1])))
    logs = [[json.loads(line) for line in (out / "log.jsonl").open()] for out in outs]
    assert len(logs[0]) == len(logs[1]) == 2
    for one, two in zip(*logs, strict=True):
        assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)


def test_what_cannot_be_imitated_is_refused(starts: tuple[str, str]) -> None:
    with pytest.raises(MinusfaceError, match=r"distill\.twin: .* ir_18"):
        build_task(settings(starts, recognizer=RecognizerConfig("ir_18", 16)), PEOPLE, None)
    with pytest.raises(MinusfaceError, match=r"distill\.twin: only stage2"):
        build_task(settings(starts, task="stage1"), PEOPLE, None)
    with pytest.raises(MinusfaceError, match=r"compile true: .* distill\.twin"):
        build_task(settings(starts, compile=True), PEOPLE, None)
    nowhere = DistillConfig(twin="/none")
    with pytest.raises(MinusfaceError, match=r"^distill\.twin /none: not a checkpoint"):
        build_task(settings(starts, distill=nowhere), PEOPLE, None)
    with pytest.raises(MinusfaceError, match="'protected', expected an unprotected"):
        Twin(recognizer(kind="protected"), recognizer())
    with pytest.raises(MinusfaceError, match="expected one IR backbone"):
        Twin(recognizer("mobilefacenet"), recognizer("mobilefacenet"))


@pytest.mark.parametrize("dropout", [0.0, 0.25, 0.4])
def test_dropout_is_a_setting(starts: tuple[str, str], dropout: float) -> None:
    task = build_task(settings(starts, dropout=dropout), PEOPLE, None)
    assert [m.p for m in task.recognizer.modules() if isinstance(m, Dropout)] == [dropout]
    with pytest.raises(MinusfaceError, match="dropout 1"):
        build_task(settings(starts, dropout=1.0), PEOPLE, None)


def test_settings_without_effect_are_named() -> None:
    assert useless(TrainConfig(distill=DistillConfig(twin_weight=2.0), task="stage2")) == [
        "distill.twin_weight has no effect: distill.twin is not given"
    ]
    config = TrainConfig(task="plain", dropout=0.1, recognizer=RecognizerConfig("mobilefacenet"))
    assert [line.split()[0] for line in useless(config)] == ["dropout"]

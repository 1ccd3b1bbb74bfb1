"""The loop on a toy problem: going on, stopping, saving, rates. No face is in sight."""

from __future__ import annotations

import ast
import errno
import json
import math
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minusface import checkpoint
from minusface.checkpoint import Card, load_card, load_part
from minusface.config import OptimizerConfig, ScheduleConfig
from minusface.errors import MinusfaceError
from minusface.train import loop, step
from minusface.train.loop import LoopConfig, Outcome, Progress, fit, step_seed
from minusface.train.schedule import build_optimizer, lr_factor, set_learning_rates

BATCH, PER_EPOCH = 4, 3
CARD = Card("toy problem", {"layers": 2})


class Toy(nn.Module):
    """Two groups, dropout, batch statistics and draws of its own: all that a resumed run must repeat."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.generator = nn.Linear(3, 8)
            self.net = nn.Sequential(nn.BatchNorm1d(8), nn.PReLU(), nn.Dropout(0.5))
            self.head = nn.Linear(8, 1)
        self.modes: list[bool] = []
        self.broken_at: int | None = None
        self.stop_at: int | None = None
        self.calls = 0

    def forward(self, batch: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        self.calls += 1
        self.modes.append(self.training)
        noisy = batch + 0.1 * torch.randn(batch.shape, generator=random)
        out = self.head(self.net(self.generator(noisy)))
        if self.calls == self.stop_at:
            signal.raise_signal(signal.SIGINT)
        fit_ = (out[:, 0] - batch.sum(1)).square().mean()
        size = self.head.weight.square().sum()
        if self.calls == self.broken_at:
            size = size * float("nan")
        return {"fit": fit_, "size": size, "total": fit_ + 0.01 * size}

    def groups(self) -> dict[str, list[nn.Parameter]]:
        return {
            "recognizer": [*self.net.parameters(), *self.head.parameters()],
            "generator": list(self.generator.parameters()),
        }

    def model_tensors(self) -> dict[str, Tensor]:
        return {k: v for k, v in self.state_dict().items() if not k.startswith("head")}

    def training_tensors(self) -> dict[str, Tensor]:
        return {k: v for k, v in self.state_dict().items() if k.startswith("head")}

    def sharded(self) -> dict[str, tuple[nn.Parameter, range, int]]:
        return {}

    def load_tensors(self, model: Mapping[str, Tensor], training: Mapping[str, Tensor]) -> None:
        heads = {k: v for k, v in training.items() if k.startswith("head")}
        checkpoint.load_into(self, {**model, **heads}, "toy")


def stream(step: int) -> Iterator[tuple[Tensor, int]]:
    while True:
        random = torch.Generator().manual_seed(1000 + step)
        yield torch.randn(BATCH, 3, generator=random), BATCH
        step += 1


def settings(out: Path, **changes: Any) -> LoopConfig:
    base = LoopConfig(
        out=out,
        seed=7,
        epochs=2,
        steps_per_epoch=PER_EPOCH,
        precision="float32",
        device=torch.device("cpu"),
        log_every=1,
        save_every=100,
        evaluate_every=0,
        optimizer=OptimizerConfig("sgd", lr=0.05),
        schedule=ScheduleConfig("cosine", warmup=1.0),
    )
    return replace(base, **changes)


def train(config: LoopConfig, task: Toy | None = None, **more: Any) -> tuple[Toy, Outcome]:
    task = task or Toy()
    return task, fit(task, stream, config, CARD, **more)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def stop_at(step: int, error: BaseException | None = None) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.step == step:
            raise error or KeyboardInterrupt

    return report


OPTIMIZERS = [
    OptimizerConfig("sgd", lr=0.05),
    OptimizerConfig("adamw", lr=0.05, weight_decay=0.1, clip=0.5),
    OptimizerConfig("muon", lr=0.05, weight_decay=0.1, clip=0.5),
]


# --- going on ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: o.name)
@pytest.mark.parametrize("at", [1, 3, 4])
def test_resume_equals_unbroken(tmp_path: Path, optimizer: OptimizerConfig, at: int) -> None:
    whole, done = train(settings(tmp_path / "whole", optimizer=optimizer))
    broken = settings(tmp_path / "broken", optimizer=optimizer)
    _, stopped = train(broken, report=stop_at(at))
    assert (stopped.step, stopped.interrupted) == (at, True)
    # What is not in the checkpoint must not matter.
    torch.manual_seed(99)
    resumed, ended = train(broken, Toy(seed=5), resume=True)
    assert (ended.step, ended.interrupted) == (done.step, False) == (6, False)
    assert equal(resumed.state_dict(), whole.state_dict())
    ours, theirs = lines(tmp_path / "broken"), lines(tmp_path / "whole")
    assert [line["step"] for line in ours] == [1, 2, 3, 4, 5, 6]
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine["losses"], mine["lr"]) == (other["losses"], other["lr"])
    for part in ("model", "training"):
        folders = (tmp_path / "whole" / "last", tmp_path / "broken" / "last")
        assert equal(*(load_part(folder, part) for folder in folders))


def test_resume_after_a_kill_repeats_from_the_last_save(tmp_path: Path) -> None:
    whole, _ = train(settings(tmp_path / "whole"))
    config = settings(tmp_path / "killed", save_every=2)
    with pytest.raises(RuntimeError, match="power"):
        train(config, report=stop_at(5, RuntimeError("power")))
    assert load_card(tmp_path / "killed" / "last").metrics["step"] == 4
    resumed, ended = train(config, Toy(seed=5), resume=True)
    assert ended.step == 6
    assert equal(resumed.state_dict(), whole.state_dict())


def test_ctrl_c_in_the_middle_of_a_step(tmp_path: Path) -> None:
    whole, _ = train(settings(tmp_path / "whole"))
    task = Toy()
    task.stop_at = 4
    _, stopped = train(settings(tmp_path / "broken"), task)
    assert stopped.interrupted
    resumed, _ = train(settings(tmp_path / "broken"), Toy(seed=5), resume=True)
    assert equal(resumed.state_dict(), whole.state_dict())


def test_a_finished_run_resumes_to_nothing(tmp_path: Path) -> None:
    config = settings(tmp_path)
    first, _ = train(config)
    again, ended = train(config, Toy(seed=5), resume=True)
    assert ended.step == 6
    assert again.calls == 0
    assert equal(again.state_dict(), first.state_dict())


def test_resume_keeps_the_metrics(tmp_path: Path) -> None:
    config = settings(tmp_path, evaluate_every=1.0, epochs=3)
    train(config, evaluate=lambda: {"score": 0.5}, report=stop_at(4))
    assert load_card(tmp_path / "last").metrics["score"] == 0.5
    train(config, evaluate=lambda: {"score": 0.5}, report=stop_at(5), resume=True)
    assert load_card(tmp_path / "last").metrics["score"] == 0.5


def test_resume_refusals(tmp_path: Path) -> None:
    with pytest.raises(MinusfaceError, match="not a checkpoint"):
        train(settings(tmp_path / "none"), resume=True)
    train(settings(tmp_path / "run"))
    with pytest.raises(MinusfaceError, match="another architecture"):
        fit(Toy(), stream, settings(tmp_path / "run"), replace(CARD, model={}), resume=True)


def test_resume_refuses_the_moments_of_another_optimiser(tmp_path: Path) -> None:
    class Wider(Toy):
        def groups(self) -> dict[str, list[nn.Parameter]]:
            return {"recognizer": [self.head.weight]}

    train(settings(tmp_path))
    with pytest.raises(MinusfaceError, match="optimiser state of"):
        train(settings(tmp_path), Wider(), resume=True)


def test_best_survives_a_resume(tmp_path: Path) -> None:
    scores = iter([0.9, 0.1, 0.2])
    config = settings(tmp_path, evaluate_every=1.0, epochs=3)
    train(config, evaluate=lambda: {"score": next(scores)}, report=stop_at(4))
    assert load_card(tmp_path / "best").metrics["step"] == 3
    train(config, evaluate=lambda: {"score": next(scores)}, resume=True)
    best = load_card(tmp_path / "best").metrics
    assert (best["step"], best["score"]) == (3, 0.9)
    assert load_card(tmp_path / "last").metrics["best"] == 0.9


# --- repeating --------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_repeats_bit_for_bit(tmp_path: Path, precision: Any) -> None:
    runs = []
    for number in range(2):
        torch.manual_seed(number)
        torch.rand(number)
        task, _ = train(settings(tmp_path / str(number), precision=precision))
        runs.append((task.state_dict(), [line["losses"] for line in lines(tmp_path / str(number))]))
    assert equal(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    other, _ = train(settings(tmp_path / "other", precision=precision, seed=8))
    assert not equal(runs[0][0], other.state_dict())


def test_bfloat16_keeps_weights_wide(tmp_path: Path) -> None:
    wide, _ = train(settings(tmp_path / "wide"))
    narrow, _ = train(settings(tmp_path / "narrow", precision="bfloat16"))
    assert {p.dtype for p in narrow.parameters()} == {torch.float32}
    assert not equal(wide.state_dict(), narrow.state_dict())


def test_steps_share_no_stream() -> None:
    seeds = {step_seed(seed, step) for seed in range(20) for step in range(500)}
    assert len(seeds) == 20 * 500
    assert step_seed(3, 4) == step_seed(3, 4)


# --- stopping ---------------------------------------------------------------------------------------


def test_ctrl_c_saves(tmp_path: Path) -> None:
    task, stopped = train(settings(tmp_path), report=stop_at(3))
    assert stopped.interrupted
    assert stopped.step == 3
    assert load_card(tmp_path / "last").metrics["step"] == 3
    assert equal(load_part(tmp_path / "last"), task.model_tensors())


def test_a_step_that_is_saved_after_ctrl_c_is_in_the_log(tmp_path: Path) -> None:
    task, reported = Toy(), []
    task.stop_at = 3
    _, stopped = train(settings(tmp_path), task, report=reported.append)
    assert (stopped.step, stopped.interrupted) == (3, True)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
    assert [progress.step for progress in reported] == [1, 2, 3]
    train(settings(tmp_path), Toy(seed=5), resume=True)
    train(settings(tmp_path / "whole"))
    found, whole = ([line["losses"] for line in lines(f)] for f in (tmp_path, tmp_path / "whole"))
    assert found == whole


@pytest.mark.parametrize("saved", [True, False])
def test_a_loss_that_is_not_finite_stops(tmp_path: Path, saved: bool) -> None:
    task = Toy()
    task.broken_at = 5
    with pytest.raises(MinusfaceError) as error:
        train(settings(tmp_path, save_every=2 if saved else 100), task)
    text = str(error.value)
    assert "\n" not in text
    assert "loss size is nan at step 5" in text
    if not saved:
        assert "nothing saved" in text
        assert not (tmp_path / "last").exists()
        return
    assert str(tmp_path / "last") in text
    assert load_card(tmp_path / "last").metrics["step"] == 4
    assert all(bool(torch.isfinite(t).all()) for t in load_part(tmp_path / "last").values())
    _, ended = train(settings(tmp_path), Toy(seed=5), resume=True)
    assert ended.step == 6


def test_a_full_disk_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        if (tmp_path / "last" / checkpoint.CARD).exists():
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MinusfaceError, match="No space left") as error:
        train(settings(tmp_path, save_every=2))
    assert "\n" not in str(error.value)
    assert load_card(tmp_path / "last").metrics["step"] == 2
    load_part(tmp_path / "last", "training")
    assert not list((tmp_path / "last").glob(".*"))


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(MinusfaceError, match=r"log\.jsonl: cannot write"):
        train(settings(tmp_path))


# --- what is written --------------------------------------------------------------------------------


@pytest.mark.parametrize(("every", "steps"), [(1, [1, 2, 3, 4, 5, 6]), (4, [4, 6]), (100, [6])])
def test_log_lines(tmp_path: Path, every: int, steps: list[int]) -> None:
    reported: list[Progress] = []
    train(settings(tmp_path, log_every=every), report=reported.append)
    found = lines(tmp_path)
    assert [line["step"] for line in found] == [p.step for p in reported] == steps
    for line, progress in zip(found, reported, strict=True):
        assert line["losses"].keys() == {"fit", "size", "total"}
        assert line["losses"] == progress.losses
        assert line["epoch"] == pytest.approx(line["step"] / PER_EPOCH, abs=1e-3)
        assert line["lr"].keys() == {"recognizer", "generator"}
        assert line["samples_per_second"] > 0
        assert progress.seconds_left >= 0
    assert reported[-1].seconds_left == 0
    assert reported[-1].steps == 6


def test_saves_fall_where_they_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[tuple[str, int]] = []
    real = checkpoint.save

    def spy(folder: Path, card: Card, parts: Any) -> None:
        saved.append((folder.name, card.metrics["step"]))
        assert parts.keys() == ({"model", "training"} if folder.name == "last" else {"model"})
        real(folder, card, parts)

    monkeypatch.setattr(checkpoint, "save", spy)
    scores = iter([0.2, 0.1, 0.3])
    config = settings(tmp_path, epochs=3, save_every=4, evaluate_every=1.0)
    train(config, evaluate=lambda: {"score": next(scores)})
    assert saved == [("best", 3), ("last", 4), ("last", 8), ("best", 9), ("last", 9)]


def test_best_follows_the_score(tmp_path: Path) -> None:
    scores = iter([0.5, 0.8, 0.6, 0.8])
    at: dict[int, dict[str, Tensor]] = {}
    task = Toy()

    def evaluate() -> dict[str, float]:
        at[task.calls] = {k: v.clone() for k, v in task.model_tensors().items()}
        return {"score": next(scores), "other": 1.0}

    config = settings(tmp_path, epochs=4, evaluate_every=1.0)
    _, ended = train(config, task, evaluate=evaluate)
    card = load_card(tmp_path / "best")
    # The first of equals stays.
    assert card.metrics == {"score": 0.8, "other": 1.0, "step": 6, "best": 0.8}
    assert equal(load_part(tmp_path / "best"), at[6])
    with pytest.raises(MinusfaceError, match="no 'training' part"):
        load_part(tmp_path / "best", "training")
    assert load_card(tmp_path / "last").metrics["best"] == 0.8
    assert [row["step"] for row in ended.history] == [3, 6, 9, 12]
    assert ended.metrics["score"] == 0.8
    evaluations = [line["step"] for line in lines(tmp_path) if "evaluation" in line]
    assert evaluations == [3, 6, 9, 12]


@pytest.mark.parametrize(
    ("every", "steps"), [(0.0, []), (0.34, [1, 2, 3, 4, 5, 6]), (0.67, [2, 4, 6]), (1.5, [4, 6])]
)
def test_evaluations_fall_where_they_should(tmp_path: Path, every: float, steps: list[int]) -> None:
    task, seen = Toy(), []

    def evaluate() -> dict[str, float]:
        seen.append(task.calls)
        task.eval()
        return {"score": 0.0}

    train(settings(tmp_path, evaluate_every=every), task, evaluate=evaluate)
    assert seen == steps
    assert task.modes == [True] * 6  # an evaluation's eval mode does not leak into the next step


def test_evaluating_changes_nothing_of_training(tmp_path: Path) -> None:
    def evaluate() -> dict[str, float]:
        torch.rand(17)
        return {"score": 0.0}

    with_, _ = train(settings(tmp_path / "a", evaluate_every=0.34), evaluate=evaluate)
    without, _ = train(settings(tmp_path / "b"))
    assert equal(with_.state_dict(), without.state_dict())


def test_the_card_is_passed_on(tmp_path: Path) -> None:
    train(settings(tmp_path))
    card = load_card(tmp_path)
    assert (card.task, card.model) == (CARD.task, CARD.model)
    assert CARD.metrics == {}


# --- rates ------------------------------------------------------------------------------------------


def test_step_schedule() -> None:
    config = ScheduleConfig("step", milestones=(10, 18, 22), gamma=0.1)
    expected = {0: 1, 9.99: 1, 10: 0.1, 17.9: 0.1, 18: 0.01, 22: 0.001, 24: 0.001}
    for epoch, factor in expected.items():
        assert lr_factor(config, epoch, 24) == pytest.approx(factor)


def test_cosine_schedule() -> None:
    config = ScheduleConfig("cosine", warmup=2.0)
    assert lr_factor(config, 2, 10) == pytest.approx(1.0)
    assert lr_factor(config, 6, 10) == pytest.approx(0.5)
    assert lr_factor(config, 8, 10) == pytest.approx(0.5 * (1 + math.cos(0.75 * math.pi)))
    assert lr_factor(config, 10, 10) == pytest.approx(0.0, abs=1e-12)
    assert lr_factor(config, 11, 10) == pytest.approx(0.0, abs=1e-12)
    falling = [lr_factor(config, 2 + step / 10, 10) for step in range(81)]
    assert falling == sorted(falling, reverse=True)


@pytest.mark.parametrize("name", ["step", "cosine"])
def test_warmup_rises_from_zero(name: Any) -> None:
    config = ScheduleConfig(name, warmup=2.0, milestones=(1,))
    for epoch, factor in ((0.0, 0.0), (0.5, 0.25), (1.0, 0.5), (1.9, 0.95)):
        assert lr_factor(config, epoch, 10) == pytest.approx(factor, abs=1e-6)


def test_a_run_as_short_as_its_warmup() -> None:
    config = ScheduleConfig("cosine", warmup=2.0)
    assert math.isfinite(lr_factor(config, 2.0, 2.0))
    assert lr_factor(config, 1.0, 1.0) == pytest.approx(0.5)


def parameters() -> dict[str, list[nn.Parameter]]:
    def some(*shape: int) -> nn.Parameter:
        return nn.Parameter(torch.ones(shape))

    return {
        "recognizer": [some(4, 3, 3, 3), some(4), some(2, 4), some(1)],
        "generator": [some(4, 3, 1, 1), some(4)],
    }


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_groups(name: Any) -> None:
    config = OptimizerConfig(name, lr=0.1, generator_factor=0.5, momentum=0.8, weight_decay=0.3)
    groups = parameters()
    optimizer = build_optimizer(config, groups)
    assert type(optimizer).__name__ == {"sgd": "SGD", "adamw": "AdamW"}[name]
    placed = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(placed) == sum(len(some) for some in groups.values())
    for group_name, some in groups.items():
        for parameter in some:
            group = placed[id(parameter)]
            assert group["name"] == group_name
            assert group["base_lr"] == pytest.approx(0.05 if group_name == "generator" else 0.1)
            assert group["weight_decay"] == (0.3 if parameter.ndim > 1 else 0.0)
            assert group.get("momentum", group.get("betas", (0,))[0]) == 0.8
    rates = set_learning_rates(optimizer, 0.5)
    assert rates == {"recognizer": pytest.approx(0.05), "generator": pytest.approx(0.025)}
    assert {group["lr"] for group in optimizer.param_groups} == set(rates.values())
    # From the base each time, not from the last.
    assert set_learning_rates(optimizer, 0.5) == rates


def test_only_matrices_decay(tmp_path: Path) -> None:
    class Still(Toy):
        def forward(self, batch: Tensor, random: torch.Generator) -> dict[str, Tensor]:
            return {"total": sum((p * 0.0).sum() for p in self.parameters()) + torch.zeros(())}

    before = Toy().state_dict()
    config = settings(
        tmp_path,
        optimizer=OptimizerConfig("sgd", lr=0.1, weight_decay=0.5),
        schedule=ScheduleConfig("step"),
        epochs=1 / PER_EPOCH,
    )
    task, _ = train(config, Still())
    after = task.state_dict()
    torch.testing.assert_close(after["head.weight"], before["head.weight"] * (1 - 0.1 * 0.5))
    torch.testing.assert_close(
        after["generator.weight"], before["generator.weight"] * (1 - 0.05 * 0.5)
    )
    for name in ("head.bias", "generator.bias", "net.0.weight", "net.0.bias", "net.1.weight"):
        assert torch.equal(after[name], before[name]), name


@pytest.mark.parametrize("clip", [0.0, 0.5, 1e6])
def test_clip_bounds_the_whole_gradient(tmp_path: Path, clip: float) -> None:
    before = Toy().state_dict()
    config = settings(
        tmp_path,
        epochs=1 / PER_EPOCH,
        optimizer=OptimizerConfig(
            "sgd", lr=1.0, generator_factor=1.0, weight_decay=0.0, momentum=0.0, clip=clip
        ),
        schedule=ScheduleConfig("step"),
    )
    task, _ = train(config)
    names = [name for name, _ in task.named_parameters()]
    after = task.state_dict()
    norm = math.sqrt(sum(float((after[n] - before[n]).square().sum()) for n in names))
    if clip == 0.5:
        assert norm == pytest.approx(0.5, rel=1e-3)
    else:
        assert norm > 0.6


def test_the_learning_rates_logged_are_those_of_the_schedule(tmp_path: Path) -> None:
    config = settings(tmp_path, schedule=ScheduleConfig("step", milestones=(1,), gamma=0.1))
    train(config)
    found = [line["lr"] for line in lines(tmp_path)]
    assert [rates["recognizer"] for rates in found] == pytest.approx([0.05] * 3 + [0.005] * 3)
    assert [rates["generator"] for rates in found] == pytest.approx([0.025] * 3 + [0.0025] * 3)


# --- settings and sources ---------------------------------------------------------------------------


def test_steps_of_a_run(tmp_path: Path) -> None:
    assert settings(tmp_path, epochs=2).steps == 6
    assert settings(tmp_path, epochs=0.5).steps == 2
    assert settings(tmp_path, epochs=0).steps == 1


@pytest.mark.parametrize("module", [loop, step], ids=["loop", "step"])
def test_the_loop_imports_nothing_of_faces(module: ModuleType) -> None:
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    for wall in ("faces", "protect", "recognize", "data", "evaluate", "types"):
        assert not [name for name in names if name.startswith(f"minusface.{wall}")]
    assert "minusface.checkpoint" in names or "minusface.checkpoint.Card" in names

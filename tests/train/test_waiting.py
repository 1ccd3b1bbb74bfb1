"""What a run tells the person who waits: rehearsals, traces, event files, losses that run away."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from minusface.checkpoint import load_card, load_part
from minusface.cli import main
from minusface.commands.training import TrainingReport
from minusface.config import (
    CodecConfig,
    EvalConfig,
    GeneratorConfig,
    HeadConfig,
    OptimizerConfig,
    RecognizerConfig,
    TrainConfig,
)
from minusface.config_file import config_yaml
from minusface.errors import MinusfaceError
from minusface.train.loggers import TensorBoard, wanted_loggers
from minusface.train.plan import Progress
from minusface.train.run import build, dry_run, train
from minusface.train.step import Run
from minusface.waiting import wait_briefly


def settings(out: Path, **changes: Any) -> TrainConfig:
    base = TrainConfig(
        task="stage1",
        out=str(out),
        epochs=1.5,
        batch_size=4,
        device="cpu",
        log_every=1,
        save_every=2,
        codec=CodecConfig("dct", 16, 2),
        generator=GeneratorConfig(4),
        recognizer=RecognizerConfig("ir_lite", 16),
        head=HeadConfig(scale=8.0),
        evaluation=EvalConfig(every=0),
    )
    base = replace(base, data=replace(base.data, faces="synthetic:4x4"))
    return replace(base, **changes)


@pytest.fixture
def yaml(tmp_path: Path) -> Callable[..., str]:
    def write(**changes: Any) -> str:
        path = tmp_path / "c.yaml"
        path.write_text(config_yaml(settings(tmp_path / "run", **changes)), encoding="utf-8")
        return str(path)

    return write


def test_a_dry_run_writes_nothing(
    tmp_path: Path, yaml: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", yaml(), "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "GiB at most" in said.out
    assert "for 6 steps" in said.out
    assert "global batch 4" in said.err
    assert "effective alpha 5" in said.err
    assert main(["train", yaml(), "--dry_run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == 6
    assert found["seconds_per_step"] > 0
    assert found["peak_bytes"] > 2**20
    assert not (tmp_path / "run").exists()
    # A run that is there is left as it is.
    train(settings(tmp_path / "run", epochs=0.5))
    before = sorted(path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*"))
    dry_run(settings(tmp_path / "run"))
    assert sorted(path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")) == before


def test_a_trace_of_a_few_steps(tmp_path: Path) -> None:
    plain = settings(tmp_path / "plain")
    train(plain)
    train(replace(plain, out=str(tmp_path / "traced")), profile=True)
    trace = json.loads((tmp_path / "traced" / "profile" / "trace.json").read_text(encoding="utf-8"))
    names = [event.get("name", "") for event in trace["traceEvents"]]
    assert sum(name.startswith("Optimizer.step") for name in names) == 3
    assert "aten::convolution" in names
    first, second = (load_part(tmp_path / name) for name in ("plain", "traced"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_tensorboard_holds_what_was_logged(
    tmp_path: Path, yaml: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    # By default, where it is installed.
    assert main(["train", yaml(evaluation=EvalConfig(every=1.0))]) == 0
    capsys.readouterr()
    events = accumulator.EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    text = (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    steps = [line for line in lines if "losses" in line]
    for name in ("l1", "margin", "total"):
        found = [(event.step, event.value) for event in events.Scalars(f"loss/{name}")]
        assert found == [(line["step"], pytest.approx(line["losses"][name])) for line in steps]
    for name in ("recognizer", "generator"):
        rates = [event.value for event in events.Scalars(f"lr/{name}")]
        assert rates == pytest.approx([line["lr"][name] for line in steps])
    (first, *_) = [line for line in lines if "evaluation" in line]
    assert events.Scalars("held-out/accuracy")[0].step == first["step"]
    assert len(events.Scalars("speed/images_per_second")) == 6


def test_tensorboard_tells_of_each_step_once(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for begin, end in ((0, 5), (3, 7)):
        board = TensorBoard(tmp_path)
        board.rewind(begin)
        for step in range(begin + 1, end + 1):
            board.evaluated(step, {"accuracy": step + begin / 10})
        board.close()
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("held-out/accuracy")]
    wanted = [(1, 1), (2, 2), (3, 3), (4, 4.3), (5, 5.3), (6, 6.3), (7, 7.3)]
    assert found == [(step, pytest.approx(value)) for step, value in wanted]


def test_tensorboard_can_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert wanted_loggers(False, tmp_path) == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert wanted_loggers(None, tmp_path) == []
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(MinusfaceError, match=r"not installed: pip install"):
        TensorBoard(tmp_path)


@pytest.mark.parametrize("gpu_bytes", [None, 3 << 29])
def test_a_log_line_says_it_all(gpu_bytes: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    losses, rates = {"l1": 0.25, "total": 1.5}, {"recognizer": 1e-2, "generator": 5e-3}
    with TrainingReport() as report:
        report.step(Progress(20, 100, 0.5, losses, rates, 61.25, 750.0, gpu_bytes))
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line == (
        "20/100  epoch 0.50 | l1 0.2500  total 1.5000 | lr recognizer 1.00e-02  generator 5.00e-03 | "
        "61.2 images/s | 12m 30s left"
    ) + ("" if gpu_bytes is None else " | 1.50 GiB")


def test_any_logger_will_do(tmp_path: Path) -> None:
    class Notes:
        def __init__(self) -> None:
            self.steps: list[int] = []
            self.found: list[dict[str, float]] = []

        def step(self, progress: Progress) -> None:
            self.steps.append(progress.step)

        def evaluated(self, step: int, metrics: dict[str, float]) -> None:
            self.found.append(metrics)

        def close(self) -> None: ...

    notes = Notes()
    config = settings(tmp_path / "run", log_every=2, evaluation=EvalConfig(every=1.0))
    train(config, loggers=[notes], evaluate=lambda task: {"score": 0.5})
    assert notes.steps == [2, 4, 6]
    assert notes.found == [{"score": 0.5}] * 2


def test_a_loss_that_explodes_names_step_samples_and_save(tmp_path: Path) -> None:
    config = settings(tmp_path / "run", optimizer=OptimizerConfig("sgd", lr=1e6))
    with pytest.raises(MinusfaceError) as error:
        train(config)
    text = str(error.value)
    assert "\n" not in text
    assert "at step 2" in text
    assert text.count("synthetic/") == 4
    assert "nothing saved yet" in text
    train(settings(tmp_path / "good", epochs=1.0))
    with pytest.raises(MinusfaceError, match="holds the last save"):
        train(replace(config, out=str(tmp_path / "good"), epochs=3.0), resume=True)
    assert load_card(tmp_path / "good").metrics["step"] == 4


def test_ten_thousand_times_the_loss_is_an_explosion(tmp_path: Path) -> None:
    built = build(settings(tmp_path / "run"))
    run = Run(built.task, built.settings, built.card)
    run._check({"total": torch.tensor(5.0)}, None)
    run._check({"total": torch.tensor(4000.0)}, None)
    with pytest.raises(MinusfaceError, match="the loss exploded from 5 to 6000 at step 1; nothing"):
        run._check({"total": torch.tensor(6000.0)}, None)


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    built = build(settings(tmp_path / "run"))
    run = Run(built.task, built.settings, built.card)
    run.save("last")
    with torch.no_grad():
        built.task.recognizer.backbone.first.weight[0] = float("nan")
    with pytest.raises(
        MinusfaceError, match=r"model tensor recognizer\S+ is not finite after step 0"
    ):
        run.save("last")
    assert all(bool(t.isfinite().all()) for t in load_part(tmp_path / "run").values())


def test_threads_wait_briefly_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    for given in ({}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}):
        monkeypatch.setattr("os.environ", dict(given))
        wait_briefly()
        wanted = given or {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}
        assert {name: os.environ[name] for name in names if name in os.environ} == wanted


@pytest.mark.slow
@pytest.mark.parametrize("task", ["plain", "stage1"])
def test_compiled_losses_are_those_of_the_plain_step(task: Any, tmp_path: Path) -> None:
    found = []
    # Small steps: what rounds otherwise would grow from one to the next.
    small = OptimizerConfig("sgd", lr=1e-4)
    for compiled in (False, True):
        out = tmp_path / f"{compiled}"
        train(settings(out, task=task, epochs=0.5, compile=compiled, optimizer=small))
        text = (tmp_path / f"{compiled}" / "log.jsonl").read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        found.append([line["losses"]["total"] for line in lines if "losses" in line])
    plain, fast = (load_part(tmp_path / name) for name in ("False", "True"))
    assert len(found[0]) == 2
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert plain.keys() == fast.keys()


def test_compile_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MinusfaceError, match="compile true: does not go with recompute true"):
        train(settings(tmp_path / "run", compile=True, recompute=True))
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(MinusfaceError, match=r"compile true: no C\+\+ compiler is here, expected"):
        train(settings(tmp_path / "run", compile=True))
    assert not (tmp_path / "run").exists()


def test_frozen_batch_norms_learn_no_statistics(tmp_path: Path) -> None:
    train(settings(tmp_path / "run", freeze_batchnorm=True))
    tensors = load_part(tmp_path / "run")
    means = [tensor for name, tensor in tensors.items() if name.endswith("running_mean")]
    assert means
    assert all(bool((mean == 0).all()) for mean in means)


def test_synchronised_batch_norms_need_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(MinusfaceError, match="sync_batchnorm true: works on GPUs only"):
        train(settings(tmp_path / "run", sync_batchnorm=True))
    assert not (tmp_path / "run").exists()


def test_sampled_negatives_repeat_under_a_seed(tmp_path: Path) -> None:
    def losses(name: str, **changes: Any) -> list[float]:
        head = HeadConfig(scale=8.0, sample_rate=0.5)
        train(settings(tmp_path / name, head=head, **changes))
        text = (tmp_path / name / "log.jsonl").read_text(encoding="utf-8")
        return [json.loads(line)["losses"]["margin"] for line in text.splitlines()]

    assert losses("a") == losses("b") != losses("c", seed=1)

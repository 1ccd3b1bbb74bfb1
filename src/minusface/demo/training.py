"""Three small trainings under one recipe and one time budget: unprotected, stage 1, stage 2."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from minusface.config import (
    DataConfig,
    DistillConfig,
    GeneratorConfig,
    HeadConfig,
    OptimizerConfig,
    RecognizerConfig,
    ScheduleConfig,
    StageTwoConfig,
    StartConfig,
    TaskName,
    TrainConfig,
)
from minusface.data import Loader
from minusface.train.plan import Progress
from minusface.train.run import open_configured, train

STAGES: tuple[TaskName, ...] = ("plain", "stage1", "stage2")
# A machine that becomes busier after its speed was measured may use this much more than its share.
PATIENCE = 1.25
LOG_SECONDS, LOG_LINES = 1.5, 40


@dataclass(frozen=True)
class Budget:
    """How much the demo may spend, and how large its models are."""

    minutes: float = 7.5
    """For the three trainings together; each gets a third."""
    batch_size: int = 16
    """Small: in minutes, many steps do more than steady ones."""
    backbone: str = "ir_lite"
    embedding_size: int = 128
    width: int = 8
    """Of the generator."""
    permutations: int = 3
    """Views an image and step in stage 2."""
    max_epochs: float = 30.0
    """However much time there is: tiny folders are not learned by heart for ever."""
    pace_steps: int = 6
    """Steps from which the speed is measured."""
    draws: int = 2
    """Permutations drawn anew for each image in the evaluation."""
    similarity_crops: int = 200
    """Held-out crops whose SSIM and PSNR are measured."""
    pairs: int = 1000
    """Held-out pairs where no list of them is given."""
    synthetic: tuple[int, int] = (200, 10)
    """People and images each, drawn to train on where there is no face folder."""
    synthetic_held_out: tuple[int, int] = (100, 6)
    """The same to evaluate on."""


@dataclass(frozen=True)
class Trained:
    """What a training spent and where it ended."""

    task: TaskName
    seconds: float
    steps: int
    epochs: float
    images_per_second: float
    cut_short: bool
    """It was stopped because the machine became slower than measured."""
    losses: dict[str, float] = field(default_factory=dict)
    """The last losses logged, each the mean over the last tenth of the log."""


def recipe(
    task: TaskName, out: Path, data: DataConfig, teacher: Path | None, budget: Budget, seed: int
) -> TrainConfig:
    """The config of one training; the three differ in the task and in what they start from."""
    start = StartConfig()
    if task == "stage2":
        start = StartConfig(generator=str(out / "stage1"), recognizer=str(out / "plain"))
    return TrainConfig(
        task=task,
        out=str(out / task),
        seed=seed,
        batch_size=budget.batch_size,
        precision="auto",
        generator=GeneratorConfig(budget.width),
        recognizer=RecognizerConfig(budget.backbone, budget.embedding_size, "standardized"),
        head=HeadConfig(scale=32.0, margin=0.3, weight=0.0 if teacher else 1.0),
        distill=DistillConfig(str(teacher) if teacher else None),
        stage2=StageTwoConfig(permutations=budget.permutations),
        optimizer=OptimizerConfig(
            "adamw", lr=2e-3, generator_factor=1.0, weight_decay=0.05, clip=1.0
        ),
        schedule=ScheduleConfig("cosine", warmup=0.1),
        data=data,
        start=start,
    )


def train_stage(
    config: TrainConfig,
    seconds: float,
    budget: Budget,
    show: Callable[[float, str, float], None] = lambda part, note, left: None,
) -> Trained:
    """Train for about ``seconds``, the number of steps planned from the speed of the first few.

    Args:
        config: its ``epochs`` and ``log_every`` are set here.
        seconds: wall-clock time, the measuring included.
        budget: ``max_epochs``, ``pace_steps``.
        show: told the part done, a note and the seconds left.

    Raises:
        KeyboardInterrupt: Ctrl-C; ``last/`` is saved.
        MinusfaceError: what training raises.
    """
    began = time.monotonic()
    dataset = open_configured(config)
    per_epoch = Loader(dataset, config.batch_size, seed=config.seed).steps
    pace = measure_pace(config, per_epoch, budget.pace_steps, lambda note: show(0.0, note, seconds))
    left = seconds - (time.monotonic() - began)
    steps = max(1, min(int(left / pace), math.ceil(budget.max_epochs * per_epoch)))
    planned = replace(
        config,
        epochs=steps / per_epoch,
        # Often enough to notice, and end, a run much slower than it promised to be.
        log_every=max(1, min(round(LOG_SECONDS / pace), steps // LOG_LINES)),
    )
    watch = _Watch(time.monotonic() + max(left, 1.0) * PATIENCE, show)
    outcome = train(planned, report=watch)
    if outcome.interrupted and not watch.overdue:
        raise KeyboardInterrupt
    return Trained(
        task=config.task,
        seconds=time.monotonic() - began,
        steps=outcome.step,
        epochs=outcome.step / per_epoch,
        images_per_second=watch.log[-1].samples_per_second if watch.log else 0.0,
        cut_short=outcome.interrupted,
        losses=watch.losses(),
    )


def measure_pace(
    config: TrainConfig, per_epoch: int, steps: int, show: Callable[[str], None]
) -> float:
    """Seconds a step, from a few steps of a run that is thrown away; the first two do not count."""
    stamps: list[float] = []

    def stamp(progress: Progress) -> None:
        stamps.append(time.monotonic())
        show(f"measuring the speed, step {progress.step} of {progress.steps}")

    with tempfile.TemporaryDirectory(prefix="minusface-demo-") as folder:
        short = replace(config, epochs=steps / per_epoch, log_every=1, out=f"{folder}/run")
        started = time.monotonic()
        outcome = train(short, report=stamp)
    if outcome.interrupted:
        raise KeyboardInterrupt
    ticks = [started, *stamps]
    gaps = [later - earlier for earlier, later in pairwise(ticks)]
    return max(statistics.median(gaps[2:] or gaps), 1e-4)


class _Watch:
    """Follows a training's log lines, and ends it when it is overdue."""

    def __init__(self, deadline: float, show: Callable[[float, str, float], None]) -> None:
        self.deadline, self.show = deadline, show
        self.log: list[Progress] = []
        self.overdue = False

    def __call__(self, progress: Progress) -> None:
        """One log line."""
        self.log.append(progress)
        names = [name for name in ("l1", "margin", "cosine") if name in progress.losses]
        losses = "  ".join(f"{name} {progress.losses[name]:.3f}" for name in names)
        note = f"epoch {progress.epoch:.1f}, {progress.samples_per_second:.0f} images/s, {losses}"
        self.show(progress.step / progress.steps, note, progress.seconds_left)
        if time.monotonic() > self.deadline and progress.step < progress.steps:
            self.overdue = True
            # The loop's own way out: it saves and returns.
            raise KeyboardInterrupt

    def losses(self) -> dict[str, float]:
        """Means over the last tenth of the log."""
        tail = self.log[-max(1, len(self.log) // 10) :]
        names = tail[-1].losses if tail else {}
        return {name: statistics.fmean(line.losses[name] for line in tail) for name in names}

"""The training loop. It knows nothing of faces: steps, rates, saving, stopping, going on.

Every random draw of a step comes from (seed, step): a resumed run therefore repeats the losses of an
unbroken one, whenever it was stopped.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from minusface import checkpoint
from minusface.checkpoint import Card
from minusface.config import OptimizerConfig, Precision, ScheduleConfig
from minusface.errors import MinusfaceError
from minusface.train.schedule import build_optimizer, lr_factor, set_learning_rates
from minusface.train.state import optimizer_tensors, restore_optimizer

BatchT = TypeVar("BatchT", contravariant=True)
# Large and odd: steps of neighbouring seeds share no stream.
SEED_STRIDE = 1_000_003


class Trainable(Protocol[BatchT]):
    """What the loop asks of a task."""

    def __call__(self, batch: BatchT, random: torch.Generator) -> dict[str, Tensor]:
        """Named scalar losses; ``total`` is minimised."""
        ...

    def train(self, mode: bool = True) -> nn.Module:
        """Training mode."""
        ...

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters by name of their group."""
        ...

    def model_tensors(self) -> dict[str, Tensor]:
        """What using the model needs."""
        ...

    def training_tensors(self) -> dict[str, Tensor]:
        """What training needs besides."""
        ...

    def load_tensors(self, model: Mapping[str, Tensor], training: Mapping[str, Tensor]) -> None:
        """Put both back."""
        ...


@dataclass(frozen=True)
class LoopConfig:
    """The loop's own settings, taken from a run's config."""

    out: Path
    seed: int
    epochs: float
    steps_per_epoch: int
    precision: Precision
    device: torch.device
    log_every: int
    save_every: int
    evaluate_every: float
    optimizer: OptimizerConfig
    schedule: ScheduleConfig

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return max(1, round(self.epochs * self.steps_per_epoch))


@dataclass(frozen=True)
class Progress:
    """One log line: where the run stands and what it costs."""

    step: int
    steps: int
    epoch: float
    losses: dict[str, float]
    rates: dict[str, float]
    samples_per_second: float
    seconds_left: float


@dataclass
class Outcome:
    """What a run ends with."""

    step: int
    interrupted: bool = False
    metrics: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


def step_seed(seed: int, step: int) -> int:
    """The seed of one step's draws."""
    return (seed * SEED_STRIDE + step) % (2**63)


def fit(
    task: Trainable[Any],
    batches: Callable[[int], Iterator[tuple[Any, int]]],
    config: LoopConfig,
    card: Card,
    *,
    evaluate: Callable[[], dict[str, float]] | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    resume: bool = False,
) -> Outcome:
    """Train, saving ``last/`` and ``best/`` under ``config.out``.

    Args:
        task: maps a batch to named losses.
        batches: from a step on, (batch, samples in it) forever, the same for the same step.
        config: the loop's settings.
        card: what the checkpoints say of themselves; metrics and step are added.
        evaluate: metrics by name; ``score`` decides which checkpoint is best, greater is better.
        report: called with each log line.
        resume: go on from ``last/``.

    Returns:
        The last step and metrics; ``interrupted`` after Ctrl-C, with ``last/`` saved.

    Raises:
        MinusfaceError: a loss that is not finite (naming step and loss; ``last/`` stays as it was), a
            full disk, nothing to resume.
    """
    optimizer = build_optimizer(config.optimizer, task.groups())
    run = _Run(task, optimizer, config, card)
    if resume:
        run.restore()
    stream = batches(run.step)
    stop = _DeferredInterrupt()
    clock, seen, since = time.monotonic(), 0, run.step
    last_losses: dict[str, float] = {}
    try:
        while run.step < config.steps:
            batch, samples = next(stream)
            with stop:
                losses, rates = run.advance(batch)
            seen += samples
            if run.step % config.log_every == 0 or run.step == config.steps:
                elapsed = time.monotonic() - clock
                last_losses = {name: float(value) for name, value in losses.items()}
                left = elapsed / max(run.step - since, 1) * (config.steps - run.step)
                epoch = run.step / config.steps_per_epoch
                progress = Progress(
                    run.step, config.steps, epoch, last_losses, rates, seen / elapsed, left
                )
                run.log(progress)
                report(progress)
            run.maybe_evaluate(evaluate)
            if run.step % config.save_every == 0 or run.step == config.steps:
                run.save("last")
    except KeyboardInterrupt:
        if run.whole:
            run.save("last")
        return Outcome(run.step, True, run.metrics, run.history)
    return Outcome(run.step, False, run.metrics, run.history)


class _DeferredInterrupt:
    """Holds Ctrl-C back until a step is whole: half a step could be neither saved nor repeated."""

    def __enter__(self) -> None:
        self.asked = False
        self.previous: Any = None
        if threading.current_thread() is threading.main_thread():
            self.previous = signal.signal(signal.SIGINT, self._note)

    def _note(self, number: int, frame: Any) -> None:
        self.asked = True

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self.previous is not None:
            signal.signal(signal.SIGINT, self.previous)
        if self.asked and kind is None:
            raise KeyboardInterrupt


class _Run:
    """The mutable middle of a run: step counter, best score, what was logged."""

    def __init__(
        self, task: Trainable[Any], optimizer: torch.optim.Optimizer, config: LoopConfig, card: Card
    ) -> None:
        self.task, self.optimizer, self.config, self.card = task, optimizer, config, card
        self.step, self.best = 0, -math.inf
        # False within a step, when there is nothing that could be gone on from.
        self.whole = True
        self.metrics: dict[str, Any] = {}
        self.history: list[dict[str, float]] = []

    def advance(self, batch: Any) -> tuple[dict[str, Tensor], dict[str, float]]:
        """One step; returns its losses and learning rates."""
        config, self.whole = self.config, False
        seed = step_seed(config.seed, self.step)
        random = torch.Generator().manual_seed(seed)
        epoch = self.step / config.steps_per_epoch
        rates = set_learning_rates(
            self.optimizer, lr_factor(config.schedule, epoch, config.steps / config.steps_per_epoch)
        )
        self.task.train()
        self.optimizer.zero_grad(set_to_none=True)
        # Dropout draws from the global stream: it, too, must depend on the step alone.
        torch.manual_seed(seed)
        with self._autocast():
            losses = self.task(batch, random)
        self._check(losses)
        losses["total"].backward()  # type: ignore[no-untyped-call]
        if config.optimizer.clip > 0:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, config.optimizer.clip)
        self.optimizer.step()
        self.step += 1
        self.whole = True
        return {name: value.detach() for name, value in losses.items()}, rates

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.config.precision == "bfloat16":
            return torch.autocast(self.config.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def _check(self, losses: Mapping[str, Tensor]) -> None:
        for name, value in losses.items():
            if not bool(torch.isfinite(value)):
                good = self.config.out / "last"
                saved = (
                    f"{good} holds the last save"
                    if (good / checkpoint.CARD).is_file()
                    else "nothing saved yet"
                )
                raise MinusfaceError(
                    f"loss {name} is {float(value.detach())} at step {self.step + 1}; {saved} "
                    "(try a smaller optimizer.lr, or optimizer.clip)"
                )

    def maybe_evaluate(self, evaluate: Callable[[], dict[str, float]] | None) -> None:
        """Evaluate when an interval ends, keeping the best."""
        config = self.config
        if evaluate is None or config.evaluate_every <= 0:
            return
        every = max(1, round(config.evaluate_every * config.steps_per_epoch))
        if self.step % every and self.step != config.steps:
            return
        self.metrics = evaluate()
        self.history.append({"step": self.step, **self.metrics})
        self._append({"step": self.step, "evaluation": self.metrics})
        if self.metrics.get("score", -math.inf) > self.best:
            self.best = self.metrics["score"]
            self.save("best")

    def log(self, progress: Progress) -> None:
        """One line of log.jsonl."""
        self._append(
            {
                "step": progress.step,
                "epoch": round(progress.epoch, 4),
                "losses": progress.losses,
                "lr": progress.rates,
                "samples_per_second": round(progress.samples_per_second, 2),
            }
        )

    def _append(self, line: dict[str, Any]) -> None:
        try:
            self.config.out.mkdir(parents=True, exist_ok=True)
            with open(self.config.out / "log.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise MinusfaceError(
                f"{self.config.out / 'log.jsonl'}: cannot write ({error.strerror or error})"
            ) from error

    def save(self, name: str) -> None:
        """Write ``last`` or ``best``; only ``last`` can be gone on from."""
        best = self.best if math.isfinite(self.best) else None
        metrics = {**self.card.metrics, **self.metrics, "step": self.step, "best": best}
        parts = {"model": self.task.model_tensors()}
        if name == "last":
            parts["training"] = {
                **self.task.training_tensors(),
                **optimizer_tensors(self.optimizer),
            }
        checkpoint.save(self.config.out / name, replace(self.card, metrics=metrics), parts)

    def restore(self) -> None:
        """Go on from ``last/``."""
        folder = self.config.out / "last"
        card = checkpoint.load_card(folder)
        if card.model != self.card.model:
            raise MinusfaceError(f"{folder}: holds another architecture than the config describes")
        training = checkpoint.load_part(folder, "training")
        self.task.load_tensors(checkpoint.load_part(folder), training)
        restore_optimizer(self.optimizer, training, str(folder))
        self.step = int(card.metrics["step"])
        best = card.metrics.get("best")
        self.best = -math.inf if best is None else float(best)
        own = {"step", "best", *self.card.metrics}
        self.metrics = {name: value for name, value in card.metrics.items() if name not in own}

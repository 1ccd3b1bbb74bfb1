"""The training loop. It knows nothing of faces: steps, logging, saving, stopping, going on."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from minusface import collectives
from minusface.checkpoint import Card
from minusface.train.interrupt import DeferredInterrupt
from minusface.train.loggers import JsonLines, Logger, TensorBoard
from minusface.train.plan import (
    LoopConfig,
    Outcome,
    Progress,
    Rehearsal,
    Trainable,
    step_seed,
)
from minusface.train.step import Run
from minusface.train.trace import Trace

__all__ = ["LoopConfig", "Outcome", "Progress", "Rehearsal", "fit", "rehearse", "step_seed"]

REHEARSED = 2
Batches = Callable[[int], Iterator[tuple[Any, int]]]


def fit(
    task: Trainable[Any],
    batches: Batches,
    config: LoopConfig,
    card: Card,
    *,
    evaluate: Callable[[], dict[str, float]] | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    resume: bool = False,
    loggers: Sequence[Logger] = (),
    profile: bool = False,
) -> Outcome:
    """Train, saving ``last/`` and ``best/`` under ``config.out``.

    Where processes train together each of them calls it; the first one logs, evaluates and writes.

    Args:
        task: maps a batch to named losses.
        batches: from a step on, (batch, samples in all processes' batches) forever, the same for the
            same step.
        config: the loop's settings.
        card: what the checkpoints say of themselves; metrics and step are added.
        evaluate: metrics by name; ``score`` decides which checkpoint is best, greater is better.
        report: called with each log line.
        resume: go on from ``last/``.
        loggers: told log lines and evaluations, besides ``log.jsonl``.
        profile: write a trace of a few steps to ``profile/``.

    Returns:
        The last step and metrics; ``interrupted`` after Ctrl-C, with ``last/`` saved.

    Raises:
        MinusfaceError: a loss that is not finite or explodes (naming step and samples; ``last/`` stays
            as it was), a full disk, nothing to resume.
    """
    first, together = collectives.rank() == 0, collectives.size() > 1
    lines = JsonLines(config.out / "log.jsonl")
    told = [lines, *loggers] if first else []
    run = Run(task, config, card, told, evaluate if first else None)
    if resume:
        run.restore()
    if first:
        # A run that was killed before its first save leaves lines, too.
        for logger in told:
            if isinstance(logger, JsonLines | TensorBoard):
                logger.rewind(run.step)
    stop = DeferredInterrupt(raises=not together)
    nothing: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    in_all, in_step = (stop, nothing) if together else (nothing, stop)
    stream, pace = batches(run.step), _Pace(run.step, config)
    try:
        with in_all, _trace(profile, config, run.step) as traced:
            if run.due:
                # All processes know it from the card, and save together.
                run.evaluate_if_due()
                run.save("last")
            while run.step < config.steps:
                batch, samples = next(stream)
                with in_step:
                    losses, rates = run.advance(batch)
                    pace.seen += samples
                    # Here, so that a step that is saved after Ctrl-C is in the log.
                    if first and (run.step % config.log_every == 0 or run.step == config.steps):
                        values = {name: float(value) for name, value in losses.items()}
                        progress = pace.progress(run.step, values, rates)
                        for logger in told:
                            logger.step(progress)
                        report(progress)
                run.evaluate_if_due()
                if run.step % config.save_every == 0 or run.step == config.steps:
                    run.save("last")
                if traced is not None:
                    traced.step()
                if together and collectives.any_process(stop.asked, config.device):
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        if run.whole:
            run.save("last")
        return Outcome(run.step, True, run.metrics, run.history)
    return Outcome(run.step, False, run.metrics, run.history)


def rehearse(task: Trainable[Any], batches: Batches, config: LoopConfig, card: Card) -> Rehearsal:
    """Two steps of a run that is not kept: nothing is written.

    Args:
        task: its weights change.
        batches: as in :func:`fit`.
        config: of the whole run.
        card: of the run.

    Raises:
        MinusfaceError: a loss that is not finite.
    """
    run, stream = Run(task, config, card), batches(0)
    losses, seconds = {}, 0.0
    for _ in range(REHEARSED):
        began = time.monotonic()
        batch, _samples = next(stream)
        found, _rates = run.advance(batch)
        losses = {name: float(value) for name, value in found.items()}
        # The last one's: the first also pays for memory and caches.
        seconds = time.monotonic() - began
    return Rehearsal(config.steps, seconds, peak_memory(config.device), losses)


def peak_memory(device: torch.device) -> int:
    """Bytes that tensors took at most of a GPU, or that the process took at most of a CPU's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on every system

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class _Pace:
    """How fast a run goes."""

    def __init__(self, start: int, config: LoopConfig) -> None:
        self.start, self.config = start, config
        self.clock, self.seen = time.monotonic(), 0

    def progress(self, step: int, losses: dict[str, float], rates: dict[str, float]) -> Progress:
        """A log line."""
        config, elapsed = self.config, time.monotonic() - self.clock
        left = elapsed / max(step - self.start, 1) * (config.steps - step)
        device = config.device
        return Progress(
            step=step,
            steps=config.steps,
            epoch=step / config.steps_per_epoch,
            losses=losses,
            rates=rates,
            samples_per_second=self.seen / elapsed,
            seconds_left=left,
            gpu_bytes=peak_memory(device) if device.type == "cuda" else None,
        )


def _trace(
    wanted: bool, config: LoopConfig, start: int
) -> contextlib.AbstractContextManager[Trace | None]:
    if not wanted or start >= config.steps:
        return contextlib.nullcontext()
    return Trace(config.out / "profile", config.steps - start)

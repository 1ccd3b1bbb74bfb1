"""One step of training, and what surrounds it: evaluating, saving, going on.

Every random draw of a step comes from (seed, step): a resumed run therefore repeats the losses of an
unbroken one, whenever it was stopped.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from minusface import checkpoint, collectives
from minusface.checkpoint import Card
from minusface.errors import MinusfaceError
from minusface.train.loggers import Logger
from minusface.train.plan import LoopConfig, Trainable, step_seed
from minusface.train.schedule import build_optimizer, clip_gradients, lr_factor, set_learning_rates
from minusface.train.state import Shards, optimizer_tensors, restore_optimizer

# A total loss this many times the first one's (or 1) has no way back.
EXPLODED = 1000.0
SHOWN_KEYS = 8
# In a card: the run was stopped before the evaluation of these weights was made.
DUE = "evaluation_due"
Parts = Mapping[str, Mapping[str, Tensor]]


class Run:
    """The mutable middle of a run: step counter, best score, what was logged."""

    def __init__(
        self,
        task: Trainable[Any],
        config: LoopConfig,
        card: Card,
        loggers: Sequence[Logger] = (),
        evaluate: Callable[[], dict[str, float]] | None = None,
    ) -> None:
        self.task, self.config, self.card, self.loggers = task, config, card, loggers
        self.evaluate = evaluate
        sharded = task.sharded()
        centres = [parameter for parameter, _, _ in sharded.values()]
        self.optimizer = build_optimizer(config.optimizer, task.groups(), centres)
        self.shards = Shards(sharded, self.optimizer)
        self.step, self.best = 0, -math.inf
        # False within a step, when there is nothing that could be gone on from.
        self.whole = True
        # True from the step that ends an interval until its evaluation is made and kept.
        self.due = False
        self.first_total: float | None = None
        self.metrics: dict[str, Any] = {}
        self.history: list[dict[str, float]] = []

    def advance(self, batch: Any) -> tuple[dict[str, Tensor], dict[str, float]]:
        """One step; returns its losses and learning rates.

        Raises:
            MinusfaceError: a loss that is not finite, or has exploded.
        """
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
        self._check(losses, batch)
        losses["total"].backward()  # type: ignore[no-untyped-call]
        if config.optimizer.clip > 0:
            clip_gradients(self.optimizer, config.optimizer.clip, self.shards.parameters)
        self.optimizer.step()
        self.step += 1
        self.due = self._ends_interval()
        self.whole = True
        return {name: value.detach() for name, value in losses.items()}, rates

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.config.precision == "bfloat16":
            return torch.autocast(self.config.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def _check(self, losses: Mapping[str, Tensor], batch: Any) -> None:
        # All at once: a GPU is waited for once a step.
        found = torch.stack([value.detach().float() for value in losses.values()]).tolist()
        values = dict(zip(losses, found, strict=True))
        for name, value in values.items():
            if not math.isfinite(value):
                raise self._stopped(f"loss {name} is {value}", batch)
        total = values["total"]
        if self.first_total is None:
            self.first_total = total
        if total > EXPLODED * max(self.first_total, 1.0):
            raise self._stopped(f"the loss exploded from {self.first_total:g} to {total:g}", batch)

    def _stopped(self, what: str, batch: Any) -> MinusfaceError:
        """What happened, at which step, on which samples, and what there is to go on from."""
        good = self.config.out / "last"
        saved = (
            f"{good} holds the last save"
            if (good / checkpoint.CARD).is_file()
            else "nothing saved yet"
        )
        keys = getattr(batch, "keys", None)
        named = ""
        if isinstance(keys, Sequence):
            # All processes see the same losses, so all of them are here.
            keys = collectives.gather_words([str(key) for key in keys], self.config.device)
            more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
            named = f"; batch {', '.join(keys[:SHOWN_KEYS])}{more}"
        return MinusfaceError(
            f"{what} at step {self.step + 1}{named}; {saved} "
            "(try a smaller optimizer.lr, or optimizer.clip)"
        )

    def _ends_interval(self) -> bool:
        config = self.config
        if self.evaluate is None or config.evaluate_every <= 0:
            return False
        every = max(1, round(config.evaluate_every * config.steps_per_epoch))
        return self.step % every == 0 or self.step == config.steps

    def evaluate_if_due(self) -> None:
        """Evaluate when an interval has ended, keeping the best.

        Stopped before the best is written, the evaluation stays due, and nothing of it counts.
        """
        if self.evaluate is None or not self.due:
            self.due = False
            return
        found = self.evaluate()
        score = found.get("score", -math.inf)
        if score > self.best:
            self.save("best", found)
        self.metrics, self.best, self.due = found, max(self.best, score), False
        self.history.append({"step": self.step, **found})
        for logger in self.loggers:
            logger.evaluated(self.step, found)

    def save(self, name: str, found: Mapping[str, float] | None = None) -> None:
        """Write ``last`` or ``best``; only ``last`` can be gone on from.

        All processes that train together save ``last`` at the same step; the first one writes it.

        Args:
            name: which.
            found: what an evaluation found of the best.

        Raises:
            MinusfaceError: a full disk, or weights that are not finite; the one there stays.
        """
        shown = self.metrics if found is None else found
        best = self.best if found is None else found["score"]
        metrics = {**self.card.metrics, **shown, "step": self.step}
        metrics["best"] = best if math.isfinite(best) else None
        if name == "last" and self.due:
            metrics[DUE] = True
        parts: Parts | Iterable[tuple[str, Mapping[str, Tensor]]]
        parts = {"model": self.task.model_tensors()}
        self._check_finite("model", parts["model"])
        if name == "last":
            training = {**self.task.training_tensors(), **optimizer_tensors(self.optimizer)}
            if collectives.rank() > 0:
                self.shards.send(training)
                return
            if collectives.size() == 1:
                self._check_finite("training", training)
                parts["training"] = training
            else:
                parts = self._one_by_one(parts["model"], training)
        checkpoint.save(self.config.out / name, replace(self.card, metrics=metrics), parts)

    def _one_by_one(
        self, model: Mapping[str, Tensor], training: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
        """The parts of a checkpoint, of which no two processes' shards are here at once."""
        yield "model", model
        for part, tensors in self.shards.collect(training):
            self._check_finite(part, tensors)
            yield part, tensors

    def _check_finite(self, part: str, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise MinusfaceError(
                    f"{part} tensor {name} is not finite after step {self.step}: not saved "
                    "(try a smaller optimizer.lr, or optimizer.clip)"
                )

    def restore(self) -> None:
        """Go on from ``last/``, whatever the number of processes that wrote it.

        Raises:
            MinusfaceError: no such checkpoint, a damaged one, or another architecture's.
        """
        folder = self.config.out / "last"
        card = checkpoint.load_card(folder)
        if card.model != self.card.model:
            raise MinusfaceError(f"{folder}: holds another architecture than the config describes")
        training = self.shards.read(folder)
        self.task.load_tensors(checkpoint.load_part(folder), training)
        restore_optimizer(self.optimizer, training, str(folder))
        self.step = int(card.metrics["step"])
        best = card.metrics.get("best")
        self.best = -math.inf if best is None else float(best)
        self.due = bool(card.metrics.get(DUE))
        # What was calibrated in the meantime does not hold for the weights to come.
        own = {"step", "best", DUE, *checkpoint.CALIBRATED, *self.card.metrics}
        self.metrics = {name: value for name, value in card.metrics.items() if name not in own}

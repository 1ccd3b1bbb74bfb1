"""What the loop asks of a task, what it is told, and what it tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from minusface.config import OptimizerConfig, Precision, ScheduleConfig

BatchT = TypeVar("BatchT", contravariant=True)
# Large and odd: steps of neighbouring seeds share no stream.
SEED_STRIDE = 1_000_003


class Trainable(Protocol[BatchT]):
    """What the loop asks of a task."""

    def __call__(self, batch: BatchT, random: torch.Generator) -> dict[str, Tensor]:
        """Named scalar losses; ``total`` is minimised. All processes that train together get the same."""
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

    def sharded(self) -> dict[str, tuple[nn.Parameter, range, int]]:
        """Which training tensors are parts of larger ones: parameter, which rows it is, of how many."""
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
    gpu_bytes: int | None = None
    """The most that tensors took of the GPU so far; None on a CPU."""


@dataclass
class Outcome:
    """What a run ends with."""

    step: int
    interrupted: bool = False
    metrics: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Rehearsal:
    """What a few steps tell of a whole run."""

    steps: int
    """Of the whole run."""
    seconds_per_step: float
    peak_bytes: int
    """Of the GPU, or on a CPU of the process."""
    losses: dict[str, float]


def step_seed(seed: int, step: int) -> int:
    """The seed of one step's draws."""
    return (seed * SEED_STRIDE + step) % (2**63)

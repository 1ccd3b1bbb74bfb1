"""How attackers learn: a budget, a validation split, early stopping, and a state that can be gone on from.

Every draw of a step comes from (seed, step), so that a stopped attack goes on as if it had not stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from minusface import checkpoint
from minusface.audit.access import Access, Target, seeded
from minusface.checkpoint import Card
from minusface.errors import MinusfaceError
from minusface.peers.base import Views
from minusface.train.state import optimizer_tensors, restore_optimizer

# An attack that gained more than this part of its validation loss in the last fifth of its budget was not
# done: its numbers are lower bounds on what leaks.
STILL_IMPROVING, LAST_PART = 0.01, 0.2
FLOOR = 0.1  # of the learning rate, at the end
# An attacker that is not this part below the loss of a guess made without looking has learned nothing. That
# shows something only once it has had time to: against a generator trained to resist one, learning set in
# after 10,000 images, and went on.
STUCK, ENOUGH_IMAGES = 0.05, 100_000


@dataclass(frozen=True)
class Fit:
    """How much an attacker may learn."""

    steps: int
    batch_size: int = 16
    lr: float = 2e-3
    seconds: float | None = None
    """Wall-clock limit; with one, the number of steps depends on the machine."""
    validate_every: int = 50
    """Steps between two looks at the validation split."""
    patience: int = 6
    """Looks without a gain after which it stops."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "validate_every", "patience"):
            if getattr(self, name) < 1:
                raise MinusfaceError(
                    f"attack budget: {name} {getattr(self, name)}, expected 1 or more"
                )


@dataclass(frozen=True)
class Point:
    """Where an attack stood when it looked at its validation split."""

    images: int
    """Training images seen."""
    seconds: float
    loss: float
    """On the validation split."""


@dataclass(frozen=True)
class Trained:
    """What learning came to."""

    points: tuple[Point, ...]
    steps: int
    stopped: str
    """``budget``, ``seconds`` or ``no gain``."""
    still_improving: bool

    @property
    def seconds(self) -> float:
        """Time spent learning."""
        return self.points[-1].seconds if self.points else 0.0

    @property
    def images(self) -> int:
        """Training images seen."""
        return self.points[-1].images if self.points else 0

    def stuck_at(self, blind: float) -> bool:
        """Whether it never got away from the loss of a guess made without looking."""
        return bool(self.points) and min(p.loss for p in self.points) > (1 - STUCK) * blind


class Attack(Protocol):
    """An attack: what it needs, how it learns, what it then does to protected images."""

    name: str
    needs: Access

    def fit(self, target: Target) -> Trained | None:
        """Learn on the attacker's own photos; None where there is nothing to learn."""
        ...

    def attack(self, seen: Views) -> Tensor:
        """What the attacker makes of protected images (B, 3n, N, N)."""
        ...


@dataclass
class _State:
    """What changes while an attacker learns."""

    step: int = 0
    best: float = math.inf
    since: int = 0
    seconds: float = 0.0
    stopped: str = ""
    points: list[Point] = field(default_factory=list)


def key_of(*parts: object) -> str:
    """Twelve digits that differ where any of the parts differs: JSON values and dataclasses of them.

    A dataclass's field marked ``later`` counts only where it is not its default: what was kept before there
    was such a field is found again.
    """
    plain = [_plain(part) if hasattr(part, "__dataclass_fields__") else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _plain(part: Any) -> dict[str, Any]:
    said = asdict(part)
    for one in fields(part):
        if one.metadata.get("later") and said[one.name] == one.default:
            del said[one.name]
    return said


def fit_attacker(
    module: nn.Module,
    loss: Callable[[int, torch.Generator], Tensor],
    validate: Callable[[], float],
    budget: Fit,
    *,
    seed: int = 0,
    folder: Path | None = None,
    precision: str = "float32",
    progress: Callable[[float], None] = lambda part: None,
) -> Trained:
    """Train a network and leave it with the weights that were best on the validation split.

    Args:
        module: changed in place.
        loss: of a step's batch, from the step and a CPU generator for all its draws; a scalar.
        validate: the loss on the validation split, in evaluation mode; smaller is better.
        budget: how much it may learn.
        seed: of the draws.
        folder: where its state is kept and found again; None keeps nothing.
        precision: ``bfloat16`` computes the forward pass in it.
        progress: told the part of the steps done.

    Raises:
        MinusfaceError: a loss that is not finite, a state of another network, a full disk.
    """
    device = next(module.parameters()).device
    optimizer = torch.optim.AdamW(module.parameters(), lr=budget.lr, weight_decay=0.01)
    best = _copy(module)
    state = _State()
    if folder is not None and (folder / checkpoint.CARD).is_file():
        state, best = _restore(folder, module, optimizer)
    clock = time.monotonic() - state.seconds
    while not state.stopped:
        _set_rate(optimizer, budget, state.step)
        module.train()
        with autocast(device, precision):
            value = loss(state.step, _draws(seed, state.step))
        _descend(value, optimizer, state.step)
        state.step += 1
        progress(state.step / budget.steps)
        late = budget.seconds is not None and time.monotonic() - clock > budget.seconds
        if state.step % budget.validate_every == 0 or state.step == budget.steps or late:
            state.seconds = time.monotonic() - clock
            best = _look(module, validate, budget, state, best, late)
            if folder is not None:
                _save(folder, module, optimizer, state, best)
    module.load_state_dict(best)
    module.eval()
    return Trained(tuple(state.points), state.step, state.stopped, _still_improving(state))


def _draws(seed: int, step: int) -> torch.Generator:
    """The generator of a step; layers that draw by themselves use the global one, seeded likewise."""
    torch.manual_seed(seed * 1_000_003 + step)
    return seeded("step", seed, step)


def _descend(value: Tensor, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Move the weights down a finite loss."""
    if not bool(torch.isfinite(value)):
        raise MinusfaceError(f"attack: loss is {float(value.detach())} at step {step + 1}")
    optimizer.zero_grad(set_to_none=True)
    value.backward()  # type: ignore[no-untyped-call]
    for group in optimizer.param_groups:
        nn.utils.clip_grad_norm_(group["params"], 1.0)
    optimizer.step()


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """The context in which forward passes run."""
    if precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def exactly(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The opposite: what others compute (a client, a service) is computed as they do, in float32."""
    return torch.autocast(device.type, enabled=False)


def _look(
    module: nn.Module,
    validate: Callable[[], float],
    budget: Fit,
    state: _State,
    best: dict[str, Tensor],
    late: bool,
) -> dict[str, Tensor]:
    """Validate; the weights to keep, and in ``state`` whether it is over."""
    module.eval()
    with torch.no_grad():
        found = validate()
    state.points.append(Point(state.step * budget.batch_size, round(state.seconds, 2), found))
    state.since += 1
    if found < state.best:
        state.best, state.since, best = found, 0, _copy(module)
    if state.step >= budget.steps:
        state.stopped = "budget"
    elif late:
        state.stopped = "seconds"
    elif state.since >= budget.patience:
        state.stopped = "no gain"
    return best


def _still_improving(state: _State) -> bool:
    """Whether the last part of the budget still brought a gain worth having."""
    if state.stopped == "no gain" or len(state.points) < 2:
        return state.stopped != "no gain"
    last = state.points[-1].images
    before = [p.loss for p in state.points if p.images <= last * (1 - LAST_PART)]
    earlier = min(before) if before else state.points[0].loss
    return state.best < earlier - STILL_IMPROVING * abs(earlier)


def _set_rate(optimizer: torch.optim.Optimizer, budget: Fit, step: int) -> None:
    """A short rise, then a cosine down to a tenth: never so low that a gain could hide."""
    rise = max(1, round(0.05 * budget.steps))
    part = min(1.0, step / budget.steps)
    factor = min(1.0, (step + 1) / rise) * (
        FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * part)) / 2
    )
    for group in optimizer.param_groups:
        group["lr"] = budget.lr * factor


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def _save(
    folder: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: _State,
    best: Mapping[str, Tensor],
) -> None:
    """The state, whole or not at all."""
    said = asdict(state) | {"best": None if math.isinf(state.best) else state.best}
    training = {f"now.{name}": tensor for name, tensor in module.state_dict().items()}
    parts = {"model": dict(best), "training": {**training, **optimizer_tensors(optimizer)}}
    if state.stopped:
        parts = {"model": dict(best)}
    checkpoint.save(folder, Card(task="attack", model={}, metrics=said), parts)


def _restore(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[_State, dict[str, Tensor]]:
    """A state that was saved; its weights go into the module."""
    raw = checkpoint.load_card(folder).metrics
    best = checkpoint.load_part(folder)
    checkpoint.load_into(module, best, str(folder))
    where = next(module.parameters()).device
    best = {name: tensor.to(where) for name, tensor in best.items()}
    if not raw["stopped"]:
        training = checkpoint.load_part(folder, "training")
        now = {k.removeprefix("now."): v for k, v in training.items() if k.startswith("now.")}
        checkpoint.load_into(module, now, str(folder))
        restore_optimizer(optimizer, training, str(folder))
    points = [Point(**point) for point in raw["points"]]
    least = math.inf if raw["best"] is None else raw["best"]
    return _State(**{**raw, "points": points, "best": least}), best

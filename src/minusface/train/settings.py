"""Settings that no run could use, refused before anything is built."""

from __future__ import annotations

from typing import Any, get_args

from minusface.config import MOST_RATIO, Precision, TaskName, TrainConfig
from minusface.errors import MinusfaceError, choice_error

CHOICES: dict[str, tuple[str, ...]] = {
    "task": get_args(TaskName),
    "precision": get_args(Precision),
    "optimizer.name": ("sgd", "adamw", "muon"),
    "schedule.name": ("step", "cosine"),
    "stage2.obfuscation": ("shuffle", "mask"),
    "data.on_error": ("fail", "skip"),
}
# key: (least, whether the least itself is allowed, most, whether the most itself is allowed)
RANGES: dict[str, tuple[float, bool, float, bool]] = {
    "epochs": (0, False, float("inf"), False),
    "batch_size": (1, True, float("inf"), False),
    # What torch's generators take.
    "seed": (0, True, 2**63, False),
    "log_every": (1, True, float("inf"), False),
    "save_every": (1, True, float("inf"), False),
    "evaluation.every": (0, True, float("inf"), False),
    "stage2.permutations": (1, True, float("inf"), False),
    "stage2.n_duplicate": (1, True, float("inf"), False),
    "stage2.mask_fraction": (0, True, 1, False),
    "stage2.consistency": (0, True, float("inf"), False),
    "loss.alpha": (0, True, float("inf"), False),
    "loss.beta": (0, True, float("inf"), False),
    "loss.shuffled": (0, True, float("inf"), False),
    "loss.adversary": (0, True, float("inf"), False),
    "loss.adversary_width": (1, True, float("inf"), False),
    "loss.views": (1, True, float("inf"), False),
    "loss.sparsity": (0, True, float("inf"), False),
    "loss.sparsity_target": (0, False, 1, False),
    "head.weight": (0, True, float("inf"), False),
    "head.sample_rate": (0, False, 1, True),
    "distill.weight": (0, True, float("inf"), False),
    "distill.pairwise": (0, True, float("inf"), False),
    "distill.relation": (0, True, float("inf"), False),
    "distill.temperature": (0, False, float("inf"), False),
    "distill.twin_weight": (0, True, float("inf"), False),
    "distill.blend": (0, True, 1, True),
    "dropout": (0, True, 1, False),
    "optimizer.lr": (0, False, float("inf"), False),
    "optimizer.generator_factor": (0, True, float("inf"), False),
    "optimizer.momentum": (0, True, 1, False),
    "optimizer.weight_decay": (0, True, float("inf"), False),
    "optimizer.clip": (0, True, float("inf"), False),
    "codec.ratio": (1, True, MOST_RATIO, True),
    "schedule.gamma": (0, True, float("inf"), False),
    "schedule.warmup": (0, True, float("inf"), False),
    "data.shift": (0, True, float("inf"), False),
    **{
        f"data.augment.{name}": (0, True, 1, True)
        for name in ("jitter", "colour", "grey", "occlusion", "blur", "jpeg")
    },
    "data.workers": (0, True, float("inf"), False),
}
# The same, of each of data.branches.
BRANCH_RANGES: dict[str, tuple[float, bool, float, bool]] = {
    "batch_size": (1, True, float("inf"), False),
    "weight": (0, True, float("inf"), False),
}


def check_settings(config: TrainConfig) -> None:
    """Refuse unknown names and numbers out of range.

    Raises:
        MinusfaceError: naming the key, its value and what is allowed.
    """
    for key, known in CHOICES.items():
        if _value(config, key) not in known:
            raise choice_error(key, str(_value(config, key)), known)
    _check_compile(config)
    _check_held_out(config)
    for key, allowed in RANGES.items():
        _check_range(key, _value(config, key), allowed)
    for number, branch in enumerate(config.data.branches):
        for name, allowed in BRANCH_RANGES.items():
            _check_range(f"data.branches.{number}.{name}", getattr(branch, name), allowed)


def _check_range(key: str, value: float, allowed: tuple[float, bool, float, bool]) -> None:
    least, least_too, most, most_too = allowed
    above = value >= least if least_too else value > least
    below = value <= most if most_too else value < most
    if above and below:
        return
    low = f"{'at least' if least_too else 'more than'} {least}"
    high = "" if most == float("inf") else f" and {'at most' if most_too else 'less than'} {most}"
    raise MinusfaceError(f"{key} {value}: expected {low}{high}")


def _check_held_out(config: TrainConfig) -> None:
    two_parts = config.task in ("stage1", "toy")
    if two_parts and config.loss.beta == 0 and config.evaluation.pairs is not None:
        raise MinusfaceError(
            "evaluation.pairs: told apart by the residue's recogniser, which loss.beta 0 leaves untrained; "
            "expected none, or a beta of more than 0"
        )


def _check_compile(config: TrainConfig) -> None:
    if config.compile and config.recompute:
        raise MinusfaceError("compile true: does not go with recompute true, expected one of them")
    if config.distill.twin is not None and config.task != "stage2":
        raise MinusfaceError(
            f"distill.twin: only stage2 imitates a twin, expected none for task {config.task}"
        )
    if config.distill.blend > 0 and config.distill.teacher is None:
        raise MinusfaceError(
            "distill.blend: imitates a twin in the teacher's place, expected a distill.teacher too"
        )
    if config.distill.blend > 0 and config.head.weight > 0:
        raise MinusfaceError(
            f"distill.blend: nobody's faces have no label, expected head.weight 0, not {config.head.weight:g}"
        )
    if config.distill.twin is not None and config.compile:
        raise MinusfaceError("compile true: does not go with distill.twin, expected one of them")


def _value(config: TrainConfig, key: str) -> Any:
    """The value of a dotted key."""
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value

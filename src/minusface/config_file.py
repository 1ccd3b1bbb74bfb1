"""Training configs from YAML files and dotted overrides. No torch here."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from minusface.arguments import nearest, tidy
from minusface.config import TrainConfig, plain
from minusface.errors import MinusfaceError
from minusface.train.settings import check_settings


def read_config(
    path: str | Path | None,
    overrides: Sequence[str] = (),
    settings: dict[str, Any] | None = None,
) -> TrainConfig:
    """The config in a YAML file, with overrides.

    Args:
        path: a YAML file; None: the defaults.
        overrides: ``optimizer.lr=0.01``, each one key and value; the last of a key wins.
        settings: what stands in the file, where it has been read already.

    Raises:
        MinusfaceError: unreadable, a key it does not know (the nearest is named), or a value of another
            type.
    """
    from jsonargparse import ArgumentError

    parser = config_parser()
    where = "" if path is None else f"{path}: "
    try:
        if settings is None:
            settings = {} if path is None else _mapping(path)
        values = parser.parse_object(settings)
        where = ""
        values = parser.parse_args([f"--{override}" for override in overrides], namespace=values)
        # Its newer name first: the older one is on its way out.
        instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes
        config = TrainConfig(**vars(instantiate(values)))
    except (ArgumentError, TypeError) as error:
        raise MinusfaceError(where + tidy(error)) from error
    _check_values(config)
    return config


def config_parser() -> Any:
    """A parser whose options are the config's dotted keys."""
    from jsonargparse import ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog="minusface train", exit_on_error=False, usage="")
    parser.add_class_arguments(TrainConfig)
    return parser


def config_yaml(config: TrainConfig) -> str:
    """Every setting as YAML, as :func:`read_config` reads it."""
    return yaml.safe_dump(plain(config), sort_keys=False)


def known_keys() -> list[str]:
    """All dotted keys of a config."""
    return [key for key, _, _ in _settings(TrainConfig())]


def is_switch(key: str) -> bool:
    """Whether a key holds true or false."""
    kinds = (bool, bool | None)
    return any(name == key and hint in kinds for name, hint, _ in _settings(TrainConfig()))


def check_key(key: str, where: str = "") -> None:
    """Refuse a key that a config does not have.

    Raises:
        MinusfaceError: naming the nearest one.
    """
    known = known_keys()
    if key not in known:
        groups = {name[: -len(tail)] for name in known for tail in _tails(name)}
        hint = (
            f"; it is a group: {key}.NAME"
            if key in groups
            else nearest(key, [*known, *sorted(groups)])
        )
        raise MinusfaceError(f"{where}unknown key {key!r}{hint} (minusface train --help lists all)")


def useless(config: TrainConfig) -> list[str]:
    """Settings that differ from their defaults and have no effect, a line each."""
    reasons: dict[str, str] = {}
    task, two_parts = f"task is {config.task}", config.task in ("stage1", "toy")
    if config.task != "stage2":
        reasons["stage2."] = task
    if not two_parts:
        reasons |= {"loss.": task, "optimizer.generator_factor": task}
    if config.task == "plain":
        reasons |= {"generator.": task, "start.generator": task, "codec.name": task}
        reasons["codec.ratio"] = task
    if two_parts and (config.task == "toy" or config.loss.shuffled == 0):
        reasons["recognizer.input"] = f"{task}: features are never transformed"
    if config.head.weight == 0:
        reasons["head."] = "head.weight is 0"
    if config.distill.teacher is None:
        reasons |= dict.fromkeys(
            ("distill.weight", "distill.pairwise"), "distill.teacher is not given"
        )
    if config.distill.relation == 0:
        reasons["distill.temperature"] = "distill.relation is 0"
    if config.distill.twin is None:
        reasons |= dict.fromkeys(
            ("distill.twin_weight", "distill.blend"), "distill.twin is not given"
        )
    if not config.recognizer.backbone.startswith("ir_"):
        reasons["dropout"] = f"recognizer.backbone {config.recognizer.backbone} has none"
    if config.loss.adversary == 0:
        reasons |= dict.fromkeys(
            ("loss.adversary_width", "loss.adversary_unmixed"), "loss.adversary is 0"
        )
        if config.loss.shuffled == 0:
            reasons["loss.views"] = "loss.shuffled and loss.adversary are 0"
    if config.task == "toy":
        reasons |= dict.fromkeys(("loss.shuffled", "loss.adversary"), "task is toy")
    if config.loss.sparsity == 0:
        reasons["loss.sparsity_target"] = "loss.sparsity is 0"
    if config.stage2.obfuscation != "mask":
        reasons["stage2.mask_fraction"] = "stage2.obfuscation is shuffle"
    if config.stage2.permutations == 1:
        reasons["stage2.consistency"] = "stage2.permutations is 1"
    if config.schedule.name == "cosine":
        reasons |= dict.fromkeys(("schedule.milestones", "schedule.gamma"), "schedule is cosine")
    if config.freeze_batchnorm:
        reasons["sync_batchnorm"] = "freeze_batchnorm is true"
    if config.data.branches:
        reasons |= dict.fromkeys(
            ("data.faces", "data.people", "batch_size", "head.scale", "head.margin"),
            "each of data.branches has its own",
        )
    if config.data.faces.startswith("synthetic"):
        reasons["data.people"] = "the faces are synthetic"
    elif config.evaluation.pairs is None:
        reasons["evaluation."] = "evaluation.pairs is not given"
    defaults = {key: value for key, _, value in _settings(TrainConfig())}
    lines = []
    for key, _, value in _settings(config):
        reason = next((why for start, why in reasons.items() if key.startswith(start)), None)
        switch = key == "head.weight"
        if reason is not None and value != defaults[key] and not switch:
            lines.append(f"{key} has no effect: {reason}")
    return lines


def _settings(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, type, value) of every setting."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _settings(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, hints[field.name], value


def _mapping(path: str | Path) -> dict[str, Any]:
    """A YAML file of known keys."""
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no UTF-8 text"
        raise MinusfaceError(f"{path}: cannot read ({reason})") from error
    except yaml.YAMLError as error:
        raise MinusfaceError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(raw, dict):
        kind = "nothing" if raw is None else type(raw).__name__
        raise MinusfaceError(f"{path}: expected keys and values, found {kind}")
    _check_group(raw, "", f"{path}: ")
    return raw


def _check_group(settings: dict[str, Any], prefix: str, where: str) -> None:
    """Refuse keys that a config does not have, and values where a group of keys is meant."""
    groups = {key[: -len(tail)] for key in known_keys() for tail in _tails(key)}
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if key not in groups:
            check_key(key, where)
        elif not isinstance(value, dict):
            raise MinusfaceError(f"{where}{key}: expected keys and values, got {value!r}")
        else:
            _check_group(value, f"{key}.", where)


def _tails(key: str) -> list[str]:
    """What follows each group that a key lies in: a.b.c has .b.c (in a) and .c (in a.b)."""
    parts = key.split(".")
    return ["." + ".".join(parts[i:]) for i in range(1, len(parts))]


def _check_values(config: TrainConfig) -> None:
    """Refuse null where it means nothing, and numbers that no run can use."""
    for key, hint, value in _settings(config):
        optional = isinstance(hint, types.UnionType) and type(None) in hint.__args__
        if value is None and not optional:
            raise MinusfaceError(f"{key}: expected a value, got null")
    check_settings(config)

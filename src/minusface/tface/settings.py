"""TFace's ``train.yaml`` for MinusFace as one of our configs: each key mapped, refused, or named as idle.

No torch here. Where the reference's code does other than its file says, what it does is followed, and said.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from minusface.arguments import nearest
from minusface.errors import MinusfaceError

HEADS = {
    "ArcFace": "arcface",
    "CosFace": "cosface",
    "CurricularFace": "curricularface",
    "AdaFace": "adaface",
}
BACKBONES = {f"IR_{se}{n}": f"ir_{se.lower()}{n}" for se in ("", "SE_") for n in (18, 34, 50, 100)}
# All of them the softmax cross entropy of the head's logits.
LOSSES = ("DistCrossEntropy", "CrossEntropy", "Softmax")
LAUNCHER = "processes, their ranks and how they meet come from torchrun"
NO_EFFECT = {
    "LOG_ROOT": "the log lies in the run's folder (out)",
    "DIST_FC": "how class centres are spread does not change the losses here",
    "SAVE_EPOCHS": "out/last is saved every save_every steps, out/best after evaluations",
    "BACKBONE_NAME": "the reference takes TASK_BACKBONE",
    "WORLD_SIZE": LAUNCHER,
    "RANK": LAUNCHER,
    "LOCAL_RANK": LAUNCHER,
    "DIST_BACKEND": LAUNCHER,
    "DIST_URL": LAUNCHER,
    "TASK_VER": "the reference does not read it",
    "AMP": "the reference only scales the loss and never casts; precision: bfloat16 here does cast",
}
RESUMES = {
    "BACKBONE_RESUME": "start.recognizer",
    "HEAD_RESUME": None,
    "META_RESUME": None,
    "PRETRAIN_CKPT": "start.generator",
}


class Note(NamedTuple):
    """What became of a key."""

    key: str
    what: str


class _Mapping:
    """The file's keys, taken one by one."""

    def __init__(self, path: Path, raw: dict[str, Any]) -> None:
        self.path, self.raw = path, raw
        self.notes: list[Note] = []
        self.made: dict[str, Any] = {}

    def refuse(self, key: str, reason: str) -> MinusfaceError:
        return MinusfaceError(f"{self.path}: {key}: {reason}")

    def put(self, dotted: str, value: Any) -> None:
        """Set a key of ours."""
        group, _, name = dotted.rpartition(".")
        place = self.made.setdefault(group, {}) if group else self.made
        place[name] = value

    def number(self, key: str, value: Any, kind: type = float) -> Any:
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not good or (kind is int and value != int(value)):
            raise self.refuse(key, f"{value!r}, expected a {'whole ' if kind is int else ''}number")
        return kind(value)

    def pick(self, key: str, value: Any, known: dict[str, str]) -> str:
        if value not in known:
            raise self.refuse(key, f"{value!r} is not known here (known: {', '.join(known)})")
        return known[value]


def tface_settings(path: Path | str) -> tuple[dict[str, Any], list[Note]]:
    """Our settings for a TFace training file.

    Args:
        path: the file. Relative paths in it stay relative to the working folder, as in the reference.

    Returns:
        Keys and values as our YAML has them, and what had no effect or needs to be known.

    Raises:
        MinusfaceError: an unreadable file, an unknown key (the nearest is named), or one that cannot be
            followed, with the reason.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no UTF-8 text"
        raise MinusfaceError(f"{path}: cannot read ({reason})") from error
    except yaml.YAMLError as error:
        raise MinusfaceError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(raw, dict):
        raise MinusfaceError(f"{path}: expected TFace's keys and values")
    mapping = _Mapping(path, raw)
    for key, value in raw.items():
        if key in NO_EFFECT:
            mapping.notes.append(Note(key, f"has no effect: {NO_EFFECT[key]}"))
        elif key in RESUMES:
            _resume(mapping, key, value)
        elif key in KEYS:
            KEYS[key](mapping, key, value)
        else:
            known = [*NO_EFFECT, *RESUMES, *KEYS]
            raise MinusfaceError(f"{path}: unknown key {key!r}{nearest(str(key), known)}")
    _together(mapping)
    return mapping.made, mapping.notes


def _simple(dotted: str, kind: type = float) -> Callable[[_Mapping, str, Any], None]:
    def put(mapping: _Mapping, key: str, value: Any) -> None:
        mapping.put(dotted, str(value) if kind is str else mapping.number(key, value, kind))

    return put


def _task(mapping: _Mapping, key: str, value: Any) -> None:
    known = {"stage1": "stage1", "stage2": "stage2", "toy": "toy"}
    mapping.put("task", mapping.pick(key, value, known))
    if value == "toy":
        mapping.put("codec.name", "raw")


def _method(mapping: _Mapping, key: str, value: Any) -> None:
    mapping.pick(key, value, {"MinusFace": "minusface", "Minusface": "minusface"})


def _size(mapping: _Mapping, key: str, value: Any) -> None:
    if not isinstance(value, list) or len(value) != 2 or value[0] != value[1]:
        raise mapping.refuse(key, f"{value!r}, expected two equal sides, [112, 112]")
    mapping.put("codec.size", mapping.number(key, value[0], int))


def _half(mapping: _Mapping, key: str, value: Any) -> None:
    if not isinstance(value, list) or any(abs(float(v) - 0.5) > 1e-6 for v in value):
        raise mapping.refuse(
            key, f"{value!r}; crops are brought to [-1, 1] here, which is 0.5 each"
        )


def _choice(dotted: str, known: dict[str, str]) -> Callable[[_Mapping, str, Any], None]:
    def put(mapping: _Mapping, key: str, value: Any) -> None:
        mapping.put(dotted, mapping.pick(key, value, known))

    return put


def _loss(mapping: _Mapping, key: str, value: Any) -> None:
    mapping.pick(key, value, dict.fromkeys(LOSSES, ""))


def _start_epoch(mapping: _Mapping, key: str, value: Any) -> None:
    if value:
        raise mapping.refuse(key, f"{value}; a run goes on with --resume, from its own checkpoint")


def _permutations(mapping: _Mapping, key: str, value: Any) -> None:
    other = mapping.raw.get("NUM_DUPS" if key == "NUM_AUG" else "NUM_AUG", value)
    if other != value:
        raise mapping.refuse(key, f"NUM_AUG and NUM_DUPS say {value} and {other}: one and the same")
    mapping.put("stage2.permutations", mapping.number(key, value, int))


def _resume(mapping: _Mapping, key: str, value: Any) -> None:
    """Checkpoints to begin with: ours are folders."""
    if not value:
        return
    ours = RESUMES[key]
    if ours is None:
        raise mapping.refuse(
            key, "TFace's head and optimiser states cannot be taken over; leave it empty"
        )
    if str(value).endswith((".pth", ".pt")):
        hint = f"minusface import-tface {value} --out DIR, then {key}: DIR"
        raise mapping.refuse(key, f"{value} is a TFace checkpoint; {hint}")
    mapping.put(ours, str(value))


def _later(mapping: _Mapping, key: str, value: Any) -> None:
    """Taken together with others, at the end."""


def _together(mapping: _Mapping) -> None:
    raw = mapping.raw
    if "TASK" not in raw:
        raise MinusfaceError(f"{mapping.path}: TASK is missing, expected stage1, stage2 or toy")
    mapping.put("recognizer.input", "as_is")
    mapping.put("optimizer.name", "sgd")
    _rates(mapping)
    steps = _datasets(mapping)
    warmup = raw.get("WARMUP_STEP") or 0
    if mapping.number("WARMUP_STEP", warmup, int) > 0:
        if steps is None:
            reason = f"{warmup} steps; set schedule.warmup in epochs instead: the index is not here to count"
            raise mapping.refuse("WARMUP_STEP", reason)
        mapping.put("schedule.warmup", round(warmup / steps, 6))
    if mapping.made["task"] != "stage2":
        mapping.notes.append(
            Note(
                "LRS",
                "optimizer.generator_factor is the paper's 0.5; the reference's code trains all at one rate",
            )
        )


def _rates(mapping: _Mapping) -> None:
    rates, stages = mapping.raw.get("LRS"), mapping.raw.get("STAGES", [])
    if rates is None:
        return
    if not isinstance(rates, list) or not isinstance(stages, list) or len(rates) != len(stages) + 1:
        raise mapping.refuse("LRS", f"{rates}; expected one more than STAGES ({stages})")
    values = [mapping.number("LRS", rate) for rate in rates]
    ratios = [b / a for a, b in itertools.pairwise(values)]
    if any(abs(ratio - ratios[0]) > 1e-6 for ratio in ratios):
        raise mapping.refuse("LRS", f"{rates}; expected one ratio from each to the next")
    mapping.put("optimizer.lr", values[0])
    mapping.put("schedule.name", "step")
    mapping.put("schedule.milestones", [mapping.number("STAGES", stage) for stage in stages])
    if ratios:
        mapping.put("schedule.gamma", round(ratios[0], 9))


def _datasets(mapping: _Mapping) -> int | None:
    """Training data; steps an epoch where the indices are here."""
    sets = mapping.raw.get("DATASETS")
    if not isinstance(sets, list) or not sets or not all(isinstance(one, dict) for one in sets):
        raise mapping.refuse(
            "DATASETS", "expected a list of name, batch_size, weight, scale, margin"
        )
    data, index = Path(mapping.raw.get("DATA_ROOT", "")), Path(mapping.raw.get("INDEX_ROOT", ""))
    branches, steps = [], []
    for one in sets:
        unknown = next((k for k in one if k not in ("name", *BRANCH)), None)
        if unknown is not None or not one.get("name"):
            what = f"unknown {unknown!r}" if unknown else "a dataset without a name (fill it in)"
            raise mapping.refuse("DATASETS", f"{what}; known: name, {', '.join(BRANCH)}")
        if not isinstance(one["name"], str):
            raise mapping.refuse("DATASETS.name", f"{one['name']!r}, expected a name")
        listed = index / f"{one['name']}.txt"
        kind = "tfrecord" if "TFR" in one["name"] else "list"
        branch = {"faces": f"{kind}:{listed}@{data}"}
        for key, kind_ in BRANCH.items():
            if key in one:
                branch[key] = mapping.number(f"DATASETS.{key}", one[key], kind_)
        branches.append(branch)
        if listed.is_file():
            with open(listed, "rb") as file:
                lines = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
            steps.append(max(1, lines // int(branch.get("batch_size", 64))))
    if len(branches) > 1:
        mapping.put("data.branches", branches)
    else:
        places = ("data.faces", "batch_size", "head.weight", "head.scale", "head.margin")
        for key, dotted in zip(("faces", *BRANCH), places, strict=True):
            if key in branches[0]:
                mapping.put(dotted, branches[0][key])
    return max(steps) if len(steps) == len(sets) else None


BRANCH: dict[str, type] = {"batch_size": int, "weight": float, "scale": float, "margin": float}
KEYS: dict[str, Callable[[_Mapping, str, Any], None]] = {
    "SEED": _simple("seed", int),
    "DATA_ROOT": _later,
    "INDEX_ROOT": _later,
    "DATASETS": _later,
    "INPUT_SIZE": _size,
    "EMBEDDING_SIZE": _simple("recognizer.embedding_size", int),
    "MODEL_ROOT": _simple("out", str),
    "HEAD_NAME": _choice("head.name", HEADS),
    "LOSS_NAME": _loss,
    "RGB_MEAN": _half,
    "RGB_STD": _half,
    "LRS": _later,
    "STAGES": _later,
    "WARMUP_STEP": _later,
    "START_EPOCH": _start_epoch,
    "NUM_EPOCH": _simple("epochs"),
    "WEIGHT_DECAY": _simple("optimizer.weight_decay"),
    "MOMENTUM": _simple("optimizer.momentum"),
    "NUM_WORKERS": _simple("data.workers", int),
    "METHOD": _method,
    "TASK": _task,
    "NUM_AUG": _permutations,
    "NUM_DUPS": _permutations,
    "TASK_BACKBONE": _choice("recognizer.backbone", BACKBONES),
}

"""TFace's ``train.yaml`` for MinusFace as one of our configs: each key mapped, refused, or named as idle.

No torch here. Where the reference's code does other than its file says, what it does is followed, and said.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from minusface.arguments import nearest
from minusface.errors import MinusfaceError
from minusface.tface.datasets import take_datasets
from minusface.tface.given import Given, Note

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
    except (yaml.YAMLError, ValueError) as error:
        raise MinusfaceError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(raw, dict):
        raise MinusfaceError(f"{path}: expected TFace's keys and values")
    mapping = Given(path, raw)
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


def _simple(dotted: str, kind: type = float) -> Callable[[Given, str, Any], None]:
    def put(mapping: Given, key: str, value: Any) -> None:
        mapping.put(dotted, mapping.number(key, value, kind))

    return put


def _out(mapping: Given, key: str, value: Any) -> None:
    if not mapping.folder(key, value):
        raise mapping.refuse(key, "is empty, expected a folder")
    mapping.put("out", value)


def _task(mapping: Given, key: str, value: Any) -> None:
    known = {"stage1": "stage1", "stage2": "stage2", "toy": "toy"}
    mapping.put("task", mapping.pick(key, value, known))
    if value == "toy":
        mapping.put("codec.name", "raw")


def _method(mapping: Given, key: str, value: Any) -> None:
    mapping.pick(key, value, {"MinusFace": "minusface", "Minusface": "minusface"})


def _size(mapping: Given, key: str, value: Any) -> None:
    if not isinstance(value, list) or len(value) != 2 or value[0] != value[1]:
        raise mapping.refuse(key, f"{value!r}, expected two equal sides, [112, 112]")
    mapping.put("codec.size", mapping.number(key, value[0], int))


def _half(mapping: Given, key: str, value: Any) -> None:
    halves = isinstance(value, list) and [mapping.number(key, one) for one in value]
    if not halves or any(abs(half - 0.5) > 1e-6 for half in halves):
        raise mapping.refuse(
            key, f"{value!r}; crops are brought to [-1, 1] here, which is 0.5 each"
        )


def _choice(dotted: str, known: dict[str, str]) -> Callable[[Given, str, Any], None]:
    def put(mapping: Given, key: str, value: Any) -> None:
        mapping.put(dotted, mapping.pick(key, value, known))

    return put


def _loss(mapping: Given, key: str, value: Any) -> None:
    mapping.pick(key, value, dict.fromkeys(LOSSES, ""))


def _start_epoch(mapping: Given, key: str, value: Any) -> None:
    if value:
        raise mapping.refuse(key, f"{value}; a run goes on with --resume, from its own checkpoint")


def _permutations(mapping: Given, key: str, value: Any) -> None:
    other = mapping.raw.get("NUM_DUPS" if key == "NUM_AUG" else "NUM_AUG", value)
    if other != value:
        raise mapping.refuse(key, f"NUM_AUG and NUM_DUPS say {value} and {other}: one and the same")
    mapping.put("stage2.permutations", mapping.number(key, value, int))


def _resume(mapping: Given, key: str, value: Any) -> None:
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
    mapping.put(ours, mapping.folder(key, value))


def _later(mapping: Given, key: str, value: Any) -> None:
    """Taken together with others, at the end."""


def _together(mapping: Given) -> None:
    raw = mapping.raw
    if "TASK" not in raw:
        raise MinusfaceError(f"{mapping.path}: TASK is missing, expected stage1, stage2 or toy")
    mapping.put("recognizer.input", "as_is")
    mapping.put("optimizer.name", "sgd")
    _rates(mapping)
    steps = take_datasets(mapping)
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


def _rates(mapping: Given) -> None:
    rates, stages = mapping.raw.get("LRS"), mapping.raw.get("STAGES", [])
    if rates is None:
        return
    if not isinstance(rates, list) or not isinstance(stages, list) or len(rates) != len(stages) + 1:
        raise mapping.refuse("LRS", f"{rates}; expected one more than STAGES ({stages})")
    values = [mapping.number("LRS", rate) for rate in rates]
    if min(values) <= 0:
        raise mapping.refuse("LRS", f"{rates}; expected rates of more than 0")
    ratios = [b / a for a, b in itertools.pairwise(values)]
    if any(abs(ratio - ratios[0]) > 1e-6 for ratio in ratios):
        raise mapping.refuse("LRS", f"{rates}; expected one ratio from each to the next")
    mapping.put("optimizer.lr", values[0])
    mapping.put("schedule.name", "step")
    mapping.put("schedule.milestones", [mapping.number("STAGES", stage) for stage in stages])
    if ratios:
        mapping.put("schedule.gamma", round(ratios[0], 9))


KEYS: dict[str, Callable[[Given, str, Any], None]] = {
    "SEED": _simple("seed", int),
    "DATA_ROOT": _later,
    "INDEX_ROOT": _later,
    "DATASETS": _later,
    "WORLD_SIZE": _later,
    "INPUT_SIZE": _size,
    "EMBEDDING_SIZE": _simple("recognizer.embedding_size", int),
    "MODEL_ROOT": _out,
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

"""TFace's DATASETS as our ``data``, and how many processes its batch sizes are for. No torch here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from minusface.tface.given import Given, Note

BRANCH: dict[str, type] = {"batch_size": int, "weight": float, "scale": float, "margin": float}


def take_datasets(given: Given) -> int | None:
    """Training data; steps an epoch where the indices are here.

    Raises:
        MinusfaceError: naming the key.
    """
    sets = given.raw.get("DATASETS")
    if not isinstance(sets, list) or not sets or not all(isinstance(one, dict) for one in sets):
        raise given.refuse("DATASETS", "expected a list of name, batch_size, weight, scale, margin")
    data, index = (
        Path(given.folder(key, given.raw.get(key, ""))) for key in ("DATA_ROOT", "INDEX_ROOT")
    )
    processes = _processes(given)
    branches, steps = [], []
    for one in sets:
        branch, listed = _branch(given, one, data, index, processes)
        branches.append(branch)
        if listed.is_file():
            with open(listed, "rb") as file:
                lines = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
            steps.append(max(1, lines // branch.get("batch_size", 64)))
    if len(branches) > 1:
        given.put("data.branches", branches)
    else:
        places = ("data.faces", "batch_size", "head.weight", "head.scale", "head.margin")
        for key, dotted in zip(("faces", *BRANCH), places, strict=True):
            if key in branches[0]:
                given.put(dotted, branches[0][key])
    return max(steps) if len(steps) == len(sets) else None


def _branch(
    given: Given, one: dict[str, Any], data: Path, index: Path, processes: int
) -> tuple[dict[str, Any], Path]:
    """One dataset as a branch of ours, and its index."""
    unknown = next((k for k in one if k not in ("name", *BRANCH)), None)
    if unknown is not None or not one.get("name"):
        what = f"unknown {unknown!r}" if unknown else "a dataset without a name (fill it in)"
        raise given.refuse("DATASETS", f"{what}; known: name, {', '.join(BRANCH)}")
    if not isinstance(one["name"], str):
        raise given.refuse("DATASETS.name", f"{one['name']!r}, expected a name")
    listed = index / f"{one['name']}.txt"
    kind = "tfrecord" if "TFR" in one["name"] else "list"
    branch: dict[str, Any] = {"faces": f"{kind}:{listed}@{data}"}
    for key, kind_ in BRANCH.items():
        if key in one:
            branch[key] = given.number(f"DATASETS.{key}", one[key], kind_)
    if "batch_size" in one:
        branch["batch_size"] = processes * given.count("DATASETS.batch_size", one["batch_size"])
    return branch, listed


def _processes(given: Given) -> int:
    """How many processes have a batch of that size each: torchrun's, or those of the file.

    There every process loads batches of its own; here a batch is that of all processes.
    """
    stated = given.count("WORLD_SIZE", given.raw.get("WORLD_SIZE") or 1)
    started = os.environ.get("WORLD_SIZE", "")
    processes = int(started) if started.isdecimal() and int(started) > 0 else stated
    if processes > 1:
        source = "torchrun's" if started else "WORLD_SIZE's"
        what = f"batch_size is each process's in the reference: times {source} {processes} here"
        given.notes.append(Note("DATASETS", f"{what}, where it is that of all together"))
    elif not started:
        what = "batch_size is each process's in the reference, and that of all together here: taken as of one"
        given.notes.append(Note("DATASETS", f"{what} process; for N give N times as much"))
    return processes

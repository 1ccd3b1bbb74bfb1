"""What a reader needs to do the demo again: command, commit, sizes, machine."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from minusface.checkpoint import load_card, versions
from minusface.demo.source import Source
from minusface.demo.training import Budget
from minusface.devices import pick_precision
from minusface.train.parallel import pick_device
from minusface.weights import called


@dataclass(frozen=True)
class Options:
    """What ``minusface demo`` was asked for."""

    photo: str | None = None
    faces: str | None = None
    out: str = "runs/demo"
    minutes: float = 7.5
    seed: int = 0
    train: bool = False

    def command(self) -> str:
        """The command line that asks for the same."""
        words = ["minusface", "demo"]
        for name, value in vars(self).items():
            if value != getattr(Options, name):
                words += [f"--{name}", str(value).lower() if value is True else str(value)]
        return shlex.join(words)


def settings(options: Options, budget: Budget, checkpoint: Path, seconds: float) -> dict[str, str]:
    """The rows of the report's last table, in order."""
    model = load_card(checkpoint).model
    net = model["recognizer"]
    # A cohort adds one: how crowded the embedding's place is.
    numbers = net["embedding_size"] + bool(net.get("cohort"))
    told = {
        "generator": f"U-Net of width {model['generator']['width']}, codec {model['codec']['name']}",
        "recogniser": f"{net['backbone']}, {numbers} numbers a template, input {net['input']}",
    }
    if checkpoint.is_relative_to(options.out):
        precision = pick_precision("auto", pick_device("auto"))
        told |= {
            "recipe": f"AdamW 2e-3, cosine, batch {budget.batch_size}, {precision}; stage 2 shows "
            f"{budget.permutations} permutations an image and starts from the unprotected recogniser",
            "budget": f"{budget.minutes:g} minutes for three trainings, a third each; {seconds:.0f} s in all",
            "configs": f"{options.out}/{{plain,stage1,stage2}}/config.yaml",
        }
    made = ", ".join(f"{name} {version}" for name, version in versions().items())
    return told | {
        "evaluation": f"{budget.draws} draws of permutations, mirrored images added under the same "
        f"permutation, 10 folds, seed {options.seed}",
        "command": options.command(),
        "commit": commit() or "not in a git repository",
        "versions": made,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} cores used",
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def commit() -> str | None:
    """The commit that the package is run from, marked where files differ from it; None: no repository."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            [
                "git",
                "-C",
                str(root),
                "describe",
                "--always",
                "--dirty=, with changes",
                "--abbrev=12",
            ],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def next_command(source: Source, checkpoint: Path, options: Options) -> str:
    """What to run after the demo."""
    model = shlex.quote(called(checkpoint))
    if source.evaluate_options:
        return f"{program()} evaluate {model} {source.evaluate_options} --draws 5"
    photo = shlex.quote(options.photo) if options.photo else "PHOTO"
    out = shlex.quote(f"{options.out}/protected")
    return f"{program()} protect {photo} --checkpoint {model} --out {out}"


def program() -> str:
    """How to call the command from here, where its environment may not be activated."""
    if shutil.which("minusface") is not None:
        return "minusface"
    beside = Path(sys.executable).with_name("minusface")
    if not beside.exists():
        return shlex.join([sys.executable, "-m", "minusface"])
    here = Path.cwd()
    return shlex.quote(str(beside.relative_to(here) if beside.is_relative_to(here) else beside))

"""``minusface train``."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minusface.arguments import HELP
from minusface.config import TrainConfig
from minusface.config_file import (
    check_key,
    config_parser,
    config_yaml,
    is_switch,
    read_config,
    useless,
)
from minusface.errors import MinusfaceError

if TYPE_CHECKING:
    from minusface.commands.training import TrainingReport
    from minusface.train.plan import Outcome
    from minusface.train.tasks import Task

USAGE = """usage: minusface train [CONFIG.yaml] [--resume] [--dry-run] [--profile] [--print-config] [--json]
                       [--KEY VALUE ...]
       torchrun --nproc-per-node N -m minusface train CONFIG.yaml ...

Train as a YAML file says; without one, as the defaults below say. Any key can be overridden:
--optimizer.lr 0.01. Writes OUT/config.yaml, OUT/log.jsonl, OUT/last and, where there are held-out
pairs, OUT/best. Ctrl-C saves; --resume goes on to the losses of an unbroken run. Under torchrun N processes
share the batch and the class centres, with the losses of one process; what it restarts goes on from OUT/last.

  --resume        go on from OUT/last
  --dry-run       build everything, run two steps, print memory and projected time; write nothing
  --profile       also write a trace of a few steps to OUT/profile, for chrome://tracing or Perfetto
  --print-config  print the whole config, and train nothing
  --json          print the outcome as JSON
  --tface FILE    in the place of CONFIG: TFace's train.yaml, as it is

Keys:"""
SWITCHES = ("resume", "dry_run", "profile", "print_config", "json")
GROUP_FILE = "Path to a configuration file."
INTERRUPTED = 130


def train(
    config: TrainConfig,
    resume: bool = False,
    dry_run: bool = False,
    profile: bool = False,
    print_config: bool = False,
    json: bool = False,
    source: str | None = None,
) -> int:
    """Run a training and tell about it.

    Args:
        config: everything of the run.
        resume: go on from ``last/``.
        dry_run: take two steps, tell of memory and time, write nothing.
        profile: also write a trace of a few steps.
        print_config: print the config instead.
        json: print the outcome as JSON.
        source: the YAML file that the config came from, to name its successor.
    """
    if print_config:
        print(config_yaml(config), end="")
        return 0
    from minusface import collectives
    from minusface.memory import keep_freed_memory, return_freed_memory
    from minusface.train.parallel import joined

    if config.recompute:
        return_freed_memory()
    else:
        keep_freed_memory()
    with joined(config.device):
        if dry_run:
            return _rehearse(config, json)
        outcome = _run(config, resume, profile)
        first = collectives.rank() == 0
    return _tell(config, outcome, json, source) if first else 0


def _run(config: TrainConfig, resume: bool, profile: bool) -> Outcome:
    """The training, told about while it goes on; by the first process only."""
    from minusface import collectives
    from minusface.commands.training import TrainingReport, introduction
    from minusface.train.build import other_precision, slow_precision
    from minusface.train.going_on import check_out
    from minusface.train.loggers import wanted_loggers
    from minusface.train.parallel import restarted
    from minusface.train.run import drawn_again
    from minusface.train.run import train as run

    resume = resume or restarted(config.out)
    if collectives.rank() > 0:
        return run(config, resume=resume, profile=profile)
    with contextlib.ExitStack() as stack:
        report = stack.enter_context(TrainingReport())
        again = other_precision(config) if resume else drawn_again(config)
        for line in [*useless(config), *slow_precision(config), *again]:
            report.line(f"minusface: warning: {line}")
        evaluate = _evaluation(config, report)
        report.line(introduction(config, held_out=evaluate is not None))
        check_out(config, resume)
        loggers = wanted_loggers(config.tensorboard, config.out)
        for logger in loggers:
            stack.callback(logger.close)
        return run(
            config,
            resume=resume,
            report=report.step,
            evaluate=evaluate,
            loggers=loggers,
            profile=profile,
        )


def _rehearse(config: TrainConfig, json: bool) -> int:
    """Two steps, and what they tell."""
    from minusface import collectives
    from minusface.commands.training import introduction, rehearsal
    from minusface.train.build import slow_precision
    from minusface.train.run import drawn_again, dry_run

    if collectives.rank() > 0:
        dry_run(config)
        return 0
    for line in [*useless(config), *slow_precision(config), *drawn_again(config)]:
        print(f"minusface: warning: {line}", file=sys.stderr)
    print(introduction(config, held_out=_evaluation(config, None) is not None), file=sys.stderr)
    found = dry_run(config)
    if json:
        import json as jsons

        print(jsons.dumps(dataclasses.asdict(found), indent=1))
    else:
        print(rehearsal(found, config.device))
    return 0


def _tell(config: TrainConfig, outcome: Outcome, json: bool, source: str | None) -> int:
    """How it ended, and what to do next; the exit code."""
    if json:
        import json as jsons

        print(jsons.dumps({"out": config.out, **dataclasses.asdict(outcome)}, indent=1))
    if outcome.interrupted:
        again = shlex.join(["minusface", "train", f"{config.out}/config.yaml", "--resume"])
        print(f"stopped at step {outcome.step}; {config.out}/last is saved", file=sys.stderr)
        print(f"go on with: {again}", file=sys.stderr)
        return INTERRUPTED
    if not json:
        print(_ending(config, outcome.metrics))
        print(f"next: {next_command(config, source)}")
    return 0


def parse(arguments: list[str]) -> dict[str, Any] | None:
    """Keyword arguments of :func:`train` from a command line; None after printing help.

    Raises:
        MinusfaceError: an unknown key or option (the nearest is named), or a bad file or value.
    """
    if HELP & set(arguments):
        body = config_parser().format_help()
        lines = body[body.index("One training run:") :].splitlines()[1:]
        # Whole groups from files of their own are not offered here.
        print("\n".join([USAGE, *(line for line in lines if GROUP_FILE not in line)]))
        return None
    switches = dict.fromkeys(SWITCHES, False)
    path: str | None = None
    theirs: str | None = None
    overrides: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("-"):
            if path is not None:
                raise MinusfaceError(f"train: one config, got {path} and {argument}")
            path = argument
            continue
        name, equals, value = argument.partition("=")
        key = name.lstrip("-").replace("-", "_")
        if key in SWITCHES and not equals:
            switches[key] = True
            continue
        if key == "tface":
            theirs = value if equals else rest.pop(0) if rest else ""
            continue
        check_key(key)
        if not equals:
            if rest and not rest[0].startswith("--"):
                value = rest.pop(0)
            elif is_switch(key):
                value = "true"
            else:
                raise MinusfaceError(f"{name}: expected a value after it")
        overrides.append(f"{key}={value}")
    if theirs is None:
        return {"config": read_config(path, overrides), "source": path, **switches}
    if path is not None or not theirs:
        raise MinusfaceError(
            "--tface: expected TFace's train.yaml, and no config of ours beside it"
        )
    from minusface.tface.settings import tface_settings

    settings, notes = tface_settings(theirs)
    for note in notes:
        print(f"minusface: {theirs}: {note.key} {note.what}", file=sys.stderr)
    return {"config": read_config(theirs, overrides, settings), "source": theirs, **switches}


train.parse = parse  # type: ignore[attr-defined]


def _evaluation(
    config: TrainConfig, report: TrainingReport | None
) -> Callable[[Task], dict[str, float]] | None:
    """The held-out evaluation of the config, from a task to metrics; None where there is none."""
    from minusface.evaluate.held_out import held_out

    measure = held_out(config, None if report is None else report.evaluating)
    if measure is None:
        return None

    def evaluate(task: Task) -> dict[str, float]:
        found = measure(task.recognizer, task.protector)
        if report is not None:
            report.evaluated(found)
        return found

    return evaluate


def _ending(config: TrainConfig, metrics: dict[str, Any]) -> str:
    """Where the checkpoints lie and how good they are."""
    from minusface import checkpoint

    folder = checkpoint.find(config.out)
    best = checkpoint.load_card(folder).metrics
    lines = [f"done: {config.out}/last{words(metrics)}"]
    if folder.name == "best":
        lines.append(f"best: {folder}{words(best)} (step {best['step']})")
    return "\n".join(lines)


def words(metrics: dict[str, Any]) -> str:
    """``, accuracy 0.9123, auc 0.9651``; the score is one of the others."""
    found = [
        f", {name} {value:.4f}"
        for name, value in metrics.items()
        if isinstance(value, float) and name not in ("score", "best")
    ]
    return "".join(found)


def next_command(config: TrainConfig, source: str | None = None) -> str:
    """What one would do after a run, ready to be pasted."""
    out = config.out
    if config.task == "stage1":
        if source is not None and "stage1" in Path(source).name:
            following = Path(source).with_name(Path(source).name.replace("stage1", "stage2"))
            if following.is_file():
                start = ["--start.generator", out]
                return shlex.join(["minusface", "train", str(following), *start])
        target = out.replace("stage1", "stage2") if "stage1" in out else f"{out}-stage2"
        changed = ["--task", "stage2", "--out", target, "--start.generator", out]
        return shlex.join(["minusface", "train", f"{out}/config.yaml", *changed])
    if config.evaluation.pairs is not None:
        faces = config.evaluation.faces or config.data.faces
        where = ["--pairs", config.evaluation.pairs, "--faces", faces]
        return shlex.join(["minusface", "evaluate", out, *where])
    if config.task == "stage2" and config.stage2.obfuscation != "mask":
        return shlex.join(["minusface", "protect", "PHOTO", "--out", "DIR", "--checkpoint", out])
    return shlex.join(["minusface", "evaluate", out, "--pairs", "PAIRS", "--faces", "DIR"])

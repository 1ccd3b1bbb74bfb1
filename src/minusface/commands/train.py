"""``minusface train``."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any

from minusface.cli import explain
from minusface.config import TrainConfig
from minusface.errors import MinusfaceError, choice_error

if TYPE_CHECKING:
    from minusface.train.loop import Progress
    from minusface.train.tasks import Task

HELP = """usage: minusface train CONFIG.yaml [--resume] [--print-config] [--json] [--KEY VALUE ...]

Train a recogniser as a YAML file says; any of its keys can be overridden: --optimizer.lr 0.01.
Writes OUT/config.yaml, OUT/log.jsonl, OUT/last and OUT/best. Ctrl-C saves; --resume goes on.

  --resume        go on from OUT/last
  --print-config  print the whole config, and do nothing
  --json          print the outcome as JSON

keys:
"""


def train(config: TrainConfig, resume: bool, print_config: bool, json: bool) -> int:
    """Run a training; see :data:`HELP`."""
    import json as jsons
    import sys

    import yaml

    if print_config:
        print(yaml.safe_dump(_plain(config), sort_keys=False), end="")
        return 0
    from minusface.memory import keep_freed_memory
    from minusface.train.run import train as run

    keep_freed_memory()
    for line in useless(config):
        print(f"minusface: {line}", file=sys.stderr)
    print(introduction(config), file=sys.stderr, flush=True)
    reporter = _Reporter(config)
    outcome = run(config, resume=resume, report=reporter, evaluate=reporter.evaluation())
    reporter.close()
    if json:
        print(jsons.dumps({"out": config.out, **dataclasses.asdict(outcome)}, indent=1))
    if outcome.interrupted:
        print(f"stopped at step {outcome.step}, saved; go on with --resume", file=sys.stderr)
        return 130
    if not json:
        print(f"done: {config.out}/last" + _scores(outcome.metrics))
        print(f"next: {next_command(config)}")
    return 0


def parse(arguments: list[str]) -> dict[str, Any] | None:
    """Keyword arguments of :func:`train` from a command line; None after printing help."""
    from jsonargparse import ArgumentError

    parser = _parser()
    if {"-h", "--help"} & set(arguments):
        body = parser.format_help()
        print(HELP + body[body.find("<class") if "<class" in body else 0 :])
        return None
    switches = {name: f"--{name.replace('_', '-')}" for name in ("resume", "print_config", "json")}
    rest = [a for a in arguments if a not in switches.values()]
    if rest and not rest[0].startswith("--"):
        rest = ["--config", rest[0], *rest[1:]]
    known = [f"--{key}" for key in known_keys()]
    try:
        for file in _config_files(rest):
            check_keys(file)
        namespace = parser.parse_args(rest)
        values = dict(vars(parser.instantiate(namespace)))
    except ArgumentError as error:
        raise explain(error, rest, known) from error
    values.pop("config", None)
    options: dict[str, Any] = {name: flag in arguments for name, flag in switches.items()}
    return {"config": TrainConfig(**values), **options}


train.parse = parse  # type: ignore[attr-defined]


def _parser() -> Any:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="minusface train", exit_on_error=False)
    parser.add_argument("--config", action="config", help="a YAML file")
    parser.add_class_arguments(TrainConfig)
    return parser


def load_config(path: str) -> TrainConfig:
    """The config in a YAML file.

    Raises:
        MinusfaceError: unreadable, or a key or value it does not know.
    """
    options = parse([path])
    assert options is not None
    config: TrainConfig = options["config"]
    return config


def known_keys(cls: Any = TrainConfig, prefix: str = "") -> list[str]:
    """All dotted keys of a config."""
    keys: list[str] = []
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(field.default_factory):
            keys += known_keys(field.default_factory, f"{prefix}{field.name}.")
        else:
            keys.append(prefix + field.name)
    return keys


def check_keys(path: str) -> None:
    """Refuse a YAML file with a key that a config does not have, naming the nearest one.

    Raises:
        MinusfaceError: unreadable, no mapping, or an unknown key.
    """
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            raw = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError) as error:
        raise MinusfaceError(
            f"{path}: cannot read ({getattr(error, 'strerror', error)})"
        ) from error
    except yaml.YAMLError as error:
        raise MinusfaceError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(raw, dict):
        raise MinusfaceError(f"{path}: expected keys and values, found {type(raw).__name__}")
    known = known_keys()
    groups = {key.split(".")[0] for key in known if "." in key}
    for key, value in raw.items():
        names = (
            [f"{key}.{inner}" for inner in value]
            if key in groups and isinstance(value, dict)
            else [key]
        )
        for name in map(str, names):
            if name not in known and name not in groups:
                raise MinusfaceError(f"{path}: {choice_error('key', name, known)}")


def _config_files(arguments: list[str]) -> list[str]:
    return [b for a, b in itertools.pairwise(arguments) if a == "--config"]


def useless(config: TrainConfig) -> list[str]:
    """Settings that have no effect, a line each."""
    default, lines = TrainConfig(), []
    if config.task != "stage2" and config.stage2 != default.stage2:
        lines.append(f"stage2.* has no effect on task {config.task}")
    if config.task not in ("stage1", "toy") and config.loss != default.loss:
        lines.append(f"loss.* has no effect on task {config.task}")
    if config.task == "plain" and config.generator != default.generator:
        lines.append("generator.* has no effect on task plain")
    if config.head.weight == 0 and config.head != dataclasses.replace(default.head, weight=0.0):
        lines.append("head.* has no effect: head.weight is 0")
    if config.distill.teacher is None and config.distill != default.distill:
        lines.append("distill.* has no effect: distill.teacher is not given")
    return lines


def introduction(config: TrainConfig) -> str:
    """What a run begins with: what is trained, on what, how."""
    views = config.stage2.permutations if config.task == "stage2" else 1
    alpha = f", effective alpha {config.loss.alpha:g}" if config.task in ("stage1", "toy") else ""
    return (
        f"task {config.task}: {config.recognizer.backbone} on {config.data.faces}, batch "
        f"{config.batch_size}{f' x {views} permutations' if views > 1 else ''}{alpha}, "
        f"{config.epochs:g} epochs, {config.precision}, to {config.out}"
    )


def next_command(config: TrainConfig) -> str:
    """What a user would do after a run."""
    if config.task == "stage1":
        return f"minusface train STAGE2.yaml --start.generator {config.out}"
    return f"minusface evaluate {config.out} --pairs PAIRS.txt --faces FOLDER --draws 5"


def _scores(metrics: dict[str, Any]) -> str:
    return "".join(
        f", {name} {value:.4f}" for name, value in metrics.items() if isinstance(value, float)
    )


def _plain(config: TrainConfig) -> dict[str, Any]:
    raw = dataclasses.asdict(config)
    raw["schedule"]["milestones"] = list(config.schedule.milestones)
    return raw


class _Reporter:
    """One line a log step, to stderr; TensorBoard beside when asked."""

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.writer = config, None
        if config.tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise MinusfaceError(
                    'tensorboard: not installed: pip install "minusface[report]"'
                ) from error
            self.writer = SummaryWriter(config.out)

    def __call__(self, progress: Progress) -> None:
        import sys

        losses = " ".join(f"{name} {value:.4f}" for name, value in progress.losses.items())
        rates = " ".join(f"{name} {value:.2e}" for name, value in progress.rates.items())
        minutes, seconds = divmod(round(progress.seconds_left), 60)
        print(
            f"{progress.step}/{progress.steps} epoch {progress.epoch:.2f} | {losses} | lr {rates} | "
            f"{progress.samples_per_second:.1f} images/s | {minutes}:{seconds:02d} left",
            file=sys.stderr,
            flush=True,
        )
        if self.writer is not None:
            for name, value in progress.losses.items():
                self.writer.add_scalar(f"loss/{name}", value, progress.step)

    def evaluation(self) -> Any:
        """The held-out evaluation of the config, from a task to metrics; None where there is none."""
        from minusface.evaluate.held_out import held_out

        measure = held_out(self.config)
        if measure is None:
            return None

        def evaluate(task: Task) -> dict[str, float]:
            import sys

            found = measure(task.recognizer, task.protector)
            print(f"held-out pairs{_scores(found)}", file=sys.stderr, flush=True)
            return found

        return evaluate

    def close(self) -> None:
        """Finish the event file."""
        if self.writer is not None:
            self.writer.close()

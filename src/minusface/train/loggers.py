"""Where log lines and evaluations go: a file of JSON lines always, TensorBoard, or anything of this form."""

from __future__ import annotations

import functools
import importlib.util
import json
import math
from pathlib import Path
from typing import Any, Protocol

from minusface.errors import MinusfaceError
from minusface.files import write_atomically
from minusface.train.plan import Progress


class Logger(Protocol):
    """What a run tells its numbers to. One process calls it, whatever their number."""

    def step(self, progress: Progress) -> None:
        """A log step."""
        ...

    def evaluated(self, step: int, metrics: dict[str, float]) -> None:
        """What an evaluation found."""
        ...

    def close(self) -> None:
        """The run is over."""
        ...


class JsonLines:
    """A JSON object a line, appended.

    Args:
        path: its folder is made when the first line is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def rewind(self, step: int) -> None:
        """Forget what came after a step: a run that goes on from it will tell of that again.

        A line that was cut while it was written is forgotten, too.

        Raises:
            MinusfaceError: the file cannot be read or written.
        """
        try:
            if not self.path.is_file():
                return
            lines = self.path.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if _step_of(line) <= step]
            if kept != lines:
                write_atomically(self.path, b"".join(kept))
        except OSError as error:
            raise MinusfaceError(f"{self.path}: {error.strerror or error}") from error

    def step(self, progress: Progress) -> None:
        """Step, epoch, losses, rates and speed.

        Raises:
            MinusfaceError: the file cannot be written.
        """
        self._append(
            {
                "step": progress.step,
                "epoch": round(progress.epoch, 4),
                "losses": progress.losses,
                "lr": progress.rates,
                "samples_per_second": round(progress.samples_per_second, 2),
            }
        )

    def evaluated(self, step: int, metrics: dict[str, float]) -> None:
        """The metrics under ``evaluation``."""
        self._append({"step": step, "evaluation": metrics})

    def close(self) -> None:
        """Nothing is open between lines."""

    def _append(self, line: dict[str, Any]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise MinusfaceError(
                f"{self.path}: cannot write ({error.strerror or error})"
            ) from error


def _step_of(line: bytes) -> float:
    """The step that a line tells of; infinite for what is no line of a log."""
    try:
        return float(json.loads(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, TypeError, KeyError):
        return math.inf


class TensorBoard:
    """Event files that TensorBoard shows: loss/NAME, lr/GROUP, speed, held-out/NAME.

    Args:
        folder: where they are written.

    Raises:
        MinusfaceError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MinusfaceError(
                'tensorboard: not installed: pip install "minusface[report]"'
            ) from error
        # Made at the first number: a run that is refused leaves no file.
        self._make = functools.partial(SummaryWriter, str(folder))
        self._made: Any = None

    def rewind(self, step: int) -> None:
        """Steps after this one, which a run that was killed had told, are told anew."""
        self._make = functools.partial(self._make, purge_step=step + 1)

    def _writer(self) -> Any:
        if self._made is None:
            self._made = self._make()
        return self._made

    def step(self, progress: Progress) -> None:
        """Losses, rates and speed of a log step."""
        add = self._writer().add_scalar
        for group, values in (("loss", progress.losses), ("lr", progress.rates)):
            for name, value in values.items():
                add(f"{group}/{name}", value, progress.step)
        add("speed/images_per_second", progress.samples_per_second, progress.step)
        if progress.gpu_bytes is not None:
            add("memory/gpu_gib", progress.gpu_bytes / 2**30, progress.step)

    def evaluated(self, step: int, metrics: dict[str, float]) -> None:
        """Metrics of an evaluation."""
        for name, value in metrics.items():
            self._writer().add_scalar(f"held-out/{name}", value, step)

    def close(self) -> None:
        """Write what is left."""
        if self._made is not None:
            self._made.close()


def wanted_loggers(tensorboard: bool | None, out: str | Path) -> list[Logger]:
    """The loggers of a config's ``tensorboard``: None takes TensorBoard where it is installed.

    Raises:
        MinusfaceError: it is asked for and not installed.
    """
    if tensorboard is None:
        tensorboard = importlib.util.find_spec("tensorboard") is not None
    return [TensorBoard(out)] if tensorboard else []

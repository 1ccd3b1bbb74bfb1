"""A Chrome trace of a few steps, for chrome://tracing or Perfetto."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from minusface import collectives
from minusface.errors import MinusfaceError

ACTIVE = 3


class Trace:
    """Records a few steps once the first two are over; a context manager.

    Args:
        folder: takes ``trace.json``, or one file a process where several train together.
        steps: that will be run. Too few to wait for are recorded from the first on.
    """

    def __init__(self, folder: Path, steps: int) -> None:
        name = f"trace-{collectives.rank()}.json" if collectives.size() > 1 else "trace.json"
        self.path = folder / name
        wait = 1 if steps > ACTIVE + 1 else 0
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        plan = schedule(wait=wait, warmup=wait, active=min(ACTIVE, steps), repeat=1)
        self.profile = profile(
            activities=activities, schedule=plan, on_trace_ready=self._write, record_shapes=True
        )

    def __enter__(self) -> Trace:
        self.profile.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.profile.stop()

    def step(self) -> None:
        """A step is over."""
        self.profile.step()

    def _write(self, made: Any) -> None:
        temporary = self.path.with_name(f".{os.getpid()}.{self.path.name}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            made.export_chrome_trace(str(temporary))
            os.replace(temporary, self.path)
        except OSError as error:
            raise MinusfaceError(
                f"{self.path}: cannot write ({error.strerror or error})"
            ) from error

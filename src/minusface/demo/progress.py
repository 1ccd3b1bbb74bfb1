"""Live progress of the whole journey, with the time that remains: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

LINE_EVERY = 5.0  # seconds between lines where there is no terminal


@dataclass(frozen=True)
class Phase:
    """One part of the journey and how long it will take, guessed beforehand."""

    name: str
    seconds: float


class Trail:
    """Where the journey stands; a context manager.

    Args:
        phases: in order.
        console: a terminal gets a live bar, anything else a line every few seconds.
        clock: seconds that never run backwards.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        console: Console,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.phases = list(phases)
        self.console, self.clock = console, clock
        self.current, self.part = -1, 0.0
        self.own_left: float | None = None
        self.started = self.phase_started = clock()
        self.printed = float("-inf")
        self.bar: Progress | None = None
        if console.is_terminal:
            self.bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f} %"),
                TextColumn("{task.fields[left]}"),
                TextColumn("[dim]{task.fields[note]}"),
                console=console,
            )
            self.task = self.bar.add_task("starting", total=1.0, left="", note="")

    def __enter__(self) -> Trail:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            if kind is None:
                self.bar.update(self.task, description="done", completed=1.0, left="", note="")
            self.bar.stop()

    def next(self, name: str) -> None:
        """Begin a phase; those before it are over."""
        self.current = [phase.name for phase in self.phases].index(name)
        self.part, self.own_left, self.phase_started = 0.0, None, self.clock()
        self.printed = float("-inf")
        self.update(0.0)

    def update(self, part: float, note: str = "", seconds_left: float | None = None) -> None:
        """How much of the phase is done, 0 to 1, and what to say beside it.

        ``seconds_left`` of the phase, where it is known better than by rule of three.
        """
        self.part, self.own_left = min(max(part, 0.0), 1.0), seconds_left
        left, phase = self.left(), self.phases[self.current]
        gone = self.clock() - self.started
        title = f"[{self.current + 1}/{len(self.phases)}] {phase.name}"
        if self.bar is not None:
            self.bar.update(
                self.task,
                description=escape(title),
                completed=gone / max(gone + left, 1e-9),
                left=f"{spoken(left)} left",
                note=escape(note),
            )
        elif self.clock() - self.printed >= LINE_EVERY or part >= 1:
            self.printed = self.clock()
            done = f" {self.part:.0%}" if self.part else ""
            self.console.print(
                f"{title}{done}, {spoken(left)} left{', ' + note if note else ''}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )

    def left(self) -> float:
        """Seconds until the journey's end."""
        later = sum(phase.seconds for phase in self.phases[self.current + 1 :])
        return later + (self.own_left if self.own_left is not None else self._phase_left())

    def _phase_left(self) -> float:
        guess, gone = self.phases[self.current].seconds, self.clock() - self.phase_started
        # The guess counts less and less against what was seen.
        seen = gone / self.part if self.part else guess
        return (1 - self.part) * (self.part * seen + (1 - self.part) * guess)


def spoken(seconds: float) -> str:
    """A duration as people read it: ``3:05 min`` or ``40 s``."""
    whole = max(0, round(seconds))
    return f"{whole // 60}:{whole % 60:02d} min" if whole >= 90 else f"{whole} s"

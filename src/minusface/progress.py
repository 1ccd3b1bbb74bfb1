"""Progress: a bar on a terminal; of long work now and then a line in a log file; else silence."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Seconds between lines in a log file.
EVERY = 30.0


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr with the remaining time, in a log file a line now and then; gives a function to advance
    it by some."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        tell, done = _lines(what), 0

        def count(some: int) -> None:
            nonlocal done
            done += some
            tell(done / max(total, 1), f"{done}/{total}")

        yield count
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda some: progress.advance(task, some)


@contextmanager
def bar_of(what: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr; gives a function of what is done and what there is to do, whatever its units."""
    with bar(what, total) as advance:
        shown = 0

        def progress(done: int, whole: int) -> None:
            nonlocal shown
            reached = total * done // max(whole, 1)
            advance(reached - shown)
            shown = reached

        yield progress


@contextmanager
def noted_bar(what: str) -> Iterator[Callable[[float, str], None]]:
    """A bar on stderr that also says what is being done, in a log file a line now and then; gives a function
    of the part done and a note."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(what)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=1.0, note="")
        yield lambda part, note: progress.update(task, completed=part, note=note)


def _lines(what: str) -> Callable[[float, str], None]:
    """Tells of long work in lines; of short work nothing."""
    last = time.monotonic()

    def tell(part: float, note: str) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            print(f"{what} {100 * part:3.0f} %  {note}", file=sys.stderr, flush=True)

    return tell

"""Ctrl-C, held back until there is something whole to save."""

from __future__ import annotations

import signal
import threading
from typing import Any


class DeferredInterrupt:
    """Holds Ctrl-C back: half a step could be neither saved nor repeated.

    Args:
        raises: at the end of the block, if it was asked for in it. Without, ``asked`` tells: processes
            that train together must stop at the same step.
    """

    def __init__(self, raises: bool = True) -> None:
        self.raises = raises
        self.asked = False

    def __enter__(self) -> DeferredInterrupt:
        self.asked = False
        self.previous: Any = None
        if threading.current_thread() is threading.main_thread():
            self.previous = signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, number: int, frame: Any) -> None:
        self.asked = True

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self.previous is not None:
            signal.signal(signal.SIGINT, self.previous)
        if self.raises and self.asked and kind is None:
            raise KeyboardInterrupt

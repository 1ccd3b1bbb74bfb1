"""How often a key may ask: a bucket a key, filled at a steady rate."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

# Buckets beyond this many are looked through for full ones, which need not be remembered.
MANY = 10_000


class RateLimit:
    """Token buckets.

    Args:
        rate: tokens a second.
        burst: how many a full bucket holds.
        clock: seconds that never run backwards.
    """

    def __init__(
        self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rate, self.burst = rate, burst
        self._clock, self._mutex = clock, threading.Lock()
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, key: str, count: float = 1.0) -> float:
        """Take tokens; 0 where there were enough, otherwise seconds until there are."""
        with self._mutex:
            now = self._clock()
            level, since = self._buckets.get(key, (self.burst, now))
            level = min(self.burst, level + (now - since) * self.rate)
            if len(self._buckets) > MANY:
                self._forget(now)
            if level >= count:
                self._buckets[key] = (level - count, now)
                return 0.0
            self._buckets[key] = (level, now)
            return (min(count, self.burst) - level) / self.rate

    def _forget(self, now: float) -> None:
        full = [k for k, (v, t) in self._buckets.items() if v + (now - t) * self.rate >= self.burst]
        for key in full:
            del self._buckets[key]

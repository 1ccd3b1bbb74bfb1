"""How often a key may ask, a bucket a key, filled at a steady rate; how often a collection is re-keyed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from minusface.errors import MinusfaceError

# Buckets beyond this many are looked through for full ones, which need not be remembered.
MANY = 10_000
# Seconds after which to ask again where a re-keying is under way: nobody knows how long it takes.
UNDER_WAY = 10.0


class TooManyError(MinusfaceError):
    """A collection asks for more than its part; ``retry`` seconds later it may ask again."""

    def __init__(self, message: str, retry: float = 1.0) -> None:
        super().__init__(message)
        self.retry = retry


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


class Rekeyings:
    """One re-keying at a time, and one of a collection in so many seconds.

    The embedded gallery answers nobody while it writes a collection's rows under new keys.

    Args:
        seconds: from the end of one to the next of the same collection; 0 for none.
        clock: seconds that never run backwards.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock, self._mutex = clock, threading.Lock()
        self._done: dict[str, float] = {}

    @contextmanager
    def one(self, collection: str) -> Iterator[None]:
        """Around a re-keying; one that failed may be tried again at once.

        Raises:
            TooManyError: another one is under way, or one of this collection was done a short time ago.
        """
        if not self._mutex.acquire(blocking=False):
            raise TooManyError("New keys are being made; try again later.", UNDER_WAY)
        try:
            left = self._done.get(collection, float("-inf")) + self.seconds - self._clock()
            if left > 0:
                raise TooManyError("This collection has got new keys a short time ago.", left)
            yield
            self._done[collection] = self._clock()
        finally:
            self._mutex.release()

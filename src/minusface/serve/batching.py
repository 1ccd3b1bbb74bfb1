"""One worker embeds what several requests brought, together; a full queue refuses instead of growing.

Legend: B images, D embedding.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError

import numpy as np
import numpy.typing as npt

from minusface.errors import MinusfaceError
from minusface.serve.limits import TooManyError

Floats = npt.NDArray[np.float32]
Work = tuple[Floats, "Future[Floats]", str]


class BusyError(MinusfaceError):
    """More work is waiting than may wait."""


class Batcher:
    """Micro-batching in a thread of its own.

    Args:
        embed: (B, C, H, W) to (B, D).
        most: images a batch.
        wait: seconds for which a batch that is not full waits for more.
        waiting: images that may wait; of one collection half of them.
        seen: called with the size of each batch.
    """

    def __init__(
        self,
        embed: Callable[[Floats], Floats],
        most: int = 16,
        wait: float = 0.002,
        waiting: int = 128,
        seen: Callable[[int], object] = lambda size: None,
    ) -> None:
        self._embed, self._most, self._wait, self._waiting = embed, most, wait, waiting
        self._seen = seen
        self._queue: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._mutex, self._count, self._closed = threading.Lock(), 0, False
        self._of_collection: Counter[str] = Counter()
        self._held: Work | None = None
        self._thread = threading.Thread(target=self._run, name="embedding", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether work is still done."""
        return self._thread.is_alive() and not self._closed

    @property
    def count(self) -> int:
        """Images that wait or are being embedded."""
        return self._count

    def submit(self, images: Floats, collection: str = "") -> Future[Floats]:
        """Embed (B, C, H, W) soon. A collection of which nothing waits may fill more than its half.

        Raises:
            TooManyError: half of what may wait is this collection's.
            BusyError: too much is waiting, or the service is shutting down.
        """
        with self._mutex:
            if self._closed:
                raise BusyError("the service is shutting down")
            own = self._of_collection[collection]
            if own and own + len(images) > self._waiting // 2:
                raise TooManyError("Too many images of this collection are waiting.")
            if self._count and self._count + len(images) > self._waiting:
                raise BusyError("the service is busy")
            self._count += len(images)
            self._of_collection[collection] += len(images)
            future: Future[Floats] = Future()
            self._queue.put((images, future, collection))
            return future

    def close(self) -> None:
        """Finish what waits, then stop."""
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            batch = self._gather()
            if not batch:
                return
            images = sum(len(work[0]) for work in batch)
            try:
                self._seen(images)
                rows = self._embed(np.concatenate([work[0] for work in batch]))
                start = 0
                for some, future, _ in batch:
                    if future.set_running_or_notify_cancel():
                        future.set_result(rows[start : start + len(some)])
                    start += len(some)
            except BaseException as error:  # whoever waits must hear of it
                for _, future, _ in batch:
                    # Whoever waited may give up at this very moment.
                    with contextlib.suppress(InvalidStateError):
                        if not future.done():
                            future.set_exception(error)
            finally:
                self._leave(batch)

    def _leave(self, batch: list[Work]) -> None:
        with self._mutex:
            for some, _, collection in batch:
                self._count -= len(some)
                self._of_collection[collection] -= len(some)
                # Collections come and go; those of which nothing waits are not remembered.
                if self._of_collection[collection] <= 0:
                    del self._of_collection[collection]

    def _gather(self) -> list[Work]:
        """What comes within the wait, up to a full batch; nothing at the end."""
        first = self._held or self._queue.get()
        self._held = None
        if first is None:
            return []
        batch, size = [first], len(first[0])
        deadline = time.monotonic() + self._wait
        while size < self._most:
            try:
                work = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if work is None:
                self._queue.put(None)
                break
            if size + len(work[0]) > self._most:
                self._held = work
                break
            batch.append(work)
            size += len(work[0])
        return batch

"""Batches of faces in an order that a seed and an epoch fix, so that a run can stop and go on.

Legend: B batch, H, W pixels.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from minusface.data.dataset import FaceDataset
from minusface.errors import MinusfaceError

Indices = npt.NDArray[np.int64]


class Batch(NamedTuple):
    """Samples, stacked."""

    images: Tensor
    """(B, 3, H, W) uint8, RGB, contiguous."""
    labels: Tensor
    """(B,) int64."""
    keys: list[str]
    """B names."""
    indices: Tensor
    """(B,) int64: which numbers of the dataset these are."""


class Loader:
    """Shuffled batches of a dataset.

    The order of an epoch depends on the seed and the epoch's number alone: neither on the number of
    workers nor on what was read before.

    Args:
        dataset: what to read.
        batch_size: samples a batch.
        seed: 0 or more.
        workers: processes that read ahead; 0 reads in this one.
        drop_last: leave out what does not fill a batch at the end of an epoch.
        part: (k, n): of each batch only the k-th of n equal parts is read. Order and number of batches do
            not depend on it.

    Raises:
        MinusfaceError: a dataset smaller than a batch, a batch that does not divide, or a number out of
            range.
    """

    def __init__(
        self,
        dataset: FaceDataset,
        batch_size: int,
        *,
        seed: int,
        workers: int = 0,
        drop_last: bool = True,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        _check_numbers(batch_size, workers)
        if seed < 0:
            raise MinusfaceError(f"seed {seed}: expected 0 or more")
        if len(dataset) < batch_size:
            raise MinusfaceError(
                f"batch size {batch_size}: {dataset.name} holds only {len(dataset)} images"
            )
        if batch_size % part[1]:
            raise MinusfaceError(
                f"batch size {batch_size}: expected a multiple of the {part[1]} processes that share it"
            )
        assert part[1] == 1 or drop_last
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.workers = workers
        self.drop_last = drop_last
        self.part = part

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    @property
    def rows(self) -> range:
        """Which samples of each batch are read."""
        number, parts = self.part
        each = self.batch_size // parts
        return range(number * each, (number + 1) * each) if parts > 1 else range(self.batch_size)

    def order(self, epoch: int) -> Indices:
        """The permutation of the dataset's numbers in an epoch: (len(dataset),) int64."""
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.dataset))

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from ``start_step`` on: exactly the tail of the whole epoch.

        Raises:
            MinusfaceError: a step the epoch does not have; a sample cannot be read.
        """
        if epoch < 0 or not 0 <= start_step <= self.steps:
            raise MinusfaceError(
                f"epoch {epoch}, step {start_step}: expected epoch >= 0, 0 <= step <= {self.steps}"
            )
        order = self.order(epoch)
        plan = [
            order[step * self.batch_size : (step + 1) * self.batch_size]
            for step in range(start_step, self.steps)
        ]
        if self.part[1] > 1:
            plan = [indices[self.rows.start : self.rows.stop] for indices in plan]
        return _batches(self.dataset, plan, self.workers)

    def sequential(self, batch_size: int | None = None) -> Iterator[Batch]:
        """All samples in the dataset's order, the last batch as short as it comes."""
        return sequential(self.dataset, batch_size or self.batch_size, workers=self.workers)


def sequential(dataset: FaceDataset, batch_size: int, *, workers: int = 0) -> Iterator[Batch]:
    """All samples of a dataset in its order, for evaluation; smaller than a batch is fine.

    Raises:
        MinusfaceError: a number out of range; a sample cannot be read.
    """
    _check_numbers(batch_size, workers)
    everything = np.arange(len(dataset), dtype=np.int64)
    plan = [everything[start : start + batch_size] for start in range(0, len(dataset), batch_size)]
    return _batches(dataset, plan, workers)


def _check_numbers(batch_size: int, workers: int) -> None:
    if batch_size < 1:
        raise MinusfaceError(f"batch size {batch_size}: expected 1 or more")
    if workers < 0:
        raise MinusfaceError(f"workers {workers}: expected 0 or more")


def _fetch(dataset: FaceDataset, indices: Indices) -> Batch:
    """Read and stack samples."""
    samples = [dataset[int(index)] for index in indices]
    first = samples[0]
    for sample in samples:
        if sample.image.shape != first.image.shape:
            raise MinusfaceError(
                f"{sample.key}: image of shape {sample.image.shape}, "
                f"others of the batch {first.image.shape}"
            )
    images = torch.from_numpy(np.stack([sample.image for sample in samples]))
    return Batch(
        images=images.permute(0, 3, 1, 2).contiguous(),
        labels=torch.tensor([sample.label for sample in samples], dtype=torch.int64),
        keys=[sample.key for sample in samples],
        indices=torch.from_numpy(indices.copy()),
    )


class _Plan(Dataset["Batch | MinusfaceError"]):
    """Whole batches by number, as a DataLoader's workers ask for them.

    A MinusfaceError is handed over as a value: raised, it would come out buried in a traceback.
    """

    def __init__(self, dataset: FaceDataset, plan: list[Indices]) -> None:
        self.dataset = dataset
        self.plan = plan

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, step: int) -> Batch | MinusfaceError:
        try:
            return _fetch(self.dataset, self.plan[step])
        except MinusfaceError as error:
            return MinusfaceError(str(error))


def _batches(dataset: FaceDataset, plan: list[Indices], workers: int) -> Iterator[Batch]:
    if workers == 0 or not plan:
        for indices in plan:
            yield _fetch(dataset, indices)
        return
    loader: DataLoader[Batch | MinusfaceError] = DataLoader(
        _Plan(dataset, plan),
        batch_size=None,
        collate_fn=_as_is,
        num_workers=min(workers, len(plan)),
        worker_init_fn=_begin_worker,
        # Its own, so that starting workers draws nothing from the global generator.
        generator=torch.Generator().manual_seed(0),
    )
    try:
        for result in loader:
            if isinstance(result, MinusfaceError):
                raise result
            yield result
    except (RuntimeError, ConnectionError, EOFError) as error:
        if not _tells_of_a_death(error):
            raise
        raise MinusfaceError(
            f"reading {dataset.name}: a worker died ({str(error).splitlines()[0].strip(' .')}); "
            "fewer workers need less memory"
        ) from error


def _tells_of_a_death(error: Exception) -> bool:
    """Whether a worker was killed, as opposed to an error raised in it or anywhere else."""
    if isinstance(error, RuntimeError):
        return str(error).startswith("DataLoader worker (pid")
    if str(error).startswith("Caught "):
        return False
    # The broken pipe came first. Torch's signal handler will raise the death too, at whatever line runs
    # then: let it be this one.
    with suppress(RuntimeError):
        time.sleep(1.0)
    return True


def _as_is(value: Any) -> Any:
    return value


def _begin_worker(worker: int) -> None:
    # Ctrl-C reaches the whole group, and the process that trains has a step to end and a save to write: it
    # ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # 0, not 1: a forked process that is told 1 ends the threads of its parent, which it does not have, and
    # may wait for them for ever.
    cv2.setNumThreads(0)

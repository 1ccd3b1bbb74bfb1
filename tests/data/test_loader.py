from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from minusface.data import Batch, Loader, Sample, sequential
from minusface.errors import MinusfaceError


class Numbers:
    """Images that hold their own number; ``broken`` cannot be read."""

    name = "numbers"
    classes = 5

    def __init__(self, length: int, broken: int = -1, odd: int = -1, deadly: int = -1) -> None:
        self.length, self.broken, self.odd, self.deadly = length, broken, odd, deadly

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if index == self.broken:
            raise MinusfaceError(f"n/{index}.jpg: not a readable image")
        if index == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        side = 5 if index == self.odd else 4
        image = np.full((side, side, 3), index, np.uint8)
        image[..., 2] += 1
        return Sample(image, index % 5, f"n/{index}.jpg")

    def fingerprint(self) -> str:
        return ""


def numbers(batches: list[Batch]) -> list[list[int]]:
    return [batch.indices.tolist() for batch in batches]


def test_batches_hold_what_they_say() -> None:
    batches = list(Loader(Numbers(20), 6, seed=0).epoch(0))
    assert len(batches) == 3
    for batch in batches:
        assert batch.images.shape == (6, 3, 4, 4)
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous()
        assert batch.labels.dtype == torch.int64
        assert torch.equal(batch.images[:, 0, 0, 0].long(), batch.indices)
        assert torch.equal(batch.images[:, 2, 3, 3].long(), batch.indices + 1)
        assert torch.equal(batch.labels, batch.indices % 5)
        assert batch.keys == [f"n/{i}.jpg" for i in batch.indices.tolist()]


@pytest.mark.parametrize(("drop_last", "steps"), [(True, 3), (False, 4)])
def test_an_epoch_is_a_permutation(drop_last: bool, steps: int) -> None:
    loader = Loader(Numbers(20), 6, seed=0, drop_last=drop_last)
    order = [n for batch in numbers(list(loader.epoch(0))) for n in batch]
    assert loader.steps == steps
    assert len(order) == len(set(order)) == (18 if drop_last else 20)
    assert order != sorted(order)


def test_order_depends_on_seed_and_epoch_alone() -> None:
    data = Numbers(50)
    first = Loader(data, 5, seed=3)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    orders = [numbers(list(first.epoch(epoch))) for epoch in (0, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again = Loader(data, 5, seed=3)
    assert numbers(list(again.epoch(2))) == orders[2]
    other = numbers(list(Loader(data, 5, seed=4).epoch(0)))
    assert len({str(order) for order in [*orders, other]}) == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_epoch_is_the_tail(workers: int) -> None:
    whole = numbers(list(Loader(Numbers(50), 7, seed=3).epoch(4)))
    loader = Loader(Numbers(50), 7, seed=3, workers=workers)
    for start in (0, 1, 6, 7):
        assert numbers(list(loader.epoch(4, start_step=start))) == whole[start:]


def test_workers_change_nothing() -> None:
    alone = list(Loader(Numbers(40), 8, seed=1).epoch(0))
    state = torch.get_rng_state()
    helped = list(Loader(Numbers(40), 8, seed=1, workers=2).epoch(0))
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(alone, helped, strict=True):
        assert isinstance(b, Batch)
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.indices, b.indices)
        assert a.keys == b.keys


@pytest.mark.parametrize("workers", [0, 2])
def test_sequential_reads_all_in_order(workers: int) -> None:
    loader = Loader(Numbers(20), 6, seed=0, workers=workers)
    order = numbers(list(loader.sequential(8)))
    assert [len(batch) for batch in order] == [8, 8, 4]
    assert [n for batch in order for n in batch] == list(range(20))
    assert [len(batch) for batch in numbers(list(loader.sequential()))] == [6, 6, 6, 2]
    assert numbers(list(sequential(Numbers(3), 8))) == [[0, 1, 2]]
    assert list(sequential(Numbers(0), 8)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_sample_is_one_line(workers: int) -> None:
    loader = Loader(Numbers(20, broken=11), 4, seed=0, workers=workers)
    with pytest.raises(MinusfaceError) as error:
        list(loader.sequential())
    assert str(error.value) == "n/11.jpg: not a readable image"
    assert type(error.value) is MinusfaceError


@pytest.mark.parametrize("kind", [RuntimeError])
def test_other_errors_are_not_hidden(kind: type[Exception]) -> None:
    with pytest.raises(kind, match="a defect") as error:
        list(sequential(Defective(4, kind), 4, workers=1))
    assert not isinstance(error.value, MinusfaceError)


class Defective(Numbers):
    def __init__(self, length: int, kind: type[Exception]) -> None:
        super().__init__(length)
        self.kind = kind

    def __getitem__(self, index: int) -> Sample:
        raise self.kind("a defect")


def test_a_dead_worker_ends_the_run() -> None:
    # Apart: torch reports it from a signal handler, at any line of the main process, pytest's too.
    script = (
        "from tests.data.test_loader import Numbers; from minusface.data import sequential; "
        "list(sequential(Numbers(8, deadly=5), 2, workers=1))"
    )
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 1
    assert "worker" in run.stderr


def test_ctrl_c_ends_no_worker() -> None:
    loader = Loader(Interrupted(20), 5, seed=0, workers=2)
    assert [len(batch.keys) for batch in loader.epoch(0)] == [5] * 4


class Interrupted(Numbers):
    """Ctrl-C reaches the process that reads, too."""

    def __getitem__(self, index: int) -> Sample:
        os.kill(os.getpid(), signal.SIGINT)
        return super().__getitem__(index)


def test_images_of_different_sizes() -> None:
    with pytest.raises(MinusfaceError, match=r"n/3\.jpg: image of shape \(5, 5, 3\)"):
        list(sequential(Numbers(8, odd=3), 4))


def test_numbers_out_of_range() -> None:
    with pytest.raises(MinusfaceError, match="batch size 9: numbers holds only 8 images"):
        Loader(Numbers(8), 9, seed=0)
    with pytest.raises(MinusfaceError, match="batch size 0"):
        Loader(Numbers(8), 0, seed=0)
    with pytest.raises(MinusfaceError, match="workers -1"):
        Loader(Numbers(8), 2, seed=0, workers=-1)
    with pytest.raises(MinusfaceError, match="seed -1"):
        Loader(Numbers(8), 2, seed=-1)
    for epoch, step in ((-1, 0), (0, -1), (0, 5)):
        with pytest.raises(MinusfaceError, match="expected epoch"):
            Loader(Numbers(8), 2, seed=0).epoch(epoch, step)

"""Several datasets side by side."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch

from minusface.data import Loader, Sample, SyntheticFaces
from minusface.data.branches import BranchLoader, Joined
from minusface.errors import MinusfaceError


def _loader(seed: int = 3) -> BranchLoader:
    parts = [SyntheticFaces(4, 3, seed=1, size=32), SyntheticFaces(2, 2, seed=2, size=32)]
    return BranchLoader([Loader(parts[0], 2, seed=seed), Loader(parts[1], 1, seed=seed + 1)])


def test_each_step_holds_a_batch_of_every_branch() -> None:
    loader = _loader()
    assert (loader.steps, loader.batch_size, loader.dataset.classes) == (6, 3, 6)
    batches = list(loader.epoch(0))
    assert len(batches) == 6
    for batch in batches:
        assert batch.images.shape == (3, 3, 32, 32)
        assert (batch.labels[:2] < 4).all()
        assert batch.labels[2] >= 4
        for image, label, index in zip(batch.images, batch.labels, batch.indices, strict=True):
            sample = loader.dataset[int(index)]
            assert sample.label == label
            assert torch.equal(torch.from_numpy(sample.image).permute(2, 0, 1), image)
    # The longer branch is seen once, the shorter one one and a half times.
    assert sorted(torch.cat([b.indices[:2] for b in batches]).tolist()) == list(range(12))
    counts = torch.cat([b.indices[2:] for b in batches]).bincount(minlength=16)[12:]
    assert counts.tolist().count(0) == 0
    assert counts.sum() == 6


def test_an_epoch_can_be_entered_at_any_step() -> None:
    for epoch, start in ((0, 4), (1, 0), (1, 5)):
        whole = list(islice(_loader().epoch(epoch), start, None))
        tail = list(_loader().epoch(epoch, start))
        assert [b.indices.tolist() for b in whole] == [b.indices.tolist() for b in tail]


def test_joined_ends_and_tells_its_parts() -> None:
    joined = _loader().dataset
    assert isinstance(joined, Joined)
    assert len(list(joined)) == len(joined) == 16  # type: ignore[call-overload]
    assert joined.name.count(" + ") == 1
    other = Joined(list(reversed(joined.parts)))
    assert other.fingerprint() != joined.fingerprint()


class Named:
    """Images of nobody in particular, by these keys."""

    name, classes = "named", 1

    def __init__(self, content: str, *keys: str, root: str | None = None) -> None:
        self.content, self._keys = content, keys
        if root is not None:
            self.root = Path(root)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        raise AssertionError("not read")

    def keys(self) -> Iterator[str]:
        return iter(self._keys)

    def fingerprint(self) -> str:
        return self.content


def test_keys_that_mean_two_images() -> None:
    first, same = Named("a", "x/1", "y/1"), Named("a", "x/1", "y/1")
    other = Named("b", "z/1", "y/1")
    assert Joined([first, same]).repeated_key() is None
    assert Joined([first, Named("b", "z/1")]).repeated_key() is None
    assert Joined([first, same, other]).repeated_key() == "y/1"
    # Two lists of one folder.
    few, more = Named("c", "y/1", root="faces"), Named("d", "y/1", "z/1", root="./faces")
    assert Joined([few, more]).repeated_key() is None
    # By the same list, below another.
    elsewhere = Named("c", "y/1", root="others")
    assert Joined([few, elsewhere]).repeated_key() == "y/1"
    # What lists no keys is drawn.
    drawn = SyntheticFaces(2, 2, seed=2, size=32)
    assert Joined([drawn, drawn]).repeated_key() is None


def test_no_branch() -> None:
    with pytest.raises(MinusfaceError, match="empty"):
        BranchLoader([])

"""Several datasets trained on side by side: each step takes a batch of every one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import torch

from minusface.data.dataset import FaceDataset, Sample, check_index, digest
from minusface.data.loader import Batch, Loader
from minusface.errors import MinusfaceError


class Joined:
    """Datasets one after the other; people stay apart, whatever their names.

    Args:
        parts: the datasets. Labels of each are moved up by the people before it; keys stay as they are,
            so that a teacher's names fit, and are unique within a part only.
    """

    def __init__(self, parts: Sequence[FaceDataset]) -> None:
        self.parts = list(parts)
        self.label_starts = [0, *accumulate(part.classes for part in parts)]
        self._starts = [0, *accumulate(len(part) for part in parts)]

    @property
    def name(self) -> str:
        """The parts' names."""
        return " + ".join(part.name for part in self.parts)

    @property
    def classes(self) -> int:
        """People of all parts."""
        return self.label_starts[-1]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Sample:
        """One image of one part."""
        check_index(index, len(self))
        number = next(k for k, start in enumerate(self._starts[1:]) if index < start)
        sample = self.parts[number][index - self._starts[number]]
        label = sample.label + self.label_starts[number]
        return Sample(sample.image, label, sample.key)

    def keys(self) -> Iterator[str]:
        """All keys, part after part, of the parts that list theirs."""
        for part in self.parts:
            yield from _keys(part)

    def repeated_key(self) -> str | None:
        """A key that two parts give to images of different datasets, or None.

        Parts of one folder, or that are the same drawn or recorded images, may share their keys.
        """
        for number, part in enumerate(self.parts):
            for other in self.parts[:number]:
                theirs = set(_keys(other))
                common = next((key for key in _keys(part) if key in theirs), None)
                if common is not None and not _same_images(part, other):
                    return common
        return None

    def fingerprint(self) -> str:
        """Of the parts' fingerprints, in their order."""
        return digest(part.fingerprint() for part in self.parts)


def _keys(part: FaceDataset) -> Iterable[str]:
    """A part's keys, where it lists them."""
    listed: Iterable[str] = getattr(part, "keys", tuple)()
    return listed


def _same_images(one: FaceDataset, other: FaceDataset) -> bool:
    """Whether a key means the same image in both: files below one folder, or datasets that are alike."""
    roots = [Path(part.root).resolve() for part in (one, other) if hasattr(part, "root")]
    if len(roots) == 2:
        # Fingerprints of lists are of names alone, those of folders of names and sizes.
        return roots[0] == roots[1]
    return one.fingerprint() == other.fingerprint()


class BranchLoader:
    """Batches that hold one batch of each branch, in the branches' order.

    An epoch is one pass over the branch of most steps; shorter ones begin anew, shuffled anew. Which
    images a step holds depends on its number and the branches' seeds alone.

    Args:
        loaders: one a branch, all with ``drop_last``.

    Raises:
        MinusfaceError: no branch.
    """

    def __init__(self, loaders: Sequence[Loader]) -> None:
        if not loaders:
            raise MinusfaceError("data.branches: empty, expected one or more")
        self.loaders = list(loaders)
        self.dataset = Joined([loader.dataset for loader in loaders])
        self.batch_size = sum(loader.batch_size for loader in loaders)

    @property
    def rows(self) -> list[int]:
        """Which samples of each batch are read: the same part of each branch's."""
        starts = accumulate([0, *(loader.batch_size for loader in self.loaders[:-1])])
        pairs = zip(starts, self.loaders, strict=True)
        return [start + row for start, loader in pairs for row in loader.rows]

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return max(loader.steps for loader in self.loaders)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from ``start_step`` on: exactly the tail of the whole epoch."""
        first = epoch * self.steps + start_step
        streams = [_forever(loader, first) for loader in self.loaders]
        for _ in range(start_step, self.steps):
            yield self._join([next(stream) for stream in streams])

    def _join(self, batches: Sequence[Batch]) -> Batch:
        labels, indices, keys = [], [], []
        for number, batch in enumerate(batches):
            labels.append(batch.labels + self.dataset.label_starts[number])
            indices.append(batch.indices + self.dataset._starts[number])
            keys += batch.keys
        images = torch.cat([batch.images for batch in batches])
        return Batch(images, torch.cat(labels), keys, torch.cat(indices))


def _forever(loader: Loader, step: int) -> Iterator[Batch]:
    """A branch's batches from its own step on."""
    epoch, offset = divmod(step, loader.steps)
    while True:
        yield from loader.epoch(epoch, offset)
        epoch, offset = epoch + 1, 0

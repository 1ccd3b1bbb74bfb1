"""Whose photos an audit uses: the attacker's own, and other people's to try the attack on.

Legend: B batch, N side of a crop, T test images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from minusface.data import FolderDataset, SyntheticFaces
from minusface.data.dataset import FaceDataset, digest
from minusface.data.listing import ListDataset
from minusface.data.records import array_digest
from minusface.data.source import open_faces, source_parts
from minusface.data.split import split_people
from minusface.errors import MinusfaceError
from minusface.evaluate import Pair, PairList, read_pairs
from minusface.evaluate.reader import files_fingerprint, folder_reader
from minusface.types import UInt8

# Crops kept in memory once read: 37 kB each.
KEPT = 30_000
TEST_PART = 0.25
# Photos a person by which a judge that is trained here is looked at: pairs grow with their square.
OF_ONE = 4


class Photos:
    """Some aligned crops, read when they are first asked for.

    Args:
        read: from a place to (N, N, 3) bytes, RGB.
        keys: a name each.
        labels: a person each.
    """

    def __init__(
        self, read: Callable[[int], UInt8], keys: Sequence[str], labels: Sequence[int]
    ) -> None:
        self.keys, self.labels = list(keys), np.asarray(labels, np.int64)
        self._read = read
        self._kept: dict[int, UInt8] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def image(self, place: int) -> UInt8:
        """(N, N, 3) bytes."""
        found = self._kept.get(place)
        if found is None:
            found = self._read(place)
            if len(self._kept) < KEPT:
                self._kept[place] = found
        return found

    def crops(self, places: Sequence[int] | Tensor | range | None = None) -> Tensor:
        """(B, 3, N, N) in [-1, 1]; all where no places are given."""
        wanted = range(len(self)) if places is None else [int(place) for place in places]
        stack = np.stack([self.image(place) for place in wanted])
        return torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 127.5 - 1

    def some(self, places: Sequence[int]) -> Photos:
        """A choice of them, in this order."""
        chosen = [int(place) for place in places]
        return Photos(
            lambda place: self.image(chosen[place]),
            [self.keys[place] for place in chosen],
            self.labels[chosen].tolist(),
        )


@dataclass(frozen=True, eq=False)
class Scene:
    """The attacker's photos, its validation split, and test people whom it never saw."""

    train: Photos
    validation: Photos
    test: Photos
    pairs: PairList
    """Of the test photos; its keys are theirs, in their order."""
    words: str
    """What this is, for the report."""
    fingerprint: str
    paired: Photos | None = None
    """Several photos each of people who are not attacked, none of them the attacker's: by them a judge that
    is trained here is chosen. None where there are none such."""

    def fewer(self, pairs: int) -> Scene:
        """The same with about so many test pairs, of both kinds."""
        if pairs >= len(self.pairs):
            return self
        kinds = [np.flatnonzero(self.pairs.same == kind)[: pairs // 2] for kind in (True, False)]
        chosen = np.sort(np.concatenate(kinds))
        listed = list(self.pairs)
        some = PairList.from_pairs([listed[place] for place in chosen])
        places = {key: place for place, key in enumerate(self.test.keys)}
        return replace(self, test=self.test.some([places[key] for key in some.keys]), pairs=some)


def open_scene(
    data: str,
    size: int,
    *,
    train_images: int | None,
    validation_images: int,
    pairs: int,
    seed: int = 0,
    people: str | None = None,
    pairs_file: str | None = None,
) -> Scene:
    """The photos of an audit.

    Args:
        data: a line that names a dataset, as :func:`minusface.data.source.open_faces` reads it.
        size: side of the crops.
        train_images: how many the attacker has; None for all.
        validation_images: how many of them, of people of their own, judge its learning.
        pairs: how many test pairs.
        seed: of the split.
        people: a file of the people whose photos the attacker has; folders only.
        pairs_file: test pairs; without, a quarter of the people is held out and paired.

    Raises:
        MinusfaceError: too few people or images, a bad list, people both trained and tested on.
    """
    if pairs_file is not None:
        whole, held, dataset = _listed(data, size, people, pairs_file, pairs, seed)
    else:
        whole, held, dataset = _split(data, size, people, pairs, seed)
    random = np.random.default_rng([seed, 11])
    order = random.permutation(len(whole))
    train, validation, paired = _parted(whole, order, train_images, validation_images)
    # Who is paired with whom, and the photos as they are: jobs that are done are found again by it.
    tested = (held.pairs.a_index, held.pairs.b_index, held.pairs.same, whole.labels)
    files = _files(dataset, [*train.keys, *validation.keys, *held.test.keys])
    said = digest(
        [data, str(size), str(seed), files, array_digest(*tested), *whole.keys, *held.pairs.keys]
    )
    words = (
        f"{data}: the attacker has {len(train)} photos, {len(validation)} more judge its learning; "
        f"{len(held.pairs)} pairs of {len(held.test)} photos of other people are attacked"
    )
    found = Scene(train, validation, held.test, held.pairs, words, said, paired)
    return found.fewer(pairs)


@dataclass(frozen=True, eq=False)
class _Held:
    test: Photos
    pairs: PairList


def _parted(
    whole: Photos, order: np.ndarray, train: int | None, validation: int
) -> tuple[Photos, Photos, Photos | None]:
    """Training and validation photos of different people, as far as there are enough; and several photos of
    a person, see :attr:`Scene.paired`."""
    if len(order) <= validation + 1:
        raise MinusfaceError(
            f"{len(order)} photos to attack with, expected more than the {validation} that are held back "
            "to judge the attack's learning"
        )
    held, rest = order[:validation], order[validation:]
    others = rest[~np.isin(whole.labels[rest], whole.labels[held])]
    # Few people with many photos each: then photos are kept apart, not people.
    kept = (others if len(others) > len(rest) // 2 else rest)[:train]
    several = _several(whole.labels, order, kept, validation)
    paired = whole.some(several) if several else None
    return whole.some(kept.tolist()), whole.some(held.tolist()), paired


def _several(labels: np.ndarray, order: np.ndarray, train: np.ndarray, count: int) -> list[int]:
    """At least ``count`` places, where there are as many: two to OF_ONE of a person, of two people or more.

    Of people of whom nothing is in ``train``; where there are no two such, of photos that are not in it.
    Empty where there are none of these either.
    """
    free = order[~np.isin(order, train)]
    strangers = free[~np.isin(labels[free], labels[train])]
    for some in (strangers, free):
        groups: defaultdict[int, list[int]] = defaultdict(list)
        for place in some.tolist():
            groups[int(labels[place])].append(place)
        found: list[list[int]] = []
        for places in groups.values():
            if len(places) > 1 and (len(found) < 2 or sum(map(len, found)) < count):
                found.append(places[:OF_ONE])
        if len(found) > 1:
            return [place for places in found for place in places]
    return []


def _photos(dataset: FaceDataset, places: Sequence[int], labels: np.ndarray) -> Photos:
    keys = [_key(dataset, place) for place in places]
    return Photos(
        lambda place: dataset[int(places[place])].image, keys, labels[list(places)].tolist()
    )


def _key(dataset: FaceDataset, place: int) -> str:
    named = getattr(dataset, "key", None)
    return str(named(place)) if named is not None else dataset[place].key


def _files(dataset: FaceDataset, keys: Iterable[str]) -> str:
    """A fingerprint of the photos used; of loose files also another where one of equal size has changed."""
    if isinstance(dataset, (FolderDataset, ListDataset)):
        return files_fingerprint(dataset.root, keys)
    return dataset.fingerprint()


def _labels(dataset: FaceDataset) -> np.ndarray:
    """A person each, without reading images where the dataset can tell."""
    if isinstance(dataset, SyntheticFaces):
        return np.arange(len(dataset)) // dataset.images
    known = getattr(dataset, "labels", None)
    if known is not None:
        return np.asarray(known, np.int64)
    return np.asarray([dataset[place].label for place in range(len(dataset))], np.int64)


def _split(
    data: str, size: int, people: str | None, pairs: int, seed: int
) -> tuple[Photos, _Held, FaceDataset]:
    """A quarter of the people held out and paired; and whose photos these are."""
    dataset = open_faces(data, people, size, seed)
    labels = _labels(dataset)
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for place, label in enumerate(labels.tolist()):
        groups[label].append(place)
    names = [str(label) for label in groups]
    images = [[str(place) for place in places] for places in groups.values()]
    found = split_people(names, images, test=TEST_PART, pairs=max(1, pairs // 2), seed=seed)
    own = [place for name in found.train for place in groups[int(name)]]
    # Places stand for keys until here, so that no image is read for its name.
    places = sorted({int(key) for a, b, _ in found.pairs for key in (a, b)})
    named = {str(place): _key(dataset, place) for place in places}
    ordered = sorted(
        found.pairs, key=lambda pair: (labels[int(pair[0])], int(pair[0]), int(pair[1]))
    )
    listed = PairList.from_pairs([Pair(named[a], named[b], same) for a, b, same in ordered])
    back = {key: place for place, key in ((int(place), key) for place, key in named.items())}
    test = _photos(dataset, [back[key] for key in listed.keys], labels)
    return _photos(dataset, own, labels), _Held(test, listed), dataset


def _listed(
    data: str, size: int, people: str | None, pairs_file: str, pairs: int, seed: int
) -> tuple[Photos, _Held, FaceDataset]:
    """People of one list to train on, pairs of another file to test on; and whose photos these are."""
    kind, place = source_parts(data)
    if kind != "folder":
        raise MinusfaceError(f"--pairs: expected a face folder in --data, not {kind} data")
    dataset = FolderDataset(place, people=people, size=size)
    listed = read_pairs(pairs_file, place)
    tested = {key.split("/")[0] for key in listed.keys}
    labels = _labels(dataset)
    own = [p for p in range(len(dataset)) if dataset.key(p).split("/")[0] not in tested]
    if people is not None and len(own) < len(dataset):
        both = next(p for p in range(len(dataset)) if dataset.key(p).split("/")[0] in tested)
        raise MinusfaceError(
            f"{people}: {dataset.key(both).split('/')[0]} is in {pairs_file} too; the attacker must not "
            "know the people it is tested on"
        )
    # All over the list: its folds are people's names in order.
    random = np.random.default_rng([seed, 12])
    everything = list(listed)
    kinds = [np.flatnonzero(listed.same == same) for same in (True, False)]
    chosen = np.sort(np.concatenate([random.permutation(k)[: max(2, pairs // 2)] for k in kinds]))
    some = PairList.from_pairs([everything[p] for p in chosen])
    read = folder_reader(place, size)
    numbers = {name: n for n, name in enumerate(dict.fromkeys(k.split("/")[0] for k in some.keys))}
    test = Photos(
        lambda p: read(some.keys[p]), some.keys, [numbers[k.split("/")[0]] for k in some.keys]
    )
    return _photos(dataset, own, labels), _Held(test, some), dataset

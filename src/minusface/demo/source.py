"""Which faces the demo trains on, and which people it keeps apart to be evaluated on."""

from __future__ import annotations

import hashlib
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from minusface.config import DataConfig
from minusface.data import FaceDataset, FolderDataset, read_people
from minusface.data.split import SEVERAL
from minusface.demo.training import Budget
from minusface.errors import MinusfaceError
from minusface.evaluate import Pair, PairList, folder_reader, read_pairs
from minusface.files import write_atomically
from minusface.recognize import TeacherFile
from minusface.types import UInt8

DEFAULT_FACES = ("shared", "faces", "lfw-112x112")
PROTOCOL, TRAIN_LIST, TEST_LIST = "lfw-protocol", "peopleDevTrain.txt", "pairsDevTest.txt"
OWN_LISTS = "people-train.txt", "pairs-held-out.txt"
HELD_OUT_PART, HELD_OUT_LEAST = 0.1, 20
# Synthetic people of the evaluation come from a seed that no training is likely to use.
HELD_OUT_SEED = 1_000_003
LABELS = "telling the people apart (ArcFace on their labels)"
People = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Source:
    """Faces to train on, and pairs of other people."""

    train: DataConfig
    teacher: Path | None
    pairs: PairList
    read: Callable[[str], UInt8]
    """From a key of the pairs to (112, 112, 3) bytes, RGB."""
    objective: str
    """What the trainings aim at, in words."""
    train_words: str
    pairs_words: str
    evaluate_options: str
    """What ``minusface evaluate`` needs to see the same pairs; empty where it cannot."""
    lists: Mapping[Path, bytes] = field(default_factory=dict)
    """Files of a split, which are still to be written."""


def find_faces(faces: str | None) -> Path | None:
    """The face folder: as given, or the one beside the current folder or the repository; None: no such.

    Raises:
        MinusfaceError: a folder was given and is not there.
    """
    if faces is not None:
        if not Path(faces).is_dir():
            raise MinusfaceError(f"{faces}: no such folder, expected one folder a person in it")
        return Path(faces)
    repository = Path(__file__).resolve().parents[3]
    for base in (Path.cwd().parent, repository.parent):
        folder = base.joinpath(*DEFAULT_FACES)
        if folder.is_dir():
            return folder
    return None


def find_teacher(folder: Path, keys: Sequence[str]) -> tuple[Path | None, str]:
    """A teacher's embeddings beside the face folder, the first by name that knows all images; and words."""
    labels = LABELS
    found = sorted(folder.resolve().parent.glob("*teacher*.npz"))
    for path in found:
        try:
            TeacherFile.load(path, keys)
        except MinusfaceError as error:
            labels += f"; {path.name} is not used: {error}"
            continue
        return path, f"imitating the embeddings of {path.name} (distillation; labels are not used)"
    return None, labels


def open_source(
    faces: str | None, out: Path, budget: Budget, seed: int, trained: bool = True
) -> Source:
    """Choose training data and held-out pairs.

    Args:
        faces: a folder, ``synthetic``, or None for the one beside the repository.
        out: where lists of a split belong.
        budget: how many pairs, how many drawn faces.
        seed: of the split and the pairs.
        trained: whether models are trained here; otherwise nobody knows whom they learned from.

    Raises:
        MinusfaceError: a missing or unusable folder.
    """
    folder = None if faces == "synthetic" else find_faces(faces)
    if folder is None:
        return synthetic_source(budget, seed)
    lists = folder.resolve().parent / PROTOCOL
    if (
        (lists / TRAIN_LIST).is_file()
        and (lists / TEST_LIST).is_file()
        and _lists_fit(folder, lists)
    ):
        return listed_source(folder, lists)
    return split_source(folder, out, budget, seed, trained)


def listed_source(folder: Path, lists: Path) -> Source:
    """LFW's development split: people of one list, pairs of the other."""
    people, pairs_file = lists / TRAIN_LIST, lists / TEST_LIST
    train = FolderDataset(folder, people=people)
    pairs = read_pairs(pairs_file, folder)
    teacher, objective = find_teacher(folder, list(train.keys()))
    return Source(
        train=_folder_data(folder, people),
        teacher=teacher,
        objective=objective,
        pairs=pairs,
        read=folder_reader(folder),
        train_words=f"{folder.name}: {len(train)} images of the {train.classes} people of {TRAIN_LIST}",
        pairs_words=_pairs_words(pairs, f"of {TEST_LIST}: people who were not trained on"),
        evaluate_options=_options(pairs_file, folder),
    )


def split_source(
    folder: Path, out: Path, budget: Budget, seed: int, trained: bool = True
) -> Source:
    """Any other folder: some people are held out and paired; their lists belong into ``out``."""
    whole = FolderDataset(folder)
    people: defaultdict[str, list[str]] = defaultdict(list)
    for key in whole.keys():  # noqa: SIM118
        people[key.split("/")[0]].append(key)
    kept, held_out = hold_out(people, seed, str(folder))
    pairs = make_pairs({name: people[name] for name in held_out}, budget.pairs, seed)
    names, pairs_file = (out / name for name in OWN_LISTS)
    # A count in front: names may be numbers.
    people_text = "\n".join([str(len(kept)), *kept, ""])
    pairs_text = "".join(f"{pair.a}\t{pair.b}\t{int(pair.same)}\n" for pair in pairs)
    keys = [key for name in kept for key in people[name]]
    teacher, objective = find_teacher(folder, keys)
    words = f"of {len(held_out)} people held out of {whole.name}"
    if not trained:
        words = (
            f"of {len(held_out)} people of {whole.name} (the weights learned from LFW's {TRAIN_LIST}: "
            "people of that list flatter them)"
        )
    return Source(
        train=_folder_data(folder, names),
        teacher=teacher,
        objective=objective,
        pairs=pairs,
        read=folder_reader(folder),
        train_words=f"{whole.name}: {len(keys)} images of {len(kept)} people",
        pairs_words=_pairs_words(pairs, words),
        evaluate_options=_options(pairs_file, folder),
        lists={
            file: text.encode("utf-8", "surrogateescape")
            for file, text in ((names, people_text), (pairs_file, pairs_text))
        },
    )


def write_lists(source: Source) -> None:
    """Write the lists of a split, where there is one.

    Raises:
        MinusfaceError: they cannot be written.
    """
    for file, text in source.lists.items():
        write_atomically(file, text)


def synthetic_source(budget: Budget, seed: int) -> Source:
    """Drawn faces; the held-out people come from another seed."""
    from minusface.data.synthetic import SyntheticFaces

    people, images = budget.synthetic
    others: FaceDataset = SyntheticFaces(*budget.synthetic_held_out, seed=seed + HELD_OUT_SEED)
    drawn: dict[str, UInt8] = {}
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for index in range(len(others)):
        sample = others[index]
        drawn[sample.key] = sample.image
        groups[str(sample.label)].append(sample.key)
    pairs = make_pairs(groups, budget.pairs, seed)
    return Source(
        train=DataConfig(faces=f"synthetic:{people}x{images}"),
        teacher=None,
        objective=LABELS,
        pairs=pairs,
        read=drawn.__getitem__,
        train_words=f"drawn faces, no photographs: {people * images} images of {people} made-up people",
        pairs_words=_pairs_words(pairs, f"of {len(groups)} other made-up people"),
        evaluate_options="",
    )


def hold_out(people: People, seed: int, where: str) -> tuple[list[str], list[str]]:
    """Parts people into those to train on and those held out: a tenth, or 20, at most half.

    Who is held out depends on the names and the seed alone. People with several images are taken, so
    that there are pairs to make.

    Raises:
        MinusfaceError: fewer than four people with two images.
    """
    several = sorted((n for n in people if len(people[n]) > 1), key=lambda n: _rank(n, seed))
    if len(several) < 4:
        raise MinusfaceError(
            f"{where}: {len(several)} people with two images or more, expected at least 4 "
            "(some to train on, some to evaluate on)"
        )
    count = max(HELD_OUT_LEAST, round(HELD_OUT_PART * len(people)))
    held_out = set(several[: min(count, len(several) // 2)])
    return sorted(set(people) - held_out), sorted(held_out)


def make_pairs(people: People, count: int, seed: int) -> PairList:
    """Up to ``count`` pairs, half genuine, half of different people; the same for the same seed."""
    random = np.random.default_rng([seed, 2])
    names = sorted(people)
    genuine = _genuine([people[name] for name in names], count // 2, random)
    impostors: set[tuple[str, str]] = set()
    # Few people have few different pairs: do not look for ever.
    for _ in range(20 * len(genuine)):
        if len(impostors) == len(genuine):
            break
        first, second = sorted(random.choice(len(names), 2, replace=False))
        keys = [people[names[i]] for i in (first, second)]
        a, b = (some[int(random.integers(len(some)))] for some in keys)
        impostors.add((a, b))
    # Sorted by person, as lists are: folds are consecutive, and a person should not be in two.
    return PairList.from_pairs(
        [Pair(a, b, True) for a, b in genuine] + [Pair(a, b, False) for a, b in sorted(impostors)]
    )


def _genuine(
    images: Sequence[Sequence[str]], wanted: int, random: np.random.Generator
) -> list[tuple[str, str]]:
    """Up to ``wanted`` pairs of one person, sorted by person; people take turns, or the one with most photos
    would make most of them."""

    def drawn(person: int) -> Iterator[tuple[int, int, int]]:
        # Enough for anybody's share, without listing the pairs of a thousand images.
        order = np.sort(random.permutation(len(images[person]))[:SEVERAL])
        firsts, seconds = np.triu_indices(len(order), 1)
        for k in random.permutation(len(firsts)):
            yield person, int(order[firsts[k]]), int(order[seconds[k]])

    several = [person for person, own in enumerate(images) if len(own) > 1]
    turns = [drawn(several[k]) for k in random.permutation(len(several))]
    found: list[tuple[int, int, int]] = []
    while turns and len(found) < wanted:
        drawn_now = [(turn, next(turn, None)) for turn in turns]
        found += [pair for _, pair in drawn_now if pair is not None]
        turns = [turn for turn, pair in drawn_now if pair is not None]
    return [(images[p][i], images[p][j]) for p, i, j in sorted(found[:wanted])]


def _rank(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogateescape")).hexdigest()


def _lists_fit(folder: Path, lists: Path) -> bool:
    """Whether the people of the training list are in the folder."""
    return all((folder / name).is_dir() for name in read_people(lists / TRAIN_LIST))


def _folder_data(folder: Path, people: Path) -> DataConfig:
    return DataConfig(faces=str(folder), people=str(people))


def _options(pairs: Path, folder: Path) -> str:
    return shlex.join(["--pairs", str(pairs), "--faces", str(folder)])


def _pairs_words(pairs: PairList, who: str) -> str:
    same = int(pairs.same.sum())
    return f"{len(pairs)} pairs ({same} of one person, {len(pairs) - same} of two) {who}"

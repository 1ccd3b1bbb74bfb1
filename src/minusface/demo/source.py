"""Which faces the demo trains on, and which people it keeps apart to be evaluated on."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from minusface.checkpoint import write_atomically
from minusface.config import DataConfig
from minusface.data import FaceDataset, FolderDataset, read_people
from minusface.demo.training import Budget
from minusface.errors import MinusfaceError
from minusface.evaluate import Pair, read_pairs

DEFAULT_FACES = ("shared", "faces", "lfw-112x112")
PROTOCOL, TRAIN_LIST, TEST_LIST = "lfw-protocol", "peopleDevTrain.txt", "pairsDevTest.txt"
HELD_OUT_PART, HELD_OUT_LEAST = 0.1, 20
# Synthetic people of the evaluation are drawn from a seed that no training uses.
HELD_OUT_SEED = 1_000_003


@dataclass(frozen=True)
class Source:
    """Faces to train on, and pairs of other people."""

    train: DataConfig
    teacher: Path | None
    held_out: FaceDataset
    pairs: list[Pair]
    train_words: str
    pairs_words: str
    evaluate_options: str
    """What `minusface evaluate` needs to see the same pairs, or empty where it cannot."""


def find_faces(faces: str | None) -> Path | None:
    """The face folder: as given, or the one beside the current folder or the repository; None: no such.

    Raises:
        MinusfaceError: a folder was given and is not there.
    """
    if faces is not None:
        if not Path(faces).is_dir():
            raise MinusfaceError(f"{faces}: no such folder, expected one folder a person in it")
        return Path(faces)
    here, repository = Path.cwd(), Path(__file__).resolve().parents[3]
    for base in (here, here.parent, repository.parent):
        folder = base.joinpath(*DEFAULT_FACES)
        if folder.is_dir():
            return folder
    return None


def find_teacher(folder: Path) -> Path | None:
    """A teacher's embeddings beside the face folder; the first by name."""
    found = sorted(folder.resolve().parent.glob("*teacher*.npz"))
    return found[0] if found else None


def open_source(faces: str | None, out: Path, budget: Budget, seed: int) -> Source:
    """Choose training data and held-out pairs.

    Raises:
        MinusfaceError: a missing or unusable folder.
    """
    folder = find_faces(faces)
    if folder is None:
        return synthetic_source(budget, seed)
    lists = folder.resolve().parent / PROTOCOL
    if (lists / TRAIN_LIST).is_file() and (lists / TEST_LIST).is_file() and faces is None:
        return listed_source(folder, lists)
    if all((lists / name).is_file() for name in (TRAIN_LIST, TEST_LIST)) and _covers(folder, lists):
        return listed_source(folder, lists)
    return split_source(folder, out, budget, seed)

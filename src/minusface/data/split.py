"""People parted into those to train on and those to test on, and pairs of the latter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minusface.errors import MinusfaceError
from minusface.files import write_atomically

# As evaluations cut a list of pairs.
FOLDS = 10
# Of a person with more images so many make pairs.
SEVERAL = 200


@dataclass(frozen=True)
class Split:
    """Who trains, who tests, and the test pairs."""

    train: list[str]
    """Names of people, sorted."""
    test: list[str]
    """Names of other people, sorted."""
    pairs: list[tuple[str, str, bool]]
    """(key, key, same person), both of test people; genuine and impostor pairs in turn. Folds are tenths of a
    list: pairs of a tenth are of people who are in no other, where there are people enough."""


def split_people(
    people: Sequence[str],
    images: Sequence[Sequence[str]],
    *,
    test: float = 0.1,
    pairs: int = 3000,
    seed: int = 0,
) -> Split:
    """Draw disjoint people for training and testing, and as many genuine as impostor pairs.

    The same people, images and seed give the same split. No pair is drawn twice.

    Args:
        people: names.
        images: of each, the keys of the images.
        test: part of the people, above 0 and below 1, that is held out.
        pairs: genuine pairs, and impostor pairs as well; fewer where the held-out people have fewer.
        seed: 0 or more.

    Raises:
        MinusfaceError: numbers out of range, fewer than four people, or nobody held out with two images.
    """
    if not 0 < test < 1:
        raise MinusfaceError(f"test {test}: expected a part of the people, above 0 and below 1")
    if pairs < 1 or seed < 0:
        raise MinusfaceError(f"pairs {pairs}, seed {seed}: expected pairs >= 1 and seed >= 0")
    if len(people) < 4:
        raise MinusfaceError(f"{len(people)} people: expected 4 or more to split")
    random = np.random.default_rng(seed)
    held = min(max(2, round(len(people) * test)), len(people) - 2)
    chosen = np.sort(random.permutation(len(people))[:held])
    counts = [len(images[person]) for person in chosen]
    if max(counts) < 2:
        raise MinusfaceError(
            f"none of the {held} held-out people has two images: no genuine pair to draw "
            "(try another seed or a larger test)"
        )
    turns = _in_folds(counts, pairs, random) or _turns(range(held), counts, pairs, random)
    drawn = [
        (images[chosen[a]][i], images[chosen[b]][j], same)
        for two in turns
        for (a, i, b, j), same in zip(two, (True, False), strict=True)
    ]
    inside = set(chosen.tolist())
    return Split(
        train=sorted(name for number, name in enumerate(people) if number not in inside),
        test=sorted(people[number] for number in chosen),
        pairs=drawn,
    )


def list_texts(split: Split, images: Mapping[str, int]) -> dict[str, bytes]:
    """The files of a split by their names, ``train``, ``test`` and ``pairs``: bytes as on disk.

    Args:
        split: who and what.
        images: how many of each person.

    Raises:
        MinusfaceError: a name that a list cannot hold.
    """
    for name in (*images, *(key for a, b, _ in split.pairs for key in (a, b))):
        if any(sign in name for sign in "\t\r\n"):
            raise MinusfaceError(f"{name!r}: a tab or a line break in a name, which lists part at")
    # With a count beside each, as in LFW's lists, no name is taken for a count.
    lists = {
        "train": [f"{name}\t{images[name]}" for name in split.train],
        "test": [f"{name}\t{images[name]}" for name in split.test],
        "pairs": [f"{a}\t{b}\t{int(same)}" for a, b, same in split.pairs],
    }
    return {
        name: "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
        for name, lines in lists.items()
    }


def write_lists(folder: Path, texts: Mapping[str, bytes]) -> None:
    """Write what :func:`list_texts` gives as ``NAME.txt``, or nothing.

    Raises:
        MinusfaceError: a file of such a name says something else; or it cannot be written.
    """
    files = {folder / f"{name}.txt": text for name, text in texts.items()}
    for file, text in files.items():
        try:
            stands = file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise MinusfaceError(f"{file}: cannot read ({error.strerror or error})") from error
        if stands != text:
            raise MinusfaceError(f"{file}: another list is there, expected an --out without it")
    for file, text in files.items():
        write_atomically(file, text)


Draw = tuple[int, int, int, int]


def _genuine(counts: Sequence[int], wanted: int, random: np.random.Generator) -> list[Draw]:
    """Up to ``wanted`` pairs (person, image, same person, other image), people taking turns."""

    def shuffled(person: int, count: int) -> Iterator[Draw]:
        # Enough for anybody's share, without listing the millions of pairs of a thousand images.
        order = random.permutation(count)[:SEVERAL]
        firsts, seconds = np.triu_indices(len(order), 1)
        for k in random.permutation(len(firsts)):
            yield person, int(order[firsts[k]]), person, int(order[seconds[k]])

    several = [person for person, count in enumerate(counts) if count > 1]
    turns = [shuffled(several[k], counts[several[k]]) for k in random.permutation(len(several))]
    found: list[Draw] = []
    while turns and len(found) < wanted:
        left = []
        for turn in turns:
            pair = next(turn, None)
            if pair is not None:
                found.append(pair)
                left.append(turn)
        turns = left
    return found[:wanted]


def _impostors(counts: Sequence[int], wanted: int, random: np.random.Generator) -> list[Draw]:
    """Up to ``wanted`` pairs of different people's images, people drawn alike however many images."""
    found: dict[Draw, None] = {}
    # Each try succeeds unless the pair was drawn before; the bound matters for a handful of images only.
    for _ in range(20 * wanted + 100):
        if len(found) == wanted:
            break
        a, b = sorted(random.choice(len(counts), 2, replace=False).tolist())
        found[a, int(random.integers(counts[a])), b, int(random.integers(counts[b]))] = None
    return list(found)


def _turns(
    people: Sequence[int], counts: Sequence[int], wanted: int, random: np.random.Generator
) -> list[tuple[Draw, Draw]]:
    """Genuine and impostor pairs of some people, each kind in the order of its first people."""
    own = [counts[person] for person in people]
    genuine = _genuine(own, wanted, random)
    impostors = _impostors(own, len(genuine), random)
    # Cut before they are sorted: people took turns, and all of them shall be there.
    both = sorted(genuine[: len(impostors)]), sorted(impostors)
    placed = [[(people[a], i, people[b], j) for a, i, b, j in kind] for kind in both]
    return list(zip(*placed, strict=True))


def _in_folds(
    counts: Sequence[int], wanted: int, random: np.random.Generator
) -> list[tuple[Draw, Draw]] | None:
    """Tenths of pairs, each of people of its own; None where that would leave less than half of the pairs."""
    room = [_room(count) for count in counts]
    # Who has most pairs first, people of as many by lot; dealt to and fro, so that all parts have as many.
    order = random.permutation(len(counts))
    order = order[np.argsort([-room[person] for person in order], kind="stable")]
    parts: list[list[int]] = [[] for _ in range(FOLDS)]
    for rank, person in enumerate(order.tolist()):
        row, place = divmod(rank, FOLDS)
        parts[FOLDS - 1 - place if row % 2 else place].append(person)
    number = min(wanted, FOLDS * min(sum(room[person] for person in part) for part in parts))
    few = any(len(part) < 2 for part in parts) or number < FOLDS
    if few or 2 * number < min(wanted, sum(room)):
        return None
    shares = np.bincount(np.arange(number) * FOLDS // number).tolist()
    found = [
        _turns(sorted(part), counts, share, random)
        for part, share in zip(parts, shares, strict=True)
    ]
    whole = [len(turns) == share for turns, share in zip(found, shares, strict=True)]
    return [turn for turns in found for turn in turns] if all(whole) else None


def _room(images: int) -> int:
    """Genuine pairs that a person has."""
    return min(images, SEVERAL) * (min(images, SEVERAL) - 1) // 2

"""People parted into train and test, and pairs of the latter."""

from __future__ import annotations

from pathlib import Path

import pytest

from minusface.data.split import FOLDS, Split, list_texts, split_people, write_lists
from minusface.errors import MinusfaceError
from minusface.evaluate import Pair, PairList


def _people(count: int, images: int) -> tuple[list[str], list[list[str]]]:
    names = [f"p{number:03}" for number in range(count)]
    return names, [[f"{name}/{i}.jpg" for i in range(images)] for name in names]


def test_people_are_disjoint_and_pairs_are_of_test_people() -> None:
    names, images = _people(50, 4)
    found = split_people(names, images, test=0.2, pairs=40, seed=3)
    assert len(found.test) == 10
    assert sorted(found.train + found.test) == names
    assert len(found.pairs) == 80
    assert len(set(found.pairs)) == 80
    for a, b, same in found.pairs:
        person, other = a.split("/")[0], b.split("/")[0]
        assert {person, other} <= set(found.test)
        assert (person == other) == same
        assert a != b
    assert [same for *_, same in found.pairs] == [True, False] * 40


def test_seed_decides() -> None:
    names, images = _people(50, 4)
    assert split_people(names, images, seed=1) == split_people(names, images, seed=1)
    assert split_people(names, images, seed=1) != split_people(names, images, seed=2)


def test_every_person_gets_a_turn_before_anybody_a_second() -> None:
    names, images = _people(40, 30)
    found = split_people(names, images, test=0.5, pairs=20)
    people = [a.split("/")[0] for a, _, same in found.pairs if same]
    assert len(set(people)) == 20


def test_fewer_pairs_than_wanted_are_all_there_are() -> None:
    names, images = _people(4, 2)
    found = split_people(names, images, test=0.5, pairs=100)
    assert sum(same for *_, same in found.pairs) == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"test": 0.0}, "test 0.0"),
        ({"test": 1.0}, "test 1.0"),
        ({"pairs": 0}, "pairs 0"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_numbers_out_of_range(settings: dict[str, float], words: str) -> None:
    names, images = _people(8, 2)
    with pytest.raises(MinusfaceError, match=words):
        split_people(names, images, **settings)  # type: ignore[arg-type]


def test_too_few_people_or_images() -> None:
    with pytest.raises(MinusfaceError, match="4 or more"):
        split_people(*_people(3, 2))
    with pytest.raises(MinusfaceError, match="two images"):
        split_people(*_people(10, 1))


def test_lists_as_files() -> None:
    split = Split(["1", "7"], ["J\udcf6rg"], [("J\udcf6rg/1.jpg", "J\udcf6rg/2.jpg", True)])
    found = list_texts(split, {"1": 3, "7": 1, "J\udcf6rg": 2})
    assert found == {
        "train": b"1\t3\n7\t1\n",
        "test": b"J\xf6rg\t2\n",
        "pairs": b"J\xf6rg/1.jpg\tJ\xf6rg/2.jpg\t1\n",
    }
    with pytest.raises(MinusfaceError, match=r"'a\\tb': a tab or a line break"):
        list_texts(split, {"a\tb": 1})
    broken = Split([], [], [("p/a\n.jpg", "p/b.jpg", True)])
    with pytest.raises(MinusfaceError, match="line break"):
        list_texts(broken, {"p": 2})


@pytest.mark.parametrize("pairs", [300, 157, 10])
@pytest.mark.parametrize("images", [12, 2])
def test_a_person_is_in_one_fold(pairs: int, images: int) -> None:
    """As first or second, in genuine or impostor pairs: no threshold is chosen on who is tested by it."""
    names, keys = _people(240, images)
    found = split_people(names, keys, test=0.5, pairs=pairs, seed=5)
    assert len(found.pairs) == 2 * min(pairs, 120 if images == 2 else pairs)
    assert len(set(found.pairs)) == len(found.pairs)
    listed = PairList.from_pairs([Pair(*pair) for pair in found.pairs])
    where = {
        (key.split("/")[0], int(fold))
        for (*both, _), fold in zip(found.pairs, listed.folds, strict=True)
        for key in both
    }
    people = {person for person, _ in where}
    assert len(where) == len(people) > 15
    assert {fold for _, fold in where} == set(range(FOLDS))


def test_where_one_person_has_most_images_pairs_are_kept() -> None:
    """And folds share them."""
    names, keys = _people(60, 2)
    keys[7] = [f"p007/{i}.jpg" for i in range(80)]
    seed = next(s for s in range(50) if "p007" in split_people(names, keys, test=0.5, seed=s).test)
    found = split_people(names, keys, test=0.5, pairs=1000, seed=seed)
    assert len(found.pairs) == 2000
    assert sum(a.startswith("p007") for a, _, same in found.pairs if same) == 1000 - 29


def test_where_impostors_are_few_everybody_is_in_a_genuine_pair() -> None:
    names = ["p0", "p1", "p2", "p3"]
    images = [[f"{name}/{i}" for i in range(6 if name < "p2" else 2)] for name in names]
    for seed in range(10):
        found = split_people(names, images, seed=seed)
        assert {a.split("/")[0] for a, _, same in found.pairs if same} == set(found.test)
        assert [same for *_, same in found.pairs] == [True, False] * (len(found.pairs) // 2)


def test_other_lists_are_not_replaced(tmp_path: Path) -> None:
    texts = {"train": b"a\t1\n", "pairs": b"a\tb\t0\n"}
    for _ in range(2):
        write_lists(tmp_path / "lists", texts)
    (tmp_path / "lists" / "pairs.txt").write_bytes(b"10\t300\n")
    (tmp_path / "lists" / "train.txt").unlink()
    with pytest.raises(MinusfaceError, match=r"lists/pairs\.txt: another list is there") as caught:
        write_lists(tmp_path / "lists", texts)
    assert "\n" not in str(caught.value)
    assert [file.read_bytes() for file in (tmp_path / "lists").iterdir()] == [b"10\t300\n"]
    (tmp_path / "lists" / "train.txt").mkdir()
    with pytest.raises(MinusfaceError, match=r"train\.txt: cannot read"):
        write_lists(tmp_path / "lists", texts)
    with pytest.raises(MinusfaceError, match="cannot write"):
        write_lists(tmp_path / "lists" / "pairs.txt", texts)

"""People parted into train and test, and pairs of the latter."""

from __future__ import annotations

import pytest

from minusface.data.split import Split, list_texts, split_people
from minusface.errors import MinusfaceError


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

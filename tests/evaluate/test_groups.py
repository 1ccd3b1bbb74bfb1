"""Errors by group: against plain loops; files of groups that are as they should be, and others."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from minusface.errors import MinusfaceError
from minusface.evaluate.groups import (
    GroupPoint,
    by_group,
    groups_of,
    inequity,
    read_groups,
    worst_group,
)
from tests.evaluate.clouds import cloud


def test_rates_agree_with_plain_loops() -> None:
    rows, people = cloud(30, 3, 0.8)
    # A third without a group; images of one person may have different ones.
    names = [(None, "old", "young")[(i * 7) % 3] for i in range(len(rows))]
    points = by_group(rows, people, names, {"t": 0.4})["t"]
    assert [point.group for point in points] == ["old", "young"]
    for point in points:
        inside = [i for i, name in enumerate(names) if name == point.group]
        impostor, accepted = 0, 0
        missed: dict[int, list[bool]] = {}
        for i in inside:
            for j in inside:
                if j >= i:
                    continue
                over = float(rows[i] @ rows[j]) >= 0.4
                if people[i] == people[j]:
                    missed.setdefault(people[i], []).append(not over)
                else:
                    impostor += 1
                    accepted += over
        assert (point.images, point.people) == (len(inside), len({people[i] for i in inside}))
        assert point.impostors == impostor
        assert point.fmr == accepted / impostor
        assert 0 < point.fmr_low < point.fmr < point.fmr_high
        if missed:
            assert point.fnmr == pytest.approx(np.mean([np.mean(one) for one in missed.values()]))


def test_a_crowded_group_has_more_false_matches() -> None:
    rows, people = cloud(80, 2, 0.5)
    rows[80:] += 0.5 * rows[0]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    apart, crowded = by_group(rows, people, ["apart"] * 80 + ["crowded"] * 80, {"t": 0.5})["t"]
    assert crowded.fmr_low > apart.fmr_high
    assert apart.fnmr is not None
    assert apart.fnmr_low is not None
    assert apart.fnmr_high is not None
    assert apart.fnmr_low <= apart.fnmr <= apart.fnmr_high
    ratio = inequity([apart, crowded]).fmr
    assert ratio == pytest.approx((crowded.fmr / apart.fmr) ** 0.5)


def test_intervals_of_misses_hold_what_they_promise() -> None:
    everybody, _ = cloud(4000, 2, 0.8)
    true = float(((everybody[0::2] * everybody[1::2]).sum(1) < 0.5).mean())
    inside = 0
    for seed in range(40):
        rows, people = cloud(60, 2, 0.8, 100 + seed)
        point = by_group(rows, people, ["all"] * len(rows), {"t": 0.5})["t"][0]
        assert point.fnmr_low is not None
        assert point.fnmr_high is not None
        inside += point.fnmr_low <= true <= point.fnmr_high
    assert inside >= 34


def test_without_genuine_pairs_or_errors() -> None:
    rows, people = cloud(20, 1, 0.5)
    point = by_group(rows, people, ["all"] * 20, {"t": 0.99})["t"][0]
    assert (point.fmr, point.fnmr, point.fnmr_low, point.fnmr_high) == (0, None, None, None)
    assert inequity([point, point]) == (None, None)


def test_one_group_is_not_compared() -> None:
    point = GroupPoint("all", 4, 2, 4, 0.5, 0.4, 0.6, 0.5, 0.4, 0.6)
    assert inequity([point]) == (None, None)


@pytest.mark.parametrize("between", [",", "\t", " , "])
def test_files(tmp_path: Path, between: str) -> None:
    path = tmp_path / "groups.csv"
    lines = [("Name", "Group"), ("Ada", "women"), ("", ""), ("Ben", "men"), ("Ben/2.jpg", "boys")]
    path.write_text("\n".join(between.join(line).strip() if any(line) else "" for line in lines))
    held = read_groups(path)
    assert held == {"Ada": "women", "Ben": "men", "Ben/2.jpg": "boys"}


def test_an_image_goes_before_its_person() -> None:
    held = {"Ada": "w", "Bea": "w", "Ben": "m", "Ben/2.jpg": "b", "Bob": "m", "Bob/1.jpg": "b"}
    keys = [
        "Ada/1.jpg",
        "Bea/1.jpg",
        "Ben/1.jpg",
        "Ben/2.jpg",
        "Bob/1.jpg",
        "Bob/2.jpg",
        "Cy/1.jpg",
    ]
    assert groups_of(keys, held, "f") == ["w", "w", "m", "b", "b", "m", None]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Ada,women,old\n", "line 1: 'Ada,women,old', expected NAME,GROUP"),
        ("name,group\nAda,\n", "line 2: 'Ada,', expected"),
        ("Ada," + "x" * 200_000 + "\n", "field larger than field limit"),
        ("Ada,women\nAda,men\n", "line 2: Ada is men here, women before"),
        ("name,group\n", "no line NAME,GROUP"),
    ],
)
def test_other_files(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "groups.csv"
    path.write_text(text)
    with pytest.raises(MinusfaceError, match=said):
        read_groups(path)


def test_no_file_and_no_text(tmp_path: Path) -> None:
    (tmp_path / "picture").write_bytes(b"\xff\xd8\xff\x00")
    for name in ("missing", "picture"):
        with pytest.raises(MinusfaceError, match=f"{name}: cannot be read as text"):
            read_groups(tmp_path / name)


def test_groups_of_nobody_or_of_one() -> None:
    with pytest.raises(MinusfaceError, match="names none of the people, such as Ada, nor"):
        groups_of(["Ada/1.jpg"], {"Eve": "women"}, "f")
    with pytest.raises(MinusfaceError, match="group women has one person"):
        groups_of(["Ada/1.jpg", "Ada/2.jpg"], {"Ada": "women"}, "f")


def test_a_card_tells_its_worst_group() -> None:
    rows, people = cloud(40, 2, 0.5)
    rows[40:] += 0.5 * rows[0]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    points = by_group(rows, people, ["apart"] * 40 + ["crowded"] * 40, {"t": 0.5})["t"]
    metrics = {"groups": {"fmr_1e-2": [asdict(point) for point in points]}}
    assert worst_group(metrics, "fmr_1e-2", "here") == points[1]
    assert worst_group(metrics, "fmr_1e-3", "here") is None
    assert worst_group({}, "fmr_1e-2", "here") is None
    for damaged in ({"groups": []}, {"groups": {"fmr_1e-2": [{"group": "a"}]}}):
        with pytest.raises(MinusfaceError, match="here: damaged groups"):
            worst_group(damaged, "fmr_1e-2", "here")
    for key, value in (("fmr", float("nan")), ("people", 0), ("fnmr_low", "a")):
        wrong = {"groups": {"fmr_1e-2": [asdict(points[0]) | {key: value}]}}
        with pytest.raises(MinusfaceError, match=rf"here: damaged groups.*fmr_1e-2\[0\].{key}"):
            worst_group(wrong, "fmr_1e-2", "here")

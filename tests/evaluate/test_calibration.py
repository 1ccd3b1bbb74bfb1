"""Thresholds for use: against plain loops, and what their intervals promise."""

from __future__ import annotations

import json

import numpy as np
import pytest

from minusface.errors import MinusfaceError
from minusface.evaluate.calibration import calibrate, from_card, rate_name, to_card
from tests.evaluate.clouds import cloud


def test_rates_agree_with_plain_loops() -> None:
    rows, people = cloud(30, 4, 0.8)
    points = calibrate(rows, people)
    assert [point.name for point in points] == [
        "fmr_1e-1",
        "fmr_1e-2",
    ]  # 6,960 pairs: no tenth of a per cent
    for point in points:
        impostor, accepted, missed = 0, 0, {}
        own: dict[int, list[bool]] = {}
        for i in range(len(rows)):
            for j in range(i):
                score = float(rows[i] @ rows[j])
                if people[i] == people[j]:
                    missed.setdefault(people[i], []).append(score < point.threshold)
                else:
                    impostor += 1
                    accepted += score >= point.threshold
                    for person in (people[i], people[j]):
                        own.setdefault(person, []).append(score >= point.threshold)
        assert point.impostors == impostor
        assert point.fmr == accepted / impostor
        assert point.fmr <= point.target < (accepted + 1) / impostor
        assert point.fnmr == pytest.approx(np.mean([np.mean(one) for one in missed.values()]))
        assert point.fmr_low < point.fmr < point.fmr_high
        rates = [np.mean(hits) for hits in own.values()]
        assert point.fmr_p95 == pytest.approx(np.quantile(rates, 0.95))


def test_intervals_hold_what_they_promise() -> None:
    """Of many worlds, about 95 in 100 have their true rate inside: the threshold's rate on fresh people."""
    inside = 0
    for seed in range(40):
        point = calibrate(*cloud(60, 2, 0.7, seed), targets=[0.1])[0]
        rows, _ = cloud(400, 1, 0.7, 1000 + seed)
        scores = (rows @ rows.T)[np.triu_indices(len(rows), 1)]
        inside += point.fmr_low <= (scores >= point.threshold).mean() <= point.fmr_high
    assert inside >= 30


def test_more_people_make_it_surer() -> None:
    few, many = (calibrate(*cloud(people, 2, 0.7), targets=[0.1])[0] for people in (20, 200))
    assert many.fmr_high - many.fmr_low < 0.6 * (few.fmr_high - few.fmr_low)


def test_who_is_like_many_is_seen() -> None:
    rows, people = cloud(100, 2, 0.6)
    even = calibrate(rows, people, targets=[0.01])[0]
    crowd = rows.copy()
    crowd[:20] += 1.5 * rows[0]
    crowd /= np.linalg.norm(crowd, axis=1, keepdims=True)
    uneven = calibrate(crowd, people, targets=[0.01])[0]
    assert even.fmr_p95 is not None
    assert uneven.fmr_p95 is not None
    assert uneven.fmr == pytest.approx(even.fmr, rel=0.05)
    assert uneven.fmr_p95 > 2 * even.fmr_p95


def test_without_genuine_pairs() -> None:
    assert calibrate(*cloud(40, 1, 0.5))[0].fnmr is None


def test_through_a_card() -> None:
    points = calibrate(*cloud(30, 2, 0.5))
    held = json.loads(json.dumps({"thresholds": to_card(points)}))
    assert list(from_card(held, "x").values()) == points
    for fields in held["thresholds"].values():
        del fields["fmr_p95"]
    assert all(point.fmr_p95 is None for point in from_card(held, "x").values())
    with pytest.raises(MinusfaceError, match="minusface calibrate x"):
        from_card({}, "x")
    with pytest.raises(MinusfaceError, match="damaged thresholds"):
        from_card({"thresholds": {"fmr_1e-2": {"threshold": 0.3}}}, "x")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("threshold", "0.3", "from -1 to 1"),
        ("threshold", float("nan"), "from -1 to 1"),
        ("threshold", 1.5, "from -1 to 1"),
        ("target", 0, "more than 0"),
        ("target", 1, "less than 1"),
        ("fmr", float("nan"), "from 0 to 1"),
        ("fmr", None, "from 0 to 1"),
        ("fmr_low", -0.1, "from 0 to 1"),
        ("fmr_high", True, "from 0 to 1"),
        ("fnmr", [1], "from 0 to 1"),
        ("fmr_p95", 2, "from 0 to 1"),
        ("people", 0, "a whole number"),
        ("impostors", 40.0, "a whole number"),
    ],
)
def test_damaged_fields_of_a_card(key: str, value: object, said: str) -> None:
    held = {"thresholds": to_card(calibrate(*cloud(30, 2, 0.5)))}
    held["thresholds"]["fmr_1e-1"][key] = value
    with pytest.raises(MinusfaceError, match=rf"^x: damaged .*fmr_1e-1\.{key}.*{said}") as caught:
        from_card(held, "x")
    assert "\n" not in str(caught.value)


def test_refusals() -> None:
    rows, people = cloud(5, 2, 0.5)
    with pytest.raises(MinusfaceError, match="images of 1 person"):
        calibrate(rows, np.zeros(10))
    with pytest.raises(MinusfaceError, match=r"expected \(K, D\) and \(K,\)"):
        calibrate(rows, people[1:])
    with pytest.raises(MinusfaceError, match="40 impostor pairs, expected 100 or more"):
        calibrate(rows, people)


def test_names() -> None:
    wanted = ["fmr_1e-1", "fmr_1e-2", "fmr_1e-3", "fmr_5e-2"]
    assert [rate_name(rate) for rate in (0.1, 0.01, 0.001, 0.05)] == wanted

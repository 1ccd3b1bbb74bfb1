"""Millions of pairs: equal to float64, to the plain metrics and to scikit-learn, in little memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minusface.errors import MinusfaceError
from minusface.evaluate import metrics
from minusface.evaluate.large_scale import allowed, operating_points, score_indexed
from tests.reference import verification as naive

FARS = (1e-3, 1e-2, 0.1, 0.2, 0.25, 0.3, 0.5, 0.7, 1.0)
# Few levels, so that ties are the rule.
ROWS = st.lists(
    st.tuples(st.integers(-4, 4).map(lambda i: i / 4), st.booleans()), min_size=2, max_size=60
)


def _rows(count: int, size: int, dtype: type = np.float32) -> np.ndarray:
    rows = np.random.default_rng(0).normal(size=(count, size))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(dtype)


@pytest.mark.parametrize(("dtype", "near"), [(np.float32, 1e-6), (np.float64, 1e-12)])
@pytest.mark.parametrize("index", [np.int32, np.int64, np.uint16])
def test_scores_are_dot_products(dtype: type, near: float, index: type) -> None:
    rows = _rows(300, 48, dtype)
    random = np.random.default_rng(1)
    a, b = random.integers(0, 300, (2, 5_003)).astype(index)
    found = score_indexed(rows, a, b, threads=2)
    assert found.dtype == dtype
    plain = [
        float(np.dot(rows[i].astype(float), rows[j].astype(float)))
        for i, j in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(found, plain, atol=near)


def test_blocks_leave_no_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _rows(50, 8, np.float64)
    a, b = np.random.default_rng(2).integers(0, 50, (2, 1_001))
    whole = (rows[a] * rows[b]).sum(1)
    for block, size in ((7, 64), (64, 1 << 10), (1_000, 1), (1_001, 1 << 20), (5_000, 640)):
        monkeypatch.setattr("minusface.evaluate.large_scale.BLOCK", block)
        monkeypatch.setattr("minusface.evaluate.large_scale.CHUNK_BYTES", size)
        np.testing.assert_allclose(score_indexed(rows, a, b), whole, atol=1e-12)


@settings(max_examples=150, deadline=None)
@given(ROWS)
def test_points_are_those_of_plain_loops(rows: list[tuple[float, bool]]) -> None:
    rows = [*rows, (0.5, True), (0.5, False)]
    scores, same = (np.array(column) for column in zip(*rows, strict=True))
    found = operating_points(scores.astype(np.float32), same, FARS)
    plain = metrics.tar_at_far(scores, same, FARS)
    for n, far in enumerate(FARS):
        expected = plain[far]
        if expected is None:
            assert np.isnan([found.tar[n], found.far[n], found.threshold[n]]).all()
            continue
        assert found.tar[n] == pytest.approx(expected, abs=1e-9)
        assert found.tar[n] == pytest.approx(naive.tar_at_far(scores, same, far), abs=1e-9)
        # The threshold does what the point says.
        assert (scores[same] >= found.threshold[n]).mean() == pytest.approx(found.tar[n], abs=1e-9)
        assert (scores[~same] >= found.threshold[n]).mean() == pytest.approx(found.far[n], abs=1e-9)
        assert found.far[n] <= far
    by_far = found.tar_at_far()
    assert list(by_far) == list(FARS)
    assert [value is None for value in by_far.values()] == [plain[far] is None for far in FARS]


def test_points_lie_on_scikit_learns_curve() -> None:
    from sklearn.metrics import roc_curve

    random = np.random.default_rng(3)
    same = random.random(200_000) < 0.1
    scores = (random.normal(size=len(same)) + 2 * same).round(3).astype(np.float32)
    far, tar, thresholds = roc_curve(same, scores, drop_intermediate=False)
    targets = np.geomspace(1e-5, 1, 60)
    found = operating_points(scores, same, targets)
    last = np.searchsorted(far, targets, side="right") - 1
    np.testing.assert_allclose(found.far, far[last], atol=1e-12)
    np.testing.assert_allclose(found.tar, tar[last], atol=1e-12)
    inside = last > 0
    np.testing.assert_array_equal(found.threshold[inside], thresholds[last][inside])
    assert (scores < found.threshold[~inside].min(initial=np.inf)).all() or inside.all()


def test_quotients_decide_how_many_may_enter() -> None:
    """0.29 * 100 is 28.999... in floating point, yet 29 / 100 is 0.29."""
    for impostors in (1, 3, 7, 10, 49, 100, 997):
        for far in (0.01, 0.07, 0.1, 0.29, 0.3, 0.57, 1 / 3, 2 / 3, 0.7, 1.0):
            most = max(n for n in range(impostors + 1) if n / impostors <= far)
            assert allowed(far, impostors).tolist() == [most]


@pytest.mark.slow
def test_a_million_pairs_in_little_memory() -> None:
    random = np.random.default_rng(4)
    rows, pairs = _rows(4_000, 512), 1_000_000
    a, b = random.integers(0, len(rows), (2, pairs), dtype=np.int32)
    same = np.arange(pairs) < 2_000
    tracemalloc.start()
    scores = score_indexed(rows, a, b, threads=2)
    points = operating_points(scores, same, (1e-5, 1e-3))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Gathered at once, the rows of all pairs would be four gigabytes.
    assert peak < 40e6
    some = random.integers(0, pairs, 500)
    np.testing.assert_allclose(
        scores[some], (rows[a[some]].astype(float) * rows[b[some]]).sum(1), atol=1e-6
    )
    assert (scores[~same] >= points.threshold[0]).mean() <= 1e-5


def test_refusals() -> None:
    rows, one = _rows(4, 3), np.zeros(2, np.int64)
    with pytest.raises(MinusfaceError, match="rows 0 to 4, expected 0 to 3"):
        score_indexed(rows, np.array([0, 4]), one)
    with pytest.raises(MinusfaceError, match="rows -1 to 0"):
        score_indexed(rows, np.array([0, -1]), one)
    with pytest.raises(MinusfaceError, match=r"expected \(P,\) of each"):
        score_indexed(rows, one, one[:1])
    with pytest.raises(MinusfaceError, match="expected float32 or float64"):
        score_indexed(rows.astype(np.int64), one, one)
    with pytest.raises(MinusfaceError, match="NaN"):
        operating_points([0.1, np.nan, 0.2], [True, False, False], [0.5])
    with pytest.raises(MinusfaceError, match="2 genuine and 0 impostor"):
        operating_points([0.1, 0.2], [True, True], [0.5])
    with pytest.raises(MinusfaceError, match="more than 0"):
        operating_points([0.1, 0.2], [True, False], [0.0])
    with pytest.raises(MinusfaceError, match="one a pair"):
        operating_points([0.1, 0.2], [True], [0.5])

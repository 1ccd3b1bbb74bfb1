"""Searches against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minusface.errors import MinusfaceError
from minusface.evaluate import identification as fast
from tests.reference import identification as naive

RATES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.9, 1.0)


def _people(
    seed: int, gallery: int, probes: int, subjects: int, *, levels: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Gallery and probes of people, half of whom are enrolled; on few levels ties are the rule."""
    random = np.random.default_rng(seed)
    owners, seekers = (
        random.integers(0, subjects, gallery),
        random.integers(0, 2 * subjects, probes),
    )
    centres = random.normal(size=(2 * subjects, 4))
    rows = centres[owners] + random.normal(size=(gallery, 4))
    seen = centres[seekers] + random.normal(size=(probes, 4))
    if levels:
        rows, seen = rows.round(), seen.round()
    # A mate and a stranger there must be.
    seekers[0], seekers[1] = owners[0], 2 * subjects
    return rows, owners, seen, seekers


PEOPLE = st.tuples(st.integers(0, 10**6), st.integers(1, 12), st.integers(2, 14), st.integers(1, 6))


@settings(max_examples=120, deadline=None)
@given(PEOPLE, st.booleans(), st.sampled_from([1, 200, 1 << 26]))
def test_closed_set(sizes: tuple[int, int, int, int], levels: bool, chunk: int) -> None:
    gallery, owners, probes, seekers = _people(*sizes, levels=levels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, "CHUNK_BYTES", chunk)
        found = fast.search(gallery, owners, probes, seekers)
    for n, (probe, seeker) in enumerate(zip(probes, seekers, strict=True)):
        plain = naive.by_subject(probe, gallery, owners.tolist())
        assert found.rank[n] == naive.rank(plain, seeker)
        assert found.best[n] == pytest.approx(max(plain)[0], abs=1e-9)
    rates = fast.cmc(found, (1, 2, 5, 10))
    for rank, rate in rates.items():
        expected = naive.closed_set(gallery, owners.tolist(), probes, seekers.tolist(), rank)
        assert rate == pytest.approx(expected, abs=1e-9)


@settings(max_examples=120, deadline=None)
@given(PEOPLE, st.booleans(), st.integers(1, 3))
def test_open_set(sizes: tuple[int, int, int, int], levels: bool, rank: int) -> None:
    gallery, owners, probes, seekers = _people(*sizes, levels=levels)
    found = fast.search(gallery, owners, probes, seekers)
    points = fast.open_set(found, RATES, rank)
    mated = found.rank > 0
    for n, rate in enumerate(RATES):
        args = gallery, owners.tolist(), probes, seekers.tolist(), rate, rank
        expected = naive.open_set(*args)
        if expected is None:
            assert np.isnan([points.fnir[n], points.fpir[n], points.threshold[n]]).all()
            continue
        assert points.fnir[n] == pytest.approx(expected, abs=1e-9)
        # The threshold does what the point says.
        threshold = points.threshold[n]
        alarms = (found.best[~mated] >= threshold).mean()
        hits = (found.mate[mated] >= threshold) & (found.rank[mated] <= rank)
        assert alarms == pytest.approx(points.fpir[n], abs=1e-9)
        assert 1 - hits.mean() == pytest.approx(points.fnir[n], abs=1e-9)
        assert alarms <= rate


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([1, 3, 1 << 13]))
def test_distractors(seed: int, levels: bool, columns: int) -> None:
    random = np.random.default_rng(seed)
    subjects = np.append(random.integers(0, 4, 9), [0, 0])
    probes, strangers = random.normal(size=(11, 5)), random.normal(size=(23, 5))
    if levels:
        probes, strangers = probes.round(), strangers.round()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, "COLUMNS", columns)
        found = fast.against_distractors(probes, subjects, strangers, (23, 1, 8), (1, 2, 5))
    for n, size in enumerate((23, 1, 8)):
        for m, rank in enumerate((1, 2, 5)):
            expected = naive.against_distractors(probes, subjects.tolist(), strangers, size, rank)
            assert found.rates[n, m] == pytest.approx(expected, abs=1e-9)


def test_more_distractors_make_it_harder() -> None:
    random = np.random.default_rng(0)
    centres = random.normal(size=(40, 16))
    subjects = np.repeat(np.arange(40), 5)
    probes = (centres[subjects] + 0.8 * random.normal(size=(200, 16))).astype(np.float32)
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    strangers = random.normal(size=(5_000, 16)).astype(np.float32)
    strangers /= np.linalg.norm(strangers, axis=1, keepdims=True)
    found = fast.against_distractors(probes, subjects, strangers, (10, 100, 1_000, 5_000), (1, 10))
    assert (np.diff(found.rates, axis=0) < 0).all()
    assert (found.rates[:, 1] > found.rates[:, 0]).all()


def test_known_answers() -> None:
    """Three enrolled; the second probe's mate comes second, the last probe is a stranger."""
    gallery = np.eye(3)
    probes = np.array([[0.9, 0.1, 0.0], [0.6, 0.5, 0.0], [0.0, 0.0, 0.7]])
    found = fast.search(gallery, ["a", "b", "c"], probes, ["a", "b", "x"])
    assert found.rank.tolist() == [1, 2, 0]
    assert fast.cmc(found, (1, 2)) == {1: 0.5, 2: 1.0}
    assert fast.open_set(found, 1.0).fnir.tolist() == [0.5]
    assert fast.open_set(found, 1.0, rank=2).fnir.tolist() == [0.0]
    assert np.isnan(fast.open_set(found, 0.5).fnir).all()


def test_ties_count_against_the_mate() -> None:
    found = fast.search(np.ones((3, 1)), [1, 2, 3], np.ones((1, 1)), [2])
    assert found.rank.tolist() == [3]
    assert fast.against_distractors(np.ones((2, 1)), [1, 1], np.ones((1, 1)), [1]).rates[0, 0] == 0


def test_ordered_pairs() -> None:
    first, second = fast.ordered_pairs(["b", "a", "b", "c", "b"])
    found = set(zip(first.tolist(), second.tolist(), strict=True))
    assert found == {(i, j) for i in (0, 2, 4) for j in (0, 2, 4) if i != j}
    assert len(first) == 6


def test_refusals() -> None:
    one, two = np.ones((1, 2)), np.ones((2, 2))
    with pytest.raises(MinusfaceError, match="gallery: embeddings"):
        fast.search(one, [1, 2], one, [1])
    with pytest.raises(MinusfaceError, match="one or more"):
        fast.search(np.ones((0, 2)), [], one, [1])
    with pytest.raises(MinusfaceError, match="embeddings of 3 numbers"):
        fast.search(np.ones((1, 3)), [1], one, [1])
    with pytest.raises(MinusfaceError, match="finite"):
        fast.search(one, [1], one * np.nan, [1])
    with pytest.raises(MinusfaceError, match="expected float32 or float64"):
        fast.search(np.ones((1, 2), int), [1], one, [1])
    with pytest.raises(MinusfaceError, match="none of 1 probes has a mate"):
        fast.cmc(fast.search(one, [1], one, [2]))
    with pytest.raises(MinusfaceError, match="1 probes with a mate and 0 without"):
        fast.open_set(fast.search(one, [1], one, [1]))
    with pytest.raises(MinusfaceError, match="rank 0"):
        fast.cmc(fast.search(one, [1], one, [1]), [0])
    with pytest.raises(MinusfaceError, match="no two of one person"):
        fast.against_distractors(two, [1, 2], one, [1])
    with pytest.raises(MinusfaceError, match="2 distractors: expected 1 to 1"):
        fast.against_distractors(two, [1, 1], one, [2])
    with pytest.raises(MinusfaceError, match=r"expected \(M, 2\)"):
        fast.against_distractors(two, [1, 1], np.ones((1, 3)), [1])

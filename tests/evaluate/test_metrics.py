"""Metrics against scikit-learn and against the protocol in plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minusface.errors import MinusfaceError
from minusface.evaluate import even_folds, metrics
from tests.reference import verification as naive

# Few levels, so that ties are the rule.
SCORES = st.lists(
    st.tuples(st.integers(-4, 4).map(lambda i: i / 4), st.booleans(), st.integers(0, 3)),
    min_size=8,
    max_size=60,
)


def split(rows: list[tuple[float, bool, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # Each fold, and what is left without it, holds both kinds.
    rows = rows + [(0.5, bool(kind), fold) for kind in (0, 1) for fold in range(4)]
    scores, same, folds = (np.array(column) for column in zip(*rows, strict=True))
    return scores.astype(float), same.astype(bool), folds


@settings(max_examples=80, deadline=None)
@given(SCORES)
def test_agrees_with_plain_loops(rows: list[tuple[float, bool, int]]) -> None:
    scores, same, folds = split(rows)
    ours = metrics.kfold_accuracy(scores, same, folds)
    np.testing.assert_allclose(ours.accuracies, naive.kfold(scores, same, folds), atol=1e-9)
    for far in (0.1, 0.25, 0.5):
        found = metrics.tar_at_far(scores, same, [far])[far]
        if found is not None:
            assert found == pytest.approx(naive.tar_at_far(scores, same, far), abs=1e-9)
            threshold = metrics.threshold_at_fmr(scores, same, far)
            assert threshold is not None
            assert (scores[~same] >= threshold).mean() <= far
            assert (scores[same] >= threshold).mean() == pytest.approx(found, abs=1e-9)
        else:
            assert (~same).sum() * far < 1
    assert metrics.best_threshold(scores, same) == naive.best_threshold(scores, same)
    assert metrics.auc(scores, same) == pytest.approx(naive.auc(scores, same), abs=1e-9)
    assert metrics.eer(scores, same) == pytest.approx(naive.eer(scores, same), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(SCORES)
def test_agrees_with_scikit_learn(rows: list[tuple[float, bool, int]]) -> None:
    from sklearn.metrics import roc_auc_score, roc_curve

    scores, same, _ = split(rows)
    far, tar, thresholds = roc_curve(same, scores, drop_intermediate=False)
    ours = metrics.roc(scores, same)
    np.testing.assert_allclose(ours.far, far, atol=1e-9)
    np.testing.assert_allclose(ours.tar, tar, atol=1e-9)
    np.testing.assert_allclose(ours.thresholds[1:], thresholds[1:], atol=1e-9)
    assert metrics.auc(scores, same) == pytest.approx(roc_auc_score(same, scores), abs=1e-9)


def test_known_answers() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.2, 0.6, 0.3, 0.1, 0.0])
    same = np.array([1, 1, 1, 1, 0, 0, 0, 0], bool)
    assert metrics.auc(scores, same) == pytest.approx(14 / 16)
    assert metrics.eer(scores, same) == pytest.approx(0.25)
    assert metrics.tar_at_far(scores, same, [0.25, 1e-3]) == {0.25: 0.75, 1e-3: None}
    assert metrics.best_threshold(scores, same) == pytest.approx(0.65)
    assert metrics.threshold_at_fmr(scores, same, 0.25) == pytest.approx(0.6)


def test_constant_scores_are_chance() -> None:
    same = np.arange(40) % 2 == 0
    assert metrics.auc(np.zeros(40), same) == pytest.approx(0.5)
    assert metrics.eer(np.zeros(40), same) == pytest.approx(0.5)
    fold = metrics.kfold_accuracy(np.zeros(40), same, even_folds(same))
    assert fold.mean == pytest.approx(0.5)


def test_thresholds_part_neighbouring_floats() -> None:
    """Half-way between neighbours rounds to one of them; the lower one must not slip in."""
    for low in (0.1, 1.0, -0.3, 1e-300):
        high = np.nextafter(low, np.inf)
        assert low < metrics.best_threshold([high, low], [True, False]) <= high


def test_best_threshold_accepts_or_rejects_all() -> None:
    scores = np.array([0.1, 0.4, 0.8])
    assert metrics.best_threshold(scores, np.ones(3, bool)) == 0.1
    assert metrics.best_threshold(scores, np.zeros(3, bool)) == np.nextafter(0.8, np.inf)


def test_threshold_where_no_score_may_be_accepted() -> None:
    scores, same = np.array([0.9, 0.9, 0.9, 0.1]), np.array([False, False, True, True])
    assert metrics.tar_at_far(scores, same, [0.5]) == {0.5: 0.0}
    assert metrics.threshold_at_fmr(scores, same, 0.5) == np.nextafter(0.9, np.inf)


def test_large_scores_agree_with_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(0)
    same = random.random(20_000) < 0.3
    scores = random.normal(size=20_000) + same
    assert metrics.auc(scores, same) == pytest.approx(roc_auc_score(same, scores), abs=1e-9)
    # Two normal distributions one deviation apart: EER = Phi(-1/2).
    assert metrics.eer(scores, same) == pytest.approx(0.3085, abs=0.01)


def test_even_folds_share_both_kinds() -> None:
    same = np.array([True] * 50 + [False] * 50)
    folds = even_folds(same)
    for fold in range(10):
        assert (folds[same] == fold).sum() == (folds[~same] == fold).sum() == 5
    assert folds[:50].tolist() == sorted(folds[:50].tolist())


def test_short_lists_have_fewer_folds() -> None:
    assert even_folds(np.array([True, False, True, False, False])).tolist() == [0, 0, 1, 0, 1]


def test_refusals() -> None:
    with pytest.raises(MinusfaceError, match="3 genuine and 0 impostor pairs"):
        metrics.roc(np.zeros(3), np.ones(3, bool))
    with pytest.raises(MinusfaceError, match="NaN"):
        metrics.roc(np.array([np.nan, 1]), np.array([True, False]))
    with pytest.raises(MinusfaceError, match="expected one a pair"):
        metrics.roc(np.zeros(3), np.ones(2, bool))
    with pytest.raises(MinusfaceError, match="more than 0 and at most 1"):
        metrics.tar_at_far(np.arange(4.0), np.array([1, 0, 1, 0], bool), [0.0])
    with pytest.raises(MinusfaceError, match=r"folds of shape \(3,\)"):
        metrics.kfold_accuracy(np.zeros(4), np.array([1, 0, 1, 0], bool), np.zeros(3))
    with pytest.raises(MinusfaceError, match="1 fold"):
        metrics.kfold_accuracy(np.zeros(4), np.array([1, 0, 1, 0], bool), np.zeros(4))

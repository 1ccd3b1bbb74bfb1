"""How attackers learn: budgets, early stopping, going on, the same numbers for the same seed."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from minusface.audit.access import Access, Target
from minusface.audit.attack import Fit, Trained, fit_attacker, key_of
from minusface.audit.budget import budget_of
from minusface.errors import MinusfaceError
from minusface.peers.base import Unprotected


def learn(
    budget: Fit, folder: Path | None = None, seed: int = 0, stop_at: int | None = None
) -> tuple[nn.Linear, Trained]:
    """Fit y = 2 x."""
    torch.manual_seed(5)
    module = nn.Linear(1, 1)
    held = torch.linspace(-1, 1, 9)[:, None]

    def loss(step: int, random: torch.Generator) -> Tensor:
        if stop_at is not None and step == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(budget.batch_size, 1, generator=random)
        return (module(x) - 2 * x).square().mean()

    def validate() -> float:
        return float((module(held) - 2 * held).square().mean())

    return module, fit_attacker(module, loss, validate, budget, seed=seed, folder=folder)


def test_it_learns_and_keeps_the_best() -> None:
    module, trained = learn(Fit(steps=400, lr=0.05, validate_every=20, patience=99))
    assert trained.points[-1].loss < 1e-3
    assert abs(float(module.weight.detach()) - 2) < 0.05
    assert trained.images == 400 * 16
    assert trained.stopped == "budget"


def test_still_improving_is_noted_and_patience_ends() -> None:
    assert learn(Fit(steps=20, lr=0.01, validate_every=5))[1].still_improving
    done = learn(Fit(steps=5000, lr=0.1, validate_every=5, patience=3))[1]
    assert done.stopped == "no gain"
    assert done.steps < 5000
    assert not done.still_improving


def test_a_stopped_attack_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    budget = Fit(steps=40, validate_every=10)
    module, whole = learn(budget)
    with pytest.raises(KeyboardInterrupt):
        learn(budget, tmp_path / "a", stop_at=25)
    again, resumed = learn(budget, tmp_path / "a")
    assert [p.loss for p in resumed.points] == [p.loss for p in whole.points]
    assert torch.equal(module.weight, again.weight)
    # A finished one is only read.
    last, read = learn(budget, tmp_path / "a", stop_at=0)
    assert read.points == resumed.points
    assert torch.equal(last.weight, again.weight)


def test_seeds_decide() -> None:
    budget = Fit(steps=20, validate_every=10)
    first, second, other = (learn(budget, seed=seed)[0].weight for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_seconds_end_it() -> None:
    trained = learn(Fit(steps=10**6, seconds=0.2, validate_every=10**6))[1]
    assert trained.stopped == "seconds"


def test_a_loss_that_is_not_finite_is_one_line() -> None:
    module = nn.Linear(1, 1)
    with pytest.raises(MinusfaceError, match="loss is nan at step 1"):
        fit_attacker(
            module, lambda step, random: module.weight.sum() * float("nan"), lambda: 0.0, Fit(5)
        )
    with pytest.raises(MinusfaceError, match="steps 0"):
        Fit(0)


def test_access_is_declared_and_refused() -> None:
    target = Target(Unprotected())
    target.admit("recovery", Access.IMAGES | Access.QUERY)
    with pytest.raises(MinusfaceError, match="knows each image's permutation"):
        target.admit("known permutation", Access.QUERY | Access.PERMUTATIONS)
    with pytest.raises(MinusfaceError, match="holds the recogniser"):
        target.admit("templates", Access.RECOGNIZER)


def test_a_budget_made_longer_says_so_and_judges_as_before() -> None:
    small, more = budget_of("small"), budget_of("small", 6, 2048)
    assert more.name == "small, 6 times as long, 2048 photos"
    assert more.train_images == 2048
    for kind in ("recovery", "averaging", "linkage", "attributes", "decoder"):
        before, after = getattr(small, kind), getattr(more, kind)
        assert after.steps == 6 * before.steps
        assert after.steps / after.validate_every == before.steps / before.validate_every
        assert after.batch_size == before.batch_size
    assert (more.ruler, more.pairs, more.width) == (small.ruler, small.pairs, small.width)
    assert budget_of("small", 1, None) == small
    # It sees new draws for as long as it learns, as the shorter one did.
    assert (small.views, small.attribute_views) == (4, 2)
    assert (more.views, more.attribute_views) == (24, 12)
    drawn = [budget_of(name, by) for name, by in (("small", 2.5), ("small", 0.5), ("medium", 3))]
    assert [(one.views, one.attribute_views) for one in drawn] == [(12, 6), (4, 2), (None, 6)]
    assert budget_of("small", 0.5).recovery.steps == small.recovery.steps // 2


def test_a_field_that_came_later_leaves_names_as_they_were() -> None:
    """Or findings that were kept before would not be found again."""
    before = {k: v for k, v in asdict(budget_of("small")).items() if k != "attribute_views"}
    assert key_of(budget_of("small")) == key_of(before)
    more = replace(budget_of("small"), attribute_views=4)
    assert key_of(more) != key_of(before)
    assert key_of(replace(budget_of("small"), views=8)) != key_of(before)


@pytest.mark.parametrize(
    ("name", "longer", "photos", "said"),
    [
        ("tiny", 1.0, None, "budget"),
        ("small", 0.0, None, "--longer 0: expected"),
        ("small", float("nan"), None, "--longer nan: expected"),
        ("small", 1.0, 0, "--photos 0: expected"),
    ],
)
def test_what_is_no_budget_is_refused(
    name: str, longer: float, photos: int | None, said: str
) -> None:
    with pytest.raises(MinusfaceError, match=said):
        budget_of(name, longer, photos)

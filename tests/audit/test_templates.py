"""Unlinkability and stolen templates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from minusface.audit.access import Target
from minusface.audit.bench import Bench
from minusface.audit.templates import run_stolen
from minusface.audit.unlinkability import (
    d_sys,
    laid_over,
    orthogonal_key,
    rotation_between,
    run_unlinkability,
)
from minusface.audit.verdict import verdict
from minusface.config import RecognizerConfig
from minusface.errors import MinusfaceError
from minusface.peers import MinusFace, Unprotected
from minusface.recognize import Recognizer
from tests.audit.conftest import finding


def test_d_sys_of_known_distributions() -> None:
    rng = np.random.default_rng(0)
    same = d_sys(rng.normal(0, 1, 2000), rng.normal(0, 1, 2000))
    apart = d_sys(rng.normal(8, 1, 2000), rng.normal(0, 1, 2000))
    between = d_sys(rng.normal(1, 1, 2000), rng.normal(0, 1, 2000))
    assert same < 0.03
    assert apart > 0.98
    assert same + 0.1 < between < apart - 0.1
    # Few scores have noisy histograms, but no leak of their own.
    assert d_sys(rng.normal(0, 1, 60), rng.normal(0, 1, 60)) < 0.15


def test_d_sys_by_hand() -> None:
    """Two buckets' worth of certainty: three of four mated scores lie where no other does."""
    mated, other = [0.9] * 300 + [0.0] * 100, [0.0] * 400
    # D is 1 for 0.9; where others are four times as likely, LR = 1/4 and D is held at 0.
    assert d_sys(mated, other) == pytest.approx(0.75, abs=0.03)


def test_d_sys_refuses_what_tells_nothing() -> None:
    with pytest.raises(MinusfaceError, match="4 or more"):
        d_sys([0.1], [0.2] * 9)
    with pytest.raises(MinusfaceError, match="NaN"):
        d_sys([float("nan")] * 5, [0.2] * 9)


def test_keys_keep_cosines_and_can_be_found_from_known_pairs() -> None:
    random = torch.Generator().manual_seed(0)
    one, two = orthogonal_key(16, random), orthogonal_key(16, random)
    assert torch.allclose(one @ one.T, torch.eye(16), atol=1e-5)
    rows = torch.nn.functional.normalize(torch.randn(40, 16, generator=random), dim=1)
    assert torch.allclose((rows @ one) @ (rows @ one).T, rows @ rows.T, atol=1e-5)
    back = rotation_between(rows[:20] @ one, rows[:20] @ two)
    assert torch.allclose(rows[20:] @ one @ back, rows[20:] @ two, atol=1e-4)


def clouds(lopsided: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Galleries of different people under two keys, and templates of the same people under each."""
    random = torch.Generator().manual_seed(1)
    spread = torch.linspace(1, 1 / (1 + 9 * lopsided), 16)

    def people(count: int) -> torch.Tensor:
        values = torch.randn(count, 16, generator=random)
        return (values + lopsided * 0.3 * (values.square() - 1)) * spread

    one, two = orthogonal_key(16, random), orthogonal_key(16, random)
    same = people(200)
    again = same + 0.3 * spread * torch.randn(200, 16, generator=random)
    return people(2000) @ one, people(2000) @ two, same @ one, again @ two


def test_galleries_are_laid_over_one_another() -> None:
    first, second, one, two = clouds(1.0)
    mine, theirs = laid_over(first, second, 4)
    a, b = mine.along(one), theirs.along(two)
    for axis in range(4):
        assert np.corrcoef(a[:, axis], b[:, axis])[0, 1] > 0.7
    nearest = torch.cdist(a, b).argmin(1)
    assert float((nearest == torch.arange(200)).float().mean()) > 0.1
    # The cosine under two keys tells nothing, and neither do shapes of clouds that are round.
    found = (one @ two.T).argmax(1)
    assert float((found == torch.arange(200)).float().mean()) < 0.05
    first, second, one, two = clouds(0.0)
    mine, theirs = laid_over(first, second, 4)
    nearest = torch.cdist(mine.along(one), theirs.along(two)).argmin(1)
    assert float((nearest == torch.arange(200)).float().mean()) < 0.05


def test_services_and_stolen_templates(bench: Bench, minusface: MinusFace) -> None:
    torch.manual_seed(0)
    recognizer = Recognizer(RecognizerConfig("ir_lite", 16, "standardized"), 3, 32, "protected")
    target = Target(minusface, recognizer.eval().requires_grad_(False))
    bare, keyed, known, shapes = run_unlinkability(bench, target)
    count = len(bench.scene.test) + len(bench.scene.train) // 2
    assert shapes.variant == f"keys, galleries of {count} templates laid over one another"
    assert shapes.measures["eer within"] == pytest.approx(keyed.measures["eer within"], abs=1e-6)
    assert keyed.measures["d_sys"] <= (bare.measures["d_sys"] or 0) + 0.15
    # A key changes nothing within a service.
    assert keyed.measures["eer within"] == pytest.approx(bare.measures["eer within"], abs=0.03)
    people = len(set(bench.scene.train.labels[:32].tolist()))
    assert known.variant == f"keys, 32 photos of {people} people known in both"
    found = [bare, keyed, known, shapes]
    # Untrained, it tells people hardly apart; a report speaks of keys where one does.
    assert [one.kind for one in verdict(found, target.name)] == ["unknown"]
    able = [replace(one, measures={**one.measures, "eer within": 0.05}) for one in found]
    said = [one.text for one in verdict(able, target.name)]
    for words, one in (("is, or knows, people", known), ("lays their shapes", shapes)):
        (line,) = [text for text in said if words in text]
        assert f"D_sys {one.measures['d_sys']:.2f} ({one.variant})" in line
    stolen, under_key = run_stolen(bench, target)
    assert stolen.points
    assert stolen.stuck, "an untrained recogniser's templates tell nothing in so few steps"
    # The decoder reads what is under the key as it is: what it sees and makes of it is something else.
    assert under_key.measures != stolen.measures
    with pytest.raises(MinusfaceError, match="recogniser"):
        run_stolen(bench, Target(minusface))


class Colours(torch.nn.Module):
    """A recogniser whose templates are colours in a grid: they show the face, whoever learns to read them."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        grid = torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)
        return grid - grid.mean(1, keepdim=True)


def test_a_stolen_template_shows_a_face_and_under_a_key_it_does_not(bench: Bench) -> None:
    fit = replace(bench.budget.decoder, steps=120, validate_every=40, lr=4e-3)
    bench.budget = replace(bench.budget, decoder=fit)
    target = Target(Unprotected(), Colours())  # type: ignore[arg-type]
    stolen, under_key = run_stolen(bench, target)
    assert [one.variant for one in (stolen, under_key)] == ["stolen", "stolen, under a key"]
    assert stolen.measures["auc"] > 0.75  # type: ignore[operator]
    assert under_key.measures["auc"] < 0.65  # type: ignore[operator]
    assert stolen.measures["cosine"] > under_key.measures["cosine"] + 0.2  # type: ignore[operator]
    plain = finding("recovery", "unprotected", auc=0.95, ssim=0.98)
    done = [replace(one, still_improving=False) for one in (stolen, under_key)]
    (said,) = verdict([plain, *done], target.name)
    assert said.kind == "no"
    assert f"with AUC {stolen.measures['auc']:.2f}" in said.text
    assert f"stolen with it: AUC {under_key.measures['auc']:.2f}" in said.text

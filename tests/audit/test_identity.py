"""Linkage, attributes, inversion: what leaks beside the picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from minusface.audit.access import Target
from minusface.audit.attributes import (
    Labelled,
    balanced,
    drawn_attributes,
    labelled_attribute,
    parted,
    run_attribute,
    weights_of,
)
from minusface.audit.bench import WIDE, Bench, Pool
from minusface.audit.inversion import run_inversion, sinkhorn
from minusface.audit.linkage import SERVED, Linkage, run_linkage, run_plain, top1
from minusface.audit.measures import Judge, Lpips
from minusface.audit.plan import plan
from minusface.audit.ruler import Ruler
from minusface.audit.scene import Photos, Scene
from minusface.audit.viewing import contours_unmixed, run_viewing
from minusface.config import RecognizerConfig
from minusface.errors import MinusfaceError
from minusface.evaluate import Pair, PairList
from minusface.peers import MinusFace, Pixelation, Unprotected
from minusface.recognize import Recognizer
from tests.audit.conftest import TINY, colours_ruler, write_distance


def test_the_student_beats_chance_on_what_must_leak(bench: Bench) -> None:
    found = run_linkage(bench, Target(Pixelation(4)))[0]
    assert found.measures["auc"] > 0.65  # type: ignore[operator]
    assert found.measures["accuracy"] > 0.58  # type: ignore[operator]
    assert found.measures["top-1"] > 1 / found.extra["gallery"]  # type: ignore[operator]
    assert found.measures[SERVED] > 0.4  # type: ignore[operator]


@pytest.fixture
def judge_of_96(bench: Bench) -> Recognizer:
    """A judge of ours, of another backbone than the budget's students."""
    torch.manual_seed(1)
    plain = Recognizer(RecognizerConfig("ir_lite_96", 16, "standardized"), 3, 32, "crop").eval()
    bench.ruler = Ruler(lambda crops: plain(crops), "a judge", "96", plain)
    bench.judge = Judge(bench.scene, bench.ruler, similar=TINY.similar)
    short = replace(TINY.linkage, steps=1, lr=1e-9, validate_every=1)
    bench.budget = replace(bench.budget, linkage=short)
    return plain


def test_a_student_begins_from_the_judges_weights(
    bench: Bench, judge_of_96: Recognizer, minusface: MinusFace
) -> None:
    jobs = [
        job for job in plan(bench, Target(minusface), [Pixelation(4)]) if job.attack == "linkage"
    ]
    there = len(bench.scene.train)
    names = {job.name for job in jobs}
    assert {f"pixelation ir_lite_96 {there}", f"minusface ir_lite_96 {there} unmixed"} <= names
    assert not any(" ir_lite " in name for name in names), "the judge's in the place of the first"
    (found,) = next(job for job in jobs if job.name == f"minusface ir_lite_96 {there}").run()
    assert found.extra["start"] == "warm"
    assert any("began from the independent recogniser's weights" in note for note in found.notes)
    bench.budget = replace(bench.budget, linkage_backbones=("mobilefacenet", "ir_lite_96"))
    again = {job.name for job in plan(bench, Target(minusface), []) if job.attack == "linkage"}
    assert {f"minusface {one} {there}" for one in bench.budget.linkage_backbones} <= again
    # Its weights are the judge's, but for a step of a billionth.
    student = Linkage(bench, "ir_lite_96")
    student.fit(Target(Pixelation(4)))
    assert student.student is not None
    for name, own in student.student.named_parameters():
        assert torch.allclose(own, judge_of_96.state_dict()[name], atol=1e-6)


def test_a_student_that_begins_from_nothing_says_so(bench: Bench, judge_of_96: Recognizer) -> None:
    for judge in (bench.ruler, Ruler(lambda crops: judge_of_96(crops), "an ONNX file", "onnx")):
        bench.ruler = judge
        (found,) = run_linkage(bench, Target(Pixelation(4)), "ir_lite", 50)
        assert found.extra["start"] == "cold"
        assert any("began from random weights" in note for note in found.notes)


def test_controls_of_the_linkage(bench: Bench, scene: Scene) -> None:
    plain, blind = run_plain(bench)
    assert not plain.failed
    assert plain.measures["auc"] > 0.8  # type: ignore[operator]
    assert abs((blind.measures["auc"] or 0) - 0.5) < 0.2
    assert SERVED in blind.measures
    assert SERVED not in plain.measures
    bench.judge.plain = torch.nn.functional.normalize(torch.randn(bench.judge.plain.shape), dim=1)
    assert "cannot judge identity" in run_plain(bench)[0].failed


def test_top1_by_hand() -> None:
    pairs = PairList.from_pairs(
        [Pair("a1", "a2", True), Pair("b1", "b2", True), Pair("a1", "b1", False), Pair("a2", "b2", False)]
    )  # fmt: skip
    places = {key: n for n, key in enumerate(pairs.keys)}
    people = np.array([{"a": 0, "b": 1}[key[0]] for key in pairs.keys])
    gallery = torch.zeros(4, 2)
    gallery[places["a2"], 0] = gallery[places["b2"], 1] = 1
    probes = torch.zeros(4, 2)
    probes[places["a1"], 0] = probes[places["b1"], 0] = 1
    assert top1(probes, gallery, people, pairs) == 0.5


def test_attributes_leak_from_photos(bench: Bench) -> None:
    photos = drawn_attributes(120, 32, 0)
    assert set(photos) == {"glasses", "light from the right"}
    for learn, tried, given in photos.values():
        assert not given
        assert learn.labels.mean() == 0.5
        assert len(tried) >= 20
        assert not set(learn.keys) & set(tried.keys)
    light = photos["light from the right"]
    found = run_attribute(bench, Target(Unprotected()), "light", light, "drawn faces")[0]
    assert found.control == "must succeed"
    assert found.measures["balanced accuracy"] > 0.65  # type: ignore[operator]
    assert not found.failed
    said = torch.tensor([True, True, False, False])
    assert balanced(said, torch.tensor([True, False, False, False])) == pytest.approx(5 / 6)


def test_a_rare_attribute_is_told_as_a_common_one(bench: Bench) -> None:
    """A tenth is somewhat brighter: who answers "no" is right nine times of ten, and tells nothing."""
    random = np.random.default_rng(0)

    def greys(count: int) -> Photos:
        labels = (np.arange(count) % 10 == 0).astype(int).tolist()
        levels = [int(random.normal(110 + 30 * label, 20)) for label in labels]
        images = [np.full((32, 32, 3), np.clip(level, 0, 255), np.uint8) for level in levels]
        return Photos(images.__getitem__, [f"{count} {n}" for n in range(count)], labels)

    rare = Labelled(greys(400), greys(200))
    (found,) = run_attribute(bench, Target(Unprotected()), "bright", rare, "greys")
    assert found.measures["balanced accuracy"] > 0.7  # type: ignore[operator]
    assert found.measures["auc"] > 0.8  # type: ignore[operator]


def test_both_labels_count_alike_and_are_on_both_sides() -> None:
    labels = np.array([0] * 36 + [1] * 4)
    weights = weights_of(labels)
    assert float(weights[labels == 1].sum()) == pytest.approx(20)
    assert float(weights.mean()) == pytest.approx(1)
    assert torch.equal(weights_of(np.array([0, 1] * 4)), torch.ones(8))
    assert torch.equal(weights_of(np.zeros(3, np.int64)), torch.ones(3))
    mine, held = parted(
        Photos(lambda _: np.zeros((2, 2, 3), np.uint8), list(map(str, labels)), labels.tolist())
    )
    assert (int(mine.labels.sum()), int(held.labels.sum())) == (3, 1)
    assert (len(mine), len(held)) == (31, 9)


def test_many_channels_are_not_kept_for_an_attribute(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor, by the way, does an attacker that never began pass for a proof."""

    class Wide(Pixelation):
        name, images = "wide", WIDE + 1

        def protect(self, crops: torch.Tensor, random: torch.Generator) -> torch.Tensor:
            return super().protect(crops, random).repeat(1, self.images, 1, 1)

    kept: list[int | None] = []
    fill = Pool.fill

    def noted(pool: Pool, turn: int, count: int) -> None:
        kept.append(pool.views)
        fill(pool, turn, count)

    monkeypatch.setattr(Pool, "fill", noted)
    bench.budget = replace(
        TINY, attributes=replace(TINY.attributes, steps=1, lr=1e-9, validate_every=1)
    )
    photos = drawn_attributes(24, 32, 0)["glasses"]
    for protection, views in ((Wide(4), []), (Pixelation(4), [2]), (Pixelation(8), [12])):
        kept.clear()
        if views == [12]:
            bench.budget = replace(bench.budget, attribute_views=12)
        (found,) = run_attribute(bench, Target(protection), "glasses", photos, "drawn faces")
        assert kept == views
        assert found.stuck


def test_labels_from_a_file(scene: Scene, tmp_path: Path) -> None:
    file = tmp_path / "beard.tsv"
    keys = [*scene.train.keys[:20], *scene.test.keys[:20]]
    file.write_text("".join(f"{key}\t{n % 2}\n" for n, key in enumerate(keys)), encoding="utf-8")
    learn, tried, given = labelled_attribute(file, scene)
    assert (len(learn), len(tried)) == (20, 20)
    assert learn.labels.tolist() == [0, 1] * 10
    file.write_text(file.read_text(encoding="utf-8") + "somebody/else.png\t1\n", encoding="utf-8")
    assert labelled_attribute(file, scene).given == given
    for corrected in (3, 23):
        lines = [f"{key}\t{(n % 2) ^ (n == corrected)}\n" for n, key in enumerate(keys)]
        file.write_text("".join(lines), encoding="utf-8")
        assert labelled_attribute(file, scene).given != given
    file.write_text("a 1\n", encoding="utf-8")
    with pytest.raises(MinusfaceError, match="line 1: expected key"):
        labelled_attribute(file, scene)
    file.write_text("a\t1\n", encoding="utf-8")
    with pytest.raises(MinusfaceError, match="expected 4 or more of each kind"):
        labelled_attribute(file, scene)


def test_sinkhorn_is_doubly_stochastic() -> None:
    found = sinkhorn(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)), 60)
    assert torch.allclose(found.sum(0), torch.ones(6), atol=1e-4)
    assert torch.allclose(found.sum(1), torch.ones(6), atol=1e-4)
    order = torch.tensor([2, 0, 1])
    sharp = sinkhorn(torch.eye(3)[order] * 50)
    assert torch.equal(sharp.argmax(1), order)


def test_inversion_uses_a_permutation_that_it_knows(bench: Bench, minusface: MinusFace) -> None:
    searched, known, blind = run_inversion(bench, Target(minusface))
    assert known.measures["psnr"] > blind.measures["psnr"]  # type: ignore[operator]
    assert searched.measures["psnr"] is not None
    assert "generator" in searched.needs
    with pytest.raises(MinusfaceError, match="generator"):
        run_inversion(bench, Target(Pixelation()))


def test_viewing(bench: Bench) -> None:
    plain = run_viewing(bench, Target(Unprotected()))[0]
    assert plain.measures["ssim"] == pytest.approx(1, abs=1e-4)
    squares = run_viewing(bench, Target(Pixelation(8)))[0]
    assert squares.measures["ssim"] < 0.9  # type: ignore[operator]
    assert plain.measures["contours"] > 0.9  # type: ignore[operator]
    assert plain.measures["contours"] > squares.measures["contours"]  # type: ignore[operator]
    assert plain.measures["contours of others"] < 0.8  # type: ignore[operator]
    behind, others = "contours, unmixed", "contours of others, unmixed"
    assert plain.measures[behind] > plain.measures[others] + 0.1  # type: ignore[operator]


def test_outlines_show_through_colours_that_were_mixed(bench: Bench) -> None:
    """A mixture that turns the largest colour round hides nothing from what looks behind it."""
    photos = (bench.scene.test.crops(range(6)) + 1) / 2
    mixture = torch.tensor([[-0.6, 0.3, 0.2], [0.2, 0.5, -0.6], [0.1, -0.7, -0.3]])
    mixed = torch.einsum("kc,bchw->bkhw", mixture, photos) + 0.5
    plain = contours_unmixed(photos, photos)
    assert contours_unmixed(photos, mixed) == pytest.approx(plain, abs=0.02)
    assert contours_unmixed(photos.roll(3, 0), mixed) < plain - 0.1


def test_the_judge_knows_the_photo_itself(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "distance.onnx"
    write_distance(path)
    judge = Judge(scene, colours_ruler(), Lpips(path), similar=10)
    found = judge.recovered((scene.test.crops() + 1) / 2)
    assert found["ssim"] == pytest.approx(1, abs=1e-4)
    assert found["cosine"] == pytest.approx(1, abs=1e-4)
    assert found["lpips"] == pytest.approx(0, abs=1e-6)
    assert found["psnr"] == 99
    assert found["replay"] == pytest.approx(judge.passing)
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(MinusfaceError, match="not a usable ONNX model"):
        Lpips(tmp_path / "bad.onnx")
    with pytest.raises(MinusfaceError, match="no such file"):
        Lpips(tmp_path / "none.onnx")

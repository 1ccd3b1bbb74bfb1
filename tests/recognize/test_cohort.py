"""How crowded a template's place is: the coordinate, what it does to scores, where it is kept."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

from minusface.checkpoint import load_card, load_part
from minusface.config import RecognizerConfig
from minusface.errors import MinusfaceError
from minusface.export.check import check_parity
from minusface.export.write import export
from minusface.recognize import Cohort, Recognizer, warm_start
from minusface.recognize.cohort import LEAST, NEAR, SLOPE, WEIGHT
from minusface.recognize.migrate import from_teacher
from minusface.types import ProtectedImage
from tests.products import DIMENSIONS, SIZE, saved, tiny_checkpoint
from tests.reference import cohort as reference

WIDE = 24


def drawn(count: int, seed: int, size: int = WIDE) -> Tensor:
    """Embeddings of which half lie in a cap around one direction."""
    random = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, size, generator=random)
    rows[: count // 2] = rows[: count // 2] * 0.6
    rows[: count // 2, 0] += 3.0
    return rows


def test_it_is_what_loops_make() -> None:
    made = Cohort.of(drawn(400, 0), 40)
    centres, usual = made.centres_kd.tolist(), float(made.usual)
    given = drawn(10, 1) * 7
    for row, found in zip(given.tolist(), made(given).tolist(), strict=True):
        assert found == pytest.approx(reference.template(row, centres, usual), abs=1e-5)
    assert made(given.bfloat16()).dtype == torch.float32


def test_another_form_is_what_loops_make() -> None:
    made = Cohort.of(drawn(400, 0), 40, nearest=5, slope=2)
    centres, usual = made.centres_kd.tolist(), float(made.usual)
    rows = nnf.normalize(drawn(400, 0), dim=1).tolist()
    expected = sum(reference.near(row, centres, 5) for row in rows) / 400
    assert usual == pytest.approx(expected, abs=1e-5)
    given = drawn(10, 1)
    for row, found in zip(given.tolist(), made(given).tolist(), strict=True):
        assert found == pytest.approx(reference.template(row, centres, usual, 5, 2.0), abs=1e-5)
    for form in ({"nearest": 0}, {"nearest": NEAR + 1}, {"slope": 0.0}, {"slope": math.nan}):
        with pytest.raises(MinusfaceError, match="cohort: "):
            Cohort(20, 4, **form)  # type: ignore[arg-type]


def test_the_cosine_of_templates_follows_the_corrected_score() -> None:
    made = Cohort.of(drawn(600, 0), 60)
    centres = made.centres_kd.tolist()
    # Pairs at the cosine where decisions are made, near and far from the crowd.
    random = torch.Generator().manual_seed(3)
    a = nnf.normalize(drawn(200, 4), dim=1)
    away = torch.randn(200, WIDE, generator=random)
    away = nnf.normalize(away - (away * a).sum(1, keepdim=True) * a, dim=1)
    b = 0.4 * a + math.sqrt(1 - 0.4**2) * away
    wanted = [
        reference.corrected(x, y, centres) for x, y in zip(a.tolist(), b.tolist(), strict=True)
    ]
    found = (made(a) * made(b)).sum(1).tolist()
    assert np.std(wanted) > 0.05
    assert np.corrcoef(wanted, found)[0, 1] > 0.97
    # To first order the corrected score itself, but for a constant and a factor of 1 / (1 + WEIGHT).
    assert np.polyfit(wanted, found, 1)[0] == pytest.approx(1 / (1 + WEIGHT), rel=0.15)
    assert pytest.approx((1 + WEIGHT) / (2 * WEIGHT * (1 - 0.4))) == SLOPE


def test_false_matches_are_no_longer_the_crowds_alone() -> None:
    made = Cohort.of(drawn(800, 0), 80)
    probes = drawn(400, 9)
    crowd = torch.arange(400) < 200

    def share(rows: Tensor) -> float:
        """The crowd's part of the closest hundredth of all pairs."""
        scores = (rows @ rows.T).fill_diagonal_(-2)
        first, second = torch.triu_indices(400, 400, 1)
        closest = scores[first, second].topk(len(first) // 100).indices
        return float((crowd[first[closest]] & crowd[second[closest]]).float().mean())

    before, after = share(nnf.normalize(probes, dim=1)), share(made(probes))
    assert before > 0.99
    assert after < 0.8


def test_centres_are_means_of_several_photos_and_repeat() -> None:
    rows = drawn(60 * LEAST, 2)
    made, again = Cohort.of(rows, 512, seed=1), Cohort.of(rows, 512, seed=1)
    assert torch.equal(made.centres_kd, again.centres_kd)
    assert not torch.equal(made.centres_kd[:16], Cohort.of(rows, 512, seed=2).centres_kd[:16])
    count = len(made.centres_kd)
    assert NEAR <= count <= 60
    assert made.centres_kd.norm(dim=1).tolist() == pytest.approx([1.0] * count, abs=1e-5)
    unit = nnf.normalize(rows, dim=1)
    assert float(made.usual) == pytest.approx(float(made.near(unit).mean()), abs=1e-6)
    assert float((unit @ made.centres_kd.T).max()) < 1 - 1e-3, "a photo's own embedding"
    with pytest.raises(
        MinusfaceError, match=rf"cohort: 100 photos, expected {LEAST * NEAR} or more"
    ):
        Cohort.of(rows[:100])
    with pytest.raises(MinusfaceError, match="15 centres, expected 16 or more"):
        Cohort(15, 8)


def test_no_centre_is_one_persons() -> None:
    # One of many photos, alike to nobody; two who have theirs together; and a stranger's only one.
    rows, random = drawn(60 * LEAST, 2), torch.Generator().manual_seed(7)
    alone = [torch.randn(size, WIDE, generator=random) * 0.1 for size in (40, 30, 1)]
    for axis, part in enumerate(alone):
        part[:, axis + 5] += 5.0
    rows = torch.cat([rows, *alone])
    people = torch.arange(len(rows))
    people[-71:-31], people[-31:-16], people[-16:-1] = 1000, 1001, 1002
    unit = nnf.normalize(rows, dim=1)
    means = nnf.normalize(torch.stack([unit[-71:-31].mean(0), unit[-31:-1].mean(0)]), dim=1)
    unaware, aware = (Cohort.of(rows, 60, people=whose) for whose in (None, people))
    assert bool(((means @ unaware.centres_kd.T).amax(1) > 0.995).all())
    assert bool(((means @ aware.centres_kd.T).amax(1) < 0.95).all())
    for made in (unaware, aware):
        assert float((unit[-1] @ made.centres_kd.T).max()) < 0.9
    with pytest.raises(
        MinusfaceError, match=r"480 photos make 0 clusters of 8 photos and 4 people"
    ):
        Cohort.of(rows[:480], people=torch.arange(480) % 2)


def with_cohort(folder: Path, nearest: int = NEAR, slope: float = SLOPE) -> Path:
    """A tiny stage-2 checkpoint whose recogniser has a cohort."""
    path = tiny_checkpoint(folder / "without")
    recognizer = Recognizer.load(path)
    recognizer.cohort = Cohort.of(drawn(400, 5, DIMENSIONS), 20, nearest=nearest, slope=slope)
    from minusface.protect import Protector

    return saved(folder / "with", "stage2", Protector.load(path), recognizer)


def noise(count: int = 3) -> ProtectedImage:
    random = torch.Generator().manual_seed(0)
    return ProtectedImage(torch.rand(count, 3, SIZE, SIZE, generator=random))


def test_a_checkpoint_keeps_it(tmp_path: Path) -> None:
    path = with_cohort(tmp_path)
    without, loaded = Recognizer.load(tmp_path / "without"), Recognizer.load(path)
    assert (without.template_size, loaded.template_size) == (DIMENSIONS, DIMENSIONS + 1)
    assert "cohort" not in load_card(tmp_path / "without").model["recognizer"]
    assert load_card(path).model["recognizer"]["cohort"] == 20
    assert loaded.cohort is not None
    plain = without.embed(noise()).vectors
    found = loaded.embed(noise()).vectors
    assert torch.allclose(found, loaded.cohort(plain), atol=1e-6)
    assert found.norm(dim=1).tolist() == pytest.approx([1.0] * 3, abs=1e-6)
    # Training and whoever imitates its maps get the embedding alone.
    pixels = noise().pixels
    assert loaded.train()(pixels).shape == (3, DIMENSIONS)
    assert loaded.eval().with_levels(pixels)[0].shape == (3, DIMENSIONS)
    fresh = Recognizer(RecognizerConfig("ir_lite", DIMENSIONS), 3, SIZE)
    assert warm_start(fresh, load_part(path, prefix="recognizer.")) == []
    assert torch.allclose(fresh.eval().embed(noise()).vectors, plain, atol=1e-6)


def test_a_checkpoint_keeps_another_form(tmp_path: Path) -> None:
    usual, other = with_cohort(tmp_path / "a"), with_cohort(tmp_path / "b", slope=2.0)
    few = with_cohort(tmp_path / "c", nearest=6, slope=1.6)
    cards = [load_card(path) for path in (usual, other, few)]
    told = [card.model["recognizer"] for card in cards]
    assert not {"cohort_near", "cohort_slope"} & set(told[0])
    assert (told[1]["cohort_near"], told[1]["cohort_slope"]) == (NEAR, 2.0)
    assert (told[2]["cohort_near"], told[2]["cohort_slope"]) == (6, 1.6)
    # Templates of one do not compare with another's, so they are not the same weights.
    assert len({card.files["model"]["sha256"] for card in cards}) == 3
    for path, slope in ((other, 2.0), (few, 1.6)):
        plain = Recognizer.load(path)
        assert plain.cohort is not None
        assert plain.cohort.slope == slope
        cohort, plain.cohort = plain.cohort, None
        found = Recognizer.load(path).embed(noise()).vectors
        assert torch.allclose(found, cohort(plain.embed(noise()).vectors), atol=1e-6)
    changed = json.loads((other / "card.json").read_text())
    changed["model"]["recognizer"]["cohort_slope"] = 3.0
    (other / "card.json").write_text(json.dumps(changed))
    with pytest.raises(MinusfaceError, match=r"cohort: made with \[16.0, 2.0\], its card has"):
        Recognizer.load(other)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"cohort_slope": 2.0}, "cohort"),
        ({"cohort_near": 0}, "cohort: 0 near centres, expected 1 to 16"),
        ({"cohort_slope": 2}, "recognizer.cohort_slope is 2, expected float"),
        ({"cohort": "20"}, "recognizer.cohort is '20', expected int"),
        ({"cohort": 24}, r"cohort: centres_kd has shape \(20, 16\), expected \(24, 16\)"),
        ({"crowd": 3}, "recognizer has .*'crowd'"),
    ],
)
def test_damaged_cards_are_refused(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    path = with_cohort(tmp_path)
    card = json.loads((path / "card.json").read_text())
    card["model"]["recognizer"] |= change
    (path / "card.json").write_text(json.dumps(card))
    with pytest.raises(MinusfaceError, match=match):
        Recognizer.load(path)


def test_a_teachers_gallery_gets_it_too() -> None:
    made = Cohort.of(drawn(200, 0), 25)
    raw, centre = np.random.default_rng(0).standard_normal((4, WIDE)), np.full(WIDE, 0.2)
    unit = nnf.normalize(torch.from_numpy(raw - centre), dim=1).float()
    assert torch.equal(from_teacher(raw, centre, made).vectors, made(unit))
    assert torch.equal(from_teacher(raw, centre).vectors, unit)


def test_an_export_computes_it(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = with_cohort(tmp_path)
    card = export(path, tmp_path / "product", ["float32", "int8"])
    assert card.embedding_size == DIMENSIONS + 1
    found = check_parity(path, tmp_path / "product", ["float32"])
    assert max(found["recognizer"]["float32"].values()) < 1e-4

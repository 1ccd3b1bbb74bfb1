"""``minusface pack``: into which folders it writes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from minusface.checkpoint import Card, load_card, load_part, save
from minusface.commands.pack import _cohorts_faces, pack
from minusface.errors import MinusfaceError
from minusface.recognize import Recognizer
from tests.products import SIZE, tiny_checkpoint


def test_a_run_that_could_be_gone_on_with_is_not_packed_over(tmp_path: Path) -> None:
    model, run = tiny_checkpoint(tmp_path / "model"), tmp_path / "run" / "last"
    tensors = {"model": {"a": torch.ones(2)}, "training": {"b": torch.ones(3)}}
    save(run, load_card(model), tensors)
    before = {file: file.read_bytes() for file in run.iterdir()}
    with pytest.raises(MinusfaceError, match="with training, which packing would delete") as caught:
        pack(str(model), str(run))
    assert str(caught.value).startswith(str(run))
    assert "\n" not in str(caught.value)
    assert {file: file.read_bytes() for file in run.iterdir()} == before
    # What a pack made is packed over.
    for _ in range(2):
        assert pack(str(model), str(tmp_path / "packed")) == 0
    assert load_part(tmp_path / "packed").keys() == load_part(model).keys()


@pytest.mark.parametrize("which", ["best", "last"])
def test_a_run_keeps_its_weights(tmp_path: Path, which: str) -> None:
    model, folder = tiny_checkpoint(tmp_path / "model"), tiny_checkpoint(tmp_path / "run" / which)
    (tmp_path / "run" / "config.yaml").write_text("task: plain\n")
    before = {file: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(MinusfaceError, match="belongs to the run"):
        pack(str(model), str(folder))
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


def trained_on(model: Path, folder: Path, by: float) -> Path:
    """The same with a recogniser a little further on, and a cohort's tensor beside."""
    tensors = load_part(model)
    moved = {
        name: tensor + by
        if name.startswith("recognizer.") and tensor.is_floating_point()
        else tensor
        for name, tensor in tensors.items()
    }
    save(folder, load_card(model), {"model": moved})
    return folder


def test_the_mean_of_two_recognisers_is_packed(tmp_path: Path) -> None:
    model = tiny_checkpoint(tmp_path / "model")
    other = trained_on(model, tmp_path / "other", 0.5)
    assert pack(str(model), str(tmp_path / "mean"), mean=str(other), float32=True) == 0
    before, made = load_part(model), load_part(tmp_path / "mean")
    assert made.keys() == before.keys()
    for name, tensor in before.items():
        moved = name.startswith("recognizer.") and tensor.is_floating_point()
        torch.testing.assert_close(made[name], tensor + 0.25 if moved else tensor)
    card = load_card(tmp_path / "mean")
    assert card.data["mean_with"]["model"] == load_card(other).files["model"]["sha256"]
    assert card.metrics == {}


@pytest.mark.parametrize("packed_first", [False, True])
def test_the_mean_of_a_training_and_of_what_was_packed(tmp_path: Path, packed_first: bool) -> None:
    model = tiny_checkpoint(tmp_path / "model")
    other = trained_on(model, tmp_path / "other", 0.5)
    assert pack(str(other), str(tmp_path / "packed")) == 0
    folders = [str(tmp_path / "packed"), str(model)]
    one, two = folders if packed_first else reversed(folders)
    assert pack(one, str(tmp_path / "mean"), mean=two) == 0
    before, made = load_part(model), load_part(tmp_path / "mean")
    first = next(name for name in before if name.startswith("generator."))
    assert torch.equal(made[first], before[first].half())


def test_a_mean_of_what_is_not_one_model_is_refused(tmp_path: Path) -> None:
    model = tiny_checkpoint(tmp_path / "model")
    tensors = load_part(model)
    first = next(name for name in tensors if name.startswith("generator."))
    save(tmp_path / "gen", load_card(model), {"model": {**tensors, first: tensors[first] + 1}})
    short = {name: tensor for name, tensor in tensors.items() if name != first}
    save(tmp_path / "short", load_card(model), {"model": short})
    for other, words in (
        (tmp_path / "gen", f"{first} differs"),
        (tmp_path / "short", "other tensors"),
        (tiny_checkpoint(tmp_path / "wide", input="unmixed"), "another recogniser"),
        (tiny_checkpoint(tmp_path / "dwt", codec="dwt"), "another codec"),
        (tmp_path / "none", "none"),
    ):
        with pytest.raises(MinusfaceError, match=words) as caught:
            pack(str(model), str(tmp_path / "mean"), mean=str(other))
        assert "\n" not in str(caught.value)
    with pytest.raises(MinusfaceError, match="do not go together"):
        pack(str(model), str(tmp_path / "mean"), mean=str(model), squeeze=True)
    assert not (tmp_path / "mean").exists()


def test_a_cohort_is_of_mixtures_where_there_are_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    faces, random = tmp_path / "faces", torch.Generator().manual_seed(0)
    for person, images in (("Ann", 5), ("Bea", 5), ("mixed-00000", 20), ("mixed-00001", 4)):
        (faces / person).mkdir(parents=True)
        for number in range(images):
            pixels = torch.randint(0, 256, (SIZE, SIZE, 3), generator=random, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(faces / person / f"{number}.png")
    (tmp_path / "two.txt").write_text("Ann\nBea\n")
    model = tiny_checkpoint(tmp_path / "model")
    monkeypatch.setattr("minusface.recognize.cohort.LEAST", 1)
    monkeypatch.setattr("minusface.recognize.cohort.PEOPLE", 1)
    listed, out = str(tmp_path / "two.txt"), str(tmp_path / "out")
    with pytest.raises(MinusfaceError, match="cohort: 10 photos, expected 16 or more"):
        pack(str(model), out, cohort=str(faces), cohort_people=listed)
    assert "mixtures" not in capsys.readouterr().err
    assert pack(str(model), out, cohort=str(faces)) == 0
    assert "of its 24 mixtures alone, not of 2 people's photos" in capsys.readouterr().err
    card = load_card(Path(out))
    assert card.data["cohort"] == {"images": 24, "mixtures": 24, "name": "faces", "seed": 0}
    assert card.model["recognizer"]["cohort"] == 24
    with pytest.raises(MinusfaceError, match="cohort: 17 near centres, expected 1 to 16"):
        pack(str(model), out, cohort=str(faces), cohort_near=17)
    with pytest.raises(MinusfaceError, match="expected --cohort FACES too"):
        pack(str(model), out, cohort_slope=2.0)
    assert load_card(Path(out)) == card
    assert pack(str(model), out, cohort=str(faces), cohort_near=8, cohort_slope=1.6) == 0
    steep = load_card(Path(out))
    told = steep.model["recognizer"]
    assert (told["cohort_near"], told["cohort_slope"]) == (8, 1.6)
    # In half precision, too.
    assert Recognizer.load(out).template_size == Recognizer.load(model).template_size + 1
    # Packed anew without a word about the form, it is the usual one.
    assert pack(out, str(tmp_path / "again"), cohort=str(faces)) == 0
    assert load_card(tmp_path / "again").model == card.model
    # Nobody's faces are each another one's.
    dataset, whose = _cohorts_faces(str(faces), None, SIZE)
    assert dataset.people == ["mixed-00000", "mixed-00001"]
    assert len(set(whose.tolist())) == 24
    dataset, whose = _cohorts_faces(str(faces), listed, SIZE)
    assert whose.tolist() == [0] * 5 + [1] * 5


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range(tmp_path: Path, seed: int) -> None:
    with pytest.raises(MinusfaceError, match=f"--seed {seed}"):
        pack(str(tiny_checkpoint(tmp_path / "model")), str(tmp_path / "out"), seed=seed)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def refused(words: str, model: Path, out: Path, **options: str) -> None:
    """In one line, and what is in the folder stays."""
    before = contents(out)
    with pytest.raises(MinusfaceError, match=words) as caught:
        pack(str(model), str(out), **options)  # type: ignore[arg-type]
    assert str(caught.value).startswith(str(out))
    assert "\n" not in str(caught.value)
    assert contents(out) == before


def test_a_checkpoint_that_no_pack_made_is_not_packed_over(tmp_path: Path) -> None:
    model, mine = tiny_checkpoint(tmp_path / "model"), tiny_checkpoint(tmp_path / "mine")
    refused("no pack made", model, mine)
    halves = {name: tensor.half() for name, tensor in load_part(model).items()}
    imported = dataclasses.replace(load_card(model), data={"imported": "c.pth"})
    save(tmp_path / "import", imported, {"model": halves})
    refused("no pack made", model, tmp_path / "import")
    save(tmp_path / "empty", Card("attack", {}), {})
    refused("no pack made", model, tmp_path / "empty")
    for card in ("{", json.dumps({"kind": "minusface-export"})):
        (mine / "card.json").write_text(card)
        refused("not a pack's", model, mine)


@pytest.mark.parametrize("float32", [True, False])
def test_what_a_pack_made_is_packed_over(tmp_path: Path, float32: bool) -> None:
    model, out = tiny_checkpoint(tmp_path / "model"), tmp_path / "out"
    for _ in range(2):
        assert pack(str(model), str(out), float32=float32) == 0
    assert load_card(out).data["packed"] == ("float32" if float32 else "float16")
    if not float32:
        # As packs before cards said so.
        save(out, load_card(model), {"model": load_part(out)})
        assert pack(str(model), str(out)) == 0


def test_the_other_of_a_mean_is_not_packed_over(tmp_path: Path) -> None:
    model, other = tiny_checkpoint(tmp_path / "model"), tmp_path / "other"
    assert pack(str(model), str(other)) == 0
    (tmp_path / "link").symlink_to(other)
    refused("is the checkpoint of --mean", model, other, mean=str(tmp_path / "link"))
    refused("is the checkpoint of --mean", model, tmp_path / "link", mean=str(other))
    refused("is the checkpoint itself", other, tmp_path / "link")


def test_a_mean_says_that_a_cohort_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_checkpoint(tmp_path / "model")
    card = load_card(model)
    crowded = {**card.model, "recognizer": {**card.model["recognizer"], "cohort": 4}}
    changed = dataclasses.replace(card, model=crowded)
    save(tmp_path / "crowded", changed, {"model": load_part(model)})
    for mean, lines in ((tmp_path / "crowded", 1), (model, 0)):
        again = tiny_checkpoint(tmp_path / "again")
        assert pack(str(again), str(tmp_path / "out"), mean=str(mean)) == 0
        said = capsys.readouterr().err
        assert said.count("\n") == lines
        assert ("the cohort is left out" in said) == bool(lines)

"""``minusface pack``: into which folders it writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from minusface.checkpoint import load_card, load_part, save
from minusface.commands.pack import pack
from minusface.errors import MinusfaceError
from tests.products import tiny_checkpoint


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


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range(tmp_path: Path, seed: int) -> None:
    with pytest.raises(MinusfaceError, match=f"--seed {seed}"):
        pack(str(tiny_checkpoint(tmp_path / "model")), str(tmp_path / "out"), seed=seed)

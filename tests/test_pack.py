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


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range(tmp_path: Path, seed: int) -> None:
    with pytest.raises(MinusfaceError, match=f"--seed {seed}"):
        pack(str(tiny_checkpoint(tmp_path / "model")), str(tmp_path / "out"), seed=seed)

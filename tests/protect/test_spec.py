"""A protector from its card: what a damaged or foreign one says, and names that are not UTF-8."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from minusface.checkpoint import CARD
from minusface.errors import MinusfaceError
from minusface.protect import Protector, mask_of_key, permutation_of_key
from tests.products import tiny_checkpoint


def changed(folder: Path, **model: Any) -> Path:
    """A checkpoint whose card says otherwise; None leaves a key out."""
    file = tiny_checkpoint(folder) / CARD
    raw = json.loads(file.read_text())
    whole = {**raw["model"], **model}
    raw["model"] = {key: value for key, value in whole.items() if value is not None}
    file.write_text(json.dumps(raw))
    return folder


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"codec": None}, "codec has NoneType, expected ['name', 'ratio', 'size']"),
        ({"codec": {"name": "dct", "side": 32}}, "codec has ['name', 'side']"),
        ({"codec": {"name": "dct", "ratio": "8"}}, "codec.ratio is '8', expected int"),
        (
            {"codec": {"name": "dct", "size": 32, "ratio": 1000}},
            "codec.ratio 1000: expected 1 to 32",
        ),
        ({"codec": {"name": "dct", "size": 32, "ratio": 0}}, "codec.ratio 0: expected 1 to 32"),
        ({"generator": {"width": 2, "depth": 3}}, "generator has ['depth', 'width']"),
        ({"generator": "wide"}, "generator has str"),
        ({"n_duplicate": "x"}, "n_duplicate is 'x', expected int"),
        ({"obfuscation": "blur"}, "obfuscation 'blur'"),
        ({"obfuscation": "mask", "mask_fraction": 1.5}, "mask_fraction 1.5"),
        ({"obfuscation": "mask"}, "mask_fraction None"),
    ],
)
def test_a_card_that_tells_of_no_protector(
    tmp_path: Path, model: dict[str, Any], said: str
) -> None:
    with pytest.raises(MinusfaceError) as caught:
        Protector.load(changed(tmp_path, **model))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}: ")
    assert said in str(caught.value)


def test_a_protector_that_masks_is_for_those_who_ask_for_it(tmp_path: Path) -> None:
    changed(tmp_path, obfuscation="mask", mask_fraction=0.25)
    with pytest.raises(MinusfaceError, match="trained on masked channels"):
        Protector.load(tmp_path)
    loaded = Protector.load(tmp_path, masks=True)
    assert loaded.mask_fraction == 0.25
    assert Protector.from_spec(loaded.spec()).spec() == loaded.spec()


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.9])
def test_mask_of_key(fraction: float) -> None:
    kept = mask_of_key(["a", "b"], 48, fraction, seed=1)
    assert kept.dtype == torch.bool
    assert (~kept).sum(1).tolist() == [round(48 * fraction)] * 2
    assert torch.equal(kept[1:], mask_of_key(["b"], 48, fraction, seed=1))
    if fraction == 0.25:
        assert not torch.equal(kept, mask_of_key(["a", "b"], 48, fraction, seed=1, draw=1))
    with pytest.raises(MinusfaceError, match="mask fraction 1"):
        mask_of_key(["a"], 48, 1.0, seed=1)


def test_a_name_that_is_no_utf_8() -> None:
    name = os.fsdecode(b"caf\xe9.png")
    rows = permutation_of_key([name, "café.png"], 48, seed=0)
    assert torch.equal(rows.sort(1).values, torch.arange(48).expand(2, -1))
    assert not torch.equal(rows[0], rows[1])

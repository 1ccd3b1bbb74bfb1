"""RFW: four files, one comparison."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from torch import Tensor

from minusface.errors import MinusfaceError
from minusface.evaluate.suites.rfw import GROUPS, evaluate_rfw, group_spread, read_rfw


class MeanColour:
    """Tells people apart by their colour."""

    def embed(self, images: Tensor, keys: Sequence[str], draw: int, flip: bool) -> Tensor:
        return images.float().mean((2, 3)) - 127.5


def _folder(root: Path, blurred: str) -> Path:
    """Files of twenty pairs of plain colours; in one group they say little."""
    random = np.random.default_rng(0)
    for group in GROUPS:
        images, same = [], []
        for pair in range(40):
            genuine = pair % 2 == 0
            one = random.integers(0, 255, 3)
            other = one if genuine else 255 - one
            for colour in (one, other):
                noise = 90 if group == blurred else 2
                picture = np.clip(colour + random.normal(size=3) * noise, 0, 255)
                image = np.tile(picture.astype(np.uint8), (112, 112, 1))
                images.append(cv2.imencode(".png", image)[1].tobytes())
            same.append(genuine)
        (root / f"{group}_test.bin").write_bytes(pickle.dumps((images, same)))
    return root


def test_the_worst_group_is_found(tmp_path: Path) -> None:
    groups = read_rfw(_folder(tmp_path, "Indian"))
    assert tuple(groups) == GROUPS
    calls = []
    results, spread = evaluate_rfw(
        MeanColour(), groups, progress=lambda group, done, total: calls.append((group, done, total))
    )
    assert spread.worst == "Indian"
    assert spread.groups == {group: result.accuracy for group, result in results.items()}
    assert results["Asian"].accuracy > results["Indian"].accuracy > 0.4
    assert spread.mean == pytest.approx(np.mean(list(spread.groups.values())))
    assert spread.std == pytest.approx(np.std(list(spread.groups.values())))
    assert [c[0] for c in calls if c[1] == c[2]] == list(GROUPS)
    assert json.loads(json.dumps(spread.to_dict()))["worst"] == "Indian"


def test_known_answers() -> None:
    found = group_spread({"a": 0.9, "b": 0.8, "c": 0.95})
    assert found.worst == "b"
    assert found.mean == pytest.approx(2.65 / 3)
    assert found.skew == pytest.approx(4)
    assert group_spread({"a": 1.0, "b": 0.8}).skew is None


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(MinusfaceError, match="no such folder"):
        read_rfw(tmp_path / "none")
    _folder(tmp_path, "")
    (tmp_path / "Asian_test.bin").unlink()
    with pytest.raises(MinusfaceError, match=r"without Asian_test\.bin, expected"):
        read_rfw(tmp_path)
    (tmp_path / "Asian_test.bin").write_bytes(b"nothing")
    with pytest.raises(MinusfaceError, match=r"Asian_test\.bin: damaged"):
        read_rfw(tmp_path)
    with pytest.raises(MinusfaceError, match="1 group"):
        group_spread({"a": 0.5})
    with pytest.raises(MinusfaceError, match="part of one"):
        group_spread({"a": 50, "b": 60})

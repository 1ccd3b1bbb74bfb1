"""TFace's checkpoints come in, give the reference's outputs, and go back unchanged."""

from __future__ import annotations

import json
import os
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from minusface import Protector, Recognizer
from minusface.checkpoint import Card, save
from minusface.cli import main
from minusface.data import SyntheticFaces, export_folder
from minusface.errors import MinusfaceError
from minusface.tface.weights import export_tface, import_tface, read_state, to_checkpoint
from tests.reference.weights import by_rule

NAMES = ("stage1_IR_18", "stage2_IR_18", "stage1_IR_50", "stage2_IR_50")


def state_of(shared: Path, which: str) -> dict[str, Tensor]:
    names = json.loads((shared / "golden" / "tface_state_dict_names.json").read_text())
    return by_rule(names[which])


@pytest.mark.parametrize("which", NAMES)
def test_outputs_are_the_references(shared: Path, tmp_path: Path, which: str) -> None:
    torch.save({f"module.{k}": v for k, v in state_of(shared, which).items()}, tmp_path / "c.pth")
    card = import_tface(tmp_path / "c.pth", tmp_path / "ours")
    stage, _, backbone = which.partition("_")
    assert (card.task, card.model["recognizer"]["backbone"]) == (stage, backbone.lower())
    golden = np.load(shared / "golden" / "model.npz")
    dct = np.load(shared / "golden" / "dct.npz")
    crops = torch.from_numpy(dct["images"]).permute(0, 3, 1, 2).float() / 127.5 - 1
    protector = Protector.load(tmp_path / "ours").eval()
    recognizer = Recognizer.load(tmp_path / "ours").eval()
    with torch.no_grad():
        if stage == "stage1":
            seen = protector.subtract(crops).residue
        else:
            seen = protector(crops, torch.from_numpy(dct["permutation"]).long())
            assert np.abs(seen.numpy() - golden[f"{which}_protected"]).max() < 1e-3
        embedding = recognizer(seen).numpy()
    wanted = golden[f"{which}_embedding"]
    assert np.abs(embedding - wanted).max() < 1e-3 * np.abs(wanted).max()


@pytest.mark.parametrize("which", NAMES[:2])
def test_there_and_back(shared: Path, tmp_path: Path, which: str) -> None:
    state = state_of(shared, which)
    torch.save(state, tmp_path / "c.pth")
    import_tface(tmp_path / "c.pth", tmp_path / "ours")
    assert export_tface(tmp_path / "ours", tmp_path / "back.pth") == len(state)
    back = read_state(tmp_path / "back.pth")
    assert set(back) == set(state)
    for name, tensor in state.items():
        assert torch.equal(back[name], tensor), name
        assert back[name].dtype == tensor.dtype, name


@pytest.fixture(scope="module")
def small(shared: Path) -> dict[str, Tensor]:
    return state_of(shared, "stage2_IR_18")


def refused(state: Any, words: str) -> None:
    with pytest.raises(MinusfaceError, match=words) as error:
        to_checkpoint(state, "c.pth")
    assert "\n" not in str(error.value)


def test_other_tensors_are_named(small: dict[str, Tensor]) -> None:
    def without(name: str) -> dict[str, Tensor]:
        return {k: v for k, v in small.items() if k != name}

    refused(without("recognizer.body.3.res_layer.4.weight"), "body.3.res_layer.4.weight is missing")
    refused({**small, "recognizer.more": torch.zeros(1)}, "more is not of it")
    refused({**small, "head.weight": torch.zeros(1)}, "head.weight")
    refused(without("generator.backbone.deconv_2.bias"), "up.1.bias is missing")
    refused({**small, "generator.backbone.x": torch.zeros(1)}, "backbone.x")
    refused({k: v for k, v in small.items() if "input_layer" not in k}, "no IR recogniser")
    refused({"a": torch.zeros(1)}, "no IR recogniser")
    wide = small["recognizer.input_layer.0.weight"].repeat(1, 2, 1, 1)
    refused({**small, "recognizer.input_layer.0.weight": wide}, "6 input channels")


def test_a_bare_recogniser_is_an_unprotected_model(
    small: dict[str, Tensor], tmp_path: Path
) -> None:
    bare = {k.removeprefix("recognizer."): v for k, v in small.items() if "recognizer." in k}
    torch.save({"state_dict": bare}, tmp_path / "arc.pth")
    assert import_tface(tmp_path / "arc.pth", tmp_path / "ours").task == "plain"
    assert Recognizer.load(tmp_path / "ours").kind == "crop"
    export_tface(tmp_path / "ours", tmp_path / "back.pth")
    assert set(read_state(tmp_path / "back.pth")) == set(bare)


@pytest.mark.parametrize("key", ["recognizer", "codec"])
@pytest.mark.parametrize("value", ["ir_18", [1], 3])
def test_a_damaged_card_is_not_exported(tmp_path: Path, key: str, value: object) -> None:
    model = {"recognizer": {"backbone": "ir_18", "kind": ["crop"]}, key: value}
    save(tmp_path / "ours", Card("plain", model), {"model": {"a": torch.ones(1)}})
    with pytest.raises(MinusfaceError, match=rf"damaged card, its model\.{key}") as told:
        export_tface(tmp_path / "ours", tmp_path / "out.pth")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"codec": {"name": "dct", "ratio": 4}}, "codec.ratio 4, TFace has 8 only"),
        ({"recognizer": {"backbone": "ir_18", "kind": "crop", "cohort": 20}}, "has a cohort"),
    ],
)
def test_what_tface_would_compute_otherwise(
    tmp_path: Path, model: dict[str, Any], words: str
) -> None:
    model = {"recognizer": {"backbone": "ir_18", "kind": "crop", "input": "as_is"}, **model}
    save(tmp_path / "ours", Card("plain", model), {"model": {"a": torch.ones(1)}})
    with pytest.raises(MinusfaceError, match=words):
        export_tface(tmp_path / "ours", tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/minusface-was-here",)


@pytest.mark.parametrize(
    ("held", "words"),
    [([1, 2], "holds a list"), ({}, "holds a dict"), ({"a": 3}, "'a' is no tensor")],
)
def test_other_files(tmp_path: Path, held: Any, words: str) -> None:
    torch.save(held, tmp_path / "c.pth")
    with pytest.raises(MinusfaceError, match=words):
        read_state(tmp_path / "c.pth")


def test_code_is_not_run(tmp_path: Path) -> None:
    torch.save({"a": Evil()}, tmp_path / "c.pth")
    with pytest.raises(MinusfaceError, match="holds code"):
        read_state(tmp_path / "c.pth")
    assert not Path("/tmp/minusface-was-here").exists()


def test_the_commands(
    small: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(small, tmp_path / "c.pth")
    arguments = ["import-tface", str(tmp_path / "c.pth"), "--out", str(tmp_path / "ours")]
    assert main(arguments) == 0
    assert "stage2: ir_18, 3 input channels, 512-d templates, generator of width 64" in (
        capsys.readouterr().out
    )
    assert main(arguments) == 2
    assert "holds a checkpoint already" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "ours")]) == 0
    capsys.readouterr()
    (tmp_path / "cut.pth").write_bytes((tmp_path / "c.pth").read_bytes()[:5000])
    for file, words in (("cut.pth", "damaged or truncated"), ("none.pth", "cannot read")):
        assert main(["import-tface", str(tmp_path / file), "--out", str(tmp_path / "x")]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1
    assert not (tmp_path / "x").exists()
    for taken, file in (("run", "config.yaml"), ("mine", "my-embeddings.safetensors")):
        (tmp_path / taken).mkdir()
        (tmp_path / taken / file).write_bytes(b"mine")
        assert main(["import-tface", str(tmp_path / "c.pth"), "--out", str(tmp_path / taken)]) == 2
        said = capsys.readouterr().err
        assert "holds other files, expected a new folder" in said
        assert said.count("\n") == 1
        assert [path.name for path in (tmp_path / taken).iterdir()] == [file]
    back = ["export-tface", str(tmp_path / "ours"), "--out", str(tmp_path / "b.pth")]
    assert main(back) == 0
    assert "225 tensors" in capsys.readouterr().out
    (tmp_path / "me.png").write_bytes(b"mine")
    assert main([*back[:-1], str(tmp_path / "me.png")]) == 2
    assert capsys.readouterr().err.endswith("me.png: expected a .pth file\n")
    assert (tmp_path / "me.png").read_bytes() == b"mine"


def test_every_command_works_on_an_import(shared: Path, tmp_path: Path) -> None:
    """Protect, evaluate and export take an import as any other; ONNX gives the reference's outputs."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.save(state_of(shared, "stage2_IR_18"), tmp_path / "c.pth")
    ours, product = tmp_path / "ours", tmp_path / "product"
    import_tface(tmp_path / "c.pth", ours)
    assert main(["export", str(ours), "--out", str(product)]) == 0
    golden = np.load(shared / "golden" / "model.npz")
    dct = np.load(shared / "golden" / "dct.npz")
    crops = dct["images"]
    order = np.broadcast_to(dct["permutation"].astype(np.int64)[:, None], (len(crops), 1, 192))
    client = onnxruntime.InferenceSession(str(product / "client.onnx"))
    server = onnxruntime.InferenceSession(str(product / "recognizer.onnx"))
    named = [entry.name for entry in client.get_inputs()]
    given = dict(
        zip(named, (np.ascontiguousarray(crops), np.ascontiguousarray(order)), strict=True)
    )
    protected = client.run(None, given)[0]
    assert np.abs(protected - golden["stage2_IR_18_protected"]).max() < 1e-3
    found = server.run(None, {server.get_inputs()[0].name: protected})[0]
    wanted = golden["stage2_IR_18_embedding"]
    wanted = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
    assert np.abs(found - wanted).max() < 1e-3
    faces = tmp_path / "faces"
    export_folder(SyntheticFaces(3, 2, seed=1), faces)
    keys = [f"{p.parent.name}/{p.name}" for p in sorted(faces.rglob("*.png"))]
    (tmp_path / "pairs.txt").write_text(
        "".join(
            f"{a} {b} {int(Path(a).parent == Path(b).parent)}\n" for a, b in combinations(keys, 2)
        )
    )
    where = ["--pairs", str(tmp_path / "pairs.txt"), "--faces", str(faces), "--draws", "1"]
    assert main(["evaluate", str(ours), *where]) == 0
    out = tmp_path / "protected"
    assert (
        main(["protect", str(faces / keys[0]), "--out", str(out), "--checkpoint", str(ours)]) == 0
    )
    assert list(out.rglob("*.png"))

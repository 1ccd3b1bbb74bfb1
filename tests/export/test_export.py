"""Both halves in ONNX: parity with PyTorch, one file each, refusals, variants, accuracy on pairs."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import onnx
from minusface import runtime
from minusface.cli import main
from minusface.config import InputTransform
from minusface.errors import MinusfaceError
from minusface.evaluate.embedders import ProtectedEmbedder
from minusface.export import OPSET, ClientGraph, check_parity, export, measure, replacing
from minusface.export.check import thresholds_of
from minusface.export.write import check_target, example
from minusface.protect import Protector, draw_permutation
from minusface.recognize import Recognizer
from minusface.runtime import ClientModel, ExportCard, RecognizerModel, load_export_card
from tests.products import DIMENSIONS, SIZE, tiny_checkpoint


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, ExportCard]:
    root = tmp_path_factory.mktemp("export")
    path = tiny_checkpoint(root / "checkpoint")
    return path, root / "out", export(path, root / "out", ("float16", "int8"))


def crops(batch: int, size: int = SIZE) -> np.ndarray:
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (batch, 4, 4, 3), dtype=np.uint8)
    return np.stack([cv2.resize(image, (size, size)) for image in small])


@pytest.mark.parametrize(
    ("codec", "size", "copies"), [("dct", 64, 1), ("dwt", 32, 2), ("dct", 48, 2)]
)
def test_the_graph_is_the_protector(codec: str, size: int, copies: int, tmp_path: Path) -> None:
    protector = Protector.load(tiny_checkpoint(tmp_path, copies, codec, size))
    crop = torch.from_numpy(crops(3, size))
    order = draw_permutation(3 * copies, 192, torch.Generator().manual_seed(1)).view(3, copies, 192)
    with torch.no_grad():
        made = ClientGraph(protector).eval()(crop, order)
    expected = protector.protect(crop.permute(0, 3, 1, 2).float() / 127.5 - 1, order).pixels
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("batch", [1, 3])
def test_of_several_tries_the_model_keeps_what_pytorch_keeps(
    batch: int, copies: int, tmp_path: Path
) -> None:
    path = tiny_checkpoint(tmp_path / "checkpoint", copies)
    export(path, tmp_path / "out")
    client = ClientModel(tmp_path / "out", threads=1)
    protector = Protector.load(path)
    crop = crops(batch)
    pixels = torch.from_numpy(crop).permute(0, 3, 1, 2).float() / 127.5 - 1
    for tries in (1, 5):
        order = draw_permutation(
            batch * copies * tries, 192, torch.Generator().manual_seed(2)
        ).view(batch, -1, 192)
        expected = protector.protect(pixels, order, tries=tries).pixels.numpy()
        made = client.protect(crop, order.numpy())
        assert made.shape == expected.shape
        assert np.abs(made - expected).max() <= 1e-4
    with pytest.raises(MinusfaceError, match=rf"expected \({batch}, {64 * copies}, 192\)"):
        client.protect(crop, order[:, :1].expand(-1, 70 * copies, -1).numpy())


@pytest.mark.parametrize("batch", [1, 3])
def test_parity_with_pytorch(made: tuple[Path, Path, ExportCard], batch: int) -> None:
    path, out, _ = made
    protector, recognizer = Protector.load(path), Recognizer.load(path)
    crop = crops(batch)
    order = draw_permutation(batch, 192, torch.Generator().manual_seed(batch))[:, None]
    pixels = torch.from_numpy(crop).permute(0, 3, 1, 2).float() / 127.5 - 1
    expected = protector.protect(pixels, order)
    sent = ClientModel(out, threads=1).protect(crop, order.numpy())
    assert np.abs(sent - expected.pixels.numpy()).max() <= 1e-4
    template = RecognizerModel(out, threads=1).embed(sent)
    assert template.shape == (batch, DIMENSIONS)
    assert np.abs(template - recognizer.embed(expected).vectors.numpy()).max() <= 1e-4
    np.testing.assert_allclose(np.linalg.norm(template, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3])
def test_parity_in_openvino(made: tuple[Path, Path, ExportCard], batch: int) -> None:
    core = pytest.importorskip("openvino", reason="the optional second runtime").Core()
    _, out, _ = made
    crop = crops(batch)
    order = draw_permutation(batch, 192, torch.Generator().manual_seed(batch))[:, None].numpy()
    # By itself it computes in bfloat16 where the processor has it.
    exactly = {"INFERENCE_PRECISION_HINT": "f32"}
    client = core.compile_model(core.read_model(out / "client.onnx"), "CPU", exactly)
    sent = client({"crop": crop, "permutation": order})[0]
    assert np.abs(sent - ClientModel(out, threads=1).protect(crop, order)).max() <= 1e-4
    recognizer = core.compile_model(core.read_model(out / "recognizer.onnx"), "CPU", exactly)
    template = recognizer({"protected": sent})[0]
    assert np.abs(template - RecognizerModel(out, threads=1).embed(sent)).max() <= 1e-4


@pytest.mark.parametrize("name", ["unmixed", "unmixed_wide"])
def test_an_unmixing_recogniser_keeps_its_first_step_in_float32(
    tmp_path: Path, name: InputTransform
) -> None:
    """Its covariances are far below what half precision, or eight bits, can hold."""
    path = tiny_checkpoint(tmp_path / "checkpoint", copies=2, input=name)
    export(path, tmp_path / "out", ("float16", "int8"))
    found = check_parity(path, tmp_path / "out", ("float32", "float16", "int8"))["recognizer"]
    assert max(found["float32"].values()) <= 1e-4
    assert max(found["float16"].values()) <= 0.05
    assert max(found["int8"].values()) <= 0.3


def test_parity_is_measured_and_held_to(made: tuple[Path, Path, ExportCard]) -> None:
    path, out, _ = made
    found = check_parity(path, out, ("float32", "float16"))
    for half in ("client", "recognizer"):
        assert set(found[half]["float32"]) == {"1", "3"}
        assert max(found[half]["float32"].values()) <= 1e-4
        assert max(found[half]["float16"].values()) <= 0.05


def test_a_graph_that_differs_is_refused(
    made: tuple[Path, Path, ExportCard], tmp_path: Path
) -> None:
    other = tiny_checkpoint(tmp_path / "other")
    tensors = Protector.load(other)
    torch.nn.init.normal_(tensors.generator.project.weight, std=0.5)
    from minusface import checkpoint

    card, parts = checkpoint.load_card(other), checkpoint.load_part(other)
    parts["generator.project.weight"] = tensors.generator.project.weight
    checkpoint.save(other, card, {"model": parts})
    with pytest.raises(MinusfaceError, match=r"client.onnx differs from PyTorch"):
        check_parity(other, made[1], ("float32",))


def test_files_stand_alone(made: tuple[Path, Path, ExportCard]) -> None:
    _, out, card = made
    assert sorted(p.name for p in out.iterdir()) == sorted(
        ["card.json", *(e["name"] for files in card.files.values() for e in files.values())]
    )
    for name in ("client.onnx", "recognizer.onnx"):
        data = (out / name).read_bytes()
        model = onnx.load_from_string(data)
        onnx.checker.check_model(model, full_check=True)
        assert {o.version for o in model.opset_import if o.domain == ""} == {OPSET}
        assert all(t.data_location == 0 for t in model.graph.initializer)
        assert b"site-packages" not in data
        assert str(Path(__file__).parents[2]).encode() not in data
        batches = {i.type.tensor_type.shape.dim[0].dim_param for i in model.graph.input}
        assert batches == {"batch"}


def test_the_features_are_never_there(made: tuple[Path, Path, ExportCard]) -> None:
    """No tensor of F channels: at most five rows' lines, 5 C S numbers a pixel."""
    model = onnx.load(made[1] / "client.onnx")
    for entry in model.graph.input:
        entry.type.tensor_type.shape.dim[0].dim_value = 1
    known = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in known}
    sized = [np.prod(shape) for shape in shapes.values() if shape and 0 not in shape]
    assert len(sized) > 50
    assert max(sized) == 5 * 3 * 8 * SIZE * SIZE
    weights = {t.name: list(t.dims) for t in model.graph.initializer}
    convolutions = [n for n in model.graph.node if n.op_type == "Conv"]
    # The generator's, and four each that find the edges of the crop and of the images.
    assert len(convolutions) == 17 + 8
    assert not any(192 in weights[n.input[1]] for n in convolutions)


def test_variants_are_smaller_and_near(made: tuple[Path, Path, ExportCard]) -> None:
    _, out, card = made
    # Seeded: how far eight bits lead astray depends on the draw (0.16 usually, 0.35 of twenty).
    drawn = draw_permutation(2, 192, torch.Generator().manual_seed(0))
    crop, order = crops(2), drawn[:, None].numpy()
    exact = ClientModel(out, threads=1).protect(crop, order)
    for variant, most in (("float16", 0.02), ("int8", 0.3)):
        assert card.files["client"][variant]["bytes"] < card.files["client"]["float32"]["bytes"]
        near = ClientModel(out, variant, 1).protect(crop, order)
        assert np.abs(near - exact).max() < most


def test_refusals(made: tuple[Path, Path, ExportCard], tmp_path: Path) -> None:
    path, out, _ = made
    with pytest.raises(MinusfaceError, match=r"unknown variant 'int4'"):
        export(path, tmp_path, ("int4",))
    for opset in (5, 99):
        assert (
            main(["export", str(path), "--out", str(tmp_path / "no"), "--opset", str(opset)]) == 2
        )
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with (
        pytest.raises(MinusfaceError, match="file: is a file, expected a folder"),
        replacing(tmp_path / "file"),
    ):
        raise AssertionError("nothing is made for it")
    client = ClientModel(out, threads=1)
    order = runtime.draw_order(1, 1, 192)
    with pytest.raises(MinusfaceError, match=r"crops: float32"):
        client.protect(crops(1).astype(np.float32), order)
    twice = order.copy()
    twice[0, 0, 0] = twice[0, 0, 1]
    with pytest.raises(MinusfaceError, match="each channel once"):
        client.protect(crops(1), twice)
    with pytest.raises(MinusfaceError, match=r"permutation: shape \(2, 1, 192\)"):
        client.protect(crops(1), runtime.draw_order(2, 1, 192))
    with pytest.raises(MinusfaceError, match="permutation: int32, expected int64"):
        client.protect(crops(1), order.astype(np.int32))
    with pytest.raises(MinusfaceError, match=r"protected images: \(1, 3, 8, 8\)"):
        RecognizerModel(out, threads=1).embed(np.zeros((1, 3, 8, 8), np.float32))
    with pytest.raises(MinusfaceError, match="unknown variant of the client"):
        ClientModel(out, "bfloat16")
    with pytest.raises(MinusfaceError, match="not the card of an export"):
        load_export_card(path)
    with pytest.raises(MinusfaceError, match=r"no card\.json"):
        load_export_card(tmp_path / "nowhere")


def test_a_damaged_export_is_refused(made: tuple[Path, Path, ExportCard], tmp_path: Path) -> None:
    for file in made[1].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    data = bytearray((tmp_path / "recognizer.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "recognizer.onnx").write_bytes(data)
    with pytest.raises(MinusfaceError, match="another SHA-256"):
        RecognizerModel(tmp_path)
    raw = json.loads((tmp_path / "card.json").read_text())
    for change, said in (({"size": 0}, "no positive number"), ({"format": 9}, "format 9")):
        (tmp_path / "card.json").write_text(json.dumps(raw | change))
        with pytest.raises(MinusfaceError, match=said):
            load_export_card(tmp_path)
    (tmp_path / "card.json").write_text("{")
    with pytest.raises(MinusfaceError, match="damaged card"):
        load_export_card(tmp_path)


def test_bytes_and_back() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 2 * 8, 8, 3), dtype=np.uint8)
    pixels = runtime.from_bytes(images)
    assert pixels.shape == (2, 6, 8, 8)
    assert (runtime.to_bytes(pixels) == images).all()
    from minusface.types import ProtectedImage

    assert (ProtectedImage.from_uint8(images).pixels.numpy() == pixels).all()


def test_orders_are_permutations_and_new() -> None:
    order = runtime.draw_order(3, 2, 192)
    assert order.shape == (3, 2, 192)
    assert (np.sort(order, axis=-1) == np.arange(192)).all()
    assert not (order == runtime.draw_order(3, 2, 192)).all()


def test_thresholds_only_where_impostors_tell_them() -> None:
    scores = np.linspace(-1, 1, 1001)
    found = thresholds_of(scores)
    assert list(found) == ["fmr_1e-1", "fmr_1e-2"]
    assert (scores >= found["fmr_1e-2"]).mean() <= 0.01
    assert found["fmr_1e-2"] > found["fmr_1e-1"]


def test_the_command_measures(
    made: tuple[Path, Path, ExportCard], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, faces, lines = made[0], tmp_path / "faces", []
    random = np.random.default_rng(0)
    for person in range(6):
        folder = faces / f"p{person}"
        folder.mkdir(parents=True)
        base = cv2.resize(random.integers(0, 256, (4, 4, 3), dtype=np.uint8), (SIZE, SIZE))
        for number in range(3):
            noisy = np.clip(base + random.normal(0, 4, base.shape), 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / f"{number}.png"), noisy)
    for person in range(6):
        lines += [f"p{person}/0.png p{person}/1.png 1", f"p{person}/0.png p{person}/2.png 1"]
        lines += [f"p{person}/0.png p{(person + 1) % 6}/{k}.png 0" for k in (1, 2)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    out = tmp_path / "out"
    command = ["export", str(path), "--out", str(out), "--json"]
    assert main([*command, "--pairs", str(tmp_path / "pairs.txt"), "--faces", str(faces)]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card == json.loads((out / "card.json").read_text())
    rows = card["accuracy"]["models"]
    assert rows["torch"]["auc"] == pytest.approx(rows["float32"]["auc"], abs=0.02)
    assert list(card["thresholds"]) == ["fmr_1e-1"]
    assert load_export_card(out) == ExportCard(**card)
    assert main([*command, "--pairs", "x"]) == 2
    assert "--pairs and --faces go together" in capsys.readouterr().err
    # What stands is served on until a whole export takes its place.
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    assert main([*command, "--pairs", str(tmp_path / "no.txt"), "--faces", str(faces)]) == 2
    assert "no.txt: cannot read" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert not list(tmp_path.glob(".out*"))


def test_what_was_calibrated_is_taken_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tiny_checkpoint(tmp_path / "checkpoint"), tmp_path / "out"
    card = json.loads((path / "card.json").read_text())
    point = {"fmr": 0.01, "fmr_high": 0.02, "fmr_low": 0.0, "fnmr": 0.25, "threshold": 0.75}
    point |= {"target": 0.01, "impostors": 1000, "people": 50}
    card["metrics"] |= {"thresholds": {"fmr_1e-2": point}, "calibrated_on": "faces"}
    (path / "card.json").write_text(json.dumps(card))
    assert main(["export", str(path), "--out", str(out)]) == 0
    said, warned = capsys.readouterr()
    assert "thresholds of the best of 1 permutations, and clients try 8" in warned
    assert "threshold fmr_1e-2 0.7500: 25.0 % of genuine pairs are missed\n" in said
    assert f"minusface serve {out} --data data --master-key master.key\n" in said
    assert load_export_card(out).thresholds == {"fmr_1e-2": 0.75}
    card["metrics"]["calibrated_tries"] = 8
    (path / "card.json").write_text(json.dumps(card))
    assert main(["export", str(path), "--out", str(out)]) == 0
    assert not capsys.readouterr().err


def test_what_is_measured_is_what_clients_send(
    made: tuple[Path, Path, ExportCard], monkeypatch: pytest.MonkeyPatch
) -> None:
    from minusface.export.check import OnnxPair

    pair, asked = OnnxPair(made[1]), []
    plain = pair.client.protect
    monkeypatch.setattr(
        pair.client, "protect", lambda *given: asked.append(given[1].shape) or plain(*given)
    )
    images = torch.from_numpy(crops(2)).permute(0, 3, 1, 2)
    found = pair.embed(images, ["a", "b"], 0, flip=False)
    assert asked == [(2, 8 * made[2].n_duplicate, made[2].channels)]
    wanted = ProtectedEmbedder(
        Recognizer.load(made[0]), Protector.load(made[0]), eight_bits=True, tries=8
    ).embed(images, ["a", "b"], 0, flip=False)
    cosine = torch.nn.functional.cosine_similarity(found, wanted)
    assert float(cosine.min()) > 0.999, "the same permutations were tried, and the same one sent"


def test_a_failing_export_leaves_what_stands(
    made: tuple[Path, Path, ExportCard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import minusface.export

    def differ(*_: object) -> None:
        raise MinusfaceError("client.onnx differs")

    out = tmp_path / "out"
    shutil.copytree(made[1], out)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    monkeypatch.setattr(minusface.export, "check_parity", differ)
    assert main(["export", str(made[0]), "--out", str(out)]) == 2
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_an_export_takes_nothing_elses_place(
    made: tuple[Path, Path, ExportCard], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, mine = made[0], tmp_path / "mine"
    shutil.copytree(path, mine)
    shutil.copytree(path, tmp_path / "run" / "best")
    (tmp_path / "link").symlink_to(mine)
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "card.json").write_text("[]")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    for out in ("mine", "link", "run", "run/best", "cards"):
        assert main(["export", str(mine), "--out", str(tmp_path / out)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert said.startswith(str(tmp_path / out)) or f": {tmp_path / out}: " in said
        assert "expected a new folder, or one that an export made before" in said
        with pytest.raises(MinusfaceError, match="an export made before"):
            export(mine, tmp_path / out)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    # Beside other files, and onto an export.
    (tmp_path / "product").mkdir()
    (tmp_path / "product" / "letter.txt").write_text("x")
    for _ in range(2):
        check_target(tmp_path / "product")
        shutil.copy(made[1] / "card.json", tmp_path / "product" / "card.json")


def test_measure_needs_no_folders(made: tuple[Path, Path, ExportCard]) -> None:
    from minusface.evaluate.pairs import Pair, PairList

    images = {f"{n}.png": image for n, image in enumerate(crops(8))}
    listed = [Pair(f"{n}.png", f"{n}.png", True) for n in range(4)]
    listed += [Pair(f"{n}.png", f"{n + 4}.png", False) for n in range(4)]
    accuracy, thresholds = measure(
        made[0], made[1], ("float32",), PairList.from_pairs(listed), images.__getitem__
    )
    assert accuracy["impostors"] == 4
    assert thresholds == {}


def test_other_checkpoints_are_refused(made: tuple[Path, Path, ExportCard], tmp_path: Path) -> None:
    from minusface import checkpoint

    card, parts = checkpoint.load_card(made[0]), checkpoint.load_part(made[0])
    spec = dict(card.model, recognizer=dict(card.model["recognizer"], kind="crop"))
    plain = dataclasses.replace(card, task="plain", model=spec)
    checkpoint.save(tmp_path / "plain", plain, {"model": parts})
    with pytest.raises(MinusfaceError, match="reads no protected images"):
        export(tmp_path / "plain", tmp_path / "out")


def test_examples_are_the_same_every_time(made: tuple[Path, Path, ExportCard]) -> None:
    protector = Protector.load(made[0])
    for half in ("client", "recognizer"):
        for one, two in zip(example(protector, half, 2), example(protector, half, 2), strict=True):
            assert torch.equal(one, two)

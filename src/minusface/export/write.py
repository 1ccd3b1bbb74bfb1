"""A stage-2 checkpoint to the two halves of a product: client.onnx, recognizer.onnx, card.json."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minusface import checkpoint
from minusface.errors import MinusfaceError, choice_error
from minusface.export.graph import ClientGraph, RecognizerGraph
from minusface.files import write_atomically
from minusface.protect import Protector, draw_permutation
from minusface.protect.choice import MOST_TRIES
from minusface.recognize import Recognizer
from minusface.runtime import CARD, KIND, ExportCard

OPSET = 18
VARIANTS = ("float32", "float16", "int8")
MOST_BATCH = 4096
# Tries in the example that is traced: a dimension of one, or equal to another, would be taken for fixed.
TRACED = 3


def export(
    path: Path | str, out: Path | str, variants: Sequence[str] = ("float32",), opset: int = OPSET
) -> ExportCard:
    """Write an export folder and check it against PyTorch.

    Args:
        path: a stage-2 checkpoint or run folder.
        out: the folder to write; models in it are replaced.
        variants: of ``float32`` (always written), ``float16`` and ``int8`` (weights and activations of
            convolutions and products, quantised at run time).
        opset: of ONNX.

    Returns:
        The card that was written, without accuracy.

    Raises:
        MinusfaceError: a checkpoint without both halves, an unknown variant, an opset that cannot be made, a
            missing package, an ``out`` that is something else's.
    """
    _require()
    check_target(out)
    for variant in variants:
        if variant not in VARIANTS:
            raise choice_error("variant", variant, VARIANTS)
    source = checkpoint.load_card(path)
    recognizer = Recognizer.load(path)
    if recognizer.kind != "protected":
        raise MinusfaceError(
            f"{path}: a {source.task!r} checkpoint reads no protected images (expected stage2)"
        )
    protector = Protector.load(path)
    halves: dict[str, nn.Module] = {
        "client": ClientGraph(protector).eval(),
        "recognizer": RecognizerGraph(recognizer).eval(),
    }
    wanted = ["float32", *(v for v in VARIANTS[1:] if v in variants)]
    files: dict[str, dict[str, dict[str, Any]]] = {half: {} for half in halves}
    for half, module in halves.items():
        data = to_onnx(module, example(protector, half, 2, TRACED), half, opset)
        exactly = half == "recognizer" and recognizer.unmix is not None
        for variant in wanted:
            data_variant = convert(data, variant, exactly)
            name = f"{half}.onnx" if variant == "float32" else f"{half}.{variant}.onnx"
            write_atomically(Path(out) / name, data_variant)
            sha = hashlib.sha256(data_variant).hexdigest()
            files[half][variant] = {"name": name, "sha256": sha, "bytes": len(data_variant)}
    card = ExportCard(
        size=protector.codec_config.size,
        channels=protector.codec.channels,
        n_duplicate=protector.n_duplicate,
        embedding_size=recognizer.template_size,
        most_tries=MOST_TRIES,
        opset=opset,
        files=files,
        source={"task": source.task, "model": source.model, "metrics": source.metrics}
        | {"weights_sha256": source.files["model"]["sha256"]},
        versions=checkpoint.versions(),
    )
    write_card(card, out)
    return card


@contextlib.contextmanager
def replacing(out: Path | str) -> Iterator[Path]:
    """A folder beside ``out`` for a new export; left without an error, its files take their places there.

    What stands in ``out`` is served until then: the card goes last, and what is not replaced stays.

    Raises:
        MinusfaceError: nothing can be written there, or it is something else's.
    """
    target = Path(out)
    check_target(target)
    with contextlib.ExitStack() as undo:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            made = undo.enter_context(
                tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent)
            )
        except OSError as error:
            raise MinusfaceError(f"{target}: cannot write ({error.strerror or error})") from error
        yield Path(made)
        try:
            target.mkdir(exist_ok=True)
            for file in sorted(Path(made).iterdir(), key=lambda file: file.name == CARD):
                os.replace(file, target / file.name)
        except OSError as error:
            raise MinusfaceError(f"{target}: cannot write ({error.strerror or error})") from error


def check_target(out: Path | str) -> None:
    """Refuse a folder in which an export would take the place of something else.

    Raises:
        MinusfaceError: a file, a run, or a folder whose ``card.json`` is not an export's.
    """
    target, expected = Path(out), "expected a new folder, or one that an export made before"
    if target.exists() and not target.is_dir():
        raise MinusfaceError(f"{target}: is a file, expected a folder to export to")
    if any((target / name / CARD).is_file() for name in ("best", "last")):
        raise MinusfaceError(f"{target}: holds a run, {expected}")
    try:
        card = json.loads((target / CARD).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError):
        card = None
    if not isinstance(card, dict) or card.get("kind") != KIND:
        raise MinusfaceError(f"{target}: its card.json is not an export's, {expected}")


def write_card(card: ExportCard, out: Path | str) -> None:
    """Replace the card of an export folder."""
    write_atomically(Path(out) / CARD, json.dumps(asdict(card), indent=1, sort_keys=True).encode())


def example(protector: Protector, half: str, batch: int, tries: int = 1) -> tuple[Tensor, ...]:
    """Inputs of a half, drawn from a fixed seed: noise is as hard as any crop for comparing arithmetic."""
    draw = torch.Generator().manual_seed(0)
    size, copies = protector.codec_config.size, protector.n_duplicate
    if half == "recognizer":
        return (torch.rand(batch, 3 * copies, size, size, generator=draw),)
    crop = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8, generator=draw)
    order = draw_permutation(batch * copies * tries, protector.codec.channels, draw)
    return crop, order.view(batch, copies * tries, -1)


def to_onnx(module: nn.Module, inputs: tuple[Tensor, ...], half: str, opset: int) -> bytes:
    """A half as a self-contained ONNX model with a free batch; nothing of this machine in it."""
    names = {"client": ["crop", "permutation"], "recognizer": ["protected"]}[half]
    result = {"client": "protected", "recognizer": "template"}[half]
    batch = torch.export.Dim("batch", min=1, max=MOST_BATCH)
    shapes: dict[str, dict[int, Any]] = {name: {0: batch} for name in names}
    if half == "client":
        tries = torch.export.Dim("tries", min=1, max=MOST_TRIES)
        copies = inputs[1].shape[1] // TRACED
        shapes["permutation"][1] = tries if copies == 1 else copies * tries
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                inputs,
                dynamo=True,
                opset_version=opset,
                input_names=names,
                output_names=[result],
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    assert program is not None
    model = program.model_proto
    made = next(one.version for one in model.opset_import if one.domain == "")
    if made != opset:
        raise MinusfaceError(f"opset {opset}: cannot be made, the model came as {made}")
    return _tidied(model)


def _tidied(model: Any) -> bytes:
    """Without the exporter's notes, which name source files of the machine it ran on."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    model.producer_name, model.producer_version = "minusface", checkpoint.versions()["minusface"]
    data: bytes = model.SerializeToString()
    return data


def convert(data: bytes, variant: str, exactly: bool = False) -> bytes:
    """A float32 model as one of :data:`VARIANTS`; inputs and outputs stay as they are.

    Args:
        data: the model.
        variant: which.
        exactly: leave what comes before the first convolution in float32.
    """
    if variant == "float32":
        return data
    import onnx

    before_first = _before_first_convolution(onnx.load_from_string(data)) if exactly else []
    if variant == "float16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        half = convert_float_to_float16(
            onnx.load_from_string(data), keep_io_types=True, node_block_list=before_first
        )
        return bytes(half.SerializeToString())
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        before.write_bytes(data)
        logging.getLogger().disabled, was = True, logging.getLogger().disabled
        try:
            quantize_dynamic(
                before, after, weight_type=QuantType.QInt8, nodes_to_exclude=before_first
            )
        finally:
            logging.getLogger().disabled = was
        return after.read_bytes()


def _before_first_convolution(model: Any) -> list[str]:
    """Names of the nodes, which stand in the order they are computed in."""
    names: list[str] = []
    for node in model.graph.node:
        if node.op_type == "Conv":
            break
        names.append(node.name)
    return names


def _require() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(name)
        except ImportError as error:
            raise MinusfaceError(f'{name} is missing: pip install "minusface[export]"') from error

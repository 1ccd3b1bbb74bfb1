"""TFace's MinusFace checkpoints: plain state dicts, read without running what a pickle may hold.

A state dict names ``generator.backbone.*`` (the U-Net) and ``recognizer.*`` (an IR network); what they are
is told from names and shapes alone: 192 input channels are stage 1, 3 are stage 2.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minusface import checkpoint
from minusface.config import CodecConfig, GeneratorConfig
from minusface.errors import MinusfaceError
from minusface.files import write_atomically
from minusface.protect.generator import UNet, rename_reference
from minusface.recognize.backbones import BACKBONES

GENERATOR, RECOGNIZER = "generator.backbone.", "recognizer."
EXPECTED = "expected a state dict of TFace's MinusFace"
OURS = (("down.", "left_conv_"), ("merge.", "right_conv_"))
Tensors = dict[str, Tensor]


def read_state(path: Path | str) -> Tensors:
    """The tensors of a ``.pth`` file, without the prefix ``module.`` that data parallelism adds.

    Raises:
        MinusfaceError: missing, truncated, holding anything but tensors, or no dict of them.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MinusfaceError(f"{path}: cannot read ({error.strerror or error})") from error
    try:
        held = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        # A broken archive raises whatever its reader happens to hit; code is refused by its name.
        code = "GLOBAL" in str(error)
        kind = "holds code, which is not run" if code else "damaged or truncated"
        raise MinusfaceError(f"{path}: {kind}; {EXPECTED}") from error
    if isinstance(held, Mapping) and isinstance(held.get("state_dict"), Mapping):
        held = held["state_dict"]
    if not isinstance(held, Mapping) or not held:
        raise MinusfaceError(f"{path}: holds a {type(held).__name__}; {EXPECTED}")
    wrong = next((k for k, v in held.items() if not isinstance(v, Tensor)), None)
    if wrong is not None:
        raise MinusfaceError(f"{path}: {wrong!r} is no tensor; {EXPECTED}")
    return {str(name).removeprefix("module."): tensor for name, tensor in held.items()}


def to_checkpoint(state: Mapping[str, Tensor], where: str) -> tuple[checkpoint.Card, Tensors]:
    """A card and tensors under our names.

    Args:
        state: of stage 1 or 2, or of a bare recogniser (names without ``recognizer.``): an unprotected model.
        where: what it was read from, for errors and the card.

    Raises:
        MinusfaceError: missing, extra or ill-shaped tensors, or an unknown architecture.
    """
    generator = {k: v for k, v in state.items() if k.startswith("generator.")}
    bare = not generator and not any(k.startswith(RECOGNIZER) for k in state)
    recognizer = {
        k.removeprefix(RECOGNIZER): v for k, v in state.items() if bare or k.startswith(RECOGNIZER)
    }
    extra = next(
        (k for k in state if not bare and not k.startswith(("generator.", RECOGNIZER))), None
    )
    if extra is not None:
        raise MinusfaceError(
            f"{where}: {extra!r} is neither of the generator nor of the recogniser"
        )
    backbone, channels, embedding, size = _architecture(recognizer, where)
    task = "plain" if not generator else "stage1" if channels > 3 else "stage2"
    expected = {"plain": 3, "stage1": 192, "stage2": 3}[task]
    if channels != expected:
        raise MinusfaceError(f"{where}: {channels} input channels, expected {expected} for {task}")
    tensors = {f"recognizer.backbone.{k}": v.contiguous() for k, v in recognizer.items()}
    model: dict[str, Any] = {
        "recognizer": {
            "backbone": backbone,
            "embedding_size": embedding,
            # The reference feeds X_p as it is; crops and residues are never transformed there either.
            "input": "as_is",
            "in_channels": channels,
            "size": size,
            "kind": {"plain": "crop", "stage1": "features", "stage2": "protected"}[task],
        }
    }
    if generator:
        ours = _generator(generator, where)
        width = ours["down.0.0.weight"].shape[0]
        model |= {
            "codec": vars(CodecConfig(size=size)).copy(),
            "generator": vars(GeneratorConfig(width)).copy(),
            "n_duplicate": 1,
        }
        tensors |= {f"generator.{k}": v.contiguous() for k, v in ours.items()}
    card = checkpoint.Card(
        task=task, model=model, data={"imported": Path(where).name}, versions=checkpoint.versions()
    )
    return card, tensors


def _architecture(state: Mapping[str, Tensor], where: str) -> tuple[str, int, int, int]:
    """Backbone, input channels, embedding size and side of the input of an IR network."""
    first, last = state.get("input_layer.0.weight"), state.get("output_layer.3.weight")
    if first is None or last is None or first.ndim != 4 or last.ndim != 2:
        raise MinusfaceError(
            f"{where}: no IR recogniser in it (input_layer, output_layer); {EXPECTED}"
        )
    channels, embedding = first.shape[1], last.shape[0]
    size = 16 * round((last.shape[1] / 512) ** 0.5)
    closest: tuple[int, str, str] | None = None
    for name, build in BACKBONES.items():
        if not name.startswith("ir_") or name == "ir_lite":
            continue
        with torch.device("meta"):
            wanted = build(channels, embedding, size).state_dict()
        reason, count = _difference(state, wanted)
        if not count:
            return name, channels, embedding, size
        if closest is None or count < closest[0]:
            closest = (count, name, reason)
    assert closest is not None
    raise MinusfaceError(f"{where}: no known IR network; nearest to {closest[1]}, but {closest[2]}")


def _difference(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[str, int]:
    """The first difference in words, and how many there are."""
    missing = [k for k in wanted if k not in state]
    extra = [k for k in state if k not in wanted]
    other = [k for k in wanted if k in state and state[k].shape != wanted[k].shape]
    words = [f"{k} is missing" for k in missing[:1]] + [f"{k} is not of it" for k in extra[:1]]
    words += [f"{k} is {tuple(state[k].shape)}, not {tuple(wanted[k].shape)}" for k in other[:1]]
    return (words or [""])[0], len(missing) + len(extra) + len(other)


def _generator(state: Mapping[str, Tensor], where: str) -> Tensors:
    """The U-Net's tensors under our names, all of them there."""
    try:
        ours = rename_reference(state)
    except MinusfaceError as error:
        raise MinusfaceError(f"{where}: {error}") from error
    first = ours.get("down.0.0.weight")
    if first is None or first.ndim != 4:
        raise MinusfaceError(f"{where}: no U-Net in it (left_conv_1 is missing); {EXPECTED}")
    with torch.device("meta"):
        wanted = UNet(first.shape[1], first.shape[0]).state_dict()
    reason, count = _difference(ours, wanted)
    if count:
        raise MinusfaceError(f"{where}: generator: {reason}")
    return ours


def import_tface(path: Path | str, out: Path | str) -> checkpoint.Card:
    """Write a TFace checkpoint as one of ours.

    Raises:
        MinusfaceError: what :func:`read_state` and :func:`to_checkpoint` refuse; ``out`` is not empty.
    """
    folder = Path(out)
    if (folder / checkpoint.CARD).exists():
        raise MinusfaceError(f"{out}: holds a checkpoint already, expected a new folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise MinusfaceError(f"{out}: holds other files, expected a new folder")
    card, tensors = to_checkpoint(read_state(path), str(path))
    checkpoint.save(folder, card, {"model": tensors})
    return card


def to_state(path: Path | str) -> Tensors:
    """A checkpoint of ours as TFace names it.

    Raises:
        MinusfaceError: no checkpoint, or what TFace's MinusFace does not have: another backbone or codec,
            several copies, an input that is transformed; or a damaged card.
    """
    card = checkpoint.load_card(path)
    recognizer, codec = (_mapping(card, key, path) for key in ("recognizer", "codec"))
    backbone = str(recognizer.get("backbone"))
    if not backbone.startswith("ir_") or backbone.startswith("ir_lite"):
        raise MinusfaceError(f"{path}: backbone {backbone}, which TFace does not have")
    if codec and codec.get("name") != "dct":
        raise MinusfaceError(f"{path}: codec {codec.get('name')}, TFace has dct only")
    if codec and codec.get("ratio", 8) != 8:
        raise MinusfaceError(f"{path}: codec.ratio {codec.get('ratio')}, TFace has 8 only")
    if recognizer.get("cohort"):
        raise MinusfaceError(
            f"{path}: its recogniser has a cohort, TFace's has none: export the checkpoint it was packed from"
        )
    if card.model.get("n_duplicate", 1) != 1:
        raise MinusfaceError(f"{path}: n_duplicate {card.model['n_duplicate']}, TFace has 1 only")
    if card.model.get("obfuscation", "shuffle") != "shuffle":
        raise MinusfaceError(
            f"{path}: obfuscation {card.model['obfuscation']}, TFace has shuffle only"
        )
    # Crops are in [-1, 1] already; features are never transformed.
    allowed = {"protected": ("as_is",), "crop": ("as_is", "rescaled")}.get(
        str(recognizer.get("kind"))
    )
    if allowed and recognizer.get("input") not in allowed:
        raise MinusfaceError(
            f"{path}: its recogniser reads {recognizer.get('input')} images, TFace's reads them as_is"
        )
    state: Tensors = {}
    for name, tensor in checkpoint.load_part(path).items():
        if name.startswith("generator."):
            state[GENERATOR + _reference_name(name.removeprefix("generator."))] = tensor
        elif name.startswith("recognizer.backbone."):
            inner = name.removeprefix("recognizer.backbone.")
            state[inner if card.task == "plain" else RECOGNIZER + inner] = tensor
    return state


def _mapping(card: checkpoint.Card, key: str, path: Path | str) -> dict[str, Any]:
    """An entry of a card's model, empty where there is none."""
    held = card.model.get(key) or {}
    if not isinstance(held, dict):
        raise MinusfaceError(
            f"{path}: damaged card, its model.{key} is a {type(held).__name__}, expected a mapping"
        )
    return held


def _reference_name(name: str) -> str:
    part, level, *rest = name.split(".")
    for ours, theirs in OURS:
        if ours == f"{part}.":
            return f"{theirs}{int(level) + 1}.conv_ReLU.{'.'.join(rest)}"
    if part == "up":
        return f"deconv_{int(level) + 1}.{'.'.join(rest)}"
    assert part == "project", name
    return f"right_conv_5.{level}"


def export_tface(path: Path | str, out: Path | str) -> int:
    """Write a checkpoint of ours as TFace's ``.pth``; the number of tensors.

    Raises:
        MinusfaceError: what :func:`to_state` refuses, or a full disk.
    """
    state = to_state(path)
    data = io.BytesIO()
    torch.save(state, data)
    write_atomically(Path(out), data.getvalue())
    return len(state)

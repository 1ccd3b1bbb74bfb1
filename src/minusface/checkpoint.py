"""Checkpoints on disk: safetensors and a JSON card, written atomically; never a pickled module.

A checkpoint is a folder. ``card.json`` says what the model is, how it was made and which files belong to
it, with their SHA-256. Weight files carry the first digits of their hash in their names, so a save never
overwrites what the card on disk refers to: replacing ``card.json`` is the one step that turns the old
checkpoint into the new one, and a crash at any moment leaves one of the two whole.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from minusface.errors import MinusfaceError
from minusface.files import clear, write_atomically
from minusface.runtime import KIND as EXPORTED

CARD = "card.json"
FORMAT = 1
# Metrics that were measured of a card's very weights, after training.
CALIBRATED = ("thresholds", "calibrated_on", "calibrated_tries", "groups")


@dataclass(frozen=True)
class Card:
    """What a checkpoint is and how it came to be.

    ``model`` holds what is needed to rebuild it: ``codec``, ``generator``, ``recognizer`` (each the fields
    of its config, or None), ``n_duplicate``, and ``obfuscation`` and ``mask_fraction`` where channels are
    masked; ``files`` is filled in by :func:`save`.
    """

    task: str
    model: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    format: int = FORMAT


def versions() -> dict[str, str]:
    """Versions worth remembering beside a result."""
    from minusface import __version__

    return {
        "minusface": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def save(
    folder: Path,
    card: Card,
    parts: Mapping[str, Mapping[str, Tensor]] | Iterable[tuple[str, Mapping[str, Tensor]]],
) -> None:
    """Write a checkpoint, replacing the one in ``folder`` if there is one.

    Of other files there, only those are taken away that the old card lists, or that a save was killed over.

    Args:
        folder: created when missing.
        card: its ``files`` are replaced by what is written here.
        parts: named groups of tensors, one file each: ``model`` always, ``training`` to go on from. As
            pairs each is written before the next one is asked for.

    Raises:
        MinusfaceError: the disk is full or refuses; the checkpoint already there stays whole.
    """
    before = _weight_files(folder)
    files: dict[str, dict[str, Any]] = {}
    for part, tensors in parts.items() if isinstance(parts, Mapping) else parts:
        data = dump_tensors({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
        digest = hashlib.sha256(data).hexdigest()
        name = _file_name(part, digest)
        write_atomically(folder / name, data)
        files[part] = {"name": name, "sha256": digest, "bytes": len(data)}
    whole = Card(**{**asdict(card), "files": files})
    write_atomically(folder / CARD, json.dumps(asdict(whole), indent=1, sort_keys=True).encode())
    now = _names(files)
    for old in (before - now) | _orphans(folder, files, before | now):
        (folder / old).unlink(missing_ok=True)
    for part in files:
        # Named after what was being written: no later save writes the same, and so finds them.
        for left in folder.glob(f".{part}-{'?' * 12}.safetensors.*.tmp"):
            clear(left)


def _file_name(part: str, digest: str) -> str:
    return f"{part}-{digest[:12]}.safetensors"


def _names(files: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """What :func:`save` called the files; a card that lists another name did not get it from there."""
    own = ((_file_name(part, str(entry["sha256"])), entry["name"]) for part, entry in files.items())
    return {name for name, listed in own if name == listed == Path(name).name}


def _orphans(folder: Path, parts: Iterable[str], known: set[str]) -> set[str]:
    """Files of these parts that no card lists: of their names, those that hold what their name says."""
    found = (file for part in parts for file in folder.glob(f"{part}-{'?' * 12}.safetensors"))
    whole = (file for file in found if file.name not in known and file.is_file())
    return {f.name for f in whole if f.name.endswith(f"-{_sha256(f)[:12]}.safetensors")}


def _sha256(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _weight_files(folder: Path) -> set[str]:
    """The files of the checkpoint that is there; none where no card can be read."""
    if not (folder / CARD).is_file():
        return set()
    try:
        return _names(load_card(folder).files)
    except MinusfaceError:
        return set()


def find(path: Path | str) -> Path:
    """The checkpoint folder meant by ``path``: itself, or the ``best`` or ``last`` of a run folder.

    Raises:
        MinusfaceError: none is there.
    """
    path = Path(path)
    if path.name == CARD:
        path = path.parent
    for folder in (path, path / "best", path / "last"):
        if (folder / CARD).is_file():
            return folder
    reason = "no card.json in it, nor in best/ or last/" if path.is_dir() else "no such folder"
    raise MinusfaceError(f"{path}: not a checkpoint ({reason})")


def load_card(path: Path | str) -> Card:
    """Read a checkpoint's card.

    Raises:
        MinusfaceError: no checkpoint, or a card that is damaged, an export's or of a newer format.
    """
    file = find(path) / CARD
    try:
        raw = json.loads(file.read_bytes())
        if isinstance(raw, dict) and raw.get("kind") == EXPORTED:
            raise MinusfaceError(
                f"{file}: of a folder that minusface export wrote, expected the checkpoint it was made from"
            )
        if isinstance(raw, dict) and raw.get("format", FORMAT) != FORMAT:
            raise MinusfaceError(
                f"{file}: format {raw['format']}, this version reads format {FORMAT}"
            )
        card = Card(**raw)
        _check_card(card)
    except MinusfaceError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise MinusfaceError(f"{file}: damaged card ({error})") from error
    return card


def _check_card(card: Card) -> None:
    """TypeError where a field is not what a card holds."""
    for name in ("model", "config", "metrics", "data", "versions", "files"):
        if not isinstance(getattr(card, name), dict):
            raise TypeError(f"{name} is no mapping")
    if not isinstance(card.task, str):
        raise TypeError("task is no word")
    for part, entry in card.files.items():
        if not isinstance(entry, dict) or not {"name", "sha256", "bytes"} <= entry.keys():
            raise TypeError(f"files.{part} lacks name, sha256 or bytes")


def load_part(path: Path | str, part: str = "model", prefix: str = "") -> dict[str, Tensor]:
    """Read one group of tensors, checked against the card's SHA-256.

    Args:
        path: a checkpoint or run folder.
        part: ``model`` or ``training``.
        prefix: only names that start so, with it cut off (``"generator."``).

    Raises:
        MinusfaceError: the part is missing, truncated or altered.
    """
    folder = find(path)
    entry = load_card(folder).files.get(part)
    if entry is None:
        raise MinusfaceError(f"{folder}: holds no {part!r} part")
    file = folder / str(entry["name"])
    try:
        data = file.read_bytes()
    except OSError as error:
        raise MinusfaceError(f"{file}: cannot read ({error.strerror or error})") from error
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise MinusfaceError(
            f"{file}: damaged, {len(data)} bytes of {entry['bytes']} with another SHA-256 than the card's"
        )
    try:
        tensors = load_tensors(data)
    except SafetensorError as error:
        raise MinusfaceError(f"{file}: not a safetensors file ({error})") from error
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}


def load_into(module: torch.nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy tensors into a module of exactly these names and shapes.

    Raises:
        MinusfaceError: a name or shape differs; the first difference is named.
    """
    own = module.state_dict()
    for name in sorted(own.keys() | tensors.keys()):
        if name not in tensors:
            raise MinusfaceError(f"{where}: {name} is missing; is it of another architecture?")
        if name not in own:
            raise MinusfaceError(f"{where}: {name} has no place in this architecture")
        if own[name].shape != tensors[name].shape:
            raise MinusfaceError(
                f"{where}: {name} has shape {tuple(tensors[name].shape)}, "
                f"expected {tuple(own[name].shape)}"
            )
    module.load_state_dict(dict(tensors))

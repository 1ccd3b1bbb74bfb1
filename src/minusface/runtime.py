"""What `minusface export` wrote, opened again: no torch here, so that clients and servers can do without.

Legend: B batch, n copies, F channels, N crop side, D embedding.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from minusface.errors import MinusfaceError, choice_error

CARD = "card.json"
KIND = "minusface-export"
FORMAT = 1
# Permutations that a client tries for an image, where its model can choose (minusface.protect.choice).
CLIENT_TRIES = 8

Half = Literal["client", "recognizer"]
Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Order = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ExportCard:
    """What an export folder holds, as its ``card.json`` says."""

    size: int
    """N."""
    channels: int
    """F, how many channels a permutation orders."""
    n_duplicate: int
    """n, images sent a crop."""
    embedding_size: int
    """D."""
    opset: int
    files: dict[str, dict[str, dict[str, Any]]]
    """Half, then variant, to ``name``, ``sha256`` and ``bytes``."""
    parity: dict[str, Any] = field(default_factory=dict)
    """Greatest difference from PyTorch, by half, variant and batch."""
    accuracy: dict[str, Any] = field(default_factory=dict)
    """By variant, on the pairs that were given."""
    most_tries: int = 1
    """How many permutations for an image the client may be given; it keeps the image that shows least."""
    thresholds: dict[str, float] = field(default_factory=dict)
    """Cosines by the name of their false match rate, ``fmr_1e-3``."""
    source: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    kind: str = KIND
    format: int = FORMAT

    @property
    def usual_tries(self) -> int:
        """How many permutations a client tries that was not told."""
        return min(CLIENT_TRIES, self.most_tries)

    @property
    def fingerprint(self) -> str:
        """First 16 hex digits of the float32 recogniser's SHA-256: templates of two are not comparable."""
        return str(self.files["recognizer"]["float32"]["sha256"])[:16]


def load_export_card(folder: Path | str) -> ExportCard:
    """Read an export folder's card.

    Raises:
        MinusfaceError: no export folder, or a card that is damaged or of another format.
    """
    file = Path(folder) / CARD
    try:
        raw = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise MinusfaceError(
            f"{folder}: no card.json, expected a folder of minusface export"
        ) from error
    except (OSError, ValueError) as error:
        raise MinusfaceError(f"{file}: damaged card ({error})") from error
    if not isinstance(raw, dict) or raw.get("kind") != KIND:
        raise MinusfaceError(
            f"{file}: not the card of an export; make one with minusface export CHECKPOINT --out DIR"
        )
    if raw.get("format") != FORMAT:
        raise MinusfaceError(f"{file}: format {raw.get('format')}, this version reads {FORMAT}")
    try:
        card = ExportCard(**raw)
        numbers = [card.size, card.channels, card.n_duplicate, card.embedding_size, card.opset]
        numbers.append(card.most_tries)
        if not all(type(n) is int and n > 0 for n in numbers):
            raise TypeError("a size is no positive number")
        for half in ("client", "recognizer"):
            entry = card.files[half]["float32"]
            if not {"name", "sha256", "bytes"} <= entry.keys():
                raise TypeError(f"files.{half} lacks name, sha256 or bytes")
        return card
    except (TypeError, KeyError, AttributeError) as error:
        raise MinusfaceError(f"{file}: damaged card ({error})") from error


def read_model(folder: Path | str, half: Half, variant: str = "float32") -> bytes:
    """The bytes of one model of an export folder, checked against the card's SHA-256.

    Raises:
        MinusfaceError: no such variant, or a file that is missing or altered.
    """
    files = load_export_card(folder).files[half]
    if variant not in files:
        raise choice_error(f"variant of the {half}", variant, files)
    name = str(files[variant]["name"])
    path = Path(folder) / Path(name).name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MinusfaceError(f"{path}: cannot read ({error.strerror or error})") from error
    if hashlib.sha256(data).hexdigest() != files[variant]["sha256"]:
        raise MinusfaceError(f"{path}: damaged, another SHA-256 than the card's")
    return data


def open_session(data: bytes, threads: int = 0, where: str = "model") -> Any:
    """An onnxruntime session on the CPU.

    Args:
        data: a serialised ONNX model.
        threads: for one call; 0 leaves it to onnxruntime.
        where: what the model is called in errors.

    Raises:
        MinusfaceError: onnxruntime is not installed, or no usable model.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MinusfaceError('onnxruntime is missing: pip install "minusface[client]"') from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    # Threads that wait by spinning take the cores from whoever shares them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors share no public base
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MinusfaceError(f"{where}: not a usable ONNX model ({reason})") from error


class ClientModel:
    """client.onnx: crops and permutations to X_p.

    Args:
        folder: an export folder.
        variant: ``float32`` or another that the card lists.
        threads: for one call; 0 leaves it to onnxruntime.
    """

    def __init__(self, folder: Path | str, variant: str = "float32", threads: int = 0) -> None:
        self.card = load_export_card(folder)
        data = read_model(folder, "client", variant)
        self._session = open_session(data, threads, f"{folder} (client, {variant})")

    def protect(self, crops: Bytes, permutation: Order) -> Floats:
        """Crops (B, N, N, 3) RGB and permutations (B, n*T, F) -> X_p (B, 3n, N, N) in [0, 1].

        Args:
            crops: uint8.
            permutation: T tries for each of the n images; the one is given that shows least of the photo's
                outlines. See :func:`draw_order`.

        Raises:
            MinusfaceError: another shape, or a row that is no permutation.
        """
        card = self.card
        batch = len(crops)
        if crops.shape != (batch, card.size, card.size, 3) or crops.dtype != np.uint8:
            raise MinusfaceError(
                f"crops: {crops.dtype} {crops.shape}, expected uint8 (B, {card.size}, {card.size}, 3)"
            )
        tries = permutation.shape[1] // card.n_duplicate if permutation.ndim == 3 else 0
        shape = (batch, card.n_duplicate * min(max(tries, 1), card.most_tries), card.channels)
        if permutation.shape != shape:
            raise MinusfaceError(f"permutation: shape {permutation.shape}, expected {shape}")
        if permutation.dtype != np.int64:
            raise MinusfaceError(f"permutation: {permutation.dtype}, expected int64")
        if not (np.sort(permutation, axis=-1) == np.arange(card.channels)).all():
            raise MinusfaceError("permutation: a row does not hold each channel once")
        feeds = {"crop": np.ascontiguousarray(crops), "permutation": permutation}
        return cast(Floats, self._session.run(["protected"], feeds)[0])


class RecognizerModel:
    """recognizer.onnx: X_p to templates.

    Args:
        folder: an export folder.
        variant: ``float32`` or another that the card lists.
        threads: for one call; 0 leaves it to onnxruntime.
    """

    def __init__(self, folder: Path | str, variant: str = "float32", threads: int = 0) -> None:
        self.card = load_export_card(folder)
        data = read_model(folder, "recognizer", variant)
        self._session = open_session(data, threads, f"{folder} (recognizer, {variant})")

    def embed(self, protected: Floats) -> Floats:
        """X_p (B, 3n, N, N) in [0, 1] -> templates (B, D), unit rows.

        Raises:
            MinusfaceError: another shape.
        """
        card = self.card
        expected = (len(protected), 3 * card.n_duplicate, card.size, card.size)
        if protected.shape != expected:
            raise MinusfaceError(f"protected images: {protected.shape}, expected {expected}")
        feeds = {"protected": np.ascontiguousarray(protected, np.float32)}
        return cast(Floats, self._session.run(["template"], feeds)[0])


def draw_order(batch: int, copies: int, channels: int) -> Order:
    """Permutations (batch, copies, channels) from the operating system's entropy."""
    import os

    keys = np.frombuffer(os.urandom(8 * batch * copies * channels), dtype=np.uint64)
    order = keys.reshape(batch, copies, channels).argsort(axis=-1, kind="stable")
    return order.astype(np.int64)


def to_bytes(protected: Floats) -> Bytes:
    """X_p (B, 3n, N, N) to (B, n*N, N, 3) bytes, the n images of a crop one below the other."""
    batch, channels, height, width = protected.shape
    tiles = protected.reshape(batch, channels // 3, 3, height, width).transpose(0, 1, 3, 4, 2)
    scaled = np.rint(np.clip(tiles, 0.0, 1.0) * 255.0).astype(np.uint8)
    return np.ascontiguousarray(scaled.reshape(batch, -1, width, 3))


def from_bytes(images: Bytes) -> Floats:
    """The inverse of :func:`to_bytes` for square images: (B, n*N, N, 3) to (B, 3n, N, N) in [0, 1]."""
    batch, tall, width, _ = images.shape
    tiles = images.reshape(batch, tall // width, width, width, 3).transpose(0, 1, 4, 2, 3)
    return np.ascontiguousarray(tiles.reshape(batch, -1, width, width), np.float32) / np.float32(
        255
    )


def rate_name(fmr: str | None) -> str | None:
    """What cards and servers call a rate: ``fmr_1e-2`` for 1e-2, 0.01 and itself; None for None."""
    if fmr is None:
        return None
    given = fmr.removeprefix("fmr_")
    try:
        rate = float(given)
        mantissa, _, exponent = f"{rate:.0e}".partition("e")
        name = f"{mantissa}e{int(exponent)}"
    except ValueError:
        return fmr
    # Rounded, 0.014 would be decided at 0.01.
    return f"fmr_{name if math.isclose(float(name), rate) else given}"

"""What can be put under test: a checkpoint, or a bare ONNX embedder by its file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from minusface.checkpoint import load_card, versions
from minusface.config import Precision
from minusface.evaluate.embedders import load_embedder
from minusface.evaluate.embedding import PairEmbedder
from minusface.evaluate.onnx_embedder import OnnxEmbedder
from minusface.weights import called


@dataclass(frozen=True)
class Model:
    """A model under test."""

    name: str
    embedder: PairEmbedder
    draws_matter: bool
    """Whether its embeddings depend on permutations."""
    size: int
    """Side of its crops in pixels."""
    fingerprint: str
    """SHA-256 (hex) of its weights and of what else decides its embeddings."""


def load_model(
    path: Path | str,
    name: str | None = None,
    *,
    seed: int = 0,
    eight_bits: bool = False,
    copies: int = 1,
    tries: int = 1,
    precision: Precision = "float32",
) -> Model:
    """The model in a checkpoint folder or an ``.onnx`` file.

    Args:
        path: where it is.
        name: for tables, a precision that is not float32 behind it; by default the path and the task.
        seed: of the permutations.
        eight_bits: round protected images as a PNG does.
        copies: protected images of each image, whose embeddings are summed.
        tries: permutations of which the one is taken that shows least.
        precision: of a checkpoint's networks (:meth:`minusface.recognize.Recognizer.load`).

    Raises:
        MinusfaceError: no model, or a damaged one.
    """
    if Path(path).suffix.lower() == ".onnx":
        embedder = OnnxEmbedder(path)
        sha = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        return Model(name or Path(path).name, embedder, False, 112, sha)
    card = load_card(path)
    found = load_embedder(
        path, seed=seed, eight_bits=eight_bits, copies=copies, tries=tries, precision=precision
    )
    computed = found.recognizer.precision
    # Files are named by their own hashes in the card.
    more: list[int | str] = (
        [] if copies == tries == 1 else [copies] if tries == 1 else [copies, tries]
    )
    if computed != "float32":
        # Of the generator, too.
        more.append(f"{computed} both" if found.protector is not None else computed)
    said = json.dumps([card.model, card.files, seed, eight_bits, versions(), *more])
    sha = hashlib.sha256(said.encode()).hexdigest()
    several = f", {copies} images" if copies > 1 and found.draws_matter else ""
    if tries > 1 and found.draws_matter:
        several += f", {tries} tries"
    if computed != "float32":
        several += f", {computed}"
    if not name:
        name = f"{called(Path(path))} ({card.task}{several})"
    elif computed != "float32":
        # Whatever a row is called: its numbers are beside those of another arithmetic.
        name = f"{name} ({computed})"
    return Model(name, found, found.draws_matter, found.recognizer.size, sha)

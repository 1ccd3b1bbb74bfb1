"""The evaluation during training: held-out pairs, from a config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from minusface.config import TrainConfig
from minusface.data import decode_image
from minusface.errors import MinusfaceError
from minusface.evaluate.embedders import embedder_of
from minusface.evaluate.pairs import PairList, read_pairs
from minusface.evaluate.verification import evaluate_pairs
from minusface.protect import Protector
from minusface.recognize import Recognizer
from minusface.types import UInt8

Measure = Callable[[Recognizer, Protector | None], dict[str, float]]


def folder_reader(root: Path | str, size: int) -> Callable[[str], UInt8]:
    """From keys to the images of a face folder, (size, size, 3) uint8, RGB.

    Raises (when called):
        MinusfaceError: an image is missing, unreadable or of another size.
    """

    def read(key: str) -> UInt8:
        path = Path(root) / key
        try:
            image = decode_image(path.read_bytes(), str(path))
        except OSError as error:
            raise MinusfaceError(f"{path}: cannot read ({error.strerror or error})") from error
        if image.shape[:2] != (size, size):
            raise MinusfaceError(
                f"{path}: {image.shape[1]}x{image.shape[0]} pixels, expected {size}x{size}: "
                "faces are aligned first"
            )
        return image

    return read


def held_out(config: TrainConfig) -> Measure | None:
    """What measures a model on the config's pairs; None where it names none.

    Raises:
        MinusfaceError: a bad pairs list.
    """
    if config.evaluation.pairs is None or config.evaluation.every <= 0:
        return None
    faces = config.evaluation.faces or config.data.faces
    pairs: PairList = read_pairs(config.evaluation.pairs, faces)
    read = folder_reader(faces, config.codec.size)

    def measure(recognizer: Recognizer, protector: Protector | None) -> dict[str, float]:
        embedder = embedder_of(recognizer, protector)
        result = evaluate_pairs(embedder, read, pairs)
        return {"score": result.accuracy, "accuracy": result.accuracy, "auc": result.auc}

    return measure

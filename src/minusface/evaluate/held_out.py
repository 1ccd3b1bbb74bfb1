"""The evaluation during training: held-out pairs, from a config."""

from __future__ import annotations

import functools
from collections.abc import Callable

from minusface.config import TrainConfig
from minusface.data import SyntheticFaces, synthetic_pairs
from minusface.data.source import source_parts
from minusface.errors import MinusfaceError
from minusface.evaluate.embedders import embedder_of
from minusface.evaluate.pairs import Pair, PairList, read_pairs
from minusface.evaluate.reader import folder_reader
from minusface.evaluate.verification import evaluate_pairs
from minusface.protect import Protector
from minusface.recognize import Recognizer
from minusface.types import UInt8

# Drawn people of seeds that no training is likely to use.
HELD_OUT_SEED = 1_000_003
HELD_OUT_PEOPLE, HELD_OUT_IMAGES, HELD_OUT_PAIRS = 60, 4, 400
Measure = Callable[[Recognizer, Protector | None], dict[str, float]]


def held_out(
    config: TrainConfig, progress: Callable[[int, int], None] | None = None
) -> Measure | None:
    """What measures a model on the config's pairs; None where it names none.

    For synthetic training faces without a pairs list the pairs are of other synthetic people; but not where
    the recogniser that would be asked is left untrained (``loss.beta`` 0): it would choose a best by chance.

    Args:
        config: of the run.
        progress: told the images done and to do.

    Raises:
        MinusfaceError: a bad pairs list.
    """
    if config.evaluation.every <= 0:
        return None
    if config.evaluation.pairs is not None:
        kind, faces = source_parts(config.evaluation.faces or config.data.faces)
        if kind != "folder":
            raise MinusfaceError(
                f"evaluation.faces: expected the face folder of evaluation.pairs, not {kind} data"
            )
        pairs = read_pairs(config.evaluation.pairs, faces)
        read = folder_reader(faces, config.codec.size)
    elif config.task in ("stage1", "toy") and config.loss.beta == 0:
        return None
    elif config.data.faces.startswith("synthetic") and not config.data.branches:
        pairs, read = synthetic_held_out(config.codec.size, config.seed)
    else:
        return None

    def measure(recognizer: Recognizer, protector: Protector | None) -> dict[str, float]:
        embedder = embedder_of(recognizer, protector)
        result = evaluate_pairs(embedder, read, pairs, progress=progress)
        return {"score": result.accuracy, "accuracy": result.accuracy, "auc": result.auc}

    return measure


def synthetic_held_out(size: int, seed: int) -> tuple[PairList, Callable[[str], UInt8]]:
    """Pairs of drawn people whom no training with this seed sees, and what draws their pictures."""
    faces = SyntheticFaces(HELD_OUT_PEOPLE, HELD_OUT_IMAGES, seed=seed + HELD_OUT_SEED, size=size)
    chosen = synthetic_pairs(faces, HELD_OUT_PAIRS, seed)
    pairs = PairList.from_pairs([Pair(*pair) for pair in chosen])

    @functools.cache
    def read(key: str) -> UInt8:
        return faces[faces.index(key)].image

    return pairs, read

"""The pairs a model gets most wrong, as a picture."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from minusface.evaluate.benchmark import Benchmark
from minusface.evaluate.verification import VerificationResult
from minusface.files import write_atomically
from minusface.types import UInt8

ROWS, GAP, BAND = 8, 6, 18
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def write_worst(result: VerificationResult, benchmark: Benchmark, path: Path | str) -> None:
    """Draw genuine pairs of least similarity (left) and impostor pairs of most (right), cosine above each.

    Args:
        result: of a model on the benchmark; the mean over its draws counts.
        benchmark: where the images are.
        path: a .png or .jpg file. It shows faces.

    Raises:
        MinusfaceError: an image cannot be read, or the disk refuses.
    """
    scores = result.scores.mean(0)
    genuine, impostor = np.flatnonzero(result.same), np.flatnonzero(~result.same)
    columns = (
        genuine[np.argsort(scores[genuine])][:ROWS],
        impostor[np.argsort(-scores[impostor])][:ROWS],
    )
    pictures = [_column(rows, scores, benchmark) for rows in columns]
    height = max(len(picture) for picture in pictures)
    padded = [
        np.pad(p, ((0, height - len(p)), (0, 3 * GAP), (0, 0)), constant_values=255)
        for p in pictures
    ]
    sheet = cv2.cvtColor(np.concatenate(padded, axis=1), cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(Path(path).suffix.lower(), sheet)
    write_atomically(Path(path), data.tobytes())


def _column(rows: np.ndarray, scores: np.ndarray, benchmark: Benchmark) -> UInt8:
    pairs, read = benchmark.pairs, benchmark.read
    found = []
    for row in rows:
        two = [read(pairs.keys[index[row]]) for index in (pairs.a_index, pairs.b_index)]
        band = np.full((BAND, 2 * two[0].shape[1] + GAP, 3), 255, np.uint8)
        said = f"cosine {scores[row]:.3f}"
        cv2.putText(band, said, (2, BAND - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.4, BLACK, 1, cv2.LINE_AA)
        gap = np.full((two[0].shape[0], GAP, 3), WHITE, np.uint8)
        found += [band, np.concatenate([two[0], gap, two[1]], axis=1)]
    return np.concatenate(found).astype(np.uint8)

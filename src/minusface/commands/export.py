"""``minusface export``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minusface.evaluate import PairList
    from minusface.runtime import ExportCard


def export(
    checkpoint: str,
    out: str,
    variants: str = "float32",
    opset: int = 18,
    pairs: str | None = None,
    faces: str | None = None,
    json: bool = False,
) -> int:
    """Turn a stage-2 checkpoint into client.onnx, recognizer.onnx and a card.

    client.onnx takes crops (B, N, N, 3) uint8, RGB, and permutations (B, n, F) int64, and gives protected
    images (B, 3n, N, N) in [0, 1]; recognizer.onnx takes these and gives templates (B, D) of unit length.
    Both are compared with PyTorch at batches 1 and 3. Of several permutations for an image (B, n*T, F) the
    client keeps the image that shows least. With pairs and faces, the card also tells what each variant's
    accuracy is, and thresholds for `minusface serve`; otherwise it takes over what `minusface calibrate`
    measured. An export that stands in the folder is replaced once the new one is whole.

    Args:
        checkpoint: a stage-2 checkpoint or run folder.
        out: folder for the models and card.json.
        variants: float32 is always written; float16 and int8 beside it where named, parted by commas.
        opset: of ONNX.
        pairs: LFW's pairs.txt or pairsDevTest.txt, or lines "image image 0|1".
        faces: the face folder that the pairs name.
        json: print the card as JSON.
    """
    import dataclasses
    import json as jsons

    from minusface.errors import MinusfaceError
    from minusface.evaluate import read_pairs
    from minusface.export import replacing
    from minusface.weights import resolve

    if (pairs is None) != (faces is None):
        raise MinusfaceError("--pairs and --faces go together: a list and the face folder it names")
    wanted = [part for part in variants.split(",") if part]
    # Before anything is written: an export that stands is kept until a whole one takes its place.
    where = None if pairs is None or faces is None else (read_pairs(pairs, faces), faces)
    with replacing(out) as folder:
        card, missed = _made(resolve(checkpoint), folder, wanted, opset, where)
    if json:
        print(jsons.dumps(dataclasses.asdict(card), indent=1))
    else:
        _tell(card, missed, out)
    return 0


def _made(
    path: Path, folder: Path, variants: list[str], opset: int, where: tuple[PairList, str] | None
) -> tuple[ExportCard, dict[str, float]]:
    """The export in a folder, and the misses at each of its thresholds."""
    import dataclasses

    from minusface.evaluate import folder_reader
    from minusface.evaluate.calibration import from_card
    from minusface.export import VARIANTS, check_parity, export, measure, write_card
    from minusface.progress import bar

    card = export(path, folder, variants, opset)
    written = [v for v in VARIANTS if v in card.files["client"]]
    card = dataclasses.replace(card, parity=check_parity(path, folder, written))
    missed: dict[str, float] = {}
    if where is not None:
        pairs, faces = where
        with bar("measuring", len(written) + 1) as advance:
            read = folder_reader(faces, card.size)
            accuracy, thresholds = measure(path, folder, written, pairs, read, advance)
        card = dataclasses.replace(card, accuracy=accuracy, thresholds=thresholds)
        missed = accuracy["fnmr"]
    metrics = card.source["metrics"]
    if not card.thresholds and metrics.get("thresholds"):
        # Those of minusface calibrate hold here, too: one image, 8 bits, the same arithmetic.
        points = from_card(metrics, str(path))
        held = {name: point.threshold for name, point in points.items()}
        card = dataclasses.replace(card, thresholds=held)
        missed = {name: p.fnmr for name, p in points.items() if p.fnmr is not None}
        tries = metrics.get("calibrated_tries", 1)
        if tries != card.usual_tries:
            print(
                f"{path}: thresholds of the best of {tries} permutations, and clients try "
                f"{card.usual_tries}; minusface calibrate --tries {card.usual_tries} makes others",
                file=sys.stderr,
            )
    write_card(card, folder)
    return card, missed


def _tell(card: ExportCard, missed: dict[str, float], out: str) -> None:
    for half, files in card.files.items():
        for variant, entry in files.items():
            worst = max(card.parity[half][variant].values())
            print(f"{entry['name']:<26} {entry['bytes'] / 2**20:5.1f} MiB, off by {worst:.1e}")
    for name, row in card.accuracy.get("models", {}).items():
        print(f"{name:<9} accuracy {100 * row['accuracy']:.2f}  AUC {100 * row['auc']:.2f}")
    for name, threshold in card.thresholds.items():
        said = f": {100 * missed[name]:.1f} % of genuine pairs are missed" if name in missed else ""
        print(f"threshold {name} {threshold:.4f}{said}")
    if not card.thresholds:
        print("no thresholds: calibrate the checkpoint, give --pairs, or serve it with --threshold")
    print("next: minusface serve --new-master-key master.key")
    print("      minusface keys add --data data --collection NAME")
    print(f"      minusface serve {shlex.quote(out)} --data data --master-key master.key")

"""``minusface evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minusface.evaluate import PairList, VerificationResult
    from minusface.evaluate.embedders import Embedder


def evaluate(
    checkpoints: list[str],
    pairs: str,
    faces: str,
    draws: int = 5,
    seed: int = 0,
    flip: bool = True,
    png8: bool = False,
    batch_size: int = 32,
    name: list[str] | None = None,
    json: str | None = None,
    markdown: str | None = None,
    roc: str | None = None,
) -> int:
    """Accuracy of one or more checkpoints on a list of pairs, in one table.

    The flip-test sums the embeddings of an image and its mirror image, under the same permutation.
    Permutations depend on the seed, the draw and the image's name alone. Computed in float32.

    Args:
        checkpoints: checkpoint or run folders; unprotected and protected ones may stand side by side.
        pairs: LFW's pairs.txt or pairsDevTest.txt, or lines "image image 0|1".
        faces: the face folder that the pairs name.
        draws: how often protected images are shuffled anew; mean and spread are reported. Models that
            shuffle nothing are measured once.
        seed: of the permutations.
        flip: sum each embedding with that of the mirrored image.
        png8: round protected images to 8 bits first, as a PNG does.
        batch_size: images at once.
        name: what a checkpoint is called in the table; once for each, in their order.
        json: write the results to this file; - prints them in the place of the table.
        markdown: write the table to this file.
        roc: draw the ROC into this .png, .svg or .pdf file.
    """
    from minusface.checkpoint import load_card
    from minusface.errors import MinusfaceError
    from minusface.evaluate import markdown_table, read_pairs, to_json, write_roc_plot
    from minusface.evaluate.embedders import load_embedder
    from minusface.files import write_atomically
    from minusface.memory import keep_freed_memory
    from minusface.weights import resolve

    keep_freed_memory()
    if name is not None and len(name) != len(checkpoints):
        raise MinusfaceError(f"--name: given {len(name)} times for {len(checkpoints)} checkpoints")
    if roc is not None and Path(roc).suffix.lower() not in (".png", ".svg", ".pdf"):
        raise MinusfaceError(f"{roc}: a ROC is drawn into a .png, .svg or .pdf file")
    folders = [resolve(given) for given in checkpoints]
    names = name or [f"{folder} ({load_card(folder).task})" for folder in folders]
    embedders = [load_embedder(folder, seed=seed, eight_bits=png8) for folder in folders]
    listed = read_pairs(pairs, faces)
    results = [
        _measure(embedder, listed, faces, called, draws, flip, batch_size)
        for embedder, called in zip(embedders, names, strict=True)
    ]
    if json is not None and json != "-":
        write_atomically(Path(json), to_json(results).encode())
    if markdown is not None:
        write_atomically(Path(markdown), markdown_table(results).encode())
    if roc is not None:
        write_roc_plot(results, roc)
    print(to_json(results) if json == "-" else markdown_table(results), end="")
    return 0


def _measure(
    embedder: Embedder,
    pairs: PairList,
    faces: str,
    name: str,
    draws: int,
    flip: bool,
    batch_size: int,
) -> VerificationResult:
    """One checkpoint on the pairs."""
    import sys

    from minusface.evaluate import evaluate_pairs
    from minusface.evaluate.reader import folder_reader
    from minusface.progress import bar

    count = draws if embedder.draws_matter else 1
    with bar(name, count * len(pairs.keys)) as advance:
        shown = 0

        def progress(done: int, total: int) -> None:
            nonlocal shown
            advance(done - shown)
            shown = done

        result = evaluate_pairs(
            embedder,
            folder_reader(faces, embedder.recognizer.size),
            pairs,
            name=name,
            draws=count,
            flip=flip,
            batch_size=batch_size,
            progress=progress,
        )
    if count != draws:
        print(f"minusface: {name}: nothing is shuffled, measured once", file=sys.stderr)
    return result

"""``minusface evaluate``."""

from __future__ import annotations


def evaluate(
    checkpoints: list[str],
    pairs: str,
    faces: str,
    draws: int = 5,
    seed: int = 0,
    flip: bool = True,
    png8: bool = False,
    batch_size: int = 32,
    json: str | None = None,
    markdown: str | None = None,
    roc: str | None = None,
) -> int:
    """Accuracy of one or more checkpoints on a list of pairs, one table.

    The flip-test sums the embeddings of an image and its mirror image, under the same permutation.
    Permutations depend on the seed, the draw and the image's name alone.

    Args:
        checkpoints: checkpoint or run folders; unprotected and protected ones may stand side by side.
        pairs: LFW's pairs.txt or pairsDevTest.txt, or lines "image image 0|1".
        faces: the face folder that the pairs name.
        draws: how often protected images are shuffled anew; mean and spread are reported.
        seed: of the permutations.
        flip: sum each embedding with that of the mirrored image.
        png8: round protected images to 8 bits first, as a PNG does.
        batch_size: images at once.
        json: write the results to this file; - prints them in the place of the table.
        markdown: write the table to this file.
        roc: draw the ROC into this .png, .svg or .pdf file.
    """
    from pathlib import Path

    from minusface.checkpoint import load_card, write_atomically
    from minusface.evaluate import (
        evaluate_pairs,
        markdown_table,
        read_pairs,
        to_json,
        write_roc_plot,
    )
    from minusface.evaluate.embedders import load_embedder
    from minusface.evaluate.held_out import folder_reader
    from minusface.memory import keep_freed_memory
    from minusface.progress import bar
    from minusface.weights import resolve

    keep_freed_memory()
    folders = [resolve(name) for name in checkpoints]
    embedders = [load_embedder(folder, seed=seed, eight_bits=png8) for folder in folders]
    listed = read_pairs(pairs, faces)
    results = []
    for folder, embedder in zip(folders, embedders, strict=True):
        count = draws if embedder.draws_matter else 1
        read = folder_reader(faces, embedder.recognizer.size)
        with bar(str(folder), count * len(listed.keys)) as advance:
            seen = [0]

            def progress(
                done: int, total: int, seen: list[int] = seen, step: object = advance
            ) -> None:
                assert callable(step)
                step(done - seen[0])
                seen[0] = done

            results.append(
                evaluate_pairs(
                    embedder,
                    read,
                    listed,
                    name=f"{folder} ({load_card(folder).task})",
                    draws=count,
                    flip=flip,
                    batch_size=batch_size,
                    progress=progress,
                )
            )
    if json == "-":
        print(to_json(results), end="")
    elif json is not None:
        write_atomically(Path(json), to_json(results).encode())
    if markdown is not None:
        write_atomically(Path(markdown), markdown_table(results).encode())
    if roc is not None:
        write_roc_plot(results, roc)
    if json != "-":
        print(markdown_table(results), end="")
    return 0

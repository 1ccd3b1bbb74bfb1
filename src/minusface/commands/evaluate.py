"""``minusface evaluate``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minusface.evaluate import VerificationResult
    from minusface.evaluate.benchmark import Benchmark
    from minusface.evaluate.models import Model
    from minusface.evaluate.suites.ijb_run import IjbResult

IJB = ("ijbb", "ijbc")
CACHE = "runs/embeddings"


def evaluate(
    checkpoints: list[str] | None = None,
    checkpoint: list[str] | None = None,
    pairs: str | None = None,
    faces: str | None = None,
    suite: list[str] | None = None,
    root: str | None = None,
    draws: int = 5,
    seed: int = 0,
    flip: bool = True,
    png8: bool = False,
    batch_size: int = 32,
    name: list[str] | None = None,
    json: str | None = None,
    markdown: str | None = None,
    csv: str | None = None,
    roc: str | None = None,
    worst: str | None = None,
    cache: str = "",
) -> int:
    """Accuracy of one or more models on lists of pairs or the field's benchmarks, in one table.

    The flip-test sums the embeddings of an image and its mirror image, under the same permutation.
    Permutations depend on the seed, the draw and the image's name alone. Computed in float32. What is
    embedded is kept, so that a stopped evaluation goes on.

    Args:
        checkpoints: checkpoint or run folders, or bare embedders as .onnx files (which see plain crops);
            unprotected and protected ones may stand side by side.
        checkpoint: one more of them; once for each.
        pairs: LFW's pairs.txt or pairsDevTest.txt, or lines "image image 0|1".
        faces: the face folder that the pairs name.
        suite: a benchmark, once for each or with commas: a .bin file, or a name (lfw, cfp_fp, cfp_ff,
            agedb_30, calfw, cplfw, rfw, ijbb, ijbc) of files in --root.
        root: the folder of the named benchmarks.
        draws: how often protected images are shuffled anew; mean and spread are reported. Models that
            shuffle nothing are measured once.
        seed: of the permutations.
        flip: sum each embedding with that of the mirrored image.
        png8: round protected images to 8 bits first, as a PNG does.
        batch_size: images at once.
        name: what a model is called in the table; once for each, in their order.
        json: write the results to this file; - prints them in the place of the table.
        markdown: write the table to this file.
        csv: write the table as comma-separated values to this file.
        roc: draw the ROC into this .png, .svg or .pdf file.
        worst: draw the pairs that the last model gets most wrong into this .png or .jpg file. It shows
            faces of the benchmark: keep it where they may be.
        cache: where embeddings are kept (by default $MINUSFACE_CACHE, else runs/embeddings); none keeps
            nothing. They are biometric data: delete them when you are done.
    """
    from minusface.errors import MinusfaceError
    from minusface.evaluate import markdown_table, to_json, write_roc_plot
    from minusface.evaluate.models import load_model
    from minusface.evaluate.report import csv_table
    from minusface.evaluate.suites.ijb_run import ijb_table
    from minusface.files import write_atomically
    from minusface.memory import keep_freed_memory
    from minusface.weights import resolve

    keep_freed_memory()
    given = [*(checkpoints or []), *(checkpoint or [])]
    if not given:
        raise MinusfaceError("no checkpoint given, expected one or more")
    if name is not None and len(name) != len(given):
        raise MinusfaceError(f"--name: given {len(name)} times for {len(given)} checkpoints")
    if roc is not None and Path(roc).suffix.lower() not in (".png", ".svg", ".pdf"):
        raise MinusfaceError(f"{roc}: a ROC is drawn into a .png, .svg or .pdf file")
    if worst is not None and Path(worst).suffix.lower() not in (".png", ".jpg"):
        raise MinusfaceError(f"{worst}: pairs are drawn into a .png or .jpg file")
    names: list[str | None] = [*name] if name else [None] * len(given)
    models = [
        load_model(
            path if path.endswith(".onnx") else resolve(path), called, seed=seed, eight_bits=png8
        )
        for path, called in zip(given, names, strict=True)
    ]
    names_of = [part for entry in suite or [] for part in entry.split(",") if part]
    templates = [part for part in names_of if part.lower() in IJB]
    lists = [part for part in names_of if part.lower() not in IJB]
    benchmarks = _benchmarks(pairs, faces, lists, root, models[0].size, bool(templates))
    folder = None if cache == "none" else Path(cache or os.environ.get("MINUSFACE_CACHE") or CACHE)
    results = [
        _measure(model, one, draws, flip, batch_size, folder, len(benchmarks) > 1)
        for one in benchmarks
        for model in models
    ]
    shown = [*results, *_groups(benchmarks, models, results)]
    searches = [
        _measure_ijb(model, part, root, draws, flip, batch_size, folder)
        for part in templates
        for model in models
    ]
    text = (markdown_table(shown) if shown else "") + (ijb_table(searches) if searches else "")
    said = to_json([*shown, *searches])
    if json is not None and json != "-":
        write_atomically(Path(json), said.encode())
    if markdown is not None:
        write_atomically(Path(markdown), text.encode())
    if csv is not None:
        write_atomically(Path(csv), csv_table(shown).encode())
    if roc is not None:
        write_roc_plot(results, roc)
    if worst is not None and results:
        from minusface.evaluate.worst import write_worst

        write_worst(results[-1], benchmarks[-1], worst)
    print(said if json == "-" else text, end="")
    return 0


def _benchmarks(
    pairs: str | None,
    faces: str | None,
    names: list[str],
    root: str | None,
    size: int,
    others: bool,
) -> list[Benchmark]:
    """What to measure on."""
    import dataclasses

    from minusface.errors import MinusfaceError
    from minusface.evaluate.benchmark import find_benchmarks, pairs_benchmark, with_impostors

    if (pairs is None) != (faces is None):
        raise MinusfaceError("--pairs and --faces go together: a list and the face folder it names")
    found = [pairs_benchmark(pairs, faces, size)] if pairs is not None and faces is not None else []
    found += find_benchmarks(names, root, size)
    if not found and not others:
        raise MinusfaceError("nothing to measure on: expected --pairs and --faces, or --suite")
    for number, one in enumerate(found):
        listed = with_impostors(one.pairs)
        if listed is not one.pairs:
            print(
                f"minusface: {one.name} holds genuine pairs only; {len(listed) - len(one.pairs)} impostor "
                "pairs are made of its images",
                file=sys.stderr,
            )
            found[number] = dataclasses.replace(one, pairs=listed)
    return found


def _measure(
    model: Model,
    benchmark: Benchmark,
    draws: int,
    flip: bool,
    batch_size: int,
    cache: Path | None,
    several: bool,
) -> VerificationResult:
    """One model on one benchmark."""
    from minusface.evaluate import Cache, evaluate_pairs
    from minusface.progress import bar

    count = draws if model.draws_matter else 1
    name = f"{model.name}, {benchmark.name}" if several else model.name
    with bar(name, count * len(benchmark.pairs.keys)) as advance:
        shown = 0

        def progress(done: int, total: int) -> None:
            nonlocal shown
            advance(done - shown)
            shown = done

        result = evaluate_pairs(
            model.embedder,
            benchmark.read,
            benchmark.pairs,
            name=name,
            draws=count,
            flip=flip,
            batch_size=batch_size,
            progress=progress,
            cache=None if cache is None else Cache(cache, model.fingerprint, benchmark.fingerprint),
        )
    if count != draws:
        print(f"minusface: {name}: nothing is shuffled, measured once", file=sys.stderr)
    return result


def _measure_ijb(
    model: Model,
    name: str,
    root: str | None,
    draws: int,
    flip: bool,
    batch_size: int,
    cache: Path | None,
) -> IjbResult:
    """One model on IJB-B or IJB-C, whose folder lies in the root, or is it."""
    from minusface.evaluate.suites.ijb_run import measure_ijb
    from minusface.progress import bar

    here = Path(root or ".")
    folder = next((here / n for n in (name.upper(), name.lower()) if (here / n).is_dir()), here)
    count = draws if model.draws_matter else 1
    with bar(f"{model.name}, {name}", 100) as advance:
        shown = 0

        def progress(done: int, total: int) -> None:
            nonlocal shown
            advance(100 * done // total - shown)
            shown = 100 * done // total

        return measure_ijb(
            model,
            folder,
            draws=count,
            flip=flip,
            batch_size=batch_size,
            cache=cache,
            progress=progress,
        )


def _groups(
    benchmarks: list[Benchmark], models: list[Model], results: list[VerificationResult]
) -> list[VerificationResult]:
    """A row over the parts of each grouped benchmark: mean, and deviation between the parts."""
    from minusface.evaluate.verification import mean_over_groups

    rows = []
    for group in dict.fromkeys(one.group for one in benchmarks if one.group is not None):
        for place, model in enumerate(models):
            parts = [
                results[number * len(models) + place]
                for number, one in enumerate(benchmarks)
                if one.group == group
            ]
            rows.append(
                mean_over_groups(f"{model.name}, {group} (mean, deviation of groups)", parts)
            )
    return rows

"""``minusface evaluate``."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from minusface.commands.outputs import Outputs, check_outputs, write_outputs
from minusface.config import Precision

if TYPE_CHECKING:
    from minusface.evaluate import VerificationResult
    from minusface.evaluate.benchmark import Benchmark
    from minusface.evaluate.models import Model
    from minusface.evaluate.rates import RatesResult

# Benchmarks that are more than a list of pairs.
LARGE = ("ijbb", "ijbc", "megaface")
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
    copies: int = 1,
    tries: int = 1,
    batch_size: int = 32,
    precision: Precision = "float32",
    name: list[str] | None = None,
    json: str | None = None,
    markdown: str | None = None,
    csv: str | None = None,
    roc: str | None = None,
    det: str | None = None,
    worst: str | None = None,
    cache: str = "",
) -> int:
    """Accuracy of one or more models on lists of pairs or the field's benchmarks, in one table.

    The flip-test sums the embeddings of an image and its mirror image, under the same permutation.
    Permutations depend on the seed, the draw and the image's name alone. What is
    embedded is kept, so that a stopped evaluation goes on.

    Args:
        checkpoints: checkpoint or run folders, or bare embedders as .onnx files (which see plain crops);
            unprotected and protected ones may stand side by side.
        checkpoint: one more of them; once for each.
        pairs: LFW's pairs.txt or pairsDevTest.txt, or lines "image image 0|1".
        faces: the face folder that the pairs name.
        suite: a benchmark, once for each or with commas: a .bin file, or a name (lfw, cfp_fp, cfp_ff,
            agedb_30, calfw, cplfw, rfw, ijbb, ijbc, megaface) of files in --root.
        root: the folder of the named benchmarks.
        draws: how often protected images are shuffled anew; mean and spread are reported. Models that
            shuffle nothing are measured once.
        seed: of the permutations.
        flip: sum each embedding with that of the mirrored image.
        png8: round protected images to 8 bits first, as a PNG does.
        copies: protected images of each image, permuted anew, whose embeddings are summed: what clients
            gain that send several.
        tries: of so many permutations of each image the one that shows least, as clients choose it.
        batch_size: images at once.
        precision: of checkpoints' networks: float32; bfloat16 for their convolutions; or auto, bfloat16
            where the processor multiplies it itself, nearly twice as fast there.
        name: what a model is called in the table; once for each, in their order.
        json: write the results to this file; - prints them in the place of the table.
        markdown: write the table to this file.
        csv: write the table as comma-separated values to this file.
        roc: draw the ROC into this .png, .svg or .pdf file.
        det: draw misses over false matches (DET) into this .png, .svg or .pdf file.
        worst: draw the pairs that the last model gets most wrong into this .png or .jpg file. It shows
            faces of the benchmark: keep it where they may be.
        cache: where embeddings are kept (by default $MINUSFACE_CACHE, else runs/embeddings); none keeps
            nothing. They are biometric data: delete them when you are done.
    """
    from minusface.devices import imitated
    from minusface.evaluate.models import load_model
    from minusface.memory import keep_freed_memory
    from minusface.weights import resolve

    keep_freed_memory()
    given = [*(checkpoints or []), *(checkpoint or [])]
    out = Outputs(json, markdown, csv, roc, det, worst)
    entries = [part for entry in suite or [] for part in entry.split(",") if part]
    read = [*given, *entries, *(path for path in (pairs, faces, root) if path is not None)]
    _check(given, name, out, read)
    for line in imitated(precision, "cpu"):
        _warn(line)
    names: list[str | None] = [*name] if name else [None] * len(given)
    models = [
        load_model(
            path if path.endswith(".onnx") else resolve(path),
            called,
            seed=seed,
            eight_bits=png8,
            copies=copies,
            tries=tries,
            precision=precision,
        )
        for path, called in zip(given, names, strict=True)
    ]
    large = [part.lower() for part in entries if part.lower() in LARGE]
    lists = [part for part in entries if part.lower() not in LARGE]
    if pairs is not None or lists or "megaface" in large:
        _check_sizes(models)
    benchmarks = _benchmarks(pairs, faces, lists, root, models[0].size, bool(large))
    how = _How(
        draws,
        flip,
        batch_size,
        None if cache == "none" else Path(cache or os.environ.get("MINUSFACE_CACHE") or CACHE),
    )
    results = [
        _measure(model, one, how, len(benchmarks) > 1) for one in benchmarks for model in models
    ]
    searches = [
        _measure_large(model, part, root, how, first=model is models[0])
        for part in large
        for model in models
    ]
    write_outputs(results, _groups(benchmarks, models, results), searches, benchmarks, out)
    return 0


def _warn(line: str) -> None:
    print(f"minusface: warning: {line}", file=sys.stderr)


class _How(NamedTuple):
    """How a model is measured."""

    draws: int
    flip: bool
    batch_size: int
    cache: Path | None


def _check(given: list[str], name: list[str] | None, out: Outputs, read: list[str]) -> None:
    """Refuse what would only fail after a long evaluation."""
    from minusface.errors import MinusfaceError

    if not given:
        raise MinusfaceError("no checkpoint given, expected one or more")
    if name is not None and len(name) != len(given):
        raise MinusfaceError(f"--name: given {len(name)} times for {len(given)} checkpoints")
    check_outputs(out, read)


def _check_sizes(models: list[Model]) -> None:
    """Crops that are there have one size; only IJB's are cut for each model."""
    from minusface.errors import MinusfaceError

    first = models[0]
    for other in models[1:]:
        if other.size != first.size:
            raise MinusfaceError(
                f"{first.name} takes crops of {first.size}x{first.size} pixels, {other.name} of "
                f"{other.size}x{other.size}: evaluate them apart"
            )


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


def _measure(model: Model, benchmark: Benchmark, how: _How, several: bool) -> VerificationResult:
    """One model on one benchmark."""
    from minusface.evaluate import Cache, evaluate_pairs
    from minusface.progress import bar_of

    count, cache = how.draws if model.draws_matter else 1, how.cache
    name = f"{model.name}, {benchmark.name}" if several else model.name
    with bar_of(name, count * len(benchmark.pairs.keys)) as progress:
        result = evaluate_pairs(
            model.embedder,
            benchmark.read,
            benchmark.pairs,
            name=name,
            draws=count,
            flip=how.flip,
            batch_size=how.batch_size,
            progress=progress,
            cache=None if cache is None else Cache(cache, model.fingerprint, benchmark.fingerprint),
        )
    if count != how.draws:
        print(f"minusface: {name}: nothing is shuffled, measured once", file=sys.stderr)
    return result


def _measure_large(
    model: Model, name: str, root: str | None, how: _How, first: bool
) -> RatesResult:
    """One model on IJB-B, IJB-C or MegaFace, whose folder lies in the root, or is it; the first one is told
    what is missing there."""
    from minusface.evaluate.suites.ijb_run import measure_ijb
    from minusface.evaluate.suites.megaface import measure_megaface
    from minusface.progress import bar_of

    here = Path(root or ".")
    folder = next((here / n for n in (name.upper(), name.lower()) if (here / n).is_dir()), here)
    ijb = partial(measure_ijb, prefix=name, say=_warn if first else lambda line: None)
    measure = measure_megaface if name == "megaface" else ijb
    with bar_of(f"{model.name}, {name}", 100) as progress:
        return measure(
            model,
            folder,
            draws=how.draws if model.draws_matter else 1,
            flip=how.flip,
            batch_size=how.batch_size,
            cache=how.cache,
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

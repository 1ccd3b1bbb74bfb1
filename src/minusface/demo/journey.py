"""The journey itself: photo, trainings, evaluation, report."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import shutil
import time
from dataclasses import fields, replace
from itertools import combinations
from pathlib import Path

from rich.console import Console

from minusface.checkpoint import find
from minusface.demo.findings import EIGHT_BIT, PROTECTED, RESIDUE, UNPROTECTED, Findings
from minusface.demo.html import report
from minusface.demo.measure import Measured, measure_plain, measure_protected
from minusface.demo.photo import Portrait, open_portrait
from minusface.demo.pictures import Pictures, make_pictures, png
from minusface.demo.progress import Phase, Trail
from minusface.demo.record import Options, next_command, settings
from minusface.demo.source import OWN_LISTS, Source, open_source, write_lists
from minusface.demo.training import STAGES, Budget, Trained, recipe, train_stage
from minusface.errors import MinusfaceError
from minusface.evaluate import VerificationResult
from minusface.files import write_atomically
from minusface.memory import keep_freed_memory
from minusface.protect import Protector
from minusface.recognize import Recognizer
from minusface.types import ProtectedImage

PREVIOUS, PICTURES, RESULTS, REPORT = "previous", "pictures", "results.json", "report.html"
# By which a later demo knows that the folder's trainings and report are a demo's.
MARK = ".demo"
# Of the evaluation's time.
PLAIN_PART = 0.12
LOOK, WRITE = "evaluating", "writing the report"
NAMES = {
    "plain": "training without protection",
    "stage1": "training stage 1, what can be subtracted",
    "stage2": "training stage 2, recognising what is left",
}
# Guesses until something is measured; LOOK_SECONDS an image.
LOOK_SECONDS, WRITE_SECONDS = 0.055, 2.0


def run(options: Options, console: Console, budget: Budget | None = None) -> Findings:
    """Go the whole way; trainings, pictures, ``report.html`` and ``results.json`` land in ``options.out``.

    Args:
        options: what was asked for.
        console: for progress.
        budget: sizes and time; by default those of ``options.minutes``.

    Raises:
        MinusfaceError: no face in the photo, unusable faces or options; found before anything is trained.
        KeyboardInterrupt: Ctrl-C; no report is written.
    """
    budget = budget or Budget(minutes=options.minutes)
    check(options, budget)
    began, out = time.monotonic(), Path(options.out)
    packaged = None if options.train else packaged_weights()
    keep_freed_memory()
    portrait = open_portrait(options.photo)
    source = open_source(options.faces, out, budget, options.seed, trained=packaged is None)
    faces = source.train_words if packaged is None else source.pairs_words
    for line in (f"photo: {portrait.words}", f"faces: {faces}"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    make_room(out)
    write_atomically(out / MARK, b"")
    write_lists(source)
    with Trail(phases(source, budget, packaged), console) as trail:
        trained = []
        if packaged is None:
            trained = train_all(source, out, budget, options.seed, trail)
        checkpoint = packaged or out / "stage2"
        trail.next(LOOK)
        own = None if packaged else out
        rows, measured = evaluate(source, own, checkpoint, budget, options.seed, trail)
        trail.next(WRITE)
        pictures = make_pictures(portrait, Protector.load(checkpoint), options.seed)
        how = settings(options, budget, checkpoint, time.monotonic() - began)
        found = replace(
            conclude(source, portrait, checkpoint, rows, measured, pictures),
            trained=trained,
            settings=how,
            weights=packaged.name if packaged else None,
            next_command=next_command(source, checkpoint, options),
            report=out / REPORT,
        )
        write(found, pictures)
    return found


def conclude(
    source: Source,
    portrait: Portrait,
    checkpoint: Path,
    rows: dict[str, VerificationResult],
    measured: Measured,
    pictures: Pictures,
) -> Findings:
    """What was found, but for how it was found."""
    return Findings(
        data=source.train_words,
        held_out=source.pairs_words,
        objective=source.objective,
        pairs=len(source.pairs),
        draws=measured.floats.draws,
        rows=rows,
        photo=portrait.words,
        same_photo=agreement(Recognizer.load(checkpoint), pictures.images),
        residue_levels=pictures.residue_levels,
        contours=pictures.contours,
        outlines=pictures.outlines,
        ssim=measured.ssim,
        psnr=measured.psnr,
        similarity_crops=measured.crops,
    )


def check(options: Options, budget: Budget) -> None:
    """Refuse options that no journey can be made with.

    Raises:
        MinusfaceError: which, and what was expected.
    """
    if not 0 < budget.minutes < math.inf:
        raise MinusfaceError(f"minutes {options.minutes}: expected more than 0")
    if options.seed < 0:
        raise MinusfaceError(f"seed {options.seed}: expected 0 or more")
    out = Path(options.out)
    if out.exists() and not out.is_dir():
        raise MinusfaceError(f"{out}: is a file, expected a folder to write the demo to")
    # What is there is moved, and goes with the run after the next.
    if not any((out / name).exists() for name in (MARK, RESULTS)):
        other = next((out / name for name in (*STAGES, REPORT) if (out / name).exists()), None)
        if other is not None:
            raise MinusfaceError(f"{other}: is no demo's, expected an --out without it")
    for folder in (out / PICTURES, out / PREVIOUS / PICTURES):
        other = next((file for file in sorted(folder.glob("*")) if not _is_picture(file)), None)
        if other is not None:
            raise MinusfaceError(f"{other}: is no demo's, expected an --out without it")


def _is_picture(file: Path) -> bool:
    """Whether a demo may have written it."""
    named = {one.name for one in fields(Pictures)}
    return file.name.startswith(".") or (
        file.suffix == ".png" and file.stem.partition("-")[0] in named
    )


def phases(source: Source, budget: Budget, packaged: Path | None) -> list[Phase]:
    """What is to be done, and how long it may take."""
    share = budget.minutes * 60 / len(STAGES)
    stages = [] if packaged else [Phase(NAMES[task], share) for task in STAGES]
    looking = Phase(LOOK, LOOK_SECONDS * len(source.pairs.keys))
    return [*stages, looking, Phase(WRITE, WRITE_SECONDS)]


def packaged_weights() -> Path | None:
    """The checkpoint that the package brings, where it brings one."""
    if importlib.util.find_spec("minusface.weights") is None:
        return None
    path: Path | None = importlib.import_module("minusface.weights").default_checkpoint()
    return None if path is None else find(path)


def make_room(out: Path) -> None:
    """Move what an earlier demo wrote to ``previous/``, in the place of what is there.

    A demo starts over rather than resume: its steps were planned for the time it had. No report is left
    that tells of other trainings than those beside it.

    Raises:
        MinusfaceError: the folder cannot be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in (*STAGES, PICTURES, *OWN_LISTS, RESULTS, REPORT):
            old, kept = out / name, out / PREVIOUS / name
            if old.exists():
                kept.parent.mkdir(exist_ok=True)
                if kept.is_dir():
                    shutil.rmtree(kept)
                old.replace(kept)
    except OSError as error:
        raise MinusfaceError(f"{out}: cannot write ({error.strerror or error})") from error


def train_all(source: Source, out: Path, budget: Budget, seed: int, trail: Trail) -> list[Trained]:
    """The three trainings, one after the other; the second and third lean on those before."""
    trained = []
    for task in STAGES:
        trail.next(NAMES[task])
        config = recipe(task, out, source.train, source.teacher, budget, seed)
        share = budget.minutes * 60 / len(STAGES)
        trained.append(train_stage(config, share, budget, trail.update))
    return trained


def evaluate(
    source: Source, out: Path | None, checkpoint: Path, budget: Budget, seed: int, trail: Trail
) -> tuple[dict[str, VerificationResult], Measured]:
    """The unprotected recogniser and stage 1's of ``out``, if any, and protected images."""
    rows, done = {}, 0.0
    if out is not None:
        done = PLAIN_PART
        rows[UNPROTECTED] = measure_plain(
            out / "plain", source, lambda part, note: trail.update(PLAIN_PART * part, note)
        )
    measured = measure_protected(
        checkpoint,
        None if out is None else out / "stage1",
        source,
        draws=budget.draws,
        seed=seed,
        similar=budget.similarity_crops,
        show=lambda part, note: trail.update(done + (1 - done) * part, note),
    )
    if measured.residue is not None:
        rows[RESIDUE] = measured.residue
    return {**rows, PROTECTED: measured.floats, EIGHT_BIT: measured.eight_bit}, measured


def agreement(recognizer: Recognizer, images: ProtectedImage) -> list[float]:
    """Cosines between the embeddings of one crop's protected images; without a cohort's coordinate, which
    brings all templates closer together."""
    cohort, recognizer.cohort = recognizer.cohort, None
    try:
        rows = recognizer.embed(images)
    finally:
        recognizer.cohort = cohort
    table = rows.similarity(rows)
    return [float(table[i, j]) for i, j in combinations(range(len(images)), 2)]


def write(found: Findings, pictures: Pictures) -> None:
    """Pictures, results and report, each whole or not at all; the report last."""
    out = found.report.parent
    for name, image in pictures.files().items():
        write_atomically(out / PICTURES / f"{name}.png", png(image))
    write_atomically(out / RESULTS, (json.dumps(found.as_json(), indent=1) + "\n").encode())
    write_atomically(found.report, report(found, pictures).encode("utf-8", "replace"))

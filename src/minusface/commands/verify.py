"""``minusface verify`` and ``minusface calibrate``."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from minusface.data import FolderDataset
    from minusface.evaluate.large_scale import Floating
    from minusface.evaluate.models import Model
    from minusface.types import Template, UInt8

# At most so many images a person: who was photographed most would decide the rates alone.
A_PERSON = 10
LARGEST = 4000


def verify(
    photos: list[str],
    checkpoint: str | None = None,
    fmr: str = "1e-2",
    threshold: float | None = None,
    json: bool = False,
) -> int:
    """Do two photos show the same person? Both are protected here, and only what is protected is compared.

    The exit code is 0 for the same person, 1 for different ones.

    Args:
        photos: two photos or aligned crops.
        checkpoint: a stage-2 or plain checkpoint or run folder; by default the packaged weights.
        fmr: the false-match rate to decide at, one of those that minusface calibrate measured.
        threshold: decide at this cosine instead.
        json: print the outcome as JSON.
    """
    import json as jsons

    from minusface.checkpoint import load_card
    from minusface.errors import MinusfaceError, choice_error
    from minusface.evaluate.calibration import from_card
    from minusface.types import verify as decide
    from minusface.weights import resolve

    if len(photos) != 2:
        raise MinusfaceError(f"{len(photos)} photos, expected two")
    path = resolve(checkpoint)
    point = None
    if threshold is None:
        points = from_card(load_card(path).metrics, str(path))
        if fmr not in points:
            raise choice_error("false-match rate", fmr, points)
        point = points[fmr]
        threshold = point.threshold
    templates = _templates(path, photos)
    match = decide(templates[0], templates[1], threshold)[0]
    if json:
        said = {"score": match.score, "threshold": threshold, "same": match.same}
        rates = {} if point is None else {key: getattr(point, key) for key in RATES}
        print(jsons.dumps(said | rates))
    else:
        print(f"score {match.score:.3f}, threshold {threshold:.3f}: ", end="")
        print("the same person" if match.same else "different people")
        if point is not None:
            print(
                f"false matches at this threshold: {100 * point.fmr:.2g} % "
                f"({100 * point.fmr_low:.2g} to {100 * point.fmr_high:.2g} %, 95 % interval over "
                f"{point.people:,} people)"
                + ("" if point.fnmr is None else f"; misses: {100 * point.fnmr:.1f} %")
            )
    return 0 if match.same else 1


RATES = ("fmr", "fmr_low", "fmr_high", "fnmr")


def _templates(path: Path, photos: list[str]) -> list[Template]:
    """The template of each photo, of a protected image where the checkpoint recognises these."""
    from minusface import FaceCrop, Protector, Recognizer
    from minusface.checkpoint import load_card
    from minusface.errors import MinusfaceError
    from minusface.memory import keep_freed_memory
    from minusface.types import ProtectedImage

    keep_freed_memory()
    task = load_card(path).task
    if task not in ("plain", "stage2"):
        raise MinusfaceError(f"{path}: a {task} checkpoint, expected plain or stage2")
    recognizer = Recognizer.load(path)
    crops = [_crop(photo, recognizer.size) for photo in photos]
    if task == "plain":
        return [recognizer.embed(FaceCrop.from_uint8([crop])) for crop in crops]
    protector = Protector.load(path)
    made = [protector.protect(FaceCrop.from_uint8([crop])) for crop in crops]
    # In 8 bits, as a server would get them.
    return [recognizer.embed(ProtectedImage.from_uint8(one.to_uint8())) for one in made]


def _crop(photo: str, size: int) -> UInt8:
    from minusface.faces import align_photo, is_crop, read_photo

    image = read_photo(photo)
    return image if is_crop(image, size) else align_photo(image, size=size)[0].crop


def calibrate(
    checkpoint: str,
    faces: str,
    people: str | None = None,
    seed: int = 0,
    batch_size: int = 32,
    json: bool = False,
) -> int:
    """Measure thresholds at false-match rates and write them into the checkpoint's card.

    All pairs of different people among the images count, embedded as in use: no mirror image, protected
    images in 8 bits under fresh permutations. At most ten images a person and 4,000 in all.

    Args:
        checkpoint: a stage-2 or plain checkpoint or run folder.
        faces: a folder with a folder a person: people that the model has not seen.
        people: a file that lists the people to take; by default all.
        seed: of permutations, of which images are taken, and of the intervals.
        batch_size: images at once.
        json: print the thresholds as JSON.
    """
    import dataclasses
    import json as jsons

    from minusface.checkpoint import CARD, find, load_card
    from minusface.data import FolderDataset
    from minusface.evaluate import calibration
    from minusface.evaluate.models import load_model
    from minusface.files import write_atomically
    from minusface.memory import keep_freed_memory

    keep_freed_memory()
    folder = find(checkpoint)
    model = load_model(folder, seed=seed, eight_bits=True)
    dataset = FolderDataset(faces, people, size=model.size)
    taken = _taken(dataset.labels.tolist(), seed)
    rows = _embed(model, dataset, taken, batch_size)
    points = calibration.calibrate(rows, dataset.labels[taken], seed=seed)
    card = load_card(folder)
    held = {"thresholds": calibration.to_card(points), "calibrated_on": dataset.name}
    whole = dataclasses.replace(card, metrics={**card.metrics, **held})
    text = jsons.dumps(dataclasses.asdict(whole), indent=1, sort_keys=True)
    write_atomically(folder / CARD, text.encode())
    if json:
        print(jsons.dumps(held["thresholds"], indent=1))
        return 0
    for point in points:
        missed = "" if point.fnmr is None else f", misses {100 * point.fnmr:.1f} %"
        print(
            f"FMR {point.name}: threshold {point.threshold:.4f} "
            f"({100 * point.fmr_low:.2g} to {100 * point.fmr_high:.2g} %){missed}"
        )
    print(
        f"{points[0].impostors:,} impostor pairs of {points[0].people:,} people; in {folder / CARD}"
    )
    print(f"next: minusface verify A.jpg B.jpg --checkpoint {shlex.quote(checkpoint)}")
    return 0


def _embed(model: Model, dataset: FolderDataset, taken: list[int], batch_size: int) -> Floating:
    """(K, D) embeddings as in use, of some of a dataset's images."""
    from minusface.evaluate import embed_images
    from minusface.progress import bar

    images = {dataset.key(index): index for index in taken}
    with bar("embedding", len(taken)) as advance:
        shown = 0

        def progress(done: int, total: int) -> None:
            nonlocal shown
            advance(done - shown)
            shown = done

        rows = embed_images(
            model.embedder,
            lambda key: dataset[images[key]].image,
            list(images),
            flip=False,
            batch_size=batch_size,
            progress=progress,
        )
    return rows[0].numpy()


def _taken(labels: list[int], seed: int) -> list[int]:
    """Which images are embedded: a seeded choice, a few a person."""
    import numpy as np

    order = np.random.default_rng(seed).permutation(len(labels)).tolist()
    count: dict[int, int] = {}
    kept = []
    for index in order:
        count[labels[index]] = count.get(labels[index], 0) + 1
        if count[labels[index]] <= A_PERSON:
            kept.append(index)
    return sorted(kept[:LARGEST])

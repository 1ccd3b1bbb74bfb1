"""``minusface verify`` and ``minusface calibrate``."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from minusface.types import Template, UInt8

# At most so many images a person: who was photographed most would decide the rates alone.
A_PERSON = 10
LARGEST = 4000


def verify(
    first: str,
    second: str,
    checkpoint: str | None = None,
    fmr: str | None = None,
    threshold: float | None = None,
    server: str | None = None,
    model: str | None = None,
    insecure: bool = False,
    json: bool = False,
) -> int:
    """Do two photos show the same person? Or, with a server: does a photo show this person?

    Without a server both photos are protected here, and only what is protected is compared:
    minusface verify A.jpg B.jpg. With one: minusface verify PERSON PHOTO --server URL; the photo is
    protected here and stays here, and the API key is read from MINUSFACE_API_KEY. The exit code is 0 for
    the same person, 1 for different ones.

    Args:
        first: a photo or aligned crop; with a server, the person as enrolled.
        second: another photo.
        checkpoint: a stage-2 or plain checkpoint or run folder; by default the packaged weights.
        fmr: the false-match rate to decide at: one that minusface calibrate measured (by default 1e-2),
            or one of the server's model.
        threshold: decide at this cosine instead; not with a server.
        server: its address; by default MINUSFACE_SERVER, where that is set and first is no file.
        model: with a server: a folder of minusface export; by default MINUSFACE_CLIENT_MODEL.
        insecure: allow http without TLS to another machine.
        json: print the outcome as JSON.
    """
    import os

    named = fmr if fmr is None or fmr.startswith("fmr_") else f"fmr_{fmr}"
    asked = os.environ.get("MINUSFACE_SERVER") and checkpoint is None and not os.path.isfile(first)
    if server is not None or asked:
        from minusface.commands.client import verify_at
        from minusface.errors import MinusfaceError

        if checkpoint is not None or threshold is not None:
            raise MinusfaceError(
                "--checkpoint and --threshold: not with a server, which has its own"
            )
        return verify_at(first, second, server, model, named, insecure, json)
    return _verify_here([first, second], checkpoint, named or "fmr_1e-2", threshold, json)


def _verify_here(
    photos: list[str], checkpoint: str | None, fmr: str, threshold: float | None, json: bool
) -> int:
    """Compare two photos by what a checkpoint makes of them."""
    import json as jsons

    from minusface.checkpoint import load_card
    from minusface.errors import choice_error
    from minusface.evaluate.calibration import from_card
    from minusface.types import verify as decide
    from minusface.weights import resolve

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
        return 0 if match.same else 1
    word = "the same person" if match.same else "different people"
    print(f"score {match.score:.3f}, threshold {threshold:.3f}: {word}")
    if point is not None:
        missed = "" if point.fnmr is None else f"; misses: {100 * point.fnmr:.1f} %"
        print(
            f"false matches at this threshold: {100 * point.fmr:.2g} % ({100 * point.fmr_low:.2g} to "
            f"{100 * point.fmr_high:.2g} %, 95 % interval over {point.people:,} people){missed}"
        )
    return 0 if match.same else 1


RATES = ("fmr", "fmr_low", "fmr_high", "fmr_p95", "fnmr")


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
    from minusface.evaluate.dataset import embed_dataset
    from minusface.evaluate.models import load_model
    from minusface.files import write_atomically
    from minusface.memory import keep_freed_memory

    keep_freed_memory()
    folder = find(checkpoint)
    model = load_model(folder, seed=seed, eight_bits=True)
    dataset = FolderDataset(faces, people, size=model.size)
    taken = _taken(dataset.labels.tolist(), seed)
    rows = embed_dataset(model, dataset, taken, batch_size).numpy()
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
        uneven = (
            ""
            if point.fmr_p95 is None
            else f"; one person in twenty over {100 * point.fmr_p95:.2g} %"
        )
        print(
            f"{point.name}: threshold {point.threshold:.4f} "
            f"({100 * point.fmr_low:.2g} to {100 * point.fmr_high:.2g} %{uneven}){missed}"
        )
    print(
        f"{points[0].impostors:,} impostor pairs of {points[0].people:,} people; in {folder / CARD}"
    )
    print(f"next: minusface verify A.jpg B.jpg --checkpoint {shlex.quote(checkpoint)}")
    return 0


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

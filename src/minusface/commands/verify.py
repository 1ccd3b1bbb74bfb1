"""``minusface verify``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from minusface.types import Template, UInt8


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
            or one of the server's model; fmr_1e-2, 1e-2 and 0.01 are the same.
        threshold: decide at this cosine instead of a rate; not with a server.
        server: its address; by default MINUSFACE_SERVER, where that is set, first is no file and no
            checkpoint is given.
        model: with a server: a folder of minusface export; by default MINUSFACE_CLIENT_MODEL.
        insecure: allow http without TLS to another machine.
        json: print the outcome as JSON.
    """
    import os

    from minusface.errors import MinusfaceError
    from minusface.runtime import rate_name

    named = rate_name(fmr)
    asked = os.environ.get("MINUSFACE_SERVER") and checkpoint is None and not os.path.isfile(first)
    if server is not None or asked:
        from minusface.commands.client import verify_at

        if checkpoint is not None or threshold is not None:
            raise MinusfaceError(
                "--checkpoint and --threshold: not with a server, which has its own"
            )
        return verify_at(first, second, server, model, named, insecure, json)
    if model is not None or insecure:
        raise MinusfaceError(
            "--model and --insecure: only with a server; expected --server URL, or two photos without them"
        )
    if threshold is not None and fmr is not None:
        raise MinusfaceError("--threshold and --fmr: both decide, expected one")
    return _verify_here([first, second], checkpoint, named or "fmr_1e-2", threshold, json)


def _verify_here(
    photos: list[str], checkpoint: str | None, fmr: str, threshold: float | None, json: bool
) -> int:
    """Compare two photos by what a checkpoint makes of them."""
    import json as jsons

    from minusface.checkpoint import load_card
    from minusface.errors import MinusfaceError
    from minusface.evaluate.calibration import from_card
    from minusface.evaluate.groups import worst_group
    from minusface.runtime import CLIENT_TRIES
    from minusface.types import verify as decide
    from minusface.weights import resolve

    path, tries = resolve(checkpoint), CLIENT_TRIES
    point = worst = None
    if threshold is None:
        metrics = load_card(path).metrics
        points = from_card(metrics, str(path))
        if fmr not in points:
            # No "did you mean": what is spelled alike is another rate.
            known = ", ".join(sorted(points))
            raise MinusfaceError(f"{path}: unknown false-match rate {fmr!r} (known: {known})")
        point = points[fmr]
        worst = worst_group(metrics, fmr, str(path))
        threshold = point.threshold
        tries = int(metrics.get("calibrated_tries", 1))
    templates = _templates(path, photos, tries)
    match = decide(templates[0], templates[1], threshold)[0]
    if json:
        said = {"score": match.score, "threshold": threshold, "same": match.same}
        rates = {} if point is None else {key: getattr(point, key) for key in RATES}
        most = {} if worst is None else {"worst_group": {"group": worst.group, "fmr": worst.fmr}}
        print(jsons.dumps(said | rates | most))
        return 0 if match.same else 1
    word = "the same person" if match.same else "different people"
    print(f"score {match.score:.3f}, threshold {threshold:.3f}: {word}")
    if point is not None:
        missed = "" if point.fnmr is None else f"; misses: {100 * point.fnmr:.1f} %"
        print(
            f"false matches at this threshold: {100 * point.fmr:.2g} % ({100 * point.fmr_low:.2g} to "
            f"{100 * point.fmr_high:.2g} %, 95 % interval over {point.people:,} people){missed}"
        )
    if worst is not None:
        print(f"highest in one group: {100 * worst.fmr:.2g} %, between {worst.group}")
    return 0 if match.same else 1


RATES = ("fmr", "fmr_low", "fmr_high", "fmr_p95", "fnmr")


def _templates(path: Path, photos: list[str], tries: int) -> list[Template]:
    """The template of each photo, of a protected image where the checkpoint recognises these.

    Made of as many permutations as those that the threshold was measured on: its rates are of such images.
    """
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
    made = [protector.protect(FaceCrop.from_uint8([crop]), tries=tries) for crop in crops]
    # In 8 bits, as a server would get them.
    return [recognizer.embed(ProtectedImage.from_uint8(one.to_uint8())) for one in made]


def _crop(photo: str, size: int) -> UInt8:
    from minusface.faces import align_photo, is_crop, read_photo

    image = read_photo(photo)
    return image if is_crop(image, size) else align_photo(image, size=size)[0].crop

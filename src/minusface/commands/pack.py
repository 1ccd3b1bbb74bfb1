"""``minusface pack``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from minusface.checkpoint import Card
    from minusface.data import FolderDataset

# In a card's data: the precision that a pack wrote.
PACKED = "packed"
EXPECTED = "expected a new folder, or one that a pack made before"


def pack(
    checkpoint: str,
    out: str,
    float32: bool = False,
    squeeze: bool = False,
    mean: str | None = None,
    cohort: str | None = None,
    cohort_people: str | None = None,
    cohort_near: int = 16,
    cohort_slope: float = 1.25,
    seed: int = 0,
    json: bool = False,
) -> int:
    """Make a checkpoint fit to give away: weights in half precision, no training state, no paths of yours.

    The largest change of a weight is said.

    Args:
        checkpoint: a checkpoint or run folder, or the name of weights.
        out: a new folder, or one that a pack made before.
        float32: keep full precision.
        squeeze: an ir_lite's last layer as two thin ones (ir_lite_96): a quarter of its weights less.
            Measures and thresholds of the card are dropped with it: calibrate anew.
        mean: another checkpoint, from which this one went on, or which began where it did: the mean of both
            recognisers' weights is packed. It often recognises better than either. Drops measures, too,
            and their cohorts.
        cohort: a folder of training faces, a folder a person: templates then tell how crowded their place
            is, which spares false matches, and are one number longer. Clusters of the faces' embeddings go
            into the weights; nobody's template does. Drops measures and thresholds, too. Where the folder
            holds mixtures (OUT/faces of data mix), these alone are taken: best such as were not trained on,
            since what was learned by heart lies otherwise than strangers do.
        cohort_people: a file that lists the people to take; by default all, or all mixtures.
        cohort_near: how many centres are near, 1 to 16. Fewer, and a steeper slope, even out false matches
            between groups of people; more pairs may be missed.
        cohort_slope: how much being near counts, more than 0.
        seed: of the cohort's permutations and clusters.
        json: print the outcome as JSON.
    """
    import dataclasses
    import json as jsons

    from minusface.checkpoint import CARD, find, load_card, load_part, save
    from minusface.errors import MinusfaceError
    from minusface.files import check_writable
    from minusface.recognize.cohort import NEAR, SLOPE
    from minusface.weights import resolve

    folder, target = find(resolve(checkpoint)), Path(out)
    other = None if mean is None else find(resolve(mean))
    if not 0 <= seed < 2**63:
        raise MinusfaceError(f"--seed {seed}: expected at least 0 and less than {2**63}")
    _check_target(target, folder, other)
    card, tensors = load_card(folder), load_part(folder)
    if squeeze and other is not None:
        raise MinusfaceError("--squeeze and --mean do not go together: pack one after the other")
    if squeeze:
        card, tensors = _squeezed(card, tensors)
    if other is not None:
        card, tensors = _mean(card, tensors, other, anew=cohort is not None)
    if cohort is not None:
        check_writable(target / CARD)
        form = (cohort_near, cohort_slope)
        card, tensors = _with_cohort(folder, card, tensors, cohort, cohort_people, seed, form)
    elif cohort_people is not None:
        raise MinusfaceError("--cohort-people: people of a cohort, expected --cohort FACES too")
    elif (cohort_near, cohort_slope) != (NEAR, SLOPE):
        raise MinusfaceError(
            "--cohort-near, --cohort-slope: of a cohort, expected --cohort FACES too"
        )
    narrow = tensors if float32 else {name: _halved(tensor) for name, tensor in tensors.items()}
    data = {**card.data, PACKED: "float32" if float32 else "float16"}
    named = dataclasses.replace(card, config=without_folders(card.config), data=data)
    save(target, named, {"model": narrow})
    written = load_card(target).files["model"]
    worst = max(
        float((tensors[name].float() - narrow[name].float()).abs().max()) for name in tensors
    )
    if json:
        print(jsons.dumps({"out": out, "bytes": written["bytes"], "largest_change": worst}))
        return 0
    print(f"{target}: {written['bytes'] / 2**20:.1f} MiB, weights off by {worst:.1e} at most")
    print(f"next: minusface inspect {shlex.quote(out)}")
    return 0


def _check_target(target: Path, folder: Path, other: Path | None) -> None:
    """Refuse a folder that holds what packing would lose."""
    from minusface.checkpoint import CARD, load_card
    from minusface.errors import MinusfaceError

    if target.resolve() == folder.resolve():
        raise MinusfaceError(f"{target}: is the checkpoint itself, expected another folder")
    if other is not None and target.resolve() == other.resolve():
        raise MinusfaceError(f"{target}: is the checkpoint of --mean, expected another folder")
    if not (target / CARD).is_file():
        if target.is_dir() and any(target.iterdir()):
            raise MinusfaceError(f"{target}: holds other files, expected a new folder")
        return
    if target.name in ("best", "last") and (target.parent / "config.yaml").is_file():
        raise MinusfaceError(
            f"{target}: belongs to the run {target.parent}, expected another folder"
        )
    try:
        card = load_card(target)
    except MinusfaceError as error:
        raise MinusfaceError(f"{target}: its card.json is not a pack's, {EXPECTED}") from error
    more = sorted(card.files.keys() - {"model"})
    if more:
        raise MinusfaceError(
            f"{target}: holds a checkpoint with {', '.join(more)}, which packing would delete; "
            f"{EXPECTED}"
        )
    if not _is_packed(target, card):
        raise MinusfaceError(f"{target}: holds a checkpoint that no pack made, {EXPECTED}")


def _is_packed(folder: Path, card: Card) -> bool:
    """Whether a pack made it: its card says so or, of one made before cards did, its weights are halves."""
    import torch

    from minusface.checkpoint import load_part

    if PACKED in card.data:
        return True
    # Trainings save single precision; an import is what it was.
    if "imported" in card.data or "model" not in card.files:
        return False
    return any(tensor.dtype == torch.float16 for tensor in load_part(folder).values())


def _squeezed(card: Card, tensors: dict[str, Tensor]) -> tuple[Card, dict[str, Tensor]]:
    """Card and tensors with the recogniser's last layer in two."""
    import dataclasses

    from minusface.errors import MinusfaceError
    from minusface.recognize.recognizer import PREFIX
    from minusface.recognize.squeeze import squeezed

    spec = card.model.get("recognizer") or {}
    if spec.get("backbone") != "ir_lite":
        raise MinusfaceError(
            f"--squeeze: a recogniser {spec.get('backbone', 'is missing')}, expected ir_lite"
        )
    own = squeezed({name: t for name, t in tensors.items() if name.startswith(PREFIX)})
    model = {**card.model, "recognizer": {**spec, "backbone": "ir_lite_96"}}
    return dataclasses.replace(card, model=model, metrics={}), {**tensors, **own}


def _mean(
    card: Card, tensors: dict[str, Tensor], other: Path, anew: bool
) -> tuple[Card, dict[str, Tensor]]:
    """Card and tensors with the mean of two recognisers of one form; their cohorts do not serve it.

    Args:
        card: of the one.
        tensors: of the one.
        other: folder of the other.
        anew: whether a cohort is made afterwards; where not, it is said that one is left out.
    """
    import dataclasses
    import sys

    from minusface.checkpoint import load_card, load_part
    from minusface.errors import MinusfaceError
    from minusface.recognize.average import mean_of

    theirs = load_card(other)
    for part in ("codec", "generator", "n_duplicate", "obfuscation"):
        if theirs.model.get(part) != card.model.get(part):
            raise MinusfaceError(f"--mean {other}: another {part}, expected the same model")
    mine, yours = (_cohortless(c.model.get("recognizer") or {}) for c in (card, theirs))
    if mine != yours or not mine or theirs.task != card.task:
        raise MinusfaceError(f"--mean {other}: another recogniser or task, expected the same model")
    made = mean_of(tensors, load_part(other), f"--mean {other}")
    if not anew and any(c.model["recognizer"].get("cohort") for c in (card, theirs)):
        print(
            f"--mean {other}: the cohort is left out, which is of other embeddings than the mean's; "
            "--cohort FACES makes a new one",
            file=sys.stderr,
        )
    spec = _cohortless(card.model["recognizer"])
    told = {"task": theirs.task, "model": theirs.files["model"]["sha256"]}
    model, data = {**card.model, "recognizer": spec}, {**card.data, "mean_with": told}
    return dataclasses.replace(card, model=model, data=data, metrics={}), made


def _with_cohort(
    folder: Path,
    card: Card,
    tensors: dict[str, Tensor],
    faces: str,
    people: str | None,
    seed: int,
    form: tuple[int, float],
) -> tuple[Card, dict[str, Tensor]]:
    """Card and tensors with a cohort of the faces, embedded by what is packed, in full precision."""
    import dataclasses

    import torch

    from minusface.checkpoint import load_into
    from minusface.errors import MinusfaceError
    from minusface.evaluate.dataset import embed_dataset
    from minusface.evaluate.embedders import Embedder
    from minusface.evaluate.models import load_model
    from minusface.memory import keep_freed_memory
    from minusface.recognize.cohort import NEAR, Cohort
    from minusface.recognize.recognizer import COHORT, PREFIX, Recognizer, backbone_tensors

    if card.task not in ("plain", "stage2"):
        raise MinusfaceError(f"--cohort: a {card.task} checkpoint, expected plain or stage2")
    keep_freed_memory()
    model = load_model(folder, seed=seed, eight_bits=True)
    assert isinstance(model.embedder, Embedder)
    Cohort(NEAR, 1, *form)  # A form that cannot be is refused before anything is embedded.
    plain = _cohortless(card.model["recognizer"])
    recognizer = Recognizer.from_spec(plain, str(folder)).eval().requires_grad_(False)
    ours = {k.removeprefix(PREFIX): v for k, v in tensors.items() if k.startswith(PREFIX)}
    load_into(recognizer.backbone, backbone_tensors(ours), str(folder))
    model.embedder.recognizer = recognizer
    dataset, whose = _cohorts_faces(faces, people, model.size)
    embeddings = embed_dataset(model, dataset, range(len(dataset)))
    made = Cohort.of(
        embeddings, seed=seed, people=torch.as_tensor(whose), nearest=form[0], slope=form[1]
    )
    own = {f"{PREFIX}{COHORT}{name}": tensor for name, tensor in made.state_dict().items()}
    spec = {**plain, **made.spec()}
    mixtures = int((whose >= dataset.classes).sum())
    told = {"images": len(dataset), "mixtures": mixtures, "name": dataset.name, "seed": seed}
    data = {**card.data, "cohort": told}
    changed = dataclasses.replace(
        card, model={**card.model, "recognizer": spec}, data=data, metrics={}
    )
    return changed, {**tensors, **own}


def _cohortless(spec: dict[str, Any]) -> dict[str, Any]:
    """A recogniser's part of a card but for its cohort."""
    return {key: value for key, value in spec.items() if not key.startswith("cohort")}


def _cohorts_faces(
    faces: str, people: str | None, size: int
) -> tuple[FolderDataset, npt.NDArray[np.int64]]:
    """The faces a cohort is made of, and whose each is, by number.

    A folder of mixtures is nobody's: each of its faces counts as somebody of its own, beyond the people.
    """
    import sys

    import numpy as np

    from minusface.data import FolderDataset
    from minusface.train.mixing import MADE

    dataset = FolderDataset(faces, people, size=size)
    mixed = [person for person in dataset.people if person.startswith(MADE)]
    if people is None and 0 < len(mixed) < dataset.classes:
        others, dataset = dataset.classes - len(mixed), FolderDataset(faces, mixed, size=size)
        print(
            f"--cohort {faces}: of its {len(dataset):,} mixtures alone, not of {others:,} people's photos",
            file=sys.stderr,
        )
    nobodys = np.array([person.startswith(MADE) for person in dataset.people])[dataset.labels]
    own = dataset.classes + np.arange(len(dataset), dtype=np.int64)
    return dataset, np.where(nobodys, own, dataset.labels)


def _halved(tensor: Tensor) -> Tensor:
    """Half precision where it holds the numbers; counters and what would overflow stay as they are."""
    import torch

    if not tensor.is_floating_point():
        return tensor
    half = tensor.to(torch.float16)
    return half if bool(torch.isfinite(half).all()) else tensor


def without_folders(settings: Any) -> Any:
    """Settings whose paths keep only their last name: where they lay on one machine helps nobody."""
    if isinstance(settings, dict):
        return {key: without_folders(value) for key, value in settings.items()}
    if isinstance(settings, list):
        return [without_folders(value) for value in settings]
    if isinstance(settings, str) and "/" in settings:
        kind, colon, rest = settings.partition(":")
        return f"{kind}{colon}{Path(rest).name}" if colon else Path(settings).name
    return settings

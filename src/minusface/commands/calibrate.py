"""``minusface calibrate``."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from minusface.data import FolderDataset
    from minusface.evaluate.calibration import OperatingPoint
    from minusface.evaluate.groups import GroupPoint

# At most so many images a person: who was photographed most would decide the rates alone.
A_PERSON = 10
LARGEST = 4000


def calibrate(
    checkpoint: str,
    faces: str,
    people: str | None = None,
    groups: str | None = None,
    tries: int = 8,
    seed: int = 0,
    batch_size: int = 32,
    json: bool = False,
) -> int:
    """Measure thresholds at false-match rates and write them into the checkpoint's card.

    All pairs of different people among the images count, embedded as in use: no mirror image, protected
    images in 8 bits, of eight fresh permutations the one that shows least, as clients choose it. At most ten
    images a person and 4,000 in all.

    Args:
        checkpoint: a stage-2 or plain checkpoint or run folder, or the name of weights of yours.
        faces: a folder with a folder a person: people that the model has not seen.
        people: a file that lists the people to take; by default all.
        groups: a file of lines NAME,GROUP, for errors by group (sex, age, whatever has labels): NAME is a
            person's folder or Person/file.jpg. False matches are counted between people of one group.
        tries: of so many permutations of an image the one that shows least; models of masks try one.
        seed: of permutations, of which images are taken, and of the intervals.
        batch_size: images at once.
        json: print the thresholds as JSON.
    """
    import json as jsons

    from minusface.checkpoint import CARD, find, load_card
    from minusface.errors import MinusfaceError
    from minusface.memory import keep_freed_memory
    from minusface.weights import called, packaged, resolve

    if seed < 0:
        raise MinusfaceError(f"--seed {seed}: expected 0 or more")
    keep_freed_memory()
    folder = find(resolve(checkpoint))
    if called(folder) in packaged():
        raise MinusfaceError(
            f"{checkpoint}: ships with minusface and is not written to; "
            f"minusface pack {checkpoint} --out DIR makes a copy to calibrate"
        )
    card = load_card(folder)
    found = _measured(folder, faces, people, groups, tries, seed, batch_size)
    _keep(folder, found, card.files)
    if json:
        print(jsons.dumps(found.told(), indent=1))
        return 0
    for point in found.points:
        print("\n".join([_threshold_line(point), *_group_lines(found.groups.get(point.name, []))]))
    if found.without:
        print(f"{found.without:,} images have no group in {groups}")
    whole = found.points[0]
    print(f"{whole.impostors:,} impostor pairs of {whole.people:,} people; in {folder / CARD}")
    compared = card.task in ("stage2", "plain") and card.model.get("obfuscation") != "mask"
    following = "verify A.jpg B.jpg --checkpoint" if compared else "inspect"
    print(f"next: minusface {following} {shlex.quote(checkpoint)}")
    return 0


class Found(NamedTuple):
    """What was measured, on which images."""

    points: list[OperatingPoint]
    groups: dict[str, list[GroupPoint]]
    """By threshold; empty without groups."""
    dataset: str
    tries: int
    """Permutations that were tried for an image."""
    without: int = 0
    """Images that have no group, where there are groups."""

    def told(self) -> dict[str, Any]:
        """For machines: thresholds by name, each with its groups."""
        from minusface.evaluate.calibration import to_card

        grouped = {name: {"groups": part} for name, part in self.groups_told().items()}
        return {name: point | grouped.get(name, {}) for name, point in to_card(self.points).items()}

    def groups_told(self) -> dict[str, list[dict[str, Any]]]:
        """Groups' errors, by threshold."""
        import dataclasses

        return {name: [dataclasses.asdict(g) for g in part] for name, part in self.groups.items()}


def _measured(
    folder: Path,
    faces: str,
    people: str | None,
    groups: str | None,
    tries: int,
    seed: int,
    batch_size: int,
) -> Found:
    """Thresholds, and errors by group where there are groups: refused before anything is embedded."""
    from minusface.checkpoint import load_card
    from minusface.data import FolderDataset
    from minusface.data.source import folder_of
    from minusface.evaluate import calibration
    from minusface.evaluate.dataset import embed_dataset
    from minusface.evaluate.embedders import ProtectedEmbedder
    from minusface.evaluate.groups import by_group
    from minusface.evaluate.models import load_model
    from minusface.protect.choice import check_tries

    masks = load_card(folder).model.get("obfuscation") == "mask"
    model = load_model(folder, seed=seed, eight_bits=True, tries=1 if masks else check_tries(tries))
    tries = model.embedder.tries if isinstance(model.embedder, ProtectedEmbedder) else 1
    dataset = FolderDataset(folder_of(faces, "--faces "), people, size=model.size)
    taken = _taken(dataset.labels.tolist(), seed)
    named = None if groups is None else _named(dataset, taken, groups)
    rows = embed_dataset(model, dataset, taken, batch_size).numpy()
    owners = dataset.labels[taken]
    points = calibration.calibrate(rows, owners, seed=seed)
    if named is None:
        return Found(points, {}, dataset.name, tries)
    parts = by_group(rows, owners, named, {p.name: p.threshold for p in points}, seed)
    return Found(points, parts, dataset.name, tries, named.count(None))


def _named(dataset: FolderDataset, taken: list[int], groups: str) -> list[str | None]:
    """The taken images' groups."""
    from minusface.evaluate.groups import groups_of, read_groups

    return groups_of([dataset.key(index) for index in taken], read_groups(groups), groups)


def _keep(folder: Path, found: Found, files: dict[str, dict[str, Any]]) -> None:
    """Into the card: what an earlier calibration said of groups goes with its thresholds.

    ``files`` are those that were measured: a training may have saved others since.
    """
    import dataclasses
    import json as jsons

    from minusface.checkpoint import CALIBRATED, CARD, load_card
    from minusface.errors import MinusfaceError
    from minusface.evaluate.calibration import to_card
    from minusface.files import write_atomically

    card = load_card(folder)
    if card.files != files:
        raise MinusfaceError(
            f"{folder / CARD}: other weights were saved while these were measured, nothing is written; "
            "expected a checkpoint that no training writes to"
        )
    metrics = {name: value for name, value in card.metrics.items() if name not in CALIBRATED}
    metrics |= {"thresholds": to_card(found.points), "calibrated_on": found.dataset}
    metrics["calibrated_tries"] = found.tries
    if found.groups:
        metrics["groups"] = found.groups_told()
    whole = dataclasses.replace(card, metrics=metrics)
    text = jsons.dumps(dataclasses.asdict(whole), indent=1, sort_keys=True)
    write_atomically(folder / CARD, text.encode())


def _threshold_line(point: OperatingPoint) -> str:
    """A threshold and what to expect of it, in a line."""
    missed = "" if point.fnmr is None else f", misses {100 * point.fnmr:.1f} %"
    uneven = (
        "" if point.fmr_p95 is None else f"; one person in twenty over {100 * point.fmr_p95:.2g} %"
    )
    return (
        f"{point.name}: threshold {point.threshold:.4f} "
        f"({100 * point.fmr_low:.2g} to {100 * point.fmr_high:.2g} %{uneven}){missed}"
    )


def _group_lines(points: list[GroupPoint]) -> list[str]:
    """What a threshold does to each group, and how far the worst is from the mean."""
    from minusface.evaluate.groups import inequity

    width = max((len(point.group) for point in points), default=0)
    lines = []
    for point in points:
        missed = ""
        if point.fnmr is not None and point.fnmr_low is not None and point.fnmr_high is not None:
            low, high = 100 * point.fnmr_low, 100 * point.fnmr_high
            missed = f", misses {100 * point.fnmr:.1f} % ({low:.1f} to {high:.1f})"
        lines.append(
            f"  {point.group:{width}}  false matches {100 * point.fmr:.2g} % "
            f"({100 * point.fmr_low:.2g} to {100 * point.fmr_high:.2g}){missed}; {point.people:,} people"
        )
    worst = inequity(points)
    for what, ratio in (("false matches", worst.fmr), ("misses", worst.fnmr)):
        if ratio is not None:
            lines.append(f"  {what}: the worst group has {ratio:.2f} times the geometric mean")
    return lines


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

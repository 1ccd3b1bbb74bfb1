"""Attributes: does an image still tell whether somebody wears glasses, or where the light comes from?

Labels come from a file, or from drawn faces, whose every attribute is known. A small classifier learns on
protected images of some people and is tried on others. Legend: B batch, n images a crop, N side of a crop.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from minusface.audit.access import BATCH, Access, Target, seeded, words
from minusface.audit.attack import Trained
from minusface.audit.bench import Bench, Pool, protect_all, views_kept
from minusface.audit.budget import Budget
from minusface.audit.finding import Finding
from minusface.audit.scene import Photos, Scene
from minusface.data import SyntheticFaces
from minusface.data.identity import Look
from minusface.data.synthetic import LOOK_STREAM
from minusface.errors import MinusfaceError
from minusface.evaluate import metrics
from minusface.peers.base import Views
from minusface.recognize import standardize

NAME = "attributes"
NEEDS = Access.IMAGES | Access.QUERY
# Below this a control that sees the photo itself has not learned the attribute.
LEAST = 0.65
DRAWN_SEED = 7_000_003
# Loss of who answers without looking, where both labels count alike.
BLIND = math.log(2)


class Labelled(NamedTuple):
    """Photos with an attribute as their label, 0 or 1, of different people."""

    learn: Photos
    tried: Photos
    given: str = ""
    """SHA-256 (hex) of labels that somebody gave, and may correct; empty for drawn faces."""


class Classifier(nn.Module):
    """Four strided convolutions and a mean; reads images as they are and standardised."""

    def __init__(self, inputs: int, width: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 2 * inputs
        for level in range(4):
            out = width * 2**level
            layers += [
                nn.Conv2d(channels, out, 3, stride=2, padding=1),
                nn.BatchNorm2d(out),
                nn.ReLU(),
            ]
            channels = out
        self.body = nn.Sequential(*layers)
        # Where in the face something is matters: a mean over a 4 x 4 grid rather than over all.
        self.leave = nn.Sequential(
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(channels * 16, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, N, N) in [0, 1] to logits (B,)."""
        logits: Tensor = self.leave(self.body(torch.cat([images, standardize(images)], 1)))
        return logits[:, 0].float()


class Attribute:
    """The attack on one attribute.

    Args:
        bench: of the audit.
        attribute: its name.
        photos: to learn on; they carry it as their label, 0 or 1.
        given: see :class:`Labelled`.
    """

    needs = NEEDS

    def __init__(self, bench: Bench, attribute: str, photos: Photos, given: str = "") -> None:
        self.bench, self.photos, self.given = bench, photos, given
        self.name = f"{NAME}, {attribute}"
        self.net: Classifier | None = None

    def fit(self, target: Target) -> Trained:
        """Learn on four photos of five; the rest judge the learning."""
        target.admit(self.name, self.needs)
        bench, fit = self.bench, self.bench.budget.attributes
        mine, held = parted(self.photos)
        # Draws of their own number: these photos are the attack's own.
        views = views_kept(target, bench.budget.attribute_views)
        pool = Pool(target, mine, views, bench.seed, bench.device)
        shown = protect_all(target, held, seeded("attributes", bench.seed, self.name), bench.device)
        truth, alike = torch.from_numpy(held.labels).float(), weights_of(held.labels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(bench.seed)
            net = Classifier(3 * target.protection.images).to(bench.device)
        self.net = net
        weights = weights_of(mine.labels)

        def loss(step: int, random: torch.Generator) -> Tensor:
            places, _ = pool.places(step, fit.batch_size)
            seen, _ = pool.batch(step, fit.batch_size, random)
            labels = torch.from_numpy(mine.labels)[places].float().to(bench.device)
            each = weights[places].to(bench.device)
            return nnf.binary_cross_entropy_with_logits(net(seen.protected), labels, each)

        def validate() -> float:
            return float(nnf.binary_cross_entropy_with_logits(self.attack(shown), truth, alike))

        more = ["balanced", *([self.given] if self.given else [])]
        if bench.budget.attribute_views != Budget.attribute_views:
            more.append(f"{bench.budget.attribute_views} draws")
        key = bench.key(self.name, target, fit, len(mine), self.photos.keys[0], *more)
        return bench.learn(f"{target.name}, {self.name}", net, loss, validate, fit, key)

    @torch.no_grad()
    def attack(self, seen: Views) -> Tensor:
        """Logits (B,) of protected images, on the CPU."""
        assert self.net is not None, "fit() comes first"
        parts = torch.split(seen.protected, BATCH)
        return torch.cat([self.net(p.float().to(self.bench.device)).cpu() for p in parts])


def run_attribute(
    bench: Bench, target: Target, attribute: str, photos: Labelled, where: str
) -> list[Finding]:
    """Learn an attribute on some people's images and tell it on others'.

    Args:
        bench: of the audit.
        target: what protects.
        attribute: its name.
        photos: to learn on and to try it on.
        where: what photos these are, for the report.
    """
    attack = Attribute(bench, attribute, photos.learn, photos.given)
    trained = attack.fit(target)
    tried = photos.tried
    random = seeded("attributes test", bench.seed, attribute)
    # A batch at a time: of many channels all of them would fill the memory.
    parts = (range(at, min(at + BATCH, len(tried))) for at in range(0, len(tried), BATCH))
    logits = torch.cat(
        [
            attack.attack(protect_all(target, tried.some(part), random, bench.device))
            for part in parts
        ]
    )
    truth = tried.labels > 0
    accuracy = balanced(logits > 0, torch.from_numpy(truth))
    control = "must succeed" if target.name == "unprotected" else ""
    failed = ""
    if control and accuracy < LEAST:
        failed = (
            f"{100 * accuracy:.0f} % right on the photos themselves: {attribute} was not learned"
        )
    finding = Finding(
        NAME,
        target.name,
        words(NEEDS),
        {"balanced accuracy": accuracy, "auc": metrics.auc(logits.double().numpy(), truth)},
        attribute,
        control=control,
        failed=failed,
        notes=(f"on {where}; 50 % is chance",),
    )
    return [finding.learned(trained, BLIND)]


def parted(photos: Photos) -> tuple[Photos, Photos]:
    """Four of five photos of either label to learn on, at least one; the rest, in the same order."""
    mine: list[int] = []
    for value in (0, 1):
        places = np.flatnonzero(photos.labels == value)
        mine += places[: max(1, 4 * len(places) // 5)].tolist()
    held = sorted(set(range(len(photos))) - set(mine))
    return photos.some(sorted(mine)), photos.some(held)


def weights_of(labels: np.ndarray) -> Tensor:
    """(B,) weights of mean 1 by which both labels, 0 and 1, count alike, however rare one of them is."""
    counts = np.bincount(labels)[labels]
    return torch.from_numpy(len(labels) / (len(set(labels.tolist())) * counts)).float()


def balanced(said: Tensor, truth: Tensor) -> float:
    """Mean of the parts told right among those with and those without: 0.5 is chance."""
    return float((said[truth].float().mean() + (~said[~truth]).float().mean()) / 2)


def drawn_attributes(count: int, size: int, seed: int) -> dict[str, Labelled]:
    """Drawn faces with glasses and without, and lit from the left and the right, in equal parts.

    Args:
        count: photos to learn on; half as many to try it on.
        size: side of the crops.
        seed: of the people.
    """
    # A fifth wears glasses: enough people to find as many with as without.
    faces = SyntheticFaces(8 * count + 80, 1, seed=seed + DRAWN_SEED, size=size)
    wanted = count + count // 2

    def glasses(person: int) -> int | None:
        return int(faces.identity(person).glasses != "none")

    def light(person: int) -> int | None:
        stream = np.random.default_rng([faces.seed, LOOK_STREAM, person, 0])
        across = Look.draw(stream, faces.strength).light[0]
        return None if abs(across) < 0.15 else int(across > 0)

    found: dict[str, Labelled] = {}
    for name, label in (("glasses", glasses), ("light from the right", light)):
        groups: dict[int, list[int]] = {0: [], 1: []}
        for person in range(faces.people):
            value = label(person)
            if value is not None and len(groups[value]) < wanted // 2:
                groups[value].append(person)
        both = [person for two in zip(groups[0], groups[1], strict=False) for person in two]
        labels = [value for _ in range(len(both) // 2) for value in (0, 1)]
        found[name] = _two(faces, both, labels, 2 * (len(both) // 3))
    return found


def _two(faces: SyntheticFaces, people: list[int], labels: list[int], cut: int) -> Labelled:
    everything = Photos(
        lambda place: faces[people[place]].image, [faces.key(p) for p in people], labels
    )
    cut -= cut % 2
    return Labelled(everything.some(range(cut)), everything.some(range(cut, len(people))))


def labelled_attribute(path: str | Path, scene: Scene) -> Labelled:
    """An attribute of the audit's own photos from a file: lines ``key<tab>0|1``.

    Raises:
        MinusfaceError: an unreadable or malformed file, or too few of the audit's photos in it.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MinusfaceError(f"{path}: cannot read as text") from error
    labels: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        key, _, label = line.rstrip().rpartition("\t")
        if line.strip() and (not key or label not in ("0", "1")):
            raise MinusfaceError(f"{path}, line {number}: expected key<tab>0 or key<tab>1")
        labels[key] = int(label or 0)
    parts, sha = [], hashlib.sha256()
    for photos in (scene.train, scene.test):
        places = [place for place, key in enumerate(photos.keys) if key in labels]
        told = photos.some(places)
        told.labels = np.array([labels[key] for key in told.keys], np.int64)
        if min(int((told.labels == value).sum()) for value in (0, 1)) < 4:
            raise MinusfaceError(
                f"{path}: labels {len(places)} of the audit's {len(photos)} photos, expected 4 or more of "
                "each kind to learn on and to try it on"
            )
        # Only what is used of them: other lines of the file, and its name, change nothing.
        sha.update(repr([told.keys, told.labels.tolist()]).encode())
        parts.append(told)
    return Labelled(parts[0], parts[1], sha.hexdigest())

"""Linking protected images to plain photos: who is on it, without rebuilding the face.

A student learns to give, for a protected image, the template that a plain recogniser gives for the photo.
It then compares images it never saw with plain photos of people it never saw.
Legend: B batch, n images a crop, N side of a crop, D embedding, T test images.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from minusface.audit.access import BATCH, Access, Target, words
from minusface.audit.attack import Trained, autocast
from minusface.audit.bench import Bench
from minusface.audit.finding import Finding, Measures
from minusface.audit.measures import verification
from minusface.config import InputTransform, RecognizerConfig
from minusface.errors import MinusfaceError
from minusface.evaluate.pairs import PairList
from minusface.peers.base import Views
from minusface.recognize import DistillLoss, DistillLosses, Recognizer, warm_start

NAME = "linkage"
SERVED = "both protected"
# How a student began; of an attacker there is no better start than what knows faces already.
STARTS = {
    "warm": "began from the independent recogniser's weights",
    "cold": "began from random weights, which takes longer: the independent recogniser has none that fit it",
}
NEEDS = Access.IMAGES | Access.QUERY


class Linkage:
    """A student distilled from the plain recogniser.

    Args:
        bench: of the audit.
        backbone: of the student; one like the plain recogniser's starts from its weights.
        photos: how many photos the attacker has; None for all.
        input: what the student makes of protected images first.
    """

    needs = NEEDS

    def __init__(
        self,
        bench: Bench,
        backbone: str = "ir_lite",
        photos: int | None = None,
        input: InputTransform = "standardized",
    ) -> None:
        self.bench, self.backbone, self.input = bench, backbone, input
        self.photos = min(photos or len(bench.scene.train), len(bench.scene.train))
        self.name = f"{NAME}, {described(backbone, self.photos, input)}"
        self.student: Recognizer | None = None
        self.start = "cold"
        """Of :data:`STARTS`, set by :meth:`fit`."""
        self.blind = math.inf
        """Validation loss of the mean template, set by :meth:`fit`."""

    def fit(self, target: Target) -> Trained:
        """Learn to see the plain recogniser's templates in protected images."""
        target.admit(self.name, self.needs)
        bench, fit = self.bench, self.bench.budget.linkage
        pool = bench.pool(target)
        mine = bench.scene.train.some(range(self.photos))
        targets = bench.ruler.embed_photos(mine)
        held = bench.validation(target)
        wanted = bench.ruler.embed_photos(bench.scene.validation)
        mean = nnf.normalize(targets.mean(0), dim=0)
        self.blind = float(1 - (wanted @ mean).mean())
        size = bench.scene.train.crops([0]).shape[-1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(bench.seed)
            config = RecognizerConfig(self.backbone, targets.shape[1], self.input)
            student = Recognizer(config, 3 * target.protection.images, size, "protected")
            self.start = "warm" if self._started(student) else "cold"
            distill = DistillLoss(targets.shape[1], targets.shape[1])
        self.student = student.to(bench.device)
        # The same photos for every number: the first so many of the attacker's.
        count = len(mine)

        def loss(step: int, random: torch.Generator) -> Tensor:
            places, _ = pool.places(step, fit.batch_size, count)
            seen, _ = pool.batch(step, fit.batch_size, random, count)
            wanted_now = targets[places].to(bench.device)
            parts: DistillLosses = distill(student(seen.protected), wanted_now)
            return parts.total

        def validate() -> float:
            rows = self.attack(held)
            return float(1 - (rows * wanted).sum(1).mean())

        ruler = bench.ruler.fingerprint
        key = bench.key(self.name, target, fit, ruler)
        return bench.learn(f"{target.name}, {self.name}", student, loss, validate, fit, key)

    @torch.no_grad()
    def attack(self, seen: Views) -> Tensor:
        """Unit templates (B, D) of protected images, on the CPU."""
        assert self.student is not None, "fit() comes first"
        rows = []
        for part in torch.split(seen.protected, BATCH):
            with autocast(self.bench.device, self.bench.precision):
                rows.append(self.student(part.float().to(self.bench.device)).float().cpu())
        return nnf.normalize(torch.cat(rows), dim=1)

    def _started(self, student: Recognizer) -> bool:
        """Give it the plain recogniser's weights, the attacker's too; False where they do not fit."""
        plain = self.bench.ruler.recognizer
        if plain is None or plain.config.backbone != self.backbone:
            return False
        try:
            warm_start(student, plain.state_dict())
        except MinusfaceError:
            return False
        return True


def backbones(bench: Bench) -> tuple[str, ...]:
    """The students': the budget's, but in the place of the first the judge's own, if it is not among them.

    Only a student like the judge can begin from its weights, and one that begins from nothing learns less.
    """
    plain, given = bench.ruler.recognizer, bench.budget.linkage_backbones
    if plain is None or plain.config.backbone in given:
        return given
    return (plain.config.backbone, *given[1:])


def described(backbone: str, photos: int, input: InputTransform) -> str:
    """``ir_lite, 1024 photos, unmixed``."""
    shown = "" if input == "standardized" else f", {input}"
    return f"{backbone}, {photos} photos{shown}"


def top1(probes: Tensor, gallery: Tensor, people: np.ndarray, pairs: PairList) -> float:
    """How often the nearest plain photo in a gallery of one a person is of the probe's person.

    Args:
        probes: (T, D) templates of protected test images.
        gallery: (T, D) templates of plain test photos.
        people: (T,) whose they are.
        pairs: genuine ones give, person by person, a photo enrolled and another one probed with.
    """
    enrolled: dict[int, int] = {}
    asked: dict[int, int] = {}
    for a, b, same in zip(pairs.a_index, pairs.b_index, pairs.same, strict=True):
        person = int(people[b])
        if same and person not in enrolled:
            enrolled[person], asked[person] = int(b), int(a)
    names = list(enrolled)
    scores = probes[[asked[name] for name in names]] @ gallery[[enrolled[n] for n in names]].T
    return float((scores.argmax(1) == torch.arange(len(names))).float().mean())


def linked(bench: Bench, rows: Tensor) -> Measures:
    """1:1 accuracy and AUC between images and plain photos, top-1 in a gallery, and the cosine."""
    judge, scene = bench.judge, bench.scene
    measures = verification(rows, judge.plain, scene.pairs)
    measures["top-1"] = top1(rows, judge.plain, scene.test.labels, scene.pairs)
    measures["cosine"] = float((rows * judge.plain).sum(1).mean())
    return measures


def served(bench: Bench, rows: Tensor) -> Measures:
    """Accuracy and AUC among the images themselves, both sides protected: what a service would reach whose
    recogniser had had this budget."""
    among = verification(rows, rows, bench.scene.pairs)
    return {SERVED: among["accuracy"], f"{SERVED}, AUC": among["auc"]}


def run_linkage(
    bench: Bench,
    target: Target,
    backbone: str = "ir_lite",
    photos: int | None = None,
    input: InputTransform = "standardized",
) -> list[Finding]:
    """Learn, and link the test people's protected images to their plain photos."""
    attack = Linkage(bench, backbone, photos, input)
    trained = attack.fit(target)
    rows = attack.attack(bench.tests(target))
    measures = linked(bench, rows) | served(bench, rows)
    finding = Finding(
        NAME,
        target.name,
        words(NEEDS) + f"; {attack.photos} photos of its own, a plain recogniser",
        measures,
        described(backbone, attack.photos, input),
        extra={
            "photos": attack.photos,
            "backbone": backbone if input == "standardized" else f"{backbone}, {input}",
            "gallery": gallery_size(bench),
            "start": attack.start,
        },
        notes=(STARTS[attack.start],),
    )
    return [finding.learned(trained, attack.blind)]


def gallery_size(bench: Bench) -> int:
    """How many people the gallery holds: one in so many is found by chance."""
    pairs = bench.scene.pairs
    return len({int(bench.scene.test.labels[b]) for b in pairs.b_index[pairs.same]})


def run_plain(bench: Bench) -> list[Finding]:
    """Controls: the plain recogniser on plain photos, which must link; and templates that say nothing.

    The plain recogniser was not trained as the students were, and is not set beside them as a service.
    """
    plain = linked(bench, bench.judge.plain)
    least = 0.6
    accuracy = plain["accuracy"] or 0.0
    failed = (
        ""
        if accuracy >= least
        else (
            f"the independent recogniser itself tells only {100 * accuracy:.0f} % of pairs of plain photos "
            "right: it cannot judge identity"
        )
    )
    random = torch.Generator().manual_seed(bench.seed)
    noise = nnf.normalize(torch.randn(bench.judge.plain.shape, generator=random), dim=1)
    return [
        Finding(
            NAME, "unprotected", "sees the photos", plain, control="must succeed", failed=failed,
            extra={"gallery": gallery_size(bench)},
        ),
        Finding(
            NAME, "blind guess", "sees nothing", linked(bench, noise) | served(bench, noise),
            control="blind guess",
        ),
    ]  # fmt: skip

"""Averaging many protected images of one photo, each shuffled anew, and recovering from the mean.

Drawing a fresh permutation each time hides less the more often a photo is sent: the mean of K images
converges to a fixed linear picture of the residue. A permutation derived from a secret and the photo
(:mod:`minusface.protect.secret`) leaves nothing to average, but shows which images are of one photo.
Legend: B batch, K images averaged, n images a crop, N side of a crop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor

from minusface.audit.access import BATCH, Access, Target, seeded, words
from minusface.audit.attack import Trained
from minusface.audit.bench import Bench
from minusface.audit.finding import Finding
from minusface.audit.measures import Judge
from minusface.audit.net import RecoveryNet
from minusface.audit.recovery import mean_face
from minusface.audit.scene import Photos
from minusface.peers.base import Views, mean_of
from minusface.recognize import standardize

NAME = "averaging"
NEEDS = Access.IMAGES | Access.QUERY
REPEATS = 4  # of a photo, to see whether a secret makes them equal


class Averaging:
    """Recovery from the mean of K protected images of one photo."""

    needs = NEEDS

    def __init__(self, bench: Bench, count: int) -> None:
        self.bench, self.count = bench, count
        self.name = f"{NAME} of {count}"
        self.net: RecoveryNet | None = None
        self.blind = math.inf
        """Validation loss of the mean face, set by :meth:`fit`."""

    def fit(self, target: Target) -> Trained:
        """Learn from means of the attacker's own photos."""
        target.admit(self.name, self.needs)
        bench, fit = self.bench, self.bench.budget.averaging
        mine = bench.scene.train.some(
            range(min(bench.budget.averaging_images, len(bench.scene.train)))
        )
        means = self.means(target, mine, "train")
        held = self.means(target, bench.scene.validation, "validation")
        wanted = (bench.scene.validation.crops() + 1) / 2
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(bench.seed)
            some = _inputs(held[:BATCH])
            scales = some.mean((0, 2, 3)), some.std((0, 2, 3)) + 1e-3
            net = RecoveryNet(bench.budget.width, mean_face(bench), torch.ones(3), *scales)
        self.net = net.to(bench.device)
        self.blind = float(nnf.l1_loss(mean_face(bench).expand_as(wanted), wanted))

        def loss(step: int, random: torch.Generator) -> Tensor:
            places = torch.randint(len(mine), (fit.batch_size,), generator=random)
            truth = (mine.crops(places) + 1) / 2
            return nnf.l1_loss(net(_inputs(means[places].to(bench.device))), truth.to(bench.device))

        def validate() -> float:
            return float(nnf.l1_loss(self.attack(Views(held)), wanted))

        key = bench.key(self.name, target, bench.budget.width, fit, len(mine))
        return bench.learn(f"{target.name}, {self.name}", net, loss, validate, fit, key)

    @torch.no_grad()
    def attack(self, seen: Views) -> Tensor:
        """Photos (B, 3, N, N) in [0, 1] from means (B, 3n, N, N), on the CPU."""
        assert self.net is not None, "fit() comes first"
        parts = torch.split(seen.protected, BATCH)
        found = [
            self.net(_inputs(p.float().to(self.bench.device))).clamp(0, 1).cpu() for p in parts
        ]
        return torch.cat(found)

    def means(self, target: Target, photos: Photos, split: str) -> Tensor:
        """(len, 3n, N, N), on the CPU."""
        random = seeded("mean", split, self.count, self.bench.seed, target.name)
        found = []
        for start in range(0, len(photos), BATCH // 2):
            places = range(start, min(start + BATCH // 2, len(photos)))
            crops = photos.crops(places).to(self.bench.device)
            found.append(mean_of(target.protection, crops, random, self.count).cpu())
            self.bench.show(start / len(photos), f"{target.name}: averaging {self.count} images")
        return torch.cat(found)


def run_averaging(bench: Bench, target: Target, counts: Sequence[int]) -> list[Finding]:
    """A finding for each K, on fewer test pairs: averaging costs K protections an image."""
    scene = bench.scene.fewer(bench.budget.averaging_pairs)
    judge = Judge(scene, bench.ruler, bench.judge.lpips, bench.judge.similar)
    findings = []
    for count in counts:
        attack = Averaging(bench, count)
        trained = attack.fit(target)
        means = attack.means(target, scene.test, "test")
        found = attack.attack(Views(means))
        shown = bench.picture(bench.shot(f"seen {count}", target), seen_as(means))
        finding = Finding(
            NAME,
            target.name,
            f"{words(NEEDS)}; sees one photo protected {count} times",
            judge.recovered(found),
            f"{count}",
            picture=bench.picture(bench.shot(f"mean of {count}", target), found),
            extra={
                "images": count,
                "shown": shown,
            },
        )
        findings.append(finding.learned(trained, attack.blind))
    return findings


def run_secret(bench: Bench, target: Target, secret: Target) -> list[Finding]:
    """What the counter-measure gains and costs.

    Args:
        bench: of the audit.
        target: the protection that draws anew.
        secret: the same, with permutations from a secret.
    """
    photos = bench.scene.test.some(range(min(BATCH, len(bench.scene.test))))
    crops = photos.crops().to(bench.device)
    findings = []
    for one, variant in ((target, "drawn anew"), (secret, "from a secret")):
        random = seeded("repeat", bench.seed)
        draws = torch.stack([one.protection.protect(crops, random) for _ in range(REPEATS)])
        equal = float((draws == draws[:1]).flatten(2).all(2).float()[1:].mean())
        findings.append(
            Finding(
                "repetition",
                target.name,
                words(Access.IMAGES),
                {"equal photos recognised": equal},
                variant,
                notes=(
                    "part of repetitions of a photo whose protected image is the same to the last bit: "
                    "nothing is there to average, and anybody sees that it is the same photo",
                ),
            )
        )
    return findings


def seen_as(images: Tensor) -> Tensor:
    """Images with each colour stretched, as an eye would want them: (B, 3, N, N) in [0, 1]."""
    return (standardize(images[:, :3]) * 0.5 + 0.5).clamp(0, 1)


def _inputs(means: Tensor) -> Tensor:
    """As they are, and standardised: means of many images are faint."""
    return torch.cat([means, standardize(means)], 1)

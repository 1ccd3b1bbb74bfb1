"""Rebuilding the photo from its protected image with a U-Net (the paper's attacker, section 4.3).

The attacker has photos of its own protected, learns the way back with an L1 loss, and applies it to images
of people whom it never saw. Variants give it more, or ask for something else.
Legend: B batch, n images a crop, N side of a crop, F channels, I channels the network reads, T test images.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, get_args

import torch
import torch.nn.functional as nnf
from torch import Tensor

from minusface.audit.access import BATCH, Access, Target, seeded, words
from minusface.audit.attack import Trained, autocast, exactly
from minusface.audit.bench import Bench
from minusface.audit.finding import FILTERED, Finding
from minusface.audit.net import RecoveryNet
from minusface.audit.replay import replay
from minusface.errors import choice_error
from minusface.peers.base import Unprotected, Views
from minusface.recognize import Unmix, standardize

Variant = Literal["", "unmixed", "unmixed wide", "re-encoded", "permutation known", "residue"]
NEEDS = {
    "": Access.IMAGES | Access.QUERY,
    "unmixed": Access.IMAGES | Access.QUERY,
    "unmixed wide": Access.IMAGES | Access.QUERY,
    "re-encoded": Access.IMAGES | Access.QUERY,
    "permutation known": Access.IMAGES | Access.QUERY | Access.PERMUTATIONS,
    # Learning towards the residue takes the generator, to make residues of one's own photos.
    "residue": Access.IMAGES | Access.QUERY | Access.GENERATOR,
}


# Photos whose residues give the mean residue.
RESIDUES = 256


class Recovery:
    """The attack; see the module."""

    def __init__(self, bench: Bench, variant: Variant = "") -> None:
        if variant not in get_args(Variant):
            raise choice_error("variant of the recovery", variant, get_args(Variant))
        self.bench, self.variant = bench, variant
        self.name = f"recovery, {variant}" if variant else "recovery"
        self.needs = NEEDS[variant]
        self.target: Target | None = None
        self.net: RecoveryNet | None = None
        self.unmix: Unmix | None = None
        self.blind = math.inf
        """Validation loss of the mean, set by :meth:`fit`."""

    def fit(self, target: Target) -> Trained:
        """Learn from the attacker's own photos.

        Raises:
            MinusfaceError: the target lacks what the variant needs.
        """
        target.admit(self.name, self.needs)
        self.target, bench = target, self.bench
        if self.variant in FILTERED:
            size = bench.scene.train.crops([0]).shape[-1]
            self.unmix = Unmix(size, wide=self.variant == "unmixed wide").to(bench.device)
        held, wanted = self._validation(target)
        net = self._fresh(held).to(bench.device)
        self.net = net
        wanted_there = wanted.to(bench.device)
        self.blind = float(self._distance(net.mean.expand_as(wanted_there), wanted_there))
        fit, pool = bench.budget.recovery, bench.pool(target)
        if self.variant == "residue":
            # Residues are too large to keep, so that every batch runs the generator: half the steps.
            fit = replace(fit, steps=max(1, fit.steps // 2))

        def loss(step: int, random: torch.Generator) -> Tensor:
            if self.variant == "residue":
                places, _ = pool.places(step, fit.batch_size)
                crops = bench.scene.train.crops(places).to(bench.device)
                with exactly(bench.device):
                    opened = target.opened.open(crops, random)
                seen, truth = Views(opened.protected, opened.permutation), opened.residue
            else:
                seen, truth = pool.batch(step, fit.batch_size, random)
            return self._distance(net(self._inputs(seen)), truth)

        def validate() -> float:
            return float(self._distance(self.attack(held).to(bench.device), wanted_there))

        scaled = [f"residues {RESIDUES}"] if self.variant == "residue" else []
        key = bench.key(self.name, target, bench.budget.width, fit, *scaled)
        return bench.learn(f"{target.name}, {self.name}", net, loss, validate, fit, key)

    @torch.no_grad()
    def attack(self, seen: Views) -> Tensor:
        """Recovered photos (B, 3, N, N) in [0, 1], or residues (B, F, N, N), on the CPU."""
        assert self.net is not None, "fit() comes first"
        found = []
        for start in range(0, len(seen.protected), BATCH):
            part = self._there(seen.take(slice(start, start + BATCH)))
            with autocast(self.bench.device, self.bench.precision):
                made = self.net(self._inputs(part))
            found.append((made if self.variant == "residue" else made.clamp(0, 1)).cpu())
        return torch.cat(found)

    def _there(self, seen: Views) -> Views:
        """On the audit's device."""
        order = None if seen.permutation is None else seen.permutation.to(self.bench.device)
        return Views(seen.protected.to(self.bench.device), order)

    def _distance(self, found: Tensor, truth: Tensor) -> Tensor:
        """L1, each channel in units of its reach."""
        assert self.net is not None
        reach = self.net.reach[:, None, None]
        return nnf.l1_loss(found / reach, truth / reach)

    def _validation(self, target: Target) -> tuple[Views, Tensor]:
        """What is seen of the validation photos, and what is sought in it."""
        photos = self.bench.scene.validation
        if self.variant != "residue":
            return self.bench.validation(target), (photos.crops() + 1) / 2
        crops = photos.crops(range(min(BATCH, len(photos)))).to(self.bench.device)
        opened = target.opened.open(crops, seeded("validation", self.bench.seed, target.name))
        seen = Views(opened.protected.cpu(), opened.permutation.cpu())
        return seen, opened.residue.cpu()

    def _fresh(self, held: Views) -> RecoveryNet:
        """A network with the scales and the mean that the attacker's own photos give."""
        bench = self.bench
        some = self._inputs(self._there(held.take(slice(0, BATCH))))
        shift, scale = some.mean((0, 2, 3)), some.std((0, 2, 3)) + 1e-3
        mean, reach = mean_face(bench), torch.ones(3)
        if self.variant == "residue":
            mean, reach = self._residues()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(bench.seed)
            return RecoveryNet(bench.budget.width, mean, reach, shift, scale)

    def _residues(self) -> tuple[Tensor, Tensor]:
        """Mean (F, N, N) of residues of the attacker's photos, and how far each channel usually lies from it.

        Of a few only it would be a poor guess, and whatever is better would pass for something found.
        """
        assert self.target is not None
        bench, count = self.bench, min(RESIDUES, len(self.bench.scene.train))
        mean, square = torch.zeros(()), torch.zeros(())
        for start in range(0, count, BATCH):
            places = range(start, min(start + BATCH, count))
            crops = bench.scene.train.crops(places).to(bench.device)
            random = seeded("residues", bench.seed, self.target.name, start)
            residue = self.target.opened.open(crops, random).residue.cpu()
            mean = mean + residue.sum(0) / count
            square = square + residue.square().sum(0) / count
        return mean, (square - mean.square()).clamp(min=0).mean((1, 2)).sqrt() + 1e-3

    def _inputs(self, seen: Views) -> Tensor:
        """What the network reads: (B, I, N, N); in float32, as rounding would hide faint traces."""
        with exactly(self.bench.device):
            return self._prepared(seen)

    def _prepared(self, seen: Views) -> Tensor:
        images = seen.protected
        # As they are, and with each colour standardised: protected images fill little of their range.
        plain = torch.cat([images, standardize(images)], 1)
        if self.unmix is not None:
            return torch.cat([self.unmix(images), plain], 1)
        if self.variant == "re-encoded":
            assert self.target is not None
            parts = torch.split(images, 3, 1)
            return torch.cat([_encode(self.target, part) for part in parts], 1)
        if self.variant == "permutation known":
            assert self.target is not None
            assert seen.permutation is not None
            undone = self.target.opened.undo(images, seen.permutation)
            return torch.cat([undone, plain], 1)
        return plain


def _encode(target: Target, images: Tensor) -> Tensor:
    return target.opened.encode(images * 2 - 1)


def mean_face(bench: Bench) -> Tensor:
    """(3, N, N) in [0, 1]: the mean of up to 512 of the attacker's photos, its guess without looking."""
    count = min(512, len(bench.scene.train))
    return (bench.scene.train.crops(range(count)).mean(0) + 1) / 2


def run_recovery(bench: Bench, target: Target, variant: Variant = "") -> list[Finding]:
    """Learn, recover the test photos, judge them."""
    attack = Recovery(bench, variant)
    trained = attack.fit(target)
    tests = bench.tests(target)
    found = attack.attack(tests)
    measures = bench.judge.recovered(found)
    blind = mean_face(bench).expand(len(found), -1, -1, -1)
    measures |= replay(bench, target, found, blind)
    picture = bench.picture(bench.shot(attack.name, target), found)
    finding = Finding(
        attack="recovery",
        target=target.name,
        needs=words(attack.needs),
        measures=measures,
        variant=variant,
        picture=picture,
    )
    return [finding.learned(trained, attack.blind)]


def run_fixed(bench: Bench, target: Target, others: Target) -> list[Finding]:
    """Against one permutation for all images; what it learned is then tried on another permutation.

    Args:
        bench: of the audit.
        target: the protection with its permutation fixed.
        others: the same with another fixed permutation.
    """
    attack = Recovery(bench)
    trained = attack.fit(target)
    own = attack.attack(bench.tests(target))
    foreign = attack.attack(bench.tests(others))
    needs = words(attack.needs)
    findings = []
    for variant, found in (("fixed permutation", own), ("fixed, tried on another", foreign)):
        picture = bench.picture(bench.shot(f"recovery {variant}", target), found)
        one = Finding(
            "recovery", target.name, needs, bench.judge.recovered(found), variant, picture=picture
        )
        findings.append(one.learned(trained, attack.blind))
    return findings


def run_residue(bench: Bench, target: Target) -> list[Finding]:
    """From X_p to the residue: how much of its variance is found; 0 is the mean residue's."""
    attack = Recovery(bench, "residue")
    trained = attack.fit(target)
    assert attack.net is not None
    photos = bench.scene.test
    crops = photos.crops(range(min(BATCH, len(photos)))).to(bench.device)
    opened = target.opened.open(crops, seeded("residue", bench.seed, target.name))
    found = attack.attack(Views(opened.protected, opened.permutation))
    truth = opened.residue.cpu()
    spread = (truth - attack.net.mean.cpu()).square().sum()
    explained = 1 - float((truth - found).square().sum() / spread)
    shown = target.opened.decode(found.to(bench.device))
    picture = bench.picture(bench.shot("residue", target), shown)
    finding = Finding(
        "recovery",
        target.name,
        words(attack.needs),
        {"explained": explained},
        "residue",
        notes=("explained: part of the residue's variance that was found; 0 is its mean's",),
        picture=picture,
    )
    return [finding.learned(trained, attack.blind)]


def run_blind(bench: Bench) -> list[Finding]:
    """The control that sees nothing: every face is the mean face."""
    face = mean_face(bench).expand(len(bench.scene.test), -1, -1, -1)
    measures = bench.judge.recovered(face)
    picture = bench.picture(bench.shot("blind guess", Target(Unprotected())), face)
    return [
        Finding(
            "recovery",
            "blind guess",
            "sees nothing",
            measures,
            control="blind guess",
            picture=picture,
        )
    ]

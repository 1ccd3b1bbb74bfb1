"""Inverting one protected image by gradient, with the generator known and the permutation searched for.

Nothing is learned: the attacker looks for a photo X and a permutation that together give the X_p it sees.
The permutation is relaxed to a doubly stochastic matrix, made by Sinkhorn's alternating normalisation of
exp(scores / temperature), and sharpened as the search goes on.
Legend: B batch (one image at a time), F channels, N side of a crop, C = 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minusface.audit.access import Access, Target, seeded, words
from minusface.audit.bench import Bench
from minusface.audit.finding import Finding, Measures
from minusface.audit.measures import likeness
from minusface.audit.recovery import mean_face
from minusface.peers.base import Views
from minusface.peers.minusface import MinusFace

NAME = "inversion"
NEEDS = Access.IMAGES | Access.GENERATOR
KNOWN = NEEDS | Access.PERMUTATIONS
ROUNDS = 12  # of Sinkhorn's normalisation
WARM, COLD = 1.0, 0.1  # temperatures, first and last
SMOOTH = 0.02  # weight of total variation, which photos have little of
# Residues differ little from grey: differences of X_p weigh as if they filled the range.
STRETCH = 10.0


def sinkhorn(scores: Tensor, rounds: int = ROUNDS) -> Tensor:
    """Scores (F, F) to a matrix of rows and columns that sum to one, by turns in the logarithm."""
    log = scores
    for _ in range(rounds):
        log = log - log.logsumexp(1, keepdim=True)
        log = log - log.logsumexp(0, keepdim=True)
    return log.exp()


class Inversion:
    """The search.

    Args:
        bench: of the audit.
        known: the control: the permutation is given.
        steps: of the search.
    """

    def __init__(self, bench: Bench, known: bool = False, steps: int = 120) -> None:
        self.bench, self.known, self.steps = bench, known, steps
        self.needs = KNOWN if known else NEEDS
        self.name = f"{NAME}, permutation known" if known else NAME
        self.target: MinusFace | None = None

    def fit(self, target: Target) -> None:
        """Take the generator; there is nothing to learn.

        Raises:
            MinusfaceError: the target gives no generator away.
        """
        target.admit(self.name, self.needs)
        assert isinstance(target.protection, MinusFace)
        self.target = target.protection

    def attack(self, seen: Views) -> Tensor:
        """Photos (B, 3, N, N) in [0, 1], searched for one by one, on the CPU."""
        found = []
        for place in range(len(seen.protected)):
            order = None if seen.permutation is None else seen.permutation[place, 0]
            found.append(self._search(seen.protected[place : place + 1, :3], order, place))
            self.bench.show((place + 1) / len(seen.protected), f"{self.name}: searching")
        return torch.cat(found)

    def _search(self, protected: Tensor, order: Tensor | None, place: int) -> Tensor:
        assert self.target is not None
        device = self.bench.device
        wanted = protected.float().to(device)
        face = (mean_face(self.bench)[None] * 2 - 1).to(device)
        image = torch.atanh(face.clamp(-0.99, 0.99)).requires_grad_()
        channels = self.target.protector.codec.channels
        random = seeded("inversion", self.bench.seed, place)
        scores = (0.1 * torch.randn(channels, channels, generator=random)).to(device)
        scores = scores.requires_grad_()
        rates = [{"params": [image], "lr": 0.05}]
        if not self.known:
            rates.append({"params": [scores], "lr": 0.2})
        optimizer = torch.optim.Adam(rates)
        for step in range(self.steps):
            optimizer.zero_grad(set_to_none=True)
            heat = WARM * (COLD / WARM) ** (step / self.steps)
            loss = self._loss(image.tanh(), scores / heat, order, wanted)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return (image.detach().tanh().cpu() + 1) / 2

    def _loss(self, crop: Tensor, scores: Tensor, order: Tensor | None, wanted: Tensor) -> Tensor:
        """How far X_p of the guess is from the one seen, and how rough the guess is."""
        assert self.target is not None
        protector = self.target.protector
        residue = protector.subtract(crop).residue
        if self.known:
            assert order is not None
            made = protector.codec.decode(residue, order[None].to(residue.device))
        else:
            mixed = sinkhorn(scores) @ residue.flatten(2)
            made = protector.codec.decode(mixed.view_as(residue))
        far = (STRETCH * (made - wanted)).square().mean()
        rough = crop.diff(dim=-1).abs().mean() + crop.diff(dim=-2).abs().mean()
        total: Tensor = far + SMOOTH * rough
        return total


def run_inversion(bench: Bench, target: Target) -> list[Finding]:
    """Search for a few photos, without and with the permutation."""
    count = min(bench.budget.inversion_images, len(bench.scene.test))
    tests = bench.tests(target).take(slice(0, count))
    truth = (bench.scene.test.crops(range(count)) + 1) / 2
    blind = mean_face(bench).expand(count, -1, -1, -1)
    findings = []
    for known in (False, True):
        attack = Inversion(bench, known, bench.budget.inversion_steps)
        attack.fit(target)
        found = attack.attack(tests)
        measures: Measures = likeness(found, truth)
        measures["cosine"] = _cosine(bench, found)
        findings.append(
            Finding(
                NAME,
                target.name,
                words(attack.needs),
                measures,
                "permutation known" if known else "permutation searched",
                notes=(f"{count} photos, {attack.steps} steps each",),
                picture=bench.picture(bench.shot(attack.name, target), found),
            )
        )
    guess: Measures = likeness(blind, truth)
    guess["cosine"] = _cosine(bench, blind)
    findings.append(
        Finding(NAME, target.name, "sees nothing", guess, "mean face", control="blind guess")
    )
    return findings


def _cosine(bench: Bench, found: Tensor) -> float:
    """Mean cosine of templates with those of the photos."""
    rows = bench.ruler.embed(found * 2 - 1)
    return float((rows * bench.judge.plain[: len(rows)]).sum(1).mean())

"""What a stolen template shows: a decoder from templates to faces. With a key a service (see
:mod:`minusface.audit.unlinkability`) a stolen template is under a rotation that the thief lacks.

Legend: B batch, D embedding, N side of a crop.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from minusface.audit.access import BATCH, Access, Target, seeded, words
from minusface.audit.attack import Trained
from minusface.audit.bench import Bench
from minusface.audit.finding import Finding
from minusface.audit.recovery import mean_face
from minusface.audit.unlinkability import orthogonal_key
from minusface.peers.base import Views

NAME = "templates"
NEEDS = Access.RECOGNIZER | Access.QUERY


class Decoder(nn.Module):
    """A template to a face: a linear layer to 7x7, then doublings, added to the mean face.

    Args:
        size: D.
        mean: (3, N, N) in [0, 1]; N divisible by 16.
        width: channels at full size.
    """

    mean: Tensor

    def __init__(self, size: int, mean: Tensor, width: int = 12) -> None:
        super().__init__()
        self.register_buffer("mean", mean.clone())
        self.side, self.deep = mean.shape[-1] // 16, 16 * width
        self.enter = nn.Linear(size, self.deep * self.side**2)
        steps: list[nn.Module] = []
        channels = self.deep
        for _ in range(4):
            steps += [
                nn.ReLU(),
                nn.Upsample(scale_factor=2, mode="nearest"),
                nn.Conv2d(channels, channels // 2, 3, padding=1),
                nn.BatchNorm2d(channels // 2),
            ]
            channels //= 2
        self.grow = nn.Sequential(*steps)
        self.leave = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, templates: Tensor) -> Tensor:
        """(B, D) unit rows to (B, 3, N, N), not clamped."""
        scaled = templates * templates.shape[1] ** 0.5
        deep = self.enter(scaled).view(-1, self.deep, self.side, self.side)
        change: Tensor = self.leave(self.grow(deep))
        return self.mean + change.float()


class Stolen:
    """Recovery from a stolen template: a decoder learned on templates of the attacker's own photos."""

    needs = NEEDS
    name = f"{NAME}, stolen"

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.decoder: Decoder | None = None
        self.blind = math.inf
        """Validation loss of the mean face, set by :meth:`fit`."""

    def fit(self, target: Target) -> Trained:
        """Learn from templates that the service's recogniser gives."""
        target.admit(self.name, self.needs)
        bench, fit = self.bench, self.bench.budget.decoder
        pool, device = bench.pool(target), bench.device
        held = target.templates(bench.validation(target).protected.to(device))
        wanted = ((bench.scene.validation.crops() + 1) / 2).to(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(bench.seed)
            decoder = Decoder(held.shape[1], mean_face(bench), max(4, bench.budget.width))
        self.decoder = decoder.to(device)
        self.blind = float(nnf.l1_loss(decoder.mean.expand_as(wanted), wanted))

        def loss(step: int, random: torch.Generator) -> Tensor:
            seen, truth = pool.batch(step, fit.batch_size, random)
            return nnf.l1_loss(decoder(target.templates(seen.protected)), truth)

        def validate() -> float:
            return float(nnf.l1_loss(decoder(held), wanted))

        key = bench.key(self.name, target, fit, bench.budget.width)
        return bench.learn(f"{target.name}, {self.name}", decoder, loss, validate, fit, key)

    @torch.no_grad()
    def attack(self, seen: Views) -> Tensor:
        """Faces (B, 3, N, N) in [0, 1] of templates (B, D) in the place of images, on the CPU."""
        assert self.decoder is not None, "fit() comes first"
        parts = torch.split(seen.protected, BATCH)
        return torch.cat([self.decoder(p.to(self.bench.device)).clamp(0, 1).cpu() for p in parts])


def run_stolen(bench: Bench, target: Target) -> list[Finding]:
    """Faces from stolen templates, and from templates under a key that was not stolen."""
    attack = Stolen(bench)
    trained = attack.fit(target)
    stolen = target.templates(bench.tests(target).protected.to(bench.device)).cpu()
    key = orthogonal_key(stolen.shape[1], seeded("key", bench.seed, "one"))
    findings = []
    for variant, rows in (("stolen", stolen), ("stolen, under a key", stolen @ key)):
        found = attack.attack(Views(rows))
        picture = bench.picture(bench.shot(f"{NAME} {variant}", target), found)
        one = Finding(
            NAME,
            target.name,
            words(NEEDS) + "; stole templates",
            bench.judge.recovered(found),
            variant,
            picture=picture,
        )
        findings.append(one.learned(trained, attack.blind))
    return findings

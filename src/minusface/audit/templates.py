"""Templates: can two services' templates be told to be of one person, and what does a stolen one show?

Unlinkability is measured by D_sys (Gomez-Barrero et al., "General framework to evaluate unlinkability in
biometric template protection systems", 2018). The counter-measure is a key a service: a secret rotation of
the space of templates. Within a service all cosines stay as they are; between services they say nothing.
Legend: B batch, D embedding, N side of a crop, K buckets, M known pairs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from minusface.audit.access import BATCH, Access, Target, seeded, words
from minusface.audit.attack import Trained
from minusface.audit.bench import Bench, protect_all
from minusface.audit.finding import Finding, Measures
from minusface.audit.measures import cross_scores
from minusface.audit.recovery import mean_face
from minusface.errors import MinusfaceError
from minusface.evaluate import metrics
from minusface.peers.base import Views

Floats = npt.NDArray[np.float64]
NAME = "templates"
BUCKETS = 40
NEEDS = Access.RECOGNIZER | Access.QUERY


def d_sys(mated: npt.ArrayLike, other: npt.ArrayLike, omega: float = 1.0) -> float:
    """How linkable templates are: 0 where mated scores are spread as all others, 1 where fully apart.

    At each score s the likelihood ratio LR = p(s | mated) / p(s | not mated) tells how much more it speaks
    for one person than for two; D(s) = 2 LR w / (1 + LR w) - 1 where that is above 0; D_sys is the mean
    of D over the mated scores. Densities are histograms of 40 buckets (fewer for few scores), whose
    noise is taken off by what the same scores give when they are dealt out at random.

    Args:
        mated: scores of one person's templates in the two services.
        other: scores of two people's.
        omega: prior odds w of mated to other.

    Returns:
        From 0 to 1.

    Raises:
        MinusfaceError: fewer than four scores of a kind, or one that is not finite.
    """
    a, b = np.asarray(mated, np.float64).ravel(), np.asarray(other, np.float64).ravel()
    if min(len(a), len(b)) < 4:
        raise MinusfaceError(
            f"{len(a)} mated and {len(b)} other scores, expected 4 or more of each"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise MinusfaceError("scores hold NaN or infinity")
    found = _d_global(a, b, omega)
    rng = np.random.default_rng(0)
    both = np.concatenate([a, b])
    dealt = []
    for _ in range(20):
        mixed = rng.permutation(both)
        dealt.append(_d_global(mixed[: len(a)], mixed[len(a) :], omega))
    chance = float(np.mean(dealt))
    return float(np.clip((found - chance) / (1 - chance), 0, 1)) if chance < 1 else 0.0


def _d_global(a: Floats, b: Floats, omega: float) -> float:
    """The mean of D over mated scores, from histograms."""
    count = max(4, min(BUCKETS, round(2 * min(len(a), len(b)) ** (1 / 3))))
    low, high = min(a.min(), b.min()), max(a.max(), b.max())
    if high <= low:
        return 0.0
    p, edges = np.histogram(a, count, (low, high))
    q, _ = np.histogram(b, edges)
    mated, other = p / len(a), q / len(b)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = omega * mated / other
        local = np.where(other > 0, 2 * ratio / (1 + ratio) - 1, 1.0)
    return float((mated * np.clip(local, 0, 1)).sum())


def orthogonal_key(size: int, random: torch.Generator) -> Tensor:
    """A secret rotation, uniform among all: (D, D) float32, whose rows are orthonormal."""
    square = torch.randn(size, size, generator=random, dtype=torch.float64)
    q, r = torch.linalg.qr(square)
    # The signs make it uniform (Mezzadri 2007).
    signed: Tensor = q * r.diagonal().sign()
    return signed.float()


def rotation_between(a: Tensor, b: Tensor) -> Tensor:
    """The rotation that best brings rows a (M, D) onto rows b (M, D) (orthogonal Procrustes): (D, D)."""
    u, _, vh = torch.linalg.svd(a.double().T @ b.double())
    rotation: Tensor = u @ vh
    return rotation.float()


def run_unlinkability(bench: Bench, target: Target) -> list[Finding]:
    """D_sys between two services, with and without keys, and with keys when some people are known."""
    target.admit("unlinkability", Access.RECOGNIZER)
    device = bench.device
    first = target.templates(bench.tests(target).protected.to(device)).cpu()
    other = protect_all(target, bench.scene.test, seeded("service two", bench.seed), device)
    second = target.templates(other.protected.to(device)).cpu()
    one, two = (
        orthogonal_key(first.shape[1], seeded("key", bench.seed, n)) for n in ("one", "two")
    )
    # People known in both services, whom anybody may enrol: their templates give the rotation away.
    known = bench.scene.train.some(range(min(2 * first.shape[1], len(bench.scene.train))))
    mine = [
        target.templates(
            protect_all(target, known, seeded("known", bench.seed, n), device).protected.to(device)
        ).cpu()
        for n in (1, 2)
    ]
    back = rotation_between(mine[0] @ one, mine[1] @ two)
    cases = (
        ("no keys", first, second, "holds two services' templates"),
        ("a key a service", first @ one, second @ two, "holds two services' templates"),
        (
            f"keys, {len(known)} people known in both",
            first @ one @ back,
            second @ two,
            "holds two services' templates and knows some people enrolled in both",
        ),
    )
    return [
        Finding("unlinkability", target.name, needs, _between(bench, a, b), variant)
        for variant, a, b, needs in cases
    ]


def _between(bench: Bench, a: Tensor, b: Tensor) -> Measures:
    """D_sys and EER of linking one service's templates with the other's, and EER within the first."""
    pairs = bench.scene.pairs
    across, within = cross_scores(a, b, pairs), cross_scores(a, a, pairs)
    return {
        "d_sys": d_sys(across[pairs.same], across[~pairs.same]),
        "eer": metrics.eer(across, pairs.same),
        "eer within": metrics.eer(within, pairs.same),
    }


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
        picture = bench.picture(bench.key(f"{NAME} {variant}", target), found)
        one = Finding(
            NAME,
            target.name,
            words(NEEDS) + "; stole templates",
            bench.judge.recovered(found),
            variant,
            picture=picture,
        )
        findings.append(one.learned(trained))
    return findings

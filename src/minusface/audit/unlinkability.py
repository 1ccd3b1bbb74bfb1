"""Can two services' templates be told to be of one person?

Unlinkability is measured by D_sys (Gomez-Barrero et al., "General framework to evaluate unlinkability in
biometric template protection systems", 2018). The counter-measure is a key a service: a secret rotation of
the space of templates. Within a service all cosines stay as they are; between services they say nothing.
A rotation keeps the shape of the whole cloud of templates, though, and whoever holds two galleries under two
keys can lay the one's shape over the other's.

Legend: D embedding, K buckets, M known pairs or templates of a gallery, A axes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from minusface.audit.access import Access, Target, seeded
from minusface.audit.bench import Bench, protect_all
from minusface.audit.finding import Finding, Measures
from minusface.audit.measures import cross_scores
from minusface.errors import MinusfaceError
from minusface.evaluate import metrics

Floats = npt.NDArray[np.float64]
BUCKETS = 40
# An axis for so many templates: the further ones are lost in noise before.
AN_AXIS, MOST_AXES = 500, 8
# Of the attacker's photos, at most so many fill the two galleries.
OTHERS = 4096


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


class Shape(NamedTuple):
    """Where a gallery lies: its mean (D,) and its main axes (D, A)."""

    mean: Tensor
    axes: Tensor

    def along(self, rows: Tensor) -> Tensor:
        """Rows (B, D) along the axes: (B, A)."""
        return (rows.double() - self.mean) @ self.axes


def laid_over(a: Tensor, b: Tensor, axes: int) -> tuple[Shape, Shape]:
    """Two galleries' shapes, so that along the axes the one lies over the other. Nobody need be in both.

    Principal axes are the same people's traits in both, but for their signs; those are chosen so that the
    values along an axis are spread alike.

    Args:
        a: templates of a service (M, D), under its key.
        b: templates of another.
        axes: A.
    """
    quantiles = torch.linspace(0, 1, 201, dtype=torch.float64)
    shapes, spreads = [], []
    for rows in (a.double(), b.double()):
        mean = rows.mean(0)
        main = torch.linalg.svd(rows - mean, full_matrices=False).Vh[:axes].T
        shapes.append(Shape(mean, main))
        spreads.append((rows - mean) @ main)
    first, second, turned = (
        torch.quantile(values, quantiles, dim=0) for values in (spreads[0], spreads[1], -spreads[1])
    )
    alike = (first - second).abs().sum(0) <= (first - turned).abs().sum(0)
    signs = torch.where(alike, 1.0, -1.0).double()
    return shapes[0], Shape(shapes[1].mean, shapes[1].axes * signs)


def run_unlinkability(bench: Bench, target: Target) -> list[Finding]:
    """D_sys between two services, with and without keys, with keys when some people are known in both, and
    with keys when nobody is, but whole galleries are there."""
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
    people = len(np.unique(known.labels))
    cases = (
        ("no keys", first, second, "holds two services' templates"),
        ("a key a service", first @ one, second @ two, "holds two services' templates"),
        (
            f"keys, {len(known)} photos of {people} people known in both",
            first @ one @ back,
            second @ two,
            "holds two services' templates and knows some people enrolled in both",
        ),
    )
    found = [
        Finding("unlinkability", target.name, needs, _between(bench, a, b), variant)
        for variant, a, b, needs in cases
    ]
    return [*found, _by_shape(bench, target, first @ one, second @ two, one, two)]


def _by_shape(
    bench: Bench, target: Target, first: Tensor, second: Tensor, one: Tensor, two: Tensor
) -> Finding:
    """Linking two keyed services by the shapes of their galleries: test people, and others in each alone."""
    half = min(OTHERS, len(bench.scene.train)) // 2
    galleries = []
    for number, (tested, key) in enumerate(((first, one), (second, two))):
        photos = bench.scene.train.some(range(number * half, (number + 1) * half))
        views = protect_all(target, photos, seeded("gallery", bench.seed, number), bench.device)
        others = target.templates(views.protected.to(bench.device)).cpu()
        galleries.append(torch.cat([tested, others @ key]))
    count = min(MOST_AXES, max(1, len(galleries[0]) // AN_AXIS))
    mine, theirs = laid_over(galleries[0], galleries[1], count)
    pairs = bench.scene.pairs
    a, b = mine.along(first)[pairs.a_index], theirs.along(second)[pairs.b_index]
    across = -(a - b).norm(dim=1).numpy()
    return Finding(
        "unlinkability",
        target.name,
        "holds two services' templates",
        _linked(bench, across, cross_scores(first, first, pairs)),
        f"keys, galleries of {len(galleries[0])} templates laid over one another",
    )


def _between(bench: Bench, a: Tensor, b: Tensor) -> Measures:
    """Of linking one service's templates with the other's by their cosines."""
    pairs = bench.scene.pairs
    return _linked(bench, cross_scores(a, b, pairs), cross_scores(a, a, pairs))


def _linked(bench: Bench, across: Floats, within: Floats) -> Measures:
    """D_sys and EER of scores between two services, and EER of those within the first."""
    pairs = bench.scene.pairs
    return {
        "d_sys": d_sys(across[pairs.same], across[~pairs.same]),
        "eer": metrics.eer(across, pairs.same),
        "eer within": metrics.eer(within, pairs.same),
    }

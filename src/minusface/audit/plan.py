"""Which attacks an audit runs on which targets, and what comes of them."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from minusface.audit import (
    attributes,
    averaging,
    inversion,
    linkage,
    recovery,
    templates,
    unlinkability,
    viewing,
)
from minusface.audit.access import Target
from minusface.audit.bench import Bench
from minusface.audit.cost import Cost, cost_of
from minusface.audit.finding import Finding
from minusface.audit.jobs import Job
from minusface.checkpoint import versions
from minusface.errors import MinusfaceError, choice_error
from minusface.peers.base import Protection, Unprotected
from minusface.peers.minusface import MinusFace
from minusface.peers.variants import mixes

ATTACKS = (
    "viewing",
    "recovery",
    "linkage",
    "averaging",
    "templates",
    "attributes",
    "inversion",
)
# Fixed permutations of the experiments; any two numbers do.
FIXED, OTHER = 1, 2
AUDIT_SECRET = b"only for measuring repetitions"


@dataclass(frozen=True, eq=False)
class Audit:
    """An audit that has run."""

    findings: list[Finding]
    costs: list[Cost]
    faces: str
    """File with the attacked photos side by side, relative to the report."""
    about: dict[str, str]
    """What was audited, on what, with which budget."""

    def as_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "about": self.about,
            "costs": [vars(cost) for cost in self.costs],
            "faces": self.faces,
            "findings": [finding.as_json() for finding in self.findings],
        }


def plan(bench: Bench, main: Target, peers: Sequence[Protection]) -> list[Job]:
    """Every job, cheap ones and controls first within each attack."""
    own = main.protection
    plain = Target(Unprotected())
    beside = [Target(peer) for peer in peers]
    everybody = [plain, *beside, main]
    jobs = [_job("viewing", t, partial(viewing.run_viewing, bench, t)) for t in everybody]
    jobs.append(Job("recovery", "blind guess", plain, partial(recovery.run_blind, bench)))
    jobs += [_job("recovery", t, partial(_controlled, bench, t)) for t in everybody]
    mixed = [target for target in everybody if mixes(target.protection)]
    jobs += [
        Job("recovery", f"{t.name} unmixed", t, partial(recovery.run_recovery, bench, t, "unmixed"))
        for t in mixed
    ]
    jobs += [
        Job(
            "recovery",
            f"{t.name} unmixed wide",
            t,
            partial(recovery.run_recovery, bench, t, "unmixed wide"),
        )
        for t in mixed
        if t is main or (isinstance(t.protection, MinusFace) and t.protection.tries > 1)
    ]
    jobs.append(Job("linkage", "controls", plain, partial(linkage.run_plain, bench)))
    if isinstance(own, MinusFace):
        jobs += _inside(bench, main, own)
    jobs += _linkages(bench, [*beside, main])
    jobs += _averagings(bench, main)
    if main.recognizer is not None:
        runs = (
            ("unlinkability", unlinkability.run_unlinkability),
            ("stolen", templates.run_stolen),
        )
        jobs += [
            Job("templates", f"{main.name} {name}", main, partial(run, bench, main))
            for name, run in runs
        ]
    if isinstance(own, MinusFace):
        jobs.append(_job("inversion", main, partial(inversion.run_inversion, bench, main)))
    return jobs


def attribute_jobs(
    bench: Bench,
    targets: Sequence[Target],
    photos: dict[str, attributes.Labelled],
    where: str,
) -> list[Job]:
    """The jobs of the attributes that there are labels for."""
    return [
        Job(
            "attributes",
            f"{target.name} {name}",
            target,
            partial(attributes.run_attribute, bench, target, name, both, where),
            both.given,
        )
        for name, both in photos.items()
        for target in targets
    ]


def conclude(
    bench: Bench,
    main: Target,
    peers: Sequence[Protection],
    findings: list[Finding],
    about: dict[str, str],
) -> Audit:
    """Costs, and what a reader needs to do it again."""
    targets = [Target(Unprotected()), *(Target(peer) for peer in peers), main]
    costs = []
    for target in targets:
        costs.append(cost_of(bench, target))
        bench.forget(target)
    said = {
        **about,
        "data": bench.scene.words,
        "independent recogniser": f"{bench.ruler.words}; {100 * bench.judge.accuracy:.1f} % of the test "
        "pairs of plain photos right",
        "budget": bench.budget.name,
        "seed": str(bench.seed),
        "computed in": f"{bench.precision} on {bench.device}, {torch.get_num_threads()} threads of "
        f"{platform.machine()}",
        "versions": ", ".join(f"{name} {value}" for name, value in versions().items()),
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }
    if bench.judge.lpips is None:
        said["LPIPS"] = "left out: no model was given (--lpips FILE)"
    faces = bench.picture("faces", bench.shown(bench.scene.test))
    return Audit(findings, costs, faces, said)


def _job(attack: str, target: Target, run: Callable[[], list[Finding]]) -> Job:
    return Job(attack, target.name, target, run)


def _controlled(bench: Bench, target: Target) -> list[Finding]:
    """Recovery; on the unprotected photo it is the control that must succeed."""
    found = recovery.run_recovery(bench, target)
    if target.name != "unprotected":
        return found
    ssim = found[0].measures["ssim"] or 0.0
    failed = (
        f"SSIM {ssim:.2f} from the photo itself: the attack is too weak to say anything of a protection"
        if ssim < 0.8
        else ""
    )
    return [replace(found[0], control="must succeed", failed=failed)]


def _inside(bench: Bench, main: Target, own: MinusFace) -> list[Job]:
    """Recoveries that take a look inside the method."""
    fixed = Target(own.choosing("fixed", FIXED))
    other = Target(own.choosing("fixed", OTHER))
    variants: tuple[recovery.Variant, ...] = ("permutation known",)
    if bench.budget.thorough:
        variants += ("re-encoded",)
    jobs = [
        Job(
            "recovery",
            f"{main.name} {variant}",
            main,
            partial(recovery.run_recovery, bench, main, variant),
        )
        for variant in variants
    ]
    jobs.append(
        Job(
            "recovery", "fixed permutation", fixed, partial(recovery.run_fixed, bench, fixed, other)
        )
    )
    if bench.budget.thorough:
        jobs.append(
            Job(
                "recovery",
                f"{main.name} residue",
                main,
                partial(recovery.run_residue, bench, main),
            )
        )
    return jobs


def _linkages(bench: Bench, targets: Sequence[Target]) -> list[Job]:
    """Students of every backbone and number of photos for the main target, of the most for the others; what
    is shuffled is also looked at unmixed."""
    jobs = []
    for target in targets:
        sizes = bench.budget.linkage_images if target is targets[-1] else (None,)
        # Where there are hardly more photos than a lower number, it would be the same student twice.
        there = len(bench.scene.train)
        numbers = [*sorted(size for size in sizes if size and size < 0.9 * there), there]
        for backbone in linkage.backbones(bench):
            jobs += [
                Job(
                    "linkage",
                    f"{target.name} {backbone} {number}",
                    target,
                    partial(linkage.run_linkage, bench, target, backbone, number),
                )
                for number in numbers
            ]
            if mixes(target.protection):
                run = partial(linkage.run_linkage, bench, target, backbone, there, "unmixed")
                jobs.append(
                    Job("linkage", f"{target.name} {backbone} {there} unmixed", target, run)
                )
    return jobs


def _averagings(bench: Bench, main: Target) -> list[Job]:
    """A job for each K, and what a secret changes."""
    jobs = [
        Job(
            "averaging",
            f"{main.name} {count}",
            main,
            partial(averaging.run_averaging, bench, main, (count,)),
        )
        for count in bench.budget.averages
    ]
    if isinstance(main.protection, MinusFace):
        secret = Target(main.protection.choosing("secret", secret=AUDIT_SECRET))
        jobs.append(
            Job(
                "averaging",
                f"{main.name} secret",
                main,
                partial(averaging.run_secret, bench, main, secret),
            )
        )
    return jobs


def chosen(attacks: Sequence[str] | None) -> tuple[str, ...]:
    """The attacks asked for, all by default.

    Raises:
        MinusfaceError: an unknown name.
    """
    if not attacks:
        return ATTACKS
    for name in attacks:
        if name not in ATTACKS:
            raise choice_error("attack", name, ATTACKS)
    return tuple(name for name in ATTACKS if name in attacks)


def check_size(size: int, where: str) -> None:
    """Refuse crops that the attackers' networks cannot halve four times.

    Raises:
        MinusfaceError: a size that is no multiple of 16.
    """
    if size % 16:
        raise MinusfaceError(f"{where}: crops of {size} pixels, expected a multiple of 16")

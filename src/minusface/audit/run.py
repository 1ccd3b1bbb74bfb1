"""An audit from its settings to report.json and report.html."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from minusface.audit.access import Target
from minusface.audit.attributes import Labelled, drawn_attributes, labelled_attribute
from minusface.audit.bench import Bench
from minusface.audit.budget import Budget
from minusface.audit.finding import Finding
from minusface.audit.html import report
from minusface.audit.jobs import Job, run_jobs
from minusface.audit.lessons import prepare
from minusface.audit.measures import Judge, Lpips
from minusface.audit.plan import (
    Audit,
    attribute_jobs,
    check_size,
    chosen,
    conclude,
    plan,
)
from minusface.audit.publish import publish
from minusface.audit.ruler import Ruler, load_ruler, train_ruler
from minusface.audit.scene import Scene, open_scene
from minusface.audit.tables import markdown
from minusface.checkpoint import load_card, versions
from minusface.demo.record import commit
from minusface.errors import MinusfaceError
from minusface.files import write_atomically
from minusface.peers.base import Protection, Unprotected
from minusface.peers.catalogue import peers_of
from minusface.peers.minusface import MinusFace
from minusface.peers.variants import trained_besides, variants_of
from minusface.recognize import Recognizer
from minusface.weights import called

JSON, HTML, TABLE = "report.json", "report.html", "table.md"
Show = Callable[[float, str], None]


@dataclass(frozen=True)
class Options:
    """What an audit is asked to do; see ``minusface audit --help``."""

    checkpoint: Path
    data: str
    out: Path
    budget: Budget
    peers: Sequence[str] = ("pixelation", "blur")
    variants: Sequence[str] = ()
    beside: Sequence[str] = ()
    people: str | None = None
    pairs: str | None = None
    recognizer: str | None = None
    lpips: str | None = None
    attributes: str | None = None
    attacks: Sequence[str] | None = None
    seed: int = 0
    device: str = "cpu"
    precision: str = "float32"
    publish: Path | None = None
    """Folder of a second report, whose pictures may be shown."""


def run_audit(options: Options, show: Show = lambda part, note: None) -> Audit:
    """Run what has not run yet, and write the report.

    Args:
        options: see there.
        show: told the part of the jobs done, and what is being done.

    Raises:
        MinusfaceError: no protector in the checkpoint, bad data, a full disk.
    """
    wanted = chosen(options.attacks)
    device = torch.device(options.device)
    own = MinusFace.load(options.checkpoint, device)
    if own.protector.codec_config.name == "raw":
        raise MinusfaceError(
            f"{options.checkpoint}: the paper's toy case (codec raw), which shuffles nothing; expected a "
            "protector of frequencies (dct, dwt)"
        )
    size = own.protector.codec_config.size
    check_size(size, str(options.checkpoint))
    lpips = None if options.lpips is None else Lpips(options.lpips)
    peers = [
        *peers_of(options.peers),
        *trained_besides(options.beside, size, device),
        *variants_of(own, options.variants),
    ]
    check_names(peers)
    main = Target(own, _recognizer(options.checkpoint, device))
    scene = open_scene(
        options.data,
        size,
        train_images=options.budget.train_images,
        validation_images=options.budget.validation_images,
        pairs=options.budget.pairs,
        seed=options.seed,
        people=options.people,
        pairs_file=options.pairs,
    )
    ruler = _ruler(options, scene, size, device, show)
    judge = Judge(scene, ruler, lpips, options.budget.similar)
    bench = Bench(
        scene, ruler, judge, options.budget, options.out, options.seed, device, options.precision
    )
    bench.show = lambda part, note: show(0.0, f"{note}, {100 * part:.0f} %")
    prepare(bench, peers)
    jobs = [job for job in plan(bench, main, peers) if job.attack in wanted]
    if "attributes" in wanted:
        photos, where = _attributes(options, scene, size)
        everybody = [Target(Unprotected()), *(Target(peer) for peer in peers), main]
        jobs += attribute_jobs(bench, everybody, photos, where)
    now = commit() or "not in a git repository"
    made = f"{now}, minusface {versions()['minusface']}"
    findings = run_jobs(jobs, bench, _counting(bench, len(jobs), show), made)
    about = {
        "checkpoint": called(options.checkpoint),
        "peers": ", ".join(peer.name for peer in peers) or "none",
        "commit": now,
        **_made(findings, made),
    }
    audit = conclude(bench, main, peers, findings, about)
    write(audit, main.name, options.out)
    if options.publish is not None:
        targets = [Target(Unprotected()), *(Target(peer) for peer in peers), main]
        bench.show = lambda part, note: show(0.99, note)
        write(publish(bench, targets, audit, options.publish), main.name, options.publish)
    return audit


def _made(findings: Sequence[Finding], made: str) -> dict[str, str]:
    """By which commits and versions findings were made, where not all by this one; else nothing.

    What an earlier run finished stays when the program changes, and its numbers are not today's.
    """
    counts = Counter(one.made for one in findings)
    if set(counts) <= {made}:
        return {}
    parts = [
        f"{name or 'a commit that was not noted'} ({count} of {len(findings)} findings)"
        for name, count in counts.items()
    ]
    return {"findings are of": "; ".join(parts)}


def check_names(peers: Sequence[Protection]) -> None:
    """A name twice would mix two protections' numbers up.

    Raises:
        MinusfaceError: naming it.
    """
    names = ["unprotected", "minusface", *(peer.name for peer in peers)]
    for name in names:
        if names.count(name) > 1:
            raise MinusfaceError(f"{name}: two protections of that name, expected one")


def write(audit: Audit, target: str, out: Path) -> None:
    """report.json, report.html, and its table of methods as Markdown."""
    write_atomically(out / JSON, (json.dumps(audit.as_json(), indent=1) + "\n").encode())
    write_atomically(out / TABLE, markdown(audit, target).encode())
    write_atomically(out / HTML, report(audit, target, out).encode())


def _counting(bench: Bench, jobs: int, show: Show) -> Callable[[int, Job], None]:
    """Tells ``show`` how far all jobs are, while each tells how far it is."""

    def begin(number: int, job: Job) -> None:
        show(number / jobs, f"{job.attack}: {job.name}")
        bench.show = lambda part, note: show((number + part) / jobs, note)

    return begin


def _recognizer(checkpoint: Path, device: torch.device) -> Recognizer | None:
    """The service's, where the checkpoint holds one of protected images."""
    spec = load_card(checkpoint).model.get("recognizer")
    if not spec or spec.get("kind") != "protected":
        return None
    return Recognizer.load(checkpoint).to(device).requires_grad_(False)


def _ruler(options: Options, scene: Scene, size: int, device: torch.device, show: Show) -> Ruler:
    if options.recognizer is not None:
        return load_ruler(options.recognizer, device)
    return train_ruler(
        scene,
        options.budget.ruler,
        options.out
        / "state"
        / f"recogniser-{scene.fingerprint[:12]}-{options.seed}-{options.budget.name}",
        size=size,
        seed=options.seed,
        device=device,
        precision=options.precision,
        progress=lambda part: show(0.0, f"training an independent recogniser, {100 * part:.0f} %"),
    )


def _attributes(options: Options, scene: Scene, size: int) -> tuple[dict[str, Labelled], str]:
    """Labelled photos, and what they are."""
    if options.attributes is not None:
        name = Path(options.attributes).stem
        return {
            name: labelled_attribute(options.attributes, scene)
        }, f"labels of {options.attributes}"
    drawn = drawn_attributes(options.budget.attribute_images, size, options.seed)
    return drawn, "drawn faces, as no label file was given (--attributes FILE)"


__all__ = ["HTML", "JSON", "Options", "run_audit", "write"]

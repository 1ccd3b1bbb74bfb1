"""The jobs of an audit, and how it goes on after it was stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from minusface.audit.access import Target
from minusface.audit.bench import Bench
from minusface.audit.finding import Finding, keep, kept


@dataclass(frozen=True)
class Job:
    """One attack on one target."""

    attack: str
    """As ``--attacks`` names it."""
    name: str
    """For progress, and for the file its findings are kept in."""
    target: Target
    run: Callable[[], list[Finding]]
    given: str = ""
    """Digest of what the name does not tell: labels from a file."""


def run_jobs(
    jobs: Sequence[Job],
    bench: Bench,
    begin: Callable[[int, Job], None] = lambda number, job: None,
    made: str = "",
) -> list[Finding]:
    """Run them one after the other; what an earlier run finished is read in its place.

    Args:
        jobs: to be done.
        bench: of the audit.
        begin: told the number of each job, and which it is.
        made: commit and version that run now, kept with what they find.
    """
    found: list[Finding] = []
    for number, job in enumerate(jobs):
        begin(number, job)
        path = _place(bench, job)
        done = kept(path)
        if done is None:
            done = [replace(one, seconds=round(one.seconds, 2), made=made) for one in job.run()]
            keep(path, done)
        found += done
        # Made anew for the next attack on it: images of many targets at once would fill the memory.
        if number + 1 == len(jobs) or jobs[number + 1].target.name != job.target.name:
            bench.forget(job.target)
    return found


def _place(bench: Bench, job: Job) -> Path:
    """Where a job's findings are kept: elsewhere once anything they depend on has changed."""
    inputs = [bench.budget, bench.ruler.fingerprint, job.name, len(bench.scene.pairs)]
    # Only where there are any, so that findings of audits without them are found again.
    if job.given:
        inputs.append(f"labels {job.given}")
    if bench.judge.lpips is not None:
        inputs.append(f"LPIPS {bench.judge.lpips.fingerprint}")
    return bench.out / "findings" / f"{bench.key(job.attack, job.target, *inputs)}.json"

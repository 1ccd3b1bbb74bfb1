"""What an audit keeps is found again, and only by an audit of the same inputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from minusface.audit.access import Target
from minusface.audit.attributes import labelled_attribute
from minusface.audit.bench import Bench
from minusface.audit.finding import Finding
from minusface.audit.jobs import run_jobs
from minusface.audit.measures import Judge, Lpips
from minusface.audit.plan import attribute_jobs, plan
from minusface.audit.run import _made
from minusface.peers import MinusFace, Unprotected
from tests.audit.conftest import TINY, colours_ruler, write_distance

SHORT = replace(TINY, attributes=replace(TINY.attributes, steps=2, validate_every=1))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_corrected_labels_are_learned_anew(bench: Bench, tmp_path: Path) -> None:
    bench.budget, scene, file = SHORT, bench.scene, tmp_path / "beard.tsv"
    keys = [*scene.train.keys[:40], *scene.test.keys[:20]]
    begun = []

    def run(wrong: set[int]) -> list[Finding]:
        lines = [f"{key}\t{(n % 2) ^ (n in wrong)}\n" for n, key in enumerate(keys)]
        file.write_text("".join(lines), encoding="utf-8")
        photos = {"beard": labelled_attribute(file, scene)}
        jobs = attribute_jobs(bench, [Target(Unprotected())], photos, f"labels of {file}")

        def begin() -> list[Finding]:
            begun.append(file)
            return jobs[0].run()

        return run_jobs([replace(jobs[0], run=begin)], bench)

    first = run({1, 4, 7, 42, 45})
    before = {place: names(bench.out / place) for place in ("findings", "state")}
    assert run({1, 4, 7, 42, 45}) == first
    assert len(begun) == 1
    run(set())
    assert len(begun) == 2
    for place, kept in before.items():
        assert len(kept) == 1
        assert len(names(bench.out / place)) == 2


@pytest.fixture
def judged_by(make_bench: Callable[..., Bench], tmp_path: Path) -> Callable[[str | None], Bench]:
    """A bench whose judge has a distance model of this operator, or none; all keep in one place."""

    def make(over: str | None) -> Bench:
        bench = make_bench(SHORT)
        if over is not None:
            write_distance(tmp_path / "distance.onnx", over)
            lpips = Lpips(tmp_path / "distance.onnx")
            bench.judge = Judge(bench.scene, colours_ruler(), lpips, similar=TINY.similar)
        return bench

    return make


def test_a_distance_given_later_is_measured(
    judged_by: Callable[[str | None], Bench], minusface: MinusFace
) -> None:
    def run(over: str | None) -> float | None:
        bench = judged_by(over)
        jobs = [job for job in plan(bench, Target(minusface), []) if job.name == "blind guess"]
        return run_jobs(jobs, bench)[0].measures.get("lpips")

    assert run(None) is None
    mean, most = run("ReduceMean"), run("ReduceMax")
    assert mean is not None
    assert most is not None
    assert most > mean
    assert run(None) is None
    assert len(names(judged_by(None).out / "findings")) == 3


def test_findings_of_an_earlier_commit_are_told_of(bench: Bench, minusface: MinusFace) -> None:
    jobs = [job for job in plan(bench, Target(minusface), []) if job.name == "blind guess"]
    then, now = "aaa, minusface 0.1.0", "bbb, minusface 0.2.0"
    first = run_jobs(jobs, bench, made=then)
    assert [one.made for one in first] == [then]
    assert _made(first, then) == {}
    again = run_jobs(jobs, bench, made=now)
    assert again == first, "read, not found anew: it stays what it was made by"
    assert _made(again, now) == {"findings are of": f"{then} (1 of 1 findings)"}
    (file,) = (bench.out / "findings").iterdir()
    # As files were kept before: they are read, and nobody knows by which commit they were made.
    kept = json.loads(file.read_text())
    for one in kept:
        assert one.pop("made") == then
    file.write_text(json.dumps(kept))
    old = run_jobs(jobs, bench, made=now)
    assert old == [replace(one, made="") for one in first]
    fresh = replace(old[0], made=now)
    assert _made([*old, fresh, fresh], now) == {
        "findings are of": f"a commit that was not noted (1 of 3 findings); {now} (2 of 3 findings)"
    }


def test_without_labels_and_distance_kept_findings_keep_their_names(
    bench: Bench, minusface: MinusFace
) -> None:
    job = next(j for j in plan(bench, Target(minusface), []) if j.name == "blind guess")
    found = run_jobs([job], bench)
    inputs = (bench.budget, bench.ruler.fingerprint, "blind guess", len(bench.scene.pairs))
    key = bench.key("recovery", Target(Unprotected()), *inputs)
    assert names(bench.out / "findings") == {f"{key}.json"}
    assert found[0].target == "blind guess"

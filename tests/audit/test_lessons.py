"""What peers learn before they protect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from minusface.audit.attack import Fit
from minusface.audit.bench import Bench
from minusface.audit.lessons import prepare
from minusface.peers import DctDp, DuetFace, Peep, ProFace
from minusface.peers.base import Protection
from tests.audit.conftest import TINY

LESSON = Fit(steps=8, batch_size=8, lr=1e-3, validate_every=4)
MAKE: dict[str, Callable[[], Protection]] = {
    "dctdp": DctDp,
    "duetface": DuetFace,
    "proface": ProFace,
}


def taught(make_bench: Callable[..., Bench], name: str, steps: int = 8) -> tuple[Protection, Bench]:
    bench = make_bench(replace(TINY, lessons=replace(LESSON, steps=steps)))
    peer = MAKE[name]()
    prepare(bench, [peer, Peep()])
    return peer, bench


@pytest.mark.parametrize("name", MAKE)
def test_lessons_are_taken_once_and_seeded(make_bench: Callable[..., Bench], name: str) -> None:
    peer, bench = taught(make_bench, name)
    told: list[str] = []
    bench.show = lambda part, note: told.append(note)
    again = MAKE[name]()
    prepare(bench, [again])
    assert again.fingerprint() == peer.fingerprint()
    # Read again, not taught again.
    assert told == []
    longer, _ = taught(make_bench, name, 12)
    assert longer.fingerprint() != peer.fingerprint()


def test_budgets_move_and_keep_their_mean(make_bench: Callable[..., Bench]) -> None:
    peer, _ = taught(make_bench, "dctdp")
    assert isinstance(peer, DctDp)
    assert peer.budget.mean().item() == pytest.approx(1.0, rel=1e-4)
    assert peer.budget.std() > 0.01


def test_people_under_attack_teach_nothing(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(replace(TINY, lessons=LESSON))

    def forbidden(*_: object) -> torch.Tensor:
        raise AssertionError("the test people were looked at")

    monkeypatch.setattr(bench.scene.test, "crops", forbidden)
    prepare(bench, [DctDp(), DuetFace(), ProFace(), Peep()])

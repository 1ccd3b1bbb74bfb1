"""The recovery works where it must, and the controls say so where it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from minusface.audit.access import Target
from minusface.audit.averaging import run_averaging, run_secret
from minusface.audit.bench import TOGETHER, Bench, Pool, protect_all
from minusface.audit.finding import FILTERED
from minusface.audit.inversion import run_inversion
from minusface.audit.plan import plan
from minusface.audit.recovery import (
    Recovery,
    run_blind,
    run_fixed,
    run_recovery,
    run_residue,
)
from minusface.audit.scene import Photos
from minusface.audit.templates import run_stolen
from minusface.config import RecognizerConfig
from minusface.errors import MinusfaceError
from minusface.peers import MinusFace, Pixelation, Unprotected
from minusface.peers.variants import variants_of
from minusface.recognize import Recognizer
from tests.audit.conftest import TINY

Make = Callable[..., Bench]


def untrained() -> Recognizer:
    torch.manual_seed(0)
    config = RecognizerConfig("ir_lite", 16, "standardized")
    return Recognizer(config, 3, 32, "protected").eval().requires_grad_(False)


def test_it_recovers_pixelation_far_better_than_the_blind_guess(bench: Bench) -> None:
    blind = run_blind(bench)[0]
    found = run_recovery(bench, Target(Pixelation(4)))[0]
    assert blind.control == "blind guess"
    assert found.measures["psnr"] > blind.measures["psnr"] + 3  # type: ignore[operator]
    assert found.measures["ssim"] > blind.measures["ssim"] + 0.1  # type: ignore[operator]
    assert found.measures["auc"] > 0.7 > 0.6 > blind.measures["auc"]  # type: ignore[operator]
    assert "replay at the service" not in found.measures
    assert (bench.out / found.picture).is_file()
    assert not found.stuck


def test_a_fixed_permutation_is_broken_better_than_random_ones(
    bench: Bench, minusface: MinusFace
) -> None:
    drawn = run_recovery(bench, Target(minusface))[0].measures
    fixed, elsewhere = run_fixed(
        bench, Target(minusface.choosing("fixed", 1)), Target(minusface.choosing("fixed", 2))
    )
    assert fixed.measures["psnr"] > drawn["psnr"] + 0.5  # type: ignore[operator]
    # What it learned of one permutation is worth little under another.
    assert fixed.measures["psnr"] > elsewhere.measures["psnr"] + 0.5  # type: ignore[operator]


def test_a_known_permutation_helps(bench: Bench, minusface: MinusFace) -> None:
    short = replace(bench.budget, recovery=replace(TINY.recovery, steps=60, validate_every=30))
    bench.budget = short
    without = run_recovery(bench, Target(minusface))[0]
    known = run_recovery(bench, Target(minusface), "permutation known")[0]
    assert known.measures["psnr"] > without.measures["psnr"]  # type: ignore[operator]
    assert "knows each image's permutation" in known.needs


def test_other_variants_run(bench: Bench, minusface: MinusFace) -> None:
    bench.budget = replace(bench.budget, recovery=replace(TINY.recovery, steps=6, validate_every=3))
    again = run_recovery(bench, Target(minusface), "re-encoded")[0]
    encoding = Recovery(bench, "re-encoded")
    encoding.fit(Target(minusface))
    assert encoding.net is not None
    assert len(encoding.net.shift) == 192
    seen = bench.tests(Target(minusface)).take(slice(0, 2))
    channels = minusface.protector.codec.encode(seen.protected * 2 - 1)
    assert torch.allclose(encoding._inputs(seen), channels, atol=1e-5)
    # What was judged is what this reading of the image came to.
    found = encoding.attack(bench.tests(Target(minusface)))
    assert bench.judge.recovered(found)["psnr"] == pytest.approx(again.measures["psnr"])
    for filtered, channels in zip(FILTERED, (21, 58), strict=True):
        attack = Recovery(bench, filtered)
        attack.fit(Target(minusface))
        assert attack.net is not None
        assert len(attack.net.shift) == channels + 6
        assert run_recovery(bench, Target(minusface), filtered)[0].needs == again.needs
    residue = run_residue(bench, Target(minusface))[0]
    assert residue.measures["explained"] < 1  # type: ignore[operator]
    assert (bench.out / residue.picture).is_file()
    with pytest.raises(MinusfaceError, match="knows each image's permutation"):
        Recovery(bench, "permutation known").fit(Target(Unprotected()))
    with pytest.raises(MinusfaceError, match="variant"):
        Recovery(bench, "nonsense")  # type: ignore[arg-type]


def test_the_mean_residue_is_that_of_many_photos(bench: Bench, minusface: MinusFace) -> None:
    """What is found is measured against it: of a few photos' mean the rest would pass for found."""
    bench.budget = replace(bench.budget, recovery=replace(TINY.recovery, steps=1, validate_every=1))
    attack = Recovery(bench, "residue")
    attack.fit(Target(minusface))
    assert attack.net is not None
    train, test = (
        minusface.protector.subtract(s.crops()).residue
        for s in (bench.scene.train, bench.scene.test)
    )
    assert len(train) > 100
    assert torch.allclose(attack.net.mean, train.mean(0), atol=1e-4)
    far = (train - train.mean(0)).square().mean((0, 2, 3)).sqrt()
    assert torch.allclose(attack.net.reach, far + 1e-3, rtol=0.01)
    few = minusface.protector.subtract(bench.scene.validation.crops(range(16))).residue.mean(0)
    assert (test - attack.net.mean).square().sum() < (test - few).square().sum()


def test_pictures_of_two_budgets_stand_side_by_side(bench: Bench, minusface: MinusFace) -> None:
    """Findings of both are kept; one must not show what the other's attacker drew."""
    target = Target(minusface, untrained())
    attacks = (
        lambda: run_recovery(bench, target),
        lambda: run_fixed(bench, target, target),
        lambda: run_residue(bench, target),
        lambda: run_averaging(bench, target, (1,)),
        lambda: run_stolen(bench, target),
        lambda: run_inversion(bench, target),
        lambda: run_blind(bench),
    )
    short = replace(TINY.recovery, steps=1, validate_every=1)
    several = {"recovery": short, "averaging": short, "decoder": short, "inversion_steps": 2}
    seen: list[set[str]] = []
    for width in (2, 4):
        bench.budget = replace(TINY, width=width, **several)
        found = [one for attack in attacks for one in attack()]
        pictures = {one.picture for one in found} | {
            str(one.extra.get("shown", "")) for one in found
        }
        seen.append(pictures - {""})
    assert len(seen[0]) == len(seen[1]) == 11
    assert not seen[0] & seen[1]


def test_what_is_shuffled_is_attacked_unmixed_too(bench: Bench, minusface: MinusFace) -> None:
    beside = [Pixelation(4), *variants_of(minusface, ["8-bit", "mask"])]
    names = [job.name for job in plan(bench, Target(minusface), beside)]
    there = len(bench.scene.train)
    for mixed in ("minusface", "minusface-8-bit"):
        assert {f"{mixed} unmixed", f"{mixed} ir_lite {there} unmixed"} <= set(names)
    assert not any("unmixed" in n for n in names if n.startswith(("pixelation", "minusface-mask")))
    # All that the receiver may read is read of the audited protection alone.
    assert [n for n in names if n.endswith("unmixed wide")] == ["minusface unmixed wide"]


def test_a_control_that_fails_says_so(bench: Bench, minusface: MinusFace) -> None:
    bench.budget = replace(bench.budget, recovery=replace(TINY.recovery, steps=1, lr=1e-6))
    jobs = plan(bench, Target(minusface), [])
    control = next(j for j in jobs if j.attack == "recovery" and j.name == "unprotected")
    found = control.run()[0]
    assert found.control == "must succeed"
    assert "too weak" in found.failed
    assert found.still_improving
    # Nor does it pass for a proof that there is nothing to find.
    assert found.stuck
    assert any("never got past a guess" in note for note in found.notes)


def test_the_same_seed_gives_the_same_numbers(
    make_bench: Make, minusface: MinusFace, tmp_path: Path
) -> None:
    budget = replace(TINY, recovery=replace(TINY.recovery, steps=4, validate_every=2))
    found = [
        run_recovery(make_bench(budget, seed, tmp_path / str(n)), Target(minusface))[0].measures
        for n, seed in enumerate((0, 0, 1))
    ]
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_permutations_are_redrawn_every_epoch(bench: Bench, minusface: MinusFace) -> None:
    photos = bench.scene.train.some(range(4))
    for views in (2, None):
        pool = Pool(Target(minusface), photos, views, 0, torch.device("cpu"))
        random = torch.Generator().manual_seed(0)
        first, second = pool.batch(0, 4, random)[0], pool.batch(1, 4, random)[0]
        places = [pool.places(step, 4)[0] for step in (0, 1)]
        assert sorted(places[0].tolist()) == sorted(places[1].tolist()) == [0, 1, 2, 3]
        assert first.permutation is not None
        assert second.permutation is not None
        a, b = first.permutation[places[0].argsort()], second.permutation[places[1].argsort()]
        assert not (a == b).all(-1).any()


def test_a_longer_attacker_sees_new_permutations_in_the_same_memory(minusface: MinusFace) -> None:
    crops = torch.rand(20, 3, 32, 32).permute(0, 2, 3, 1).mul(255).to(torch.uint8).numpy()
    photos = Photos(lambda place: crops[place], [str(n) for n in range(20)], list(range(20)))
    target, random = Target(minusface), torch.Generator().manual_seed(0)

    def epochs(views: int, count: int) -> list[torch.Tensor]:
        pool, found = Pool(target, photos, views, 0, torch.device("cpu")), []
        for step in range(count):
            seen, _ = pool.batch(step, 20, random)
            assert seen.permutation is not None
            order = pool.places(step, 20)[0].argsort()
            found.append(
                torch.cat([seen.permutation.flatten(1), seen.protected.flatten(1)], 1)[order]
            )
            assert max(len(part.protected) for part in pool._parts) <= TOGETHER
        return found

    short, longer = epochs(TOGETHER, 6), epochs(2 * TOGETHER, 10)
    assert torch.equal(short[4], short[0])
    # The first ones are those of a budget that is not longer, the next are new, and then they come again.
    for one, other in zip(short[:TOGETHER], longer, strict=False):
        assert torch.equal(one, other)
    channels = 192
    for n, one in enumerate(longer[:8]):
        for other in longer[:n]:
            assert not (one[:, :channels] == other[:, :channels]).all(1).any()
    assert torch.equal(longer[8], longer[0])
    # One that never has more than the first few photos protected asks for no more.
    pool = Pool(target, photos, 2, 0, torch.device("cpu"))
    with torch.autocast("cpu", torch.bfloat16):
        few, _ = pool.batch(0, 4, random, 4)
    assert len(pool._parts) == 1
    whole, _ = pool.batch(0, 20, random)
    places = [pool.places(0, *more)[0] for more in ((4, 4), (20,))]
    a = few.protected[places[0].argsort()]
    assert torch.equal(a, whole.protected[places[1].argsort()][:4])


def test_averaging_and_what_a_secret_changes(bench: Bench, minusface: MinusFace) -> None:
    found = run_averaging(bench, Target(minusface), (1, 16))
    assert [one.extra["images"] for one in found] == [1, 16]
    assert found[1].points
    # Twenty steps find no face in them, and say so.
    assert [one.stuck for one in found] == [True, True]
    secret = Target(minusface.choosing("secret", secret=b"s" * 32))
    drawn, derived = run_secret(bench, Target(minusface), secret)
    assert drawn.measures["equal photos recognised"] == 0
    assert derived.measures["equal photos recognised"] == 1


def test_tests_of_two_fixed_permutations_differ(bench: Bench, minusface: MinusFace) -> None:
    one, two = (bench.tests(Target(minusface.choosing("fixed", n))) for n in (1, 2))
    assert not torch.equal(one.protected, two.protected)
    again = protect_all(
        Target(minusface), bench.scene.test, torch.Generator().manual_seed(0), bench.device
    )
    assert again.protected.shape == one.protected.shape

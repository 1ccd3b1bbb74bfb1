"""What a run refuses before it writes anything: another optimiser, one sample, numbers out of range."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from minusface import checkpoint
from minusface.checkpoint import Card
from minusface.config import (
    BranchConfig,
    CodecConfig,
    DataConfig,
    GeneratorConfig,
    LossConfig,
    OptimizerConfig,
    ScheduleConfig,
    StageTwoConfig,
    StartConfig,
    TrainConfig,
)
from minusface.protect import Protector
from minusface.train.build import build_task
from minusface.train.run import build, train
from minusface.train.settings import check_settings
from tests.train.test_run import SIZE, branched, draw_people, losses, refused, settings, stop_at


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_people(tmp_path_factory.mktemp("faces"))


@pytest.mark.parametrize(("first", "then"), [("sgd", "adamw"), ("adamw", "muon"), ("muon", "sgd")])
def test_going_on_with_another_optimiser(
    people: Path, tmp_path: Path, first: Any, then: Any
) -> None:
    config = settings(
        people, tmp_path / "run", task="plain", optimizer=OptimizerConfig(first, lr=1e-3)
    )
    train(config, report=stop_at(2))
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    other = replace(config, optimizer=OptimizerConfig(then, lr=1e-3))
    refused(
        lambda: train(other, resume=True),
        str(tmp_path / "run" / "last"),
        f"was trained with optimizer.name {first}, the config has {then}",
    )
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before
    # Another rate is the user's to choose.
    lower = replace(config, optimizer=OptimizerConfig(first, lr=1e-4))
    assert train(lower, resume=True).step == 6


def test_going_on_with_another_batch_of_a_branch(people: Path, tmp_path: Path) -> None:
    config = branched(people, tmp_path / "run", 1.0, 1.0)
    train(config, report=stop_at(2))
    first, second = config.data.branches
    other = DataConfig(branches=(first, replace(second, batch_size=4)))
    refused(
        lambda: train(replace(config, data=other), resume=True),
        "data.branches.1.batch_size 3, the config has 4",
    )
    assert train(config, resume=True).step == 6


def test_one_sample(people: Path, tmp_path: Path) -> None:
    start = tmp_path / "stage1"
    config = settings(people, start, epochs=0.1, batch_size=1)
    refused(lambda: train(config), "batch_size 1: one sample", "freeze_batchnorm")
    assert not start.exists()
    looked = replace(config, loss=LossConfig(shuffled=1.0))
    refused(lambda: train(looked), "batch_size 1: one sample")
    # As wide as a row of one sample is, its response was a view, which no step could be taken with.
    assert train(replace(config, freeze_batchnorm=True)).step == 1
    assert all(value == value for value in losses(start)[0].values())
    alone = replace(
        config, out=str(tmp_path / "alone"), loss=LossConfig(beta=0.0, shuffled=1.0, views=2)
    )
    assert train(alone).step == 1
    second = settings(
        people,
        tmp_path / "stage2",
        task="stage2",
        epochs=0.1,
        batch_size=1,
        start=StartConfig(generator=str(start)),
    )
    assert train(second).step == 1  # three permutations are three samples
    single = replace(second, out=str(tmp_path / "b"), stage2=StageTwoConfig(permutations=1))
    refused(lambda: train(single), "batch_size 1: one sample")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codec": CodecConfig(ratio=0)}, "codec.ratio 0: expected at least 1 and at most 32"),
        ({"codec": CodecConfig(ratio=-1)}, "codec.ratio -1: expected at least 1 and at most 32"),
        (
            {"codec": CodecConfig(ratio=1000)},
            "codec.ratio 1000: expected at least 1 and at most 32",
        ),
        ({"seed": 2**64}, f"seed {2**64}: expected at least 0 and less than {2**63}"),
        ({"seed": 2**63}, f"seed {2**63}"),
        ({"schedule": ScheduleConfig(gamma=-0.1)}, "schedule.gamma -0.1: expected at least 0"),
        ({"schedule": ScheduleConfig(gamma=float("nan"))}, "schedule.gamma nan"),
        (
            {"data": DataConfig(branches=(BranchConfig("a"), BranchConfig("b", weight=-1.0)))},
            "data.branches.1.weight -1.0: expected at least 0",
        ),
        (
            {"data": DataConfig(branches=(BranchConfig("a", batch_size=0),))},
            "data.branches.0.batch_size 0: expected at least 1",
        ),
    ],
)
def test_numbers_out_of_range(changes: dict[str, Any], message: str) -> None:
    refused(lambda: check_settings(replace(TrainConfig(), **changes)), message)


def test_the_largest_seed(people: Path, tmp_path: Path) -> None:
    assert train(settings(people, tmp_path / "run", epochs=0.1, seed=2**63 - 1)).step == 1


def test_building_draws_from_the_config_and_leaves_all_generators_as_they_are(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    config = settings(people, tmp_path / "run", seed=5)
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        seeded.clear()
        before = torch.get_rng_state()
        states.append(build_task(config, 4, None).state_dict())
        assert torch.equal(torch.get_rng_state(), before)
        assert not seeded, "torch.manual_seed seeds GPUs, which nothing puts back"
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


@pytest.mark.parametrize("codec", [CodecConfig("dwt", SIZE, 2), CodecConfig("dct", SIZE, 4)])
def test_a_generator_of_other_features_is_no_start(
    people: Path, tmp_path: Path, codec: CodecConfig
) -> None:
    before = Protector(CodecConfig("dct", SIZE, 2), GeneratorConfig(4))
    card, start = Card("stage1", before.spec()), tmp_path / "stage1"
    checkpoint.save(start, card, {"model": before.state_dict()})
    config = settings(people, tmp_path / "run", codec=codec, start=StartConfig(str(start)))
    refused(
        lambda: build(config),
        f"start.generator {start}: made with codec dct of ratio 2",
        f"the config has {codec.name} of ratio {codec.ratio}",
    )
    # Crops of another size have the same features.
    same = replace(config, codec=CodecConfig("dct", 32, 2), data=DataConfig("synthetic:4x3"))
    build(same)

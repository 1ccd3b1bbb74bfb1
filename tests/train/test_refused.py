"""What a run refuses before it writes anything: another optimiser, one sample, numbers out of range."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from minusface.config import (
    BranchConfig,
    CodecConfig,
    DataConfig,
    LossConfig,
    OptimizerConfig,
    ScheduleConfig,
    StageTwoConfig,
    StartConfig,
    TrainConfig,
)
from minusface.train.run import train
from minusface.train.settings import check_settings
from tests.train.test_run import branched, draw_people, losses, refused, settings, stop_at


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_people(tmp_path_factory.mktemp("faces"))


@pytest.mark.parametrize(("first", "then"), [("sgd", "adamw"), ("adamw", "sgd")])
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

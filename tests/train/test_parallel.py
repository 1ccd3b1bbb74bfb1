"""Training with several processes: the losses and weights of one, whatever their number."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from minusface import collectives
from minusface.checkpoint import load_card, load_part
from minusface.config import (
    AugmentConfig,
    BranchConfig,
    CodecConfig,
    DataConfig,
    DistillConfig,
    GeneratorConfig,
    HeadConfig,
    LossConfig,
    OptimizerConfig,
    RecognizerConfig,
    ScheduleConfig,
    StageTwoConfig,
    StartConfig,
    TrainConfig,
)
from minusface.config_file import config_yaml
from minusface.data import SyntheticFaces
from minusface.errors import MinusfaceError
from minusface.recognize import Recognizer
from minusface.share import Dropout, Share, sharing
from minusface.train import run
from minusface.train.augment import augment
from minusface.train.build import build_task
from minusface.train.distort import distort
from minusface.train.plan import Progress
from minusface.train.run import train
from minusface.train.tasks import Task
from tests.processes import free_port, start, together

SIZE = 16
FACES, PEOPLE, IMAGES = "synthetic:10x8", 10, 8
# Where an activation is zero but for rounding, processes may take ReLU's other side, and have another
# gradient at once. What that makes of losses and weights is as small as the rate; float64, where it does not
# happen, is tried at a large one.
LR = 1e-6
HEADS = ("arcface", "cosface", "curricularface", "adaface")


def settings(out: Path, **changes: Any) -> TrainConfig:
    """Batches of eight, ten an epoch, with every draw there is."""
    base = TrainConfig(
        task="stage1",
        out=str(out),
        epochs=2,
        batch_size=8,
        device="cpu",
        log_every=1,
        freeze_batchnorm=True,
        codec=CodecConfig("dct", SIZE, 2),
        generator=GeneratorConfig(4),
        recognizer=RecognizerConfig("ir_lite", 16),
        head=HeadConfig(scale=8.0),
        loss=LossConfig(sparsity=0.1),
        optimizer=OptimizerConfig("sgd", lr=LR),
        schedule=ScheduleConfig("cosine", warmup=0.5),
        data=DataConfig(faces=FACES, shift=1, augment=AugmentConfig(0.3, 0.3, 0.2, 0.4, 0.3, 0.3)),
    )
    return replace(base, **changes)


def several(configs: list[TrainConfig], resume: bool = False) -> None:
    """What a process of several does."""
    for config in configs:
        train(config, resume=resume)


def losses(out: str) -> list[dict[str, float]]:
    return [line["losses"] for line in log(out)]


def whole(out: str) -> dict[str, torch.Tensor]:
    """Every tensor of a run's last/, its shards joined."""
    found: dict[str, torch.Tensor] = {}
    pieces: dict[str, list[tuple[int, torch.Tensor]]] = {}
    for part in load_card(Path(out) / "last").files:
        for name, tensor in load_part(Path(out) / "last", part).items():
            bare, _, first = name.partition("#")
            if first:
                pieces.setdefault(bare, []).append((int(first), tensor))
            else:
                found[bare] = tensor
    for name, parts in pieces.items():
        found[name] = torch.cat([tensor for _, tensor in sorted(parts, key=lambda part: part[0])])
    return found


def close(ours: str, theirs: str, tolerance: float = 1e-5, moments: float = 0.1) -> None:
    """Losses relative to themselves, tensors to their largest value; biases begin at 0: to 0.1 at least."""
    mine, others = losses(ours), losses(theirs)
    assert len(mine) == len(others)
    for a, b in zip(mine, others, strict=True):
        assert a == pytest.approx(b, rel=tolerance)
    first, second = whole(ours), whole(theirs)
    assert first.keys() == second.keys()
    for name, tensor in second.items():
        error = (first[name].double() - tensor.double()).abs().max()
        largest = float(tensor.double().abs().max())
        # Moments are gradients, and have what a rate makes small at its full size.
        moment = name.startswith("optimizer")
        most = moments * largest if moment else tolerance * max(largest, 0.1)
        assert error <= most, (name, float(error), largest)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Twenty steps of stage 1 in one process."""
    config = settings(tmp_path_factory.mktemp("one") / "run")
    train(config)
    return config


@pytest.mark.parametrize("size", [2, 4])
def test_the_number_of_processes_changes_nothing(
    one: TrainConfig, tmp_path: Path, size: int
) -> None:
    """Twenty steps of stage 1, the L1 of the generator included."""
    config = settings(tmp_path / "run")
    together(size, several, [config])
    assert len(losses(one.out)) == 20
    assert losses(one.out)[0].keys() >= {"l1", "margin", "sparsity", "total"}
    close(config.out, one.out)
    card = load_card(Path(config.out) / "last")
    assert [part for part in card.files if part.startswith("shard")] == [
        f"shard{number}" for number in range(size)
    ]


def in_float64(configs: list[TrainConfig]) -> None:
    """Runs whose weights and crops are wide."""

    def wide(*args: Any) -> Task:
        return build_task(*args).double()

    def crops(images: torch.Tensor) -> torch.Tensor:
        return images.double() / 127.5 - 1

    with patch.object(run, "build_task", wide), patch.object(run, "to_crops", crops):
        several(configs)


def wide_runs(root: Path) -> list[TrainConfig]:
    """The tasks without a codec, which is computed in float32 always; all heads; at a large rate."""
    base = settings(
        root / "toy",
        task="toy",
        codec=CodecConfig("raw", SIZE),
        epochs=1.0,
        optimizer=OptimizerConfig("sgd", lr=1e-2, clip=20.0),
        loss=LossConfig(),
    )
    plain = replace(base, task="plain", epochs=0.3)
    heads = ((name, HeadConfig(name, 8.0, 0.3, sample_rate=0.5)) for name in HEADS)
    branch = BranchConfig(faces=FACES, batch_size=4, scale=8.0)
    data = DataConfig(branches=(branch, replace(branch, weight=0.5)))
    return [
        base,
        *(replace(plain, out=str(root / name), head=head) for name, head in heads),
        replace(plain, out=str(root / "branches"), data=data),
    ]


def test_at_a_large_rate_too_but_for_rounding(tmp_path: Path) -> None:
    ours, theirs = wide_runs(tmp_path / "two"), wide_runs(tmp_path / "one")
    in_float64(theirs)
    together(2, in_float64, ours)
    for mine, other in zip(ours, theirs, strict=True):
        # AdaFace's running statistics are float32.
        wide = 1e-9 if mine.head.name != "adaface" else 1e-5
        close(mine.out, other.out, wide, moments=100 * wide)


def variants(root: Path, stage_one: str) -> list[TrainConfig]:
    """The other heads and tasks, a few steps each."""
    faces = SyntheticFaces(PEOPLE, IMAGES, seed=0, size=SIZE)
    names = np.array([faces[index].key for index in range(len(faces))])
    random = np.random.default_rng(0)
    rows = random.normal(size=(2, len(names), 12)).astype(np.float32)
    root.mkdir(parents=True)
    np.savez(root / "teacher.npz", names=names, plain=rows[0], flipped=rows[1])
    short = settings(root, epochs=0.4)
    generator = StartConfig(generator=stage_one)
    views = StageTwoConfig(permutations=2, consistency=0.5)
    clipped = OptimizerConfig("adamw", lr=1e-4, clip=0.5)
    return [
        *(replace(short, out=str(root / n), head=HeadConfig(n, 8.0, 0.3)) for n in HEADS[1:]),
        replace(short, out=str(root / "muon"), optimizer=OptimizerConfig("muon", lr=1e-4)),
        replace(
            short, out=str(root / "stage2"), task="stage2", start=generator, stage2=views,
            head=HeadConfig("adaface", 8.0, 0.4, sample_rate=0.5), optimizer=clipped,
        ),
        replace(
            short, out=str(root / "distilled"), task="plain",
            distill=DistillConfig(str(root / "teacher.npz"), relation=0.3), head=HeadConfig(weight=0.0),
        ),
    ]  # fmt: skip


def test_nor_with_other_heads_tasks_and_data(one: TrainConfig, tmp_path: Path) -> None:
    ours, theirs = (variants(tmp_path / name, one.out) for name in ("two", "one"))
    several(theirs)
    together(2, several, ours)
    for mine, other in zip(ours, theirs, strict=True):
        # Adam divides by the size of gradients, also by that of rounding errors; Muon rounds to bfloat16.
        close(mine.out, other.out, {"sgd": 1e-5, "adamw": 1e-4, "muon": 1e-3}[mine.optimizer.name])
    moved = next(whole(config.out) for config in ours if config.optimizer.name == "muon")
    centres = next(tensor for name, tensor in moved.items() if name.endswith("centres"))
    # Of which a process has rows alone: not turned, but moved by AdamW.
    assert any(n.endswith("exp_avg") and t.shape == centres.shape for n, t in moved.items())


# --- checkpoints ------------------------------------------------------------------------------------


def test_trained_on_four_gone_on_with_two_used_on_one(one: TrainConfig, tmp_path: Path) -> None:
    config = settings(tmp_path / "run", epochs=2)
    together(4, stopped_at, config, 6)
    assert load_card(tmp_path / "run").metrics["step"] == 6
    together(2, several, [config], True)
    close(config.out, one.out)
    first, second = (Recognizer.load(path).backbone.state_dict() for path in (config.out, one.out))
    assert first.keys() == second.keys()
    # And with one process, from what two wrote.
    longer = replace(config, epochs=2.5)
    train(longer, resume=True)
    assert load_card(tmp_path / "run").metrics["step"] == 25
    assert set(load_card(tmp_path / "run").files) == {"model", "training"}


def stopped_at(config: TrainConfig, step: int) -> None:
    """A run that is asked to stop after a step, in one of the processes only."""

    def ask(progress: Progress) -> None:
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    outcome = train(config, report=ask)
    assert (outcome.step, outcome.interrupted) == (step, True)


def killed(config: TrainConfig, rank: int, renames: int, resume: bool) -> None:
    """A run of which one process is killed: after so many files, or at the parent's time where < 0."""
    if collectives.rank() == rank and renames >= 0:
        real, seen = os.replace, iter(range(10**6))

        def replace_or_die(*paths: Any) -> None:
            if next(seen) == renames:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*paths)

        os.replace = replace_or_die  # type: ignore[assignment]
    train(config, resume=resume)


def end(processes: list[BaseProcess], victim: BaseProcess) -> None:
    """Wait for one, and end the others, as torchrun does."""
    victim.join(60)
    for process in processes:
        process.join(0.3)
        process.terminate()
        process.join(30)
        assert not process.is_alive()


def whole_save(out: str) -> int:
    """The step of the last whole checkpoint, every part of it read; 0 where there is none."""
    if not (Path(out) / "last" / "card.json").is_file():
        return 0
    whole(out)
    return int(load_card(Path(out) / "last").metrics["step"])


def test_killed_in_the_middle_of_a_save(one: TrainConfig, tmp_path: Path) -> None:
    """Of one of five files: model, training, two shards, card."""
    config = settings(tmp_path / "run", save_every=2, data=one.data)
    step, resume = 0, False
    # config.yaml is the first file, a save has five.
    for number in (1, 3, 5):
        processes, _ = start(2, killed, config, 0, number + 5 * (number > 1), resume)
        end(processes, processes[0])
        assert processes[0].exitcode == -signal.SIGKILL
        now = whole_save(config.out)
        # The first dies in its first save; each later one in its second.
        assert now == step + 2 * (number > 1)
        step, resume = now, now > 0
    together(2, several, [config], True)
    assert whole_save(config.out) == 20
    close(config.out, one.out)


def test_killed_at_any_moment(one: TrainConfig, tmp_path: Path) -> None:
    random = np.random.default_rng()
    config = settings(tmp_path / "run", save_every=3)
    for _ in range(2):
        before = whole_save(config.out)
        processes, _ = start(2, killed, config, 0, -1, before > 0)
        victim = processes[int(random.integers(2))]
        time.sleep(float(random.uniform(0.5, 3.0)))
        victim.kill()
        end(processes, victim)
        logged = [line["step"] for line in log(config.out)]
        after = whole_save(config.out)
        assert after >= before
        # A log line comes before the save of its step.
        assert after >= max(logged, default=0) - 3
    if whole_save(config.out) < 20:
        together(2, several, [config], whole_save(config.out) > 0)
    close(config.out, one.out)


def test_torchrun_starts_anew_from_the_last_save(one: TrainConfig, tmp_path: Path) -> None:
    config = settings(tmp_path / "run", save_every=2, epochs=0.5)
    (tmp_path / "config.yaml").write_text(config_yaml(config), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
               "--max-restarts", "2", "--master-port", str(free_port()),
               str(Path(__file__).parent / "killed_once.py"), str(tmp_path / "config.yaml")]  # fmt: skip
    made = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert whole_save(config.out) == 5
    steps = [line["step"] for line in log(config.out)]
    assert steps == [1, 2, 3, 4, 5]
    # It went on from the last whole save, with each step once more at most.
    told = [int(step) for step in re.findall(r"^(\d)/5 ", made.stderr, re.MULTILINE)]
    assert told == [1, 2, 3, 4, 3, 4, 5]
    assert losses(config.out)[0] == pytest.approx(losses(one.out)[0], rel=1e-5)
    # Only the first process speaks.
    assert made.stderr.count("task     stage1") == 2, made.stderr
    assert made.stdout.count("done: ") == 1
    assert "Traceback" not in made.stderr


# --- refusals ---------------------------------------------------------------------------------------


def refusals(configs: list[TrainConfig]) -> list[str]:
    found = []
    for config in configs:
        with pytest.raises(MinusfaceError) as error:
            train(config)
        found.append(str(error.value))
    return found


def test_what_several_processes_cannot_do(tmp_path: Path) -> None:
    base = settings(tmp_path / "run")
    branch = BranchConfig(faces=FACES, batch_size=5)
    cases = {
        "batch size 10: expected a multiple of the 3": replace(base, batch_size=10),
        "batch size 5: expected a multiple of the 3": replace(
            base, task="plain", data=DataConfig(branches=(branch,))
        ),
        "2 people, expected 3 or more": replace(
            base, batch_size=6, data=DataConfig(faces="synthetic:2x8")
        ),
        "sync_batchnorm true: works on GPUs only": replace(base, sync_batchnorm=True),
    }
    for found in together(3, refusals, list(cases.values())):
        for said, text in zip(cases, found, strict=True):
            assert said in text
            assert "\n" not in text
    assert not (tmp_path / "run").exists()


def exploded(config: TrainConfig) -> str:
    with pytest.raises(MinusfaceError) as error:
        train(config)
    return str(error.value)


def test_the_keys_of_all_processes_are_told(tmp_path: Path) -> None:
    config = settings(tmp_path / "run", optimizer=OptimizerConfig("sgd", lr=1e12))
    first, second = together(2, exploded, config)
    assert first == second
    assert first.count("synthetic/") == 8
    assert "nothing saved yet" in first


def log(out: str) -> list[dict[str, Any]]:
    """The lines that tell of steps, not of evaluations."""
    path = Path(out) / "log.jsonl"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines() if '"losses"' in line]


# --- draws ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(12, 5), (12, 5, 3, 3)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dropout_masks_are_those_of_the_whole_batch(shape: tuple[int, ...], layout: Any) -> None:
    if len(shape) == 2 and layout is torch.channels_last:
        return
    layer, views = Dropout(0.4), 2
    crops = torch.randn(shape).to(memory_format=layout)
    torch.manual_seed(1)
    expected = layer(crops).unflatten(0, (views, 6))
    for rows in ([0, 1, 2], [3, 4, 5], [1, 4]):
        mine = crops.unflatten(0, (views, 6))[:, rows].flatten(0, 1).to(memory_format=layout)
        torch.manual_seed(1)
        with sharing(Share(torch.tensor(rows), 6), views):
            assert torch.equal(layer(mine).unflatten(0, (views, len(rows))), expected[:, rows])


def test_augmentation_is_that_of_the_whole_batch() -> None:
    crops = torch.rand(8, 3, SIZE, SIZE) * 2 - 1
    chances = AugmentConfig(0.6, 0.6, 0.6, 0.6, 0.6, 0.6)

    def made(part: torch.Tensor, share: Share | None) -> torch.Tensor:
        random = torch.Generator().manual_seed(4)
        moved, _ = augment(part, random, shift=2, share=share)
        return distort(moved, random, chances, share)

    expected = made(crops, None)
    for rows in ([0, 1, 2, 3], [6, 7], [5]):
        share = Share(torch.tensor(rows), 8)
        torch.testing.assert_close(made(crops[rows], share), expected[rows])

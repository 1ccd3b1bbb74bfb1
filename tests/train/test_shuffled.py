"""Stage 1 with a look ahead: what it computes, saves, and hands on to stage 2."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from minusface.config import (
    CodecConfig,
    DataConfig,
    GeneratorConfig,
    HeadConfig,
    LossConfig,
    OptimizerConfig,
    RecognizerConfig,
    StartConfig,
    TrainConfig,
)
from minusface.data import SyntheticFaces
from minusface.protect import Protector, draw_permutation
from minusface.train.build import build_task
from minusface.train.losses import Faces
from minusface.train.run import train
from minusface.train.shuffled import ShuffledStageOne
from tests.processes import together

SIZE, PEOPLE = 32, 8


def settings(**changes: object) -> TrainConfig:
    base = TrainConfig(
        task="stage1",
        epochs=1,
        batch_size=8,
        device="cpu",
        log_every=1,
        codec=CodecConfig("dct", SIZE, 4),
        generator=GeneratorConfig(4),
        recognizer=RecognizerConfig("ir_lite", 16),
        head=HeadConfig(scale=8.0),
        loss=LossConfig(shuffled=1.0),
        optimizer=OptimizerConfig("adamw", lr=1e-3),
        data=DataConfig(faces=f"synthetic:{PEOPLE}x6"),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def batch() -> Faces:
    faces = SyntheticFaces(PEOPLE, 1, seed=0, size=SIZE)
    images = torch.stack([torch.from_numpy(faces[i].image).permute(2, 0, 1) for i in range(6)])
    return Faces(images / 127.5 - 1, torch.arange(6), ["x"] * 6, torch.zeros(6, dtype=torch.bool))


def task_of(config: TrainConfig) -> ShuffledStageOne:
    task = build_task(config, PEOPLE, None)
    assert isinstance(task, ShuffledStageOne)
    return task


def test_it_sees_what_a_client_would_send() -> None:
    task, faces = task_of(settings()).eval(), batch()
    assert task.protector is not None
    order = draw_permutation(6, task.protector.codec.channels, torch.Generator().manual_seed(3))
    with torch.no_grad():
        regenerated, embeddings, latent, protected = task.look_ahead(faces.crops, order[None])
        torch.testing.assert_close(protected, task.protector(faces.crops, order), atol=1e-4, rtol=0)
        for ours, theirs in zip(
            (regenerated, embeddings, latent), task.regenerate(faces.crops), strict=True
        ):
            torch.testing.assert_close(ours, theirs)


def test_its_loss_moves_the_generator() -> None:
    config = settings(loss=LossConfig(alpha=0.0, beta=0.0, shuffled=1.0))
    task = task_of(config).train()
    losses = task(batch(), torch.Generator().manual_seed(0))
    torch.testing.assert_close(losses["total"], losses["shuffled"])
    losses["total"].backward()
    assert task.protector is not None
    moved = [
        p.grad is not None and bool(p.grad.any()) for p in task.protector.generator.parameters()
    ]
    assert sum(moved) > 0.8 * len(moved)
    assert all(p.grad is None or not p.grad.any() for p in task.recognizer.parameters())


def test_weight_zero_is_the_papers() -> None:
    assert not isinstance(build_task(settings(loss=LossConfig()), PEOPLE, None), ShuffledStageOne)


def test_a_run_goes_on_and_hands_both_recognisers_on(tmp_path: Path) -> None:
    config = settings(out=str(tmp_path / "one"))
    whole = train(config)
    half = replace(config, out=str(tmp_path / "two"), epochs=0.5)
    train(half)
    again = train(replace(half, epochs=1), resume=True)
    assert (whole.step, again.step) == (6, 6)
    first, second = (
        (tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("one", "two")
    )
    assert first[0].partition("samples")[0] == second[0].partition("samples")[0]
    start = StartConfig(generator=config.out, recognizer=config.out)
    stage2 = build_task(settings(task="stage2", loss=LossConfig(), start=start), PEOPLE, None)
    trained = task_of(settings(start=start))
    wanted = trained.viewer.state_dict()
    assert stage2.recognizer.state_dict().keys() == wanted.keys()
    fresh = task_of(settings()).viewer.state_dict()
    assert any(not torch.equal(fresh[k], v) for k, v in wanted.items())
    for name, tensor in stage2.recognizer.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name
    assert Protector.load(config.out).codec.channels == 48


def several(config: TrainConfig) -> None:
    train(config)


@pytest.mark.slow
def test_two_processes_make_the_same_step(tmp_path: Path) -> None:
    config = settings(freeze_batchnorm=True, epochs=0.34, optimizer=OptimizerConfig("sgd", lr=1e-6))
    import json

    outs = [tmp_path / "one", tmp_path / "two"]
    train(replace(config, out=str(outs[0])))
    together(2, several, replace(config, out=str(outs[1])))
    logs = [[json.loads(line) for line in (out / "log.jsonl").open()] for out in outs]
    assert len(logs[0]) == len(logs[1]) == 2
    for one, two in zip(*logs, strict=True):
        assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)

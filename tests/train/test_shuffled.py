"""Stage 1 with a look ahead, and an attacker: what it computes, saves, and hands on to stage 2."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from minusface.checkpoint import load_part
from minusface.config import (
    CodecConfig,
    DataConfig,
    EvalConfig,
    GeneratorConfig,
    HeadConfig,
    LossConfig,
    OptimizerConfig,
    RecognizerConfig,
    StartConfig,
    TrainConfig,
)
from minusface.errors import MinusfaceError
from minusface.evaluate.held_out import held_out
from minusface.protect import Protector, draw_permutation
from minusface.recognize import standardize
from minusface.train.build import build_task
from minusface.train.run import train
from minusface.train.shuffled import ShuffledStageOne
from tests.processes import together
from tests.train.drawn import PEOPLE, SIZE, batch


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
    # Nobody asks the residue's recogniser, so it is not computed and not trained.
    assert "identity" not in losses
    assert all(p.grad is None for p in task.recognizer.parameters())
    assert task.recognizers() == [task.viewer]


def test_an_untrained_recogniser_is_not_asked_for_held_out_pairs() -> None:
    loss, pairs = LossConfig(beta=0.0, shuffled=1.0), EvalConfig(pairs="pairs.txt")
    with pytest.raises(MinusfaceError, match=r"evaluation\.pairs: .* loss\.beta 0"):
        task_of(settings(loss=loss, evaluation=pairs))


@pytest.mark.parametrize("task", ["stage1", "toy"])
def test_no_best_is_chosen_by_an_untrained_recogniser(task: Any) -> None:
    drawn = settings(task=task, loss=LossConfig(beta=0.0, shuffled=1.0))
    assert drawn.evaluation.every > 0
    assert drawn.data.faces.startswith("synthetic")
    assert held_out(drawn) is None
    for trained in (replace(drawn, loss=LossConfig()), replace(drawn, task="stage2")):
        assert held_out(trained) is not None


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
    assert trained.viewer is not None
    wanted = trained.viewer.state_dict()
    assert stage2.recognizer.state_dict().keys() == wanted.keys()
    other = task_of(settings()).viewer
    assert other is not None
    fresh = other.state_dict()
    assert any(not torch.equal(fresh[k], v) for k, v in wanted.items())
    for name, tensor in stage2.recognizer.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name
    assert Protector.load(config.out).codec.channels == 48


AGAINST = LossConfig(alpha=0.0, beta=0.0, adversary=3.0, adversary_width=4, views=1)


def test_the_generator_works_against_the_attacker() -> None:
    """Both gradients of one step, against those of the attacker's loss taken plainly."""
    task, faces = task_of(settings(loss=AGAINST)).train(), batch()
    assert task.viewer is None
    assert task.adversary is not None
    assert task.protector is not None
    generator, attacker = task.protector.generator, task.adversary.unet
    losses = task(faces, torch.Generator().manual_seed(0))
    torch.testing.assert_close(losses["total"], losses["rebuilt"])
    losses["total"].backward()
    found = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    task.zero_grad(set_to_none=True)

    order = draw_permutation(6, 48, torch.Generator().manual_seed(0))
    protected = task.look_ahead(faces.crops, order[None])[-1]
    rebuilt = attacker(standardize(protected)).regenerated
    (rebuilt - faces.crops).abs().mean().backward()
    for name, parameter in (*generator.named_parameters(), *attacker.named_parameters()):
        assert parameter.grad is not None, name
    for name, parameter in task.named_parameters():
        if parameter.grad is None or name not in found:
            continue
        sign = -3.0 if "generator" in name else 1.0
        torch.testing.assert_close(found[name], parameter.grad * sign, rtol=1e-4, atol=1e-7)
    assert sum("generator" in name for name in found) > 20
    assert sum("adversary" in name for name in found) > 20


def test_the_attacker_may_read_what_no_permutation_changes() -> None:
    """And the generator then learns through the filter."""
    loss = replace(AGAINST, adversary_unmixed=True)
    task, faces = task_of(settings(loss=loss)).train(), batch()
    assert task.adversary is not None
    assert task.adversary.unet.first.in_channels == 24
    assert task.protector is not None
    task(faces, torch.Generator().manual_seed(0))["total"].backward()
    for parameter in task.protector.generator.parameters():
        assert parameter.grad is not None
        assert bool(parameter.grad.isfinite().all())


def test_the_attacker_has_the_recognisers_rate_and_is_no_part_of_the_model(tmp_path: Path) -> None:
    config = settings(loss=replace(AGAINST, beta=1.0), out=str(tmp_path / "one"))
    whole = train(config)
    half = replace(config, out=str(tmp_path / "two"), epochs=0.5)
    train(half)
    train(replace(half, epochs=1), resume=True)
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").open()]
        for name in ("one", "two")
    ]
    assert whole.step == len(logs[0]) == len(logs[1])
    assert [line["losses"] for line in logs[0]] == [line["losses"] for line in logs[1]]
    rates = logs[0][-1]["lr"]
    assert rates["adversary"] == rates["recognizer"] == 2 * rates["generator"]
    assert load_part(config.out, prefix="adversary.") == {}
    assert load_part(config.out, prefix="generator.") != {}
    assert logs[0][-1]["losses"]["rebuilt"] > 0


def several(config: TrainConfig) -> None:
    train(config)


@pytest.mark.slow
@pytest.mark.parametrize(
    "loss",
    [
        LossConfig(shuffled=1.0),
        LossConfig(shuffled=1.0, adversary=1.0),
        LossConfig(shuffled=1.0, beta=0.0),
    ],
)
def test_two_processes_make_the_same_step(tmp_path: Path, loss: LossConfig) -> None:
    optimizer = OptimizerConfig("sgd", lr=1e-6)
    config = settings(freeze_batchnorm=True, epochs=0.34, optimizer=optimizer, loss=loss)
    outs = [tmp_path / "one", tmp_path / "two"]
    train(replace(config, out=str(outs[0])))
    together(2, several, replace(config, out=str(outs[1])))
    logs = [[json.loads(line) for line in (out / "log.jsonl").open()] for out in outs]
    assert len(logs[0]) == len(logs[1]) == 2
    for one, two in zip(*logs, strict=True):
        assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)

"""Centres spread over processes: the losses and gradients of one head that holds them all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from minusface import collectives
from minusface.config import HeadConfig
from minusface.recognize import HEADS, build_head, head_loss
from minusface.recognize.heads import draw_centres
from minusface.recognize.sharded import draw_kept, sharded_loss
from tests.processes import together

CLASSES, SIZE, BATCH, STEPS = 11, 16, 8, 3


def batch(step: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(step)
    embeddings = torch.randn(BATCH, SIZE, generator=random) * (step + 1) * 4
    return embeddings, torch.randint(0, CLASSES, (BATCH,), generator=random)


def steps_of(name: Any, rate: float, whole: bool = False) -> dict[str, Tensor]:
    """Losses and gradients of a few steps, as this process has them; whole: from the head itself."""
    torch.manual_seed(0)
    shard = collectives.share_of(CLASSES)
    head = build_head(HeadConfig(name, scale=16.0, margin=0.3), SIZE, CLASSES, shard).train()
    found: dict[str, Tensor] = {}
    for step in range(STEPS):
        embeddings, labels = batch(step)
        each = BATCH // collectives.size()
        mine = slice(collectives.rank() * each, (collectives.rank() + 1) * each)
        own = embeddings[mine].clone().requires_grad_()
        head.zero_grad()
        if whole:
            loss = head_loss(head(own, labels), labels)
        else:
            random = torch.Generator().manual_seed(step)
            kept = draw_kept(shard, rate, random, own.device) if rate < 1 else None
            everyone = collectives.gather(own)
            loss = sharded_loss(head, everyone, collectives.gather_values(labels[mine]), kept)
        loss.backward()
        assert own.grad is not None
        assert head.centres.grad is not None
        found |= {f"loss{step}": loss.detach(), f"embeddings{step}": own.grad}
        found[f"centres{step}"] = head.centres.grad.clone()
    return found | {name: buffer.clone() for name, buffer in head.named_buffers()}


def everything(rate: float) -> dict[str, dict[str, Tensor]]:
    """Plain numbers, as they travel between processes."""
    found = {name: steps_of(name, rate) for name in HEADS}
    return {name: {k: v.tolist() for k, v in values.items()} for name, values in found.items()}


@pytest.mark.parametrize("name", HEADS)
def test_in_one_process_it_is_the_heads_own_loss(name: Any) -> None:
    ours, heads = steps_of(name, 1.0), steps_of(name, 1.0, whole=True)
    assert ours.keys() == heads.keys()
    for key, value in heads.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("size", "rate"), [(2, 1.0), (4, 1.0), (4, 0.4)])
def test_any_number_of_processes_gives_the_same(size: int, rate: float) -> None:
    parts = together(size, everything, rate)
    for name, one in everything(rate).items():
        for key, value in one.items():
            pieces = [torch.tensor(part[name][key]) for part in parts]
            joined = key.startswith(("embeddings", "centres"))
            for piece in [torch.cat(pieces)] if joined else pieces:
                torch.testing.assert_close(piece, torch.tensor(value), rtol=1e-5, atol=1e-6)


def test_sampling_is_a_softmax_over_those_kept() -> None:
    head = build_head(HeadConfig("arcface", 16.0, 0.3), SIZE, CLASSES)
    embeddings, labels = batch(0)
    kept = torch.zeros(CLASSES, dtype=torch.bool)
    kept[[1, 5]] = True
    chosen = torch.unique(torch.cat([labels, torch.tensor([1, 5])]))
    logits = head(embeddings, labels)[:, chosen]
    expected = torch.nn.functional.cross_entropy(logits, torch.searchsorted(chosen, labels))
    loss = sharded_loss(head, embeddings, labels, kept)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert head.centres.grad is not None
    touched = head.centres.grad.abs().sum(1).nonzero()[:, 0]
    assert touched.tolist() == chosen.tolist()
    assert kept.sum() == 2  # the caller's own is left alone


def test_what_is_kept_depends_on_seed_and_class_alone() -> None:
    def draw(shard: range, seed: int = 0, rate: float = 0.3) -> Tensor:
        random = torch.Generator().manual_seed(seed)
        return draw_kept(shard, rate, random, torch.device("cpu"))

    whole = draw(range(20_000))
    assert whole.float().mean() == pytest.approx(0.3, abs=0.015)
    assert torch.equal(torch.cat([draw(range(7_000)), draw(range(7_000, 20_000))]), whole)
    other = draw(range(20_000), seed=1)
    # Independent of each other: 0.3 * 0.3 in both.
    assert (other & whole).float().mean() == pytest.approx(0.09, abs=0.01)
    assert (whole[:-1] & whole[1:]).float().mean() == pytest.approx(0.09, abs=0.01)


@pytest.mark.parametrize(("classes", "size"), [(3, 5), (1000, 16), (331, 17), (48, 3), (97, 30)])
def test_centres_are_those_of_one_process(
    classes: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minusface.recognize.heads.DRAWN_AT_ONCE", 1 << 9)
    torch.manual_seed(3)
    whole, after = draw_centres(classes, size, range(classes)), torch.rand(1)
    for parts in (2, 3):
        made = []
        for number in range(parts):
            torch.manual_seed(3)
            made.append(draw_centres(classes, size, collectives.share_of(classes, number, parts)))
            # What is drawn next does not depend on the shard either.
            assert torch.equal(torch.rand(1), after)
        assert torch.equal(torch.cat(made), whole)

"""Recomputation changes memory, never a loss, a gradient or a batch norm's statistics."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import torch

from minusface.config import GeneratorConfig, HeadConfig, RecognizerConfig, TrainConfig
from minusface.train.build import build_task
from minusface.train.losses import Faces


def test_a_step_is_the_same_with_and_without() -> None:
    base = TrainConfig(
        task="stage1",
        generator=GeneratorConfig(4),
        recognizer=RecognizerConfig("ir_lite", 16, "as_is"),
        head=HeadConfig(margin=0.1),
    )
    random = torch.Generator().manual_seed(5)
    crops = torch.rand(3, 3, 112, 112, generator=random) * 2 - 1
    faces = Faces(crops, torch.tensor([0, 1, 2]), [""] * 3, torch.zeros(3, dtype=torch.bool))
    states = []
    for recompute in (False, True):
        task = build_task(dataclasses.replace(base, recompute=recompute), 3, None).train()
        torch.manual_seed(0)  # dropout
        loss = task(faces, random)["total"]
        loss.backward()
        gradients = {n: p.grad for n, p in task.named_parameters()}
        states.append((loss, gradients, task.state_dict()))
    (loss, gradients, state), (again, gradients_again, state_again) = states
    assert torch.equal(loss, again)
    for name, gradient in gradients.items():
        other = gradients_again[name]
        assert gradient is not None, name
        assert other is not None, name
        assert torch.allclose(gradient, other, rtol=1e-4, atol=1e-6), name
    for name, value in state.items():
        assert torch.equal(value, state_again[name]), name
    assert any("num_batches_tracked" in name for name in state)


def test_the_allocator_takes_both_settings() -> None:
    """In a process of its own: they last."""
    code = (
        "from minusface.memory import keep_freed_memory as k, return_freed_memory as r;"
        "import sys; sys.exit(0 if k() == r() else 1)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0

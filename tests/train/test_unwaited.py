"""A training step off the CPU: on torch's meta device, which has shapes but no values.

Whatever asks for a value there (``.item()``, ``nonzero``, a branch on a tensor) fails. On a GPU it would
make the host wait for the device in every step, and forbid CUDA graphs. Features are written down here,
as on GPUs.
"""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

import pytest
import torch
from benchmarks.step_setup import STAGES, build_training

autocast, is_on, narrow = torch.autocast, torch.is_autocast_enabled, torch.get_autocast_dtype


@pytest.fixture(autouse=True)
def _no_autocast_on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch knows no autocast for this device, not even one that is off."""

    def unless_meta(call: Any, answer: Any) -> Any:
        def asked(device: str = "cpu", *given: Any, **named: Any) -> Any:
            return answer() if device == "meta" else call(device, *given, **named)

        return asked

    monkeypatch.setattr("torch.autocast", unless_meta(autocast, contextlib.nullcontext))
    monkeypatch.setattr("torch.is_autocast_enabled", unless_meta(is_on, lambda: False))
    monkeypatch.setattr("torch.get_autocast_dtype", unless_meta(narrow, lambda: torch.float32))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("backbone", ["ir_lite", "mobilefacenet", "ir_18"])
def test_a_step_waits_for_no_value(stage: str, backbone: str) -> None:
    options = {"batch": 4, "threads": 1, "width": 4, "views": 2, "size": 112, "device": "meta"}
    made = build_training(stage, argparse.Namespace(backbone=backbone, **options))
    losses = made.task(made.faces, made.random)
    assert losses["total"].device.type == "meta"
    losses["total"].backward()
    trained = [weight for group in made.task.groups().values() for weight in group]
    assert all(weight.grad is not None for weight in trained)


def test_a_value_asked_for_would_fail() -> None:
    with pytest.raises(RuntimeError, match="meta"):
        torch.ones(1, device="meta").item()

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

from minusface.config import CodecConfig, GeneratorConfig, HeadConfig, LossConfig, TrainConfig
from minusface.config import RecognizerConfig as Backbone
from minusface.recognize import HEADS, DistillLoss, TeacherFile, build_head
from minusface.recognize.relation import RelationLoss
from minusface.recognize.sharded import sharded_loss
from minusface.train.build import build_task
from minusface.train.losses import Faces

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


def meta(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, device="meta")


@pytest.mark.parametrize(("shuffled", "adversary"), [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_nor_does_stage_one_with_others_beside_it(shuffled: float, adversary: float) -> None:
    config = TrainConfig(
        task="stage1",
        codec=CodecConfig("dct", 112),
        generator=GeneratorConfig(4),
        recognizer=Backbone("mobilefacenet", 16, "standardized"),
        loss=LossConfig(shuffled=shuffled, adversary=adversary, adversary_width=4),
    )
    task = build_task(config, 10, None).train().to("meta")
    labels = torch.zeros(4, dtype=torch.long, device="meta")
    faces = Faces(meta(4, 3, 112, 112), labels, [""] * 4, labels > 0)
    task(faces, torch.Generator().manual_seed(0))["total"].backward()


@pytest.mark.parametrize("head", HEADS)
def test_nor_does_a_softmax_in_parts(head: Any) -> None:
    made = build_head(HeadConfig(head), 8, 20).to("meta")
    embeddings = meta(4, 8).requires_grad_()
    sharded_loss(made, embeddings, torch.zeros(4, dtype=torch.long, device="meta")).backward()
    assert embeddings.grad is not None


def test_nor_does_distillation_from_a_file() -> None:
    names = [f"{number}.jpg" for number in range(4)]
    teacher = TeacherFile(names, torch.eye(4), torch.eye(4).flip(1), "a teacher")
    mirrored = torch.zeros(4, dtype=torch.bool, device="meta")
    targets = teacher.targets(names, meta(4, 3, 112, 112), mirrored)
    embeddings = meta(4, 4).requires_grad_()
    DistillLoss(4, teacher.size).to("meta")(embeddings, targets).total.backward()
    RelationLoss.of(teacher, 0.1).to("meta")(embeddings, targets).backward()
    assert embeddings.grad is not None


def test_a_value_asked_for_would_fail() -> None:
    with pytest.raises(RuntimeError, match="meta"):
        torch.ones(1, device="meta").item()

"""A training step of each stage, ready to be run: what the benchmarks of the step share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

    from minusface.train.losses import Faces
    from minusface.train.tasks import Task

ROOT = Path(__file__).resolve().parents[1]
CLASSES = 1000
STAGES = ("stage1", "stage2")


class Training(NamedTuple):
    """A task with random weights, its optimiser and a batch."""

    task: Task
    optimizer: torch.optim.Optimizer
    faces: Faces
    random: torch.Generator
    views: int


def add_options(parser: argparse.ArgumentParser, batch: int, width: int, backbone: str) -> None:
    """What of a step can be chosen."""
    numbers = {"batch": batch, "threads": 2, "width": width, "views": 3, "repeats": 3, "size": 112}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--backbone", default=backbone)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)


def build_training(
    stage: str, options: argparse.Namespace, recompute: bool = False, inner: bool = True
) -> Training:
    """The task of a stage as ``minusface train`` builds it, on random crops.

    Args:
        stage: ``stage1`` or ``stage2``.
        options: of :func:`add_options`.
        recompute: as in a config.
        inner: channels innermost, as the package has them.
    """
    import torch

    from minusface.checkpoint import Card, save
    from minusface.config import (
        CodecConfig,
        GeneratorConfig,
        OptimizerConfig,
        RecognizerConfig,
        StageTwoConfig,
        StartConfig,
        TrainConfig,
    )
    from minusface.protect import Protector
    from minusface.train.build import build_task
    from minusface.train.losses import Faces
    from minusface.train.schedule import build_optimizer

    views = options.views if stage == "stage2" else 1
    folder = ROOT / "runs" / ".bench-generator"
    generator, codec = GeneratorConfig(options.width), CodecConfig("dct", options.size)
    base = TrainConfig(
        task="stage2" if stage == "stage2" else "stage1",
        codec=codec,
        generator=generator,
        recognizer=RecognizerConfig(options.backbone, 512, "as_is"),
        stage2=StageTwoConfig(permutations=views),
        recompute=recompute,
        start=StartConfig(generator=str(folder)) if stage == "stage2" else StartConfig(),
    )
    if stage == "stage2":
        protector = Protector(codec, generator)
        tensors = {f"generator.{k}": v for k, v in protector.generator.state_dict().items()}
        save(folder, Card("stage1", protector.spec()), {"model": tensors})
    device = torch.device(options.device)
    task = build_task(base, CLASSES, None).train().to(device)
    if inner:
        task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    random, batch = torch.Generator().manual_seed(0), options.batch
    crops = torch.rand(batch, 3, options.size, options.size, generator=random) * 2 - 1
    labels = torch.randint(0, CLASSES, (batch,), generator=random)
    flipped = torch.zeros(batch, dtype=torch.bool)
    faces = Faces(crops.to(device), labels.to(device), [""] * batch, flipped)
    return Training(task, build_optimizer(OptimizerConfig(), task.groups()), faces, random, views)

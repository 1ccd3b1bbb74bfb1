"""A stage-2 checkpoint that was never trained, and its export: what products are made of, small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minusface import checkpoint
from minusface.config import CodecConfig, GeneratorConfig, InputTransform, RecognizerConfig
from minusface.protect import Protector
from minusface.recognize import Recognizer

SIZE, WIDTH, DIMENSIONS = 32, 2, 16


def tiny_checkpoint(
    folder: Path,
    copies: int = 1,
    codec: str = "dct",
    size: int = SIZE,
    input: InputTransform = "standardized",
) -> Path:
    """Seeded weights; the recogniser's batch norms have seen protected noise."""
    torch.manual_seed(0)
    protector = Protector(CodecConfig(codec, size=size), GeneratorConfig(WIDTH), copies)
    config = RecognizerConfig("ir_lite", DIMENSIONS, input)
    recognizer = Recognizer(config, 3 * copies, size)
    recognizer.train()
    with torch.no_grad():
        for _ in range(3):
            recognizer(torch.rand(4, 3 * copies, size, size))
    recognizer.eval()
    return saved(folder, "stage2", protector, recognizer)


def saved(
    folder: Path,
    task: str,
    protector: Protector | None,
    recognizer: Recognizer | None,
    config: dict[str, Any] | None = None,
) -> Path:
    """A checkpoint of either or both."""
    parts: dict[str, Tensor] = {}
    model: dict[str, Any] = {}
    if protector is not None:
        parts |= {f"generator.{k}": v for k, v in protector.generator.state_dict().items()}
        model |= protector.spec()
    if recognizer is not None:
        parts |= {f"recognizer.{k}": v for k, v in recognizer.state_dict().items()}
        model["recognizer"] = recognizer.spec()
    checkpoint.save(folder, checkpoint.Card(task, model, config or {}), {"model": parts})
    return folder

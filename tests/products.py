"""A stage-2 checkpoint that was never trained, and its export: what products are made of, small."""

from __future__ import annotations

from pathlib import Path

import torch

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
    parts = {f"generator.{k}": v for k, v in protector.generator.state_dict().items()}
    parts |= {f"recognizer.{k}": v for k, v in recognizer.backbone.state_dict().items()}
    model = {**protector.spec(), "recognizer": recognizer.spec()}
    checkpoint.save(folder, checkpoint.Card("stage2", model), {"model": parts})
    return folder

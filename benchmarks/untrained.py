"""A stage-2 checkpoint of fresh, seeded weights: for measuring speed, which training does not change."""

from __future__ import annotations

from pathlib import Path

import torch

from minusface import checkpoint
from minusface.config import CodecConfig, GeneratorConfig, RecognizerConfig
from minusface.protect import Protector
from minusface.recognize import Recognizer


def untrained_checkpoint(
    folder: Path, width: int = 16, embedding: int = 128, size: int = 112
) -> Path:
    """Generator of a width, ``ir_lite`` recogniser whose batch norms have seen noise."""
    torch.manual_seed(0)
    protector = Protector(CodecConfig("dct", size=size), GeneratorConfig(width))
    recognizer = Recognizer(RecognizerConfig("ir_lite", embedding, "standardized"), 3, size)
    recognizer.train()
    with torch.no_grad():
        for _ in range(3):
            recognizer(torch.rand(4, 3, size, size))
    recognizer.eval()
    parts = {f"generator.{k}": v for k, v in protector.generator.state_dict().items()}
    parts |= {f"recognizer.{k}": v for k, v in recognizer.backbone.state_dict().items()}
    model = {**protector.spec(), "recognizer": recognizer.spec()}
    checkpoint.save(folder, checkpoint.Card("stage2", model), {"model": parts})
    return folder

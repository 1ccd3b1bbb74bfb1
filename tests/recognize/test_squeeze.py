"""An ir_lite's last layer in two thin ones."""

from __future__ import annotations

import pytest
import torch

from minusface.config import RecognizerConfig
from minusface.errors import MinusfaceError
from minusface.recognize import Recognizer
from minusface.recognize.squeeze import squeezed

SIZE, CHANNELS, EMBEDDING = 32, 256, 64


def recognizer(backbone: str) -> Recognizer:
    torch.manual_seed(3)
    return Recognizer(
        RecognizerConfig(backbone, EMBEDDING, "standardized"), 3, SIZE, "protected"
    ).eval()


def of_low_rank(rank: int) -> Recognizer:
    """An ir_lite whose last layer reads only so many directions of a pixel's channels."""
    made = recognizer("ir_lite")
    linear = made.backbone.output_layer[3]
    rows = linear.weight.data.view(EMBEDDING, CHANNELS, -1).transpose(1, 2)
    seen = torch.linalg.qr(torch.randn(CHANNELS, rank))[0]
    linear.weight.data = (rows @ seen @ seen.T).transpose(1, 2).reshape(EMBEDDING, -1)
    made.backbone.output_layer[0].weight.data.uniform_(0.2, 2.0)
    return made


def test_nothing_is_lost_of_a_layer_of_that_rank() -> None:
    whole, small = of_low_rank(96), recognizer("ir_lite_96")
    small.load_state_dict(squeezed(whole.state_dict()))
    images = torch.rand(4, 3, SIZE, SIZE)
    assert torch.allclose(whole(images), small(images), atol=1e-4)


def test_what_is_lost_of_others_is_the_least() -> None:
    whole = recognizer("ir_lite")
    linear = whole.state_dict()["backbone.output_layer.3.weight"].view(EMBEDDING, CHANNELS, -1)
    fewer = squeezed(whole.state_dict(), 32)
    kept = torch.einsum(
        "drp,rk->dkp",
        fewer["backbone.output_layer.3.weight"].view(EMBEDDING, 32, -1),
        fewer["backbone.squeeze.weight"][:, :, 0, 0],
    )
    values = torch.linalg.svdvals(linear.transpose(1, 2).reshape(-1, CHANNELS))
    assert (linear - kept).norm() == pytest.approx(float(values[32:].norm()), rel=1e-3)


def test_refusals() -> None:
    own = recognizer("ir_lite").state_dict()
    with pytest.raises(MinusfaceError, match="expected the weights of an ir_lite"):
        squeezed(squeezed(own))
    with pytest.raises(MinusfaceError, match="expected 1 to 255"):
        squeezed(own, 256)

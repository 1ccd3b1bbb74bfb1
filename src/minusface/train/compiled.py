"""Recognisers whose training passes are compiled: batch norms and activations become one pass over memory."""

from __future__ import annotations

import shutil
from typing import Any, cast

import torch
from torch import Tensor

from minusface.errors import MinusfaceError
from minusface.kept import may_learn
from minusface.recognize import Recognizer

COMPILERS = ("g++", "c++", "clang++")


def compile_recognizer(recognizer: Recognizer, device: torch.device) -> None:
    """Compile all but the first convolution, for training only: evaluation has batches of many sizes.

    Names and values of parameters stay what they are. Compiling happens at the first step.

    Raises:
        MinusfaceError: no C++ compiler where the device needs one.
    """
    if device.type == "cpu" and not any(shutil.which(name) for name in COMPILERS):
        raise MinusfaceError(
            f"compile true: no C++ compiler is here, expected one of {', '.join(COMPILERS)}"
        )
    backbone = cast(Any, recognizer.backbone)
    plain = backbone.after_first
    # Dropout draws what it would have drawn.
    compiled = torch.compile(plain, dynamic=False, options={"fallback_random": True})

    def after_first(hidden: Tensor) -> Tensor:
        # What is compiled does not ask.
        may_learn(backbone)
        learns = torch.is_grad_enabled() and backbone.training
        result: Tensor = compiled(hidden) if learns else plain(hidden)  # type: ignore[no-untyped-call]
        return result

    backbone.after_first = after_first

"""Tensors on their way to a device, without making the host wait for it."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(values: Tensor, device: torch.device | str) -> Tensor:
    """Values on a device.

    To a GPU they go through page-locked memory, so that the host goes on while they travel; from anywhere
    to a device where they already are nothing is copied.
    """
    target = torch.device(device)
    if target.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(target, non_blocking=True)
    return values.to(target)

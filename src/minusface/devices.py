"""What a device is good at, and tensors on their way to it, without making the host wait."""

from __future__ import annotations

import contextlib
from typing import Any, Literal

import torch
from torch import Tensor


def multiplies_bfloat16(device: torch.device | str) -> bool:
    """Whether a device multiplies bfloat16 itself; imitated, it is many times slower than float32."""
    if torch.device(device).type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    found = (getattr(torch.cpu, name, None) for name in probes)
    return any(probe() for probe in found if probe is not None)


def pick_precision(
    wanted: Literal["float32", "bfloat16", "auto"], device: torch.device | str
) -> Literal["float32", "bfloat16"]:
    """What ``auto`` is on a device: bfloat16 where it multiplies it itself, else float32."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if multiplies_bfloat16(device) else "float32"


def autocast_type(device: str) -> torch.dtype | None:
    """What autocast asks for on a kind of device now; None where it is off."""
    # Of "meta", where shapes alone are computed, torch knows none, and says so by an error.
    if device == "meta" or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def without_autocast(device: str) -> contextlib.AbstractContextManager[Any]:
    """Where what is computed keeps its type. Entered only where autocast is on: it takes 30 microseconds."""
    if torch.compiler.is_compiling() or autocast_type(device) is not None:
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()


def imitated(wanted: str, device: torch.device | str) -> list[str]:
    """A line where bfloat16 is asked for and the device only imitates it."""
    if wanted != "bfloat16" or multiplies_bfloat16(device):
        return []
    return [
        f"precision bfloat16: this {torch.device(device).type} only imitates it, many times slower than "
        "float32; --precision auto takes what it is good at"
    ]


def sent(values: Tensor, device: torch.device | str) -> Tensor:
    """Values on a device.

    To a GPU they go through page-locked memory, so that the host goes on while they travel; from anywhere
    to a device where they already are nothing is copied.
    """
    target = torch.device(device)
    if target.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(target, non_blocking=True)
    return values.to(target)

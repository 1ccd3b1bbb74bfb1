"""Tensors on their way to a device."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from minusface.devices import sent


def test_nothing_is_copied_where_it_already_is() -> None:
    values = torch.arange(3)
    assert sent(values, "cpu") is values
    assert sent(values, torch.device("cpu")) is values


def test_to_a_gpu_they_go_through_locked_memory_without_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []
    locked = torch.arange(3)

    def lock(values: torch.Tensor) -> torch.Tensor:
        asked.append("locked")
        return locked

    def move(values: torch.Tensor, device: torch.device, **named: Any) -> torch.Tensor:
        asked.append((values is locked, device, named))
        return values

    monkeypatch.setattr(torch.Tensor, "pin_memory", lock)
    monkeypatch.setattr(torch.Tensor, "to", move)
    sent(torch.arange(3), "cuda:1")
    assert asked == ["locked", (True, torch.device("cuda:1"), {"non_blocking": True})]


def test_other_devices_get_them_as_ever() -> None:
    assert sent(torch.arange(3), "meta").device.type == "meta"

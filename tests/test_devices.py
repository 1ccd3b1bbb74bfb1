"""What a device is good at; tensors on their way to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from minusface.devices import (
    imitated,
    multiplies_bfloat16,
    pick_precision,
    sent,
    without_autocast,
)


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


def test_auto_is_bfloat16_only_where_it_is_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, probe, lambda: False, raising=False)
    assert not multiplies_bfloat16("cpu")
    assert pick_precision("auto", "cpu") == "float32"
    assert "this cpu only imitates it" in imitated("bfloat16", "cpu")[0]
    assert imitated("auto", "cpu") == imitated("float32", "cpu") == []
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert multiplies_bfloat16("cpu")
    assert pick_precision("auto", "cpu") == "bfloat16"
    assert imitated("bfloat16", "cpu") == []
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert pick_precision("auto", "cuda") == "float32"


def test_what_is_asked_for_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    assert pick_precision("bfloat16", "cpu") == "bfloat16"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert pick_precision("float32", "cpu") == "float32"


def test_a_processor_without_either_probe_computes_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, probe, raising=False)
    assert pick_precision("auto", "cpu") == "float32"


def test_without_autocast() -> None:
    a = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
        with without_autocast("cpu"):
            assert (a @ a).dtype == torch.float32
        assert (a @ a).dtype == torch.bfloat16
    for device in ("cpu", "meta"):
        with without_autocast(device):
            assert (a @ a).dtype == torch.float32

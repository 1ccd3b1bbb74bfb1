"""The service's benchmarks, small: they run, and count what they say they count. Nothing is timed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import gallery, soak
from benchmarks.floor import count
from benchmarks.serving import DIMENSIONS, fill, people, protected_like, views

from minusface.serve.images import decode_image

ROOT = Path(__file__).resolve().parents[1]


def test_people_are_clusters() -> None:
    centres = people(300, 1)
    some = views(centres, 3, 2)
    assert some.shape == (300, 3, DIMENSIONS)
    own = np.einsum("pd,pd->p", some[:, 0], some[:, 1]).mean()
    others = (some[:, 0] @ some[:, 0].T)[~np.eye(300, dtype=bool)].mean()
    assert own == pytest.approx(0.6, abs=0.05)
    assert abs(others) < 0.1
    assert (people(300, 1) == centres).all()


def test_a_gallery_is_filled_opened_and_compared(tmp_path: Path) -> None:
    fill(tmp_path, "none", 60, 3)
    found = gallery.opened(tmp_path, searches=5)
    assert (found["people"], found["templates"], found["exact"]) == (20, 60, True)
    rows, sets = gallery.clustered(400, 4, 50)
    assert gallery.compare("c", rows, sets)["enrolled"]["recall_at_1"] == 1.0


def test_its_pictures_pass_for_protected_ones() -> None:
    for seed in range(soak.IMAGES):
        assert decode_image(protected_like(seed), 112, 1).shape == (112, 112, 3)


def test_a_soak_is_summed_up() -> None:
    rows = [
        (float(t), "identify", 0.01 if t < 60 else 0.02, 200 if t != 70 else 503)
        for t in range(120)
    ]
    memory = [(float(t), 100 + t / 3600) for t in range(0, 120, 5)]
    found = soak.summary([soak.Tally(rows)], memory, 120.0)
    assert (found["requests"], found["errors"], found["statuses"]) == (
        120,
        1,
        {"200": 119, "503": 1},
    )
    assert found["first"]["p95"] == pytest.approx(10)
    assert found["last"]["p95"] == pytest.approx(20)
    assert found["rss_slope_mib_per_hour"] == pytest.approx(1)
    assert sum(soak.MIX.values()) == pytest.approx(1)
    assert soak.MIX["enroll"] == soak.MIX["erase"]


def test_arithmetic_is_counted(tmp_path: Path) -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
            self.up = torch.nn.ConvTranspose2d(8, 4, 2, stride=2)

        def forward(self, protected: torch.Tensor) -> torch.Tensor:
            return self.up(self.conv(protected).relu())

    from minusface.export.write import to_onnx

    data = to_onnx(Two().eval(), (torch.rand(2, 3, 10, 10),), "recognizer", 18)
    (tmp_path / "two.onnx").write_bytes(data)
    needs = count(tmp_path / "two.onnx")
    assert needs["gflop"] * 1e9 == 2 * (100 * 8 * 27 + 100 * 8 * 4 * 4)

"""Fixtures everything leans on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real faces and golden outputs beside the project; skips where it is missing."""
    folder = ROOT.parent / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip("../shared is not here: no golden outputs, no real faces")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds what another, or an earlier version, has kept."""
    monkeypatch.setenv("MINUSFACE_CACHE", str(tmp_path_factory.mktemp("cache")))

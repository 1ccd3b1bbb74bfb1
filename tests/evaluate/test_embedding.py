"""Embeddings are kept by what made them, and a stopped evaluation goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from minusface.errors import MinusfaceError
from minusface.evaluate import embedding
from minusface.evaluate.embedding import Cache, embed_images
from minusface.types import UInt8


class Counting:
    """Embeds by mean colours and the draw, counts images, and may stop at one."""

    def __init__(self, stop: int = 10**9) -> None:
        self.seen, self.stop = 0, stop

    def embed(self, images: Tensor, keys: Sequence[str], draw: int, flip: bool) -> Tensor:
        if self.seen >= self.stop:
            raise KeyboardInterrupt
        self.seen += len(images)
        return images.float().mean((2, 3)) + 1 + draw


def _read(key: str) -> UInt8:
    return np.random.default_rng(int(key)).integers(0, 255, (8, 8, 3), dtype=np.uint8)


KEYS = [str(number) for number in range(10)]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "PART", 4)


def test_what_was_done_is_found_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "m", "d")
    plain = embed_images(Counting(), _read, KEYS, draws=2)
    first, second = Counting(), Counting()
    assert torch.equal(plain, embed_images(first, _read, KEYS, draws=2, cache=cache))
    assert torch.equal(plain, embed_images(second, _read, KEYS, draws=2, cache=cache))
    assert (first.seen, second.seen) == (20, 0)
    assert plain.shape == (2, 10, 3)
    assert {oct(file.stat().st_mode & 0o777) for file in tmp_path.iterdir()} == {"0o600"}


@pytest.mark.parametrize(
    "other",
    [
        {"model": "another"},
        {"data": "another"},
        {"draws": 3},
        {"flip": False},
        {"keys": [*KEYS[:9], "99"]},
    ],
)
def test_anything_else_is_embedded_anew(tmp_path: Path, other: dict[str, object]) -> None:
    embed_images(Counting(), _read, KEYS, draws=2, cache=Cache(tmp_path, "m", "d"))
    model = Counting()
    names = {"model": "m", "data": "d"} | {k: v for k, v in other.items() if k in ("model", "data")}
    settings = {"draws": 2, "keys": KEYS} | {
        k: v for k, v in other.items() if k not in ("model", "data")
    }
    embed_images(model, _read, cache=Cache(tmp_path, **names), **settings)  # type: ignore[arg-type]
    assert model.seen > 0


def test_a_stopped_evaluation_goes_on(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "m", "d")
    with pytest.raises(KeyboardInterrupt):
        embed_images(Counting(stop=6), _read, KEYS, batch_size=2, cache=cache)
    again = Counting()
    rows = embed_images(again, _read, KEYS, batch_size=2, cache=cache)
    assert again.seen == 6
    assert torch.equal(rows, embed_images(Counting(), _read, KEYS))


def test_a_damaged_part_is_made_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "m", "d")
    whole = embed_images(Counting(), _read, KEYS, cache=cache)
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:20])
    assert torch.equal(whole, embed_images(Counting(), _read, KEYS, cache=cache))


def test_numbers_out_of_range() -> None:
    with pytest.raises(MinusfaceError, match="draws 0"):
        embed_images(Counting(), _read, KEYS, draws=0)

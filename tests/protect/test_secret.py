"""Permutations derived from a secret."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from minusface.errors import MinusfaceError
from minusface.protect.secret import permutation_from_secret, read_secret

SECRET = bytes(range(32))


def crops(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_each_row_is_a_permutation_of_its_own() -> None:
    found = permutation_from_secret(SECRET, crops(4))
    assert found.shape == (4, 192)
    assert torch.equal(found.sort(1).values, torch.arange(192).expand(4, -1))
    assert len({tuple(row.tolist()) for row in found}) == 4
    several = permutation_from_secret(SECRET, crops(4), copies=3)
    assert several.shape == (4, 3, 192)
    assert torch.equal(several[:, 0], found)
    assert not torch.equal(several[:, 0], several[:, 1])


def test_it_depends_on_secret_and_photo_alone() -> None:
    found = permutation_from_secret(SECRET, crops(3))
    assert torch.equal(found[1:2], permutation_from_secret(SECRET, crops(3)[1:2]))
    assert not torch.equal(found, permutation_from_secret(b"x" * 32, crops(3)))
    # Less than a rounding of eight bits is the same photo.
    nudged = (crops(3) + 1e-7).clamp(-1, 1)
    assert (permutation_from_secret(SECRET, nudged) == found).all(1).sum() >= 2


def test_it_is_written_down_once_and_for_all() -> None:
    """Clients of other versions must find the same order."""
    zero = torch.zeros(1, 3, 4, 4)
    assert permutation_from_secret(SECRET, zero, 8).tolist() == [GOLDEN]


GOLDEN = [7, 5, 6, 0, 4, 3, 2, 1]


def test_places_are_uniform() -> None:
    faces = torch.rand(4000, 3, 2, 2, generator=torch.Generator().manual_seed(4)) * 2 - 1
    orders = permutation_from_secret(SECRET, faces, 6).numpy()
    counts = np.stack([np.bincount(orders[:, place], minlength=6) for place in range(6)])
    expected = 4000 / 6
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    assert chi2 < 60  # 25 degrees of freedom; 60 is beyond 1 in 10,000


def test_secrets_from_files(tmp_path: Path) -> None:
    good, short = tmp_path / "good", tmp_path / "short"
    good.write_bytes(b"a" * 20 + b"\n")
    short.write_bytes(b"abc\n")
    assert read_secret(good) == b"a" * 20
    with pytest.raises(MinusfaceError, match=r"short: secret of 3 bytes"):
        read_secret(short)
    with pytest.raises(MinusfaceError, match="cannot read"):
        read_secret(tmp_path / "none")
    with pytest.raises(MinusfaceError, match="16 or more"):
        permutation_from_secret(b"", crops(1))

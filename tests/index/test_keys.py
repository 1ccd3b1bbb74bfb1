"""Keys of a gallery: rotations, seals, handles, master keys, unlinkability."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from minusface.errors import MinusfaceError
from minusface.index import PgVectorIndex, keys
from minusface.index.keys import (
    CollectionKeys,
    KeyRing,
    load_master,
    new_master,
    orthogonal,
    parse_master,
)

MASTER, SALT = bytes(range(32)), bytes(32)


def unit(count: int, dimension: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_rotations_are_orthogonal_and_repeatable() -> None:
    q = orthogonal(b"seed", 64)
    np.testing.assert_allclose(q @ q.T, np.eye(64), atol=1e-12)
    assert (orthogonal(b"seed", 64) == q).all()
    assert np.abs(orthogonal(b"other", 64) - q).max() > 0.1
    # Known answer: another version or machine must not turn stored galleries into noise.
    assert float(orthogonal(b"minusface", 4)[0, 0]) == pytest.approx(KNOWN, abs=1e-9)


KNOWN = 0.7154351666694823


def test_rotations_are_uniform() -> None:
    """Each entry of a uniformly drawn orthogonal matrix has mean 0 and variance 1/D."""
    entries = np.stack([orthogonal(str(n).encode(), 8) for n in range(400)])
    assert np.abs(entries.mean(0)).max() < 0.1
    assert np.abs(entries.var(0) * 8 - 1).max() < 0.4


def test_cosines_stay_within_and_vanish_across() -> None:
    rows = unit(200, 128)
    keys = [CollectionKeys(MASTER, bytes([n]) * 32, 1, 128) for n in range(2)]
    one, two = (k.rotate(rows) for k in keys)
    np.testing.assert_allclose(one @ one.T, rows @ rows.T, atol=1e-5)
    np.testing.assert_allclose(keys[0].unrotate(one), rows, atol=1e-6)
    # Mated templates across galleries score as strangers do: nothing to link by.
    for other in (two, rows):
        mated, strangers = (one * other).sum(1), (one[:100] @ other[100:].T).ravel()
        assert abs(mated.mean()) < 0.03
        assert mated.std() == pytest.approx(strangers.std(), rel=0.25)


def test_every_part_changes_the_keys() -> None:
    rows = unit(1, 16)
    base = CollectionKeys(MASTER, SALT, 1, 16)
    for other in (
        CollectionKeys(bytes(32), SALT, 1, 16),
        CollectionKeys(MASTER, b"\1" * 32, 1, 16),
        CollectionKeys(MASTER, SALT, 2, 16),
    ):
        assert np.abs(other.rotate(rows) - base.rotate(rows)).max() > 0.01
        assert other.handle("ann") != base.handle("ann")
        with pytest.raises(MinusfaceError, match="another master key"):
            other.open(base.seal(b"x", b"here"), b"here")


def test_seals_open_only_in_their_place() -> None:
    keys = CollectionKeys(MASTER, SALT, 1, 4)
    sealed = keys.seal(b"secret", b"here")
    assert keys.open(sealed, b"here") == b"secret"
    assert keys.seal(b"secret", b"here") != sealed
    for damaged, place in ((sealed, b"there"), (sealed[:-1], b"here"), (b"", b"here")):
        with pytest.raises(MinusfaceError, match="altered data"):
            keys.open(damaged, place)


def test_master_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    master = new_master()
    file = tmp_path / "key"
    file.write_text(master.hex() + "\n")
    file.chmod(0o600)
    assert load_master(file) == master
    monkeypatch.setenv("MINUSFACE_MASTER_KEY", master.hex())
    assert load_master(None) == master
    other = tmp_path / "other"
    other.write_text("0" * 64)
    other.chmod(0o600)
    # As the service reads them: a file before the key itself.
    monkeypatch.setenv("MINUSFACE_MASTER_KEY_FILE", str(other))
    assert (load_master(None), load_master(file)) == (bytes(32), master)
    monkeypatch.delenv("MINUSFACE_MASTER_KEY_FILE")
    monkeypatch.delenv("MINUSFACE_MASTER_KEY")
    with pytest.raises(MinusfaceError, match="no master key"):
        load_master(None)
    with pytest.raises(MinusfaceError, match="cannot read"):
        load_master(tmp_path / "none")
    for text in ("", "ab", "zz" * 32):
        with pytest.raises(MinusfaceError, match="64 hexadecimal digits") as refusal:
            parse_master(text, "here")
        assert not text or text not in str(refusal.value)
    if os.name == "posix":
        file.chmod(0o644)
        with pytest.raises(MinusfaceError, match="others may read"):
            load_master(file)


def test_few_keys_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bytes] = []
    real = keys.CollectionKeys

    def counted(master: bytes, salt: bytes, *more: int) -> CollectionKeys:
        made.append(salt)
        return real(master, salt, *more)

    monkeypatch.setattr(keys, "CollectionKeys", counted)
    ring = KeyRing(bytes(32), 4, most=2)
    salts = [bytes([number]) * 32 for number in range(3)]
    first = ring.of(salts[0], 1)
    for salt in (salts[1], salts[0], salts[2], salts[0]):
        ring.of(salt, 1)
    assert made == [salts[0], salts[1], salts[2]]
    assert len(ring) == 2
    assert ring.of(salts[0], 1) is first
    ring.change(bytes(range(32)))
    assert ring.of(salts[0], 1).handle("Ann") != first.handle("Ann")
    for version in range(50):
        ring.of(salts[0], version)
    assert len(ring) == 2


def test_no_backend_keeps_the_keys_of_every_version(database: Callable[[], str]) -> None:
    ring = KeyRing(bytes(32), 512)
    assert 16 <= ring._most < 1000
    index = PgVectorIndex(database(), 16, bytes(32))
    index._keys._most = 2
    index.create("a")
    for _ in range(5):
        index.rekey("a")
        index.stats("a")
    assert len(index._keys) == 2
    index.close()

"""Qdrant where something is cut short, and its master key; the client's own memory stands for a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minusface.errors import MinusfaceError
from minusface.index import QdrantIndex, StorageError, UnknownPersonError

D = 16
MASTER = bytes(range(32))
OTHER = bytes(32)
Open = Callable[..., QdrantIndex]


def unit(count: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, D))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens one server's index."""
    qdrant_client = pytest.importorskip("qdrant_client", reason="the extra qdrant")
    from minusface.index import qdrant

    kept = qdrant_client.QdrantClient(":memory:")
    monkeypatch.setattr(qdrant, "connect", lambda url: kept)
    monkeypatch.setattr(kept, "close", lambda: None)
    return lambda master=MASTER: QdrantIndex(":memory:", D, master)


def refused(*values: object) -> Any:
    raise OSError("connection reset")


def test_who_was_enrolled_by_half_is_unknown_until_tried_again(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = opened()
    index.create("a")
    with monkeypatch.context() as patched:
        patched.setattr(index._store, "put_templates", refused)
        with pytest.raises(StorageError, match="connection reset"):
            index.add("a", "Ann", unit(1))
    with pytest.raises(UnknownPersonError):
        index.scores("a", "Ann", unit(1))
    # Nor are they listed; who comes after them is, on whatever page.
    index.add("a", "Bob", unit(2))
    assert index.people("a", limit=1) == index.people("a")
    assert [(person.name, person.templates) for person in index.people("a")] == [("Bob", 2)]
    index.add("a", "Ann", unit(1))
    assert index.scores("a", "Ann", unit(1))[0] > 0.999


def test_another_master_key_is_refused_at_the_start(opened: Open) -> None:
    index = opened()
    with pytest.raises(MinusfaceError, match="another master key"):
        opened(OTHER)
    index.create("a")
    index.add("a", "Ann", unit(1))
    index.change_master(OTHER)
    with pytest.raises(MinusfaceError, match="another master key"):
        opened(MASTER)
    assert [person.name for person in opened(OTHER).people("a")] == ["Ann"]


def test_an_index_of_an_earlier_version_takes_the_key_that_opens_it(opened: Open) -> None:
    index = opened()
    for place in ("empty", "a"):
        index.create(place)
    index.add("a", "Ann", unit(1))
    index._store.put_about({"dimension": D, "model": ""})
    with pytest.raises(MinusfaceError, match="another master key"):
        opened(OTHER)
    opened()
    assert "check" in (index._store.about() or {})


def test_a_change_of_the_master_key_that_was_cut_short_leaves_both_keys_a_way_in(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = opened()
    for place in ("a", "b"):
        index.create(place)
        index.add(place, "Ann", unit(1))
    real, names = index._rekeyed, []

    def once(known: Any, master: bytes) -> int:
        names.append(known.name)
        return real(known, master) if len(names) == 1 else refused()

    with monkeypatch.context() as patched:
        patched.setattr(index, "_rekeyed", once)
        with pytest.raises(StorageError):
            index.change_master(OTHER)
    changed, left = names
    assert len(opened(OTHER).people(changed)) == 1
    assert len(opened(MASTER).people(left)) == 1
    with pytest.raises(MinusfaceError, match="another master key"):
        opened(bytes(reversed(MASTER)))

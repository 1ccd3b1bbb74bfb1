"""What a Qdrant server says of its index: dimension, model, and which master key is its own."""

from __future__ import annotations

from typing import Any

from minusface.errors import MinusfaceError
from minusface.index.keys import check_of
from minusface.index.qdrant_points import Points
from minusface.index.qdrant_reach import connect, storing
from minusface.index.qdrant_store import Store

# See keys.check_of. The second is there only while the collections are brought under another master key one
# by one: had that been cut short, some would open with either.
CHECK, COMING = "check", "coming_check"


def made_for(url: str) -> dict[str, str] | None:
    """``dimension`` and ``model`` of what lies there; None where nothing does."""
    client = connect(url)
    try:
        with storing():
            about = Points(client).about()
    finally:
        client.close()
    return None if about is None else {name: str(value) for name, value in about.items()}


def prepare(store: Store) -> None:
    """Make the list of collections where it is missing, and check what it was made for.

    Raises:
        MinusfaceError: another model, dimension or master key.
    """
    store.make_list()
    about: dict[str, Any] = {"dimension": store.dimension, "model": store.model}
    known = store.about()
    if known is None:
        store.put_about(about | {CHECK: check_of(store.master)})
        return
    for name, value in about.items():
        if known[name] != value:
            raise MinusfaceError(
                f"Qdrant: made for {name} {known[name]!r}, not {value!r}; templates of another model are "
                "not comparable: enroll anew elsewhere"
            )
    if CHECK not in known:
        # Of an earlier version: its key is the one that opens somebody's name.
        _open_somebody(store)
        store.put_about(known | {CHECK: check_of(store.master)})
    elif check_of(store.master) not in (known[CHECK], known.get(COMING)):
        raise MinusfaceError("Qdrant: another master key than the index was made with")


def begin_master(store: Store, master: bytes) -> None:
    """From here on until ``end_master`` services may start with either key."""
    store.put_about((store.about() or {}) | {COMING: check_of(master)})


def end_master(store: Store, master: bytes) -> None:
    """From here on it is the master key."""
    known = {name: value for name, value in (store.about() or {}).items() if name != COMING}
    store.put_about(known | {CHECK: check_of(master)})


def _open_somebody(store: Store) -> None:
    for name in store.names():
        known = store.find(name)
        if known is not None and store.people_after(known, 0, 1):
            return

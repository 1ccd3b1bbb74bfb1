"""Longer steps of the Qdrant backend, each of which may be cut short anywhere."""

from __future__ import annotations

import base64
import contextlib
import secrets
import uuid

import numpy as np

from minusface.index.base import Request, StorageError
from minusface.index.gallery import salt_name
from minusface.index.keys import SALT_BYTES, CollectionKeys
from minusface.index.qdrant_points import PAGE
from minusface.index.qdrant_reach import storing
from minusface.index.qdrant_store import Known, Store
from minusface.index.tombstones import Tombstones


def rekeyed(store: Store, known: Known, master: bytes) -> int:
    """A new collection beside the old one, taken into use when it is whole; its version."""
    salt, version = secrets.token_bytes(SALT_BYTES), known.keys.version + 1
    try:
        fresh = store.beside(known, salt, CollectionKeys(master, salt, version, store.dimension))
        templates = _copied(store, known, fresh)
    except BaseException:
        with contextlib.suppress(StorageError), storing():
            store.left.ended(salt)
            store.left.tidy()
        raise
    store.take(fresh, instead=known, templates=templates)
    return version


def _copied(store: Store, known: Known, fresh: Known) -> int:
    """Everybody of a collection into another, under its keys; the number of templates."""
    after = templates = 0
    while page := store.people_after(known, after, PAGE):
        store.left.alive(fresh.salt)
        for handle, name, at in page:
            after, turned = at, fresh.keys.handle(name)
            store.put_person(fresh, turned, name, at)
            points = store.of_person(known, handle, vectors=True)
            if points:
                plain = known.keys.unrotate(np.asarray([p.vector for p in points], np.float32))
                moved = zip((str(p.id) for p in points), fresh.keys.rotate(plain), strict=True)
                store.put_templates(fresh, moved, {"handle": turned.hex(), "digest": ""})
                templates += len(points)
    return templates


def bury(store: Store, tombstones: Tombstones) -> None:
    """Erase again what a restored snapshot has brought back."""
    if not len(tombstones):
        return
    store.left.erase_all(tombstones)
    for name in store.names():
        known = store.find(name)
        if known is None:
            continue
        if salt_name(known.salt) in tombstones:
            store.forget(known)
        else:
            gone = [uid for uid in store.uids(known) if hexadecimal(uid) in tombstones]
            store.drop_templates(known, gone)


def hexadecimal(uid: str) -> str:
    """A point's name as tombstones write it."""
    return uuid.UUID(uid).hex


def names_of(keys: CollectionKeys, request: Request | None, count: int) -> tuple[list[str], str]:
    """Names of new templates, the same for every try of a request, and its digest, hashed."""
    if request is None:
        return [uuid.UUID(bytes=secrets.token_bytes(16)).hex for _ in range(count)], ""
    digest = keys.handle(f"digest/{request.digest.hex()}")
    places = (keys.handle(f"request/{request.key}/0/{n}")[:16] for n in range(count))
    names = [uuid.UUID(bytes=place).hex for place in places]
    return names, base64.b64encode(digest).decode()

"""Templates from one index, or a file, into another: without photos, and again where it was stopped."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minusface.errors import MinusfaceError
from minusface.files import write_atomically
from minusface.index.base import (
    Added,
    ConflictError,
    Entry,
    Floats,
    Index,
    Request,
    SpentRequestError,
    UnknownPersonError,
    check_name,
    check_vectors,
)

# Cosine from which two templates are one: rounding under other keys costs less than a tenth of this, and two
# photos of a person are hundreds of times further apart.
SAME = 1 - 1e-5


class Moved(NamedTuple):
    """What a transfer did."""

    people: int
    """That were looked at."""
    templates: int
    """Newly enrolled."""
    repeated: int
    """Templates that were there already."""


class Gallery(NamedTuple):
    """What a file holds."""

    people: Sequence[str]
    """(N,) a name a template."""
    templates: Floats
    """(N, D) of unit length, under no key."""
    model: str
    """Fingerprint of the recogniser; empty where the file does not say."""

    def entries(self) -> Iterator[Entry]:
        """A person with all their templates, in the order of the file."""
        places: dict[str, list[int]] = {}
        for place, person in enumerate(self.people):
            places.setdefault(person, []).append(place)
        for person, own in places.items():
            yield Entry(person, self.templates[own])


def transfer(
    entries: Iterable[Entry],
    index: Index,
    collection: str,
    progress: Callable[[int], None] = lambda people: None,
) -> Moved:
    """Enroll people with their templates, but for those that they have there already.

    Args:
        entries: of :meth:`Index.entries` or of a file.
        index: where to.
        collection: made where it is missing.
        progress: told of each person.

    Raises:
        MinusfaceError: templates of another length, or names that do not serve.
    """
    if collection not in index.collections():
        # Another process may be faster.
        with contextlib.suppress(ConflictError):
            index.create(collection)
    people = new = repeated = 0
    for person, vectors in entries:
        rows = _missing(index, collection, person, np.ascontiguousarray(vectors, np.float32))
        brought = 0
        if len(rows):
            brought = 0 if _add_once(index, collection, person, rows).replayed else len(rows)
        people, new, repeated = people + 1, new + brought, repeated + len(vectors) - brought
        progress(1)
    return Moved(people, new, repeated)


def _add_once(index: Index, collection: str, person: str, rows: Floats) -> Added:
    """Of two transfers at a time, one is told that the other was faster.

    Whoever was erased comes back, as a transfer is no late try of an earlier one: under the next key.
    """
    digest = hashlib.sha256(rows.tobytes()).digest()
    named = hashlib.sha256(person.encode() + b"\0" + digest).hexdigest()
    key, turn = f"transfer/{named}", 0
    while True:
        try:
            return index.add(
                collection, person, rows, Request(f"{key}/{turn}" if turn else key, digest)
            )
        except SpentRequestError:
            turn += 1


def _missing(index: Index, collection: str, person: str, rows: Floats) -> Floats:
    """Those of (B, D) templates that a person does not have in a collection."""
    try:
        best = index.scores(collection, person, rows)
    except UnknownPersonError:
        return rows
    return rows[best < SAME]


def write_gallery(path: Path, gallery: Gallery) -> None:
    """An .npz: people (N,), templates (N, D) float32, model. Biometric data, readable by its owner only."""
    data = io.BytesIO()
    np.savez(
        data,
        people=np.asarray(gallery.people, dtype=np.str_),
        templates=gallery.templates.astype(np.float32),
        model=np.asarray(gallery.model),
    )
    write_atomically(path, data.getvalue(), mode=0o600)


def read_gallery(path: Path) -> Gallery:
    """A file of ``write_gallery`` or of ``minusface migrate``; all of it serves, or none.

    Raises:
        MinusfaceError: unreadable, arrays missing or of wrong shape, names that do not serve, values that are
            not finite.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            people, templates = np.asarray(file["people"]), np.asarray(file["templates"])
            model = np.asarray(file["model"] if "model" in file.files else "")
        # Here already: bytes that are no characters are found only now.
        names, said = [str(name) for name in people.ravel()], str(model)
    except KeyError as error:
        raise MinusfaceError(f"{path}: expected arrays people and templates ({error})") from error
    except OSError as error:
        raise MinusfaceError(f"{path}: cannot read ({error.strerror or error})") from error
    except Exception as error:
        # Of a damaged file zipfile, zlib and numpy's reader of headers raise a dozen kinds.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise MinusfaceError(f"{path}: not an .npz of plain arrays ({reason})") from error
    if templates.ndim != 2 or people.shape != templates.shape[:1] or people.dtype.kind != "U":
        raise MinusfaceError(
            f"{path}: people {people.dtype} {people.shape}, templates {templates.shape}; expected names (N,) "
            "and (N, D)"
        )
    if templates.dtype.kind != "f":
        raise MinusfaceError(f"{path}: templates {templates.dtype}, expected floats")
    if not len(templates):
        raise MinusfaceError(f"{path}: holds no templates")
    if model.shape or model.dtype.kind != "U" or not said.isprintable():
        raise MinusfaceError(f"{path}: model {model.dtype} {model.shape}, expected one fingerprint")
    return Gallery(names, _checked(path, names, templates), said)


def _checked(path: Path, names: Sequence[str], templates: Floats) -> Floats:
    """Templates brought to unit length, where they and all names serve."""
    for row, name in enumerate(names):
        try:
            check_name(f"people[{row}]", name)
        except MinusfaceError as error:
            raise MinusfaceError(f"{path}: {error}") from error
    # As they will be kept: a number too large for that becomes an infinity.
    with np.errstate(over="ignore", invalid="ignore"):
        rows = templates.astype(np.float32)
        sound = np.isfinite(rows).all(axis=1) & (rows != 0).any(axis=1)
    if not sound.all():
        row = int(np.argmin(sound))
        raise MinusfaceError(
            f"{path}: templates[{row}]: NaN, infinity or zero, expected a direction"
        )
    return check_vectors(rows, rows.shape[1])


def gallery_of(index: Index, collection: str, model: str) -> Gallery:
    """Everybody of a collection, in memory."""
    people: list[str] = []
    parts: list[Floats] = []
    for person, vectors in index.entries(collection):
        people += [person] * len(vectors)
        parts.append(vectors)
    rows = np.concatenate(parts) if parts else np.zeros((0, index.dimension), np.float32)
    return Gallery(people, rows, model)

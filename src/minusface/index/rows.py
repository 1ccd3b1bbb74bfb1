"""What the embedded index looks up and inserts; within a transaction, but for reading."""

from __future__ import annotations

import hmac
import sqlite3
from collections.abc import Sequence

from minusface.index.base import Added, ConflictError, Floats, Request, check_unspent
from minusface.index.gallery import Gallery


def owner_of(db: sqlite3.Connection, known: Gallery, handle: bytes) -> int | None:
    """Number of the person of a handle; None where there is none."""
    row = db.execute(
        "SELECT id FROM people WHERE collection = ? AND handle = ?", (known.number, handle)
    ).fetchone()
    return None if row is None else int(row[0])


def count_of(db: sqlite3.Connection, known: Gallery, person: str) -> int:
    """Templates of a person; 0 where there is nobody of this name."""
    owner = owner_of(db, known, known.keys.handle(person))
    row = db.execute("SELECT count(*) FROM templates WHERE person = ?", (owner,)).fetchone()
    return int(row[0])


def insert(
    db: sqlite3.Connection,
    known: Gallery,
    person: str,
    uids: Sequence[bytes],
    turned: Floats,
) -> tuple[int, list[int]]:
    """Rotated templates (B, D) of a person, new or known: the person's number and the templates'."""
    handle = known.keys.handle(person)
    owner = owner_of(db, known, handle)
    if owner is None:
        sealed = known.keys.seal(person.encode(), handle)
        owner = _inserted(
            db,
            "INSERT INTO people (collection, handle, name) VALUES (?, ?, ?)",
            (known.number, handle, sealed),
        )
    numbers = [
        _inserted(
            db,
            "INSERT INTO templates (person, uid, vector) VALUES (?, ?, ?)",
            (owner, uid, known.keys.seal(vector.tobytes(), uid)),
        )
        for uid, vector in zip(uids, turned, strict=True)
    ]
    return owner, numbers


def note_request(
    db: sqlite3.Connection, known: Gallery, request: Request, owner: int, uids: Sequence[bytes]
) -> None:
    """Remember what a request did."""
    values = (*_request_row(known, request), owner, b"".join(uids))
    db.execute("INSERT INTO requests VALUES (?, ?, ?, ?, ?)", values)


def erase(db: sqlite3.Connection, owner: int) -> None:
    """A person and all that is theirs; the keys of their requests stay, for tries that come late."""
    db.execute(
        "INSERT OR IGNORE INTO spent SELECT collection, key FROM requests WHERE person = ?",
        (owner,),
    )
    db.execute("DELETE FROM people WHERE id = ?", (owner,))


def replayed(db: sqlite3.Connection, known: Gallery, request: Request | None) -> Added | None:
    """What an earlier try of the same request did.

    Raises:
        ConflictError: the key was used for something else, or for a person who is erased.
    """
    if request is None:
        return None
    number, key, digest = _request_row(known, request)
    row = db.execute(
        "SELECT digest, uids FROM requests WHERE collection = ? AND key = ?", (number, key)
    ).fetchone()
    if row is None:
        spent = "SELECT 1 FROM spent WHERE collection = ? AND key = ?"
        check_unspent(db.execute(spent, (number, key)).fetchone() is not None)
        return None
    if not hmac.compare_digest(row[0], digest):
        raise ConflictError("this idempotency key was used for another enrolment")
    return Added(tuple(row[1][i : i + 16].hex() for i in range(0, len(row[1]), 16)), True)


def _inserted(db: sqlite3.Connection, statement: str, values: tuple[object, ...]) -> int:
    number = db.execute(statement, values).lastrowid
    assert number is not None
    return number


def _request_row(known: Gallery, request: Request) -> tuple[int, bytes, bytes]:
    digest = known.keys.handle(f"digest/{request.digest.hex()}")
    return known.number, known.keys.handle(f"request/{request.key}"), digest

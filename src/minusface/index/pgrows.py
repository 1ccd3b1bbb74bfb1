"""What the PostgreSQL backend reads and writes within a transaction.

Legend: D embedding.
"""

from __future__ import annotations

import hmac
import secrets
from typing import Any, NamedTuple

import numpy as np

from minusface.index.base import (
    Added,
    ConflictError,
    Floats,
    Hit,
    Request,
    best_people,
    check_unspent,
)
from minusface.index.gallery import salt_name
from minusface.index.keys import SALT_BYTES, CollectionKeys
from minusface.index.tombstones import Tombstones

# Of pgvector's graph: how many candidates a search keeps. It allows up to 1,000.
LEAST_WIDE, WIDE, MOST_WIDE = 200, 4, 1000
PAGE = 1000


class Known(NamedTuple):
    """A collection as a transaction sees it."""

    number: int
    name: str
    salt: bytes
    keys: CollectionKeys
    indexed: bool


def replayed(db: Any, known: Known, request: Request | None) -> Added | None:
    """What an earlier try of the same request did; tries at the same time come one by one."""
    if request is None:
        return None
    number, key, digest = request_row(known, request)
    turn = int.from_bytes(key[:8], "big", signed=True)
    db.execute("SELECT pg_advisory_xact_lock(%s)", (turn,))
    row = db.execute(
        "SELECT digest, uids FROM requests WHERE collection = %s AND key = %s", (number, key)
    ).fetchone()
    if row is None:
        spent = "SELECT 1 FROM spent WHERE collection = %s AND key = %s"
        check_unspent(db.execute(spent, (number, key)).fetchone() is not None)
        return None
    if not hmac.compare_digest(bytes(row[0]), digest):
        raise ConflictError("this idempotency key was used for another enrolment")
    uids = bytes(row[1])
    return Added(tuple(uids[i : i + 16].hex() for i in range(0, len(uids), 16)), True)


def erase(db: Any, owner: int) -> list[str]:
    """A person and all that is theirs: what remembers their templates, to be noted before it is final.

    The keys of their requests stay, for tries that come late.
    """
    # No other replica adds to a person who is on the way out.
    db.execute("SELECT 1 FROM people WHERE id = %s FOR UPDATE", (owner,))
    rows = db.execute("SELECT uid FROM templates WHERE person = %s", (owner,)).fetchall()
    db.execute(
        "INSERT INTO spent SELECT collection, key FROM requests WHERE person = %s "
        "ON CONFLICT DO NOTHING",
        (owner,),
    )
    db.execute("DELETE FROM people WHERE id = %s", (owner,))
    return [bytes(uid).hex() for (uid,) in rows]


def nearest(db: Any, known: Known, turned: Floats, count: int) -> list[Hit]:
    """The people nearest to a rotated template (D,), best first."""
    asked, literal = count, literal_of(turned)
    while True:
        # Whatever the collection says of itself: a graph that is just there is searched already.
        wide = min(MOST_WIDE, max(LEAST_WIDE, WIDE * asked))
        db.execute(f"SET LOCAL hnsw.ef_search = {wide}")
        # The collection's number stands in the text: the planner then takes the graph made for it.
        rows = db.execute(
            "SELECT p.handle, p.name, n.score FROM (SELECT person, -(vector <#> %s) AS score "
            f"FROM templates WHERE collection = {known.number} ORDER BY vector <#> %s LIMIT %s) n "
            "JOIN people p ON p.id = n.person",
            (literal, literal, asked),
        ).fetchall()
        named = [(name_of(known, row[0], row[1]), min(1.0, max(-1.0, row[2]))) for row in rows]
        hits = best_people(named, count)
        # Several templates may be one person's: more are asked for until there are people enough.
        if len(rows) < asked or len(hits) >= count:
            return hits
        asked *= 4


def reseal(db: Any, known: Known, master: bytes, dimension: int) -> int:
    """New salt, version and keys for a collection and all its rows."""
    salt, version = secrets.token_bytes(SALT_BYTES), known.keys.version + 1
    keys = CollectionKeys(master, salt, version, dimension)
    people = db.execute(
        "SELECT id, handle, name FROM people WHERE collection = %s", (known.number,)
    ).fetchall()
    with db.cursor() as cursor:
        for number, handle, sealed in people:
            name = name_of(known, handle, sealed)
            turned = keys.handle(name)
            cursor.execute(
                "UPDATE people SET handle = %s, name = %s WHERE id = %s",
                (turned, keys.seal(name.encode(), turned), number),
            )
        rows = cursor.execute(
            "SELECT id, vector::text FROM templates WHERE collection = %s", (known.number,)
        ).fetchall()
        for start in range(0, len(rows), PAGE):
            part = rows[start : start + PAGE]
            plain = known.keys.unrotate(np.stack([array_of(text) for _, text in part]))
            cursor.executemany(
                "UPDATE templates SET vector = %s WHERE id = %s",
                [
                    (literal_of(row), number)
                    for row, (number, _) in zip(keys.rotate(plain), part, strict=True)
                ],
            )
        # Their names are hashed with the old keys: tries from before count as new ones.
        for table in ("requests", "spent"):
            cursor.execute(f"DELETE FROM {table} WHERE collection = %s", (known.number,))
        cursor.execute(
            "UPDATE collections SET salt = %s, version = %s WHERE id = %s",
            (salt, version, known.number),
        )
    return version


def bury(db: Any, tombstones: Tombstones) -> None:
    """Erase again what a restored backup has brought back."""
    if not len(tombstones):
        return
    rows = db.execute("SELECT id, uid FROM templates").fetchall()
    gone = [number for number, uid in rows if bytes(uid).hex() in tombstones]
    salts = db.execute("SELECT id, salt FROM collections").fetchall()
    dropped = [number for number, s in salts if salt_name(bytes(s)) in tombstones]
    db.execute("DELETE FROM collections WHERE id = ANY(%s)", (dropped,))
    db.execute("DELETE FROM templates WHERE id = ANY(%s)", (gone,))
    db.execute(
        "INSERT INTO spent SELECT collection, key FROM requests "
        "WHERE person NOT IN (SELECT person FROM templates) ON CONFLICT DO NOTHING"
    )
    db.execute("DELETE FROM people WHERE id NOT IN (SELECT person FROM templates)")


def enrolled(db: Any, known: Known, person: str) -> int:
    """The person's number, made where missing; the row stays locked until the transaction ends."""
    handle = known.keys.handle(person)
    sealed = known.keys.seal(person.encode(), handle)
    # An update that changes nothing waits for a replica that is making or erasing the same person.
    row = db.execute(
        "INSERT INTO people (collection, handle, name) VALUES (%s, %s, %s) "
        "ON CONFLICT (collection, handle) DO UPDATE SET handle = excluded.handle RETURNING id",
        (known.number, handle, sealed),
    ).fetchone()
    return int(row[0])


def count_of(db: Any, table: str, collection: int) -> int:
    """Rows of a collection in a table."""
    row = db.execute(f"SELECT count(*) FROM {table} WHERE collection = %s", (collection,))
    return int(row.fetchone()[0])


def graph_of(collection: int) -> str:
    """Name of a collection's graph."""
    return f"templates_graph_{int(collection)}"


def literal_of(vector: Floats) -> str:
    """As pgvector reads it; nine digits give a float32 back exactly."""
    return "[" + ",".join(f"{value:.9g}" for value in vector.tolist()) + "]"


def array_of(text: str) -> Floats:
    """A vector (D,) as pgvector writes it."""
    return np.fromstring(text[1:-1], np.float32, sep=",")


def name_of(known: Known, handle: bytes, sealed: bytes) -> str:
    """A person's name, opened."""
    return known.keys.open(bytes(sealed), bytes(handle)).decode()


def request_row(known: Known, request: Request) -> tuple[int, bytes, bytes]:
    """Collection, hashed key and hashed digest, as they are stored."""
    digest = known.keys.handle(f"digest/{request.digest.hex()}")
    return known.number, known.keys.handle(f"request/{request.key}"), digest

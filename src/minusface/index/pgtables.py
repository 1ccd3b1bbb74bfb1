"""The tables of the PostgreSQL backend, and their migrations."""

from __future__ import annotations

from typing import Any

from minusface.errors import MinusfaceError
from minusface.index.keys import CollectionKeys, check_of

# Each once, in order; its number is noted in the database. Released ones stay as they are: add another.
MIGRATIONS = (
    """
    CREATE EXTENSION IF NOT EXISTS vector;
    CREATE TABLE about (name text PRIMARY KEY, value text NOT NULL);
    CREATE TABLE collections (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE,
        salt bytea NOT NULL, version integer NOT NULL, indexed boolean NOT NULL DEFAULT false);
    CREATE TABLE people (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        collection bigint NOT NULL REFERENCES collections (id) ON DELETE CASCADE,
        handle bytea NOT NULL, name bytea NOT NULL, UNIQUE (collection, handle));
    CREATE TABLE templates (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        collection bigint NOT NULL REFERENCES collections (id) ON DELETE CASCADE,
        person bigint NOT NULL REFERENCES people (id) ON DELETE CASCADE,
        uid bytea NOT NULL UNIQUE, vector vector({dimension}) NOT NULL);
    CREATE INDEX templates_of_person ON templates (person);
    CREATE INDEX templates_of_collection ON templates (collection);
    CREATE TABLE requests (
        collection bigint NOT NULL REFERENCES collections (id) ON DELETE CASCADE,
        key bytea NOT NULL, digest bytea NOT NULL,
        person bigint NOT NULL REFERENCES people (id) ON DELETE CASCADE,
        uids bytea NOT NULL, PRIMARY KEY (collection, key));
    CREATE INDEX requests_of_person ON requests (person);
    """,
    """
    CREATE TABLE spent (
        collection bigint NOT NULL REFERENCES collections (id) ON DELETE CASCADE,
        key bytea NOT NULL, PRIMARY KEY (collection, key));
    """,
)
# Any number, the same in all replicas: they take turns at migrating.
MIGRATING = 6_273_361


# Its name in the table about: see keys.check_of.
CHECK = "check"


def migrate(connection: Any, dimension: int, model: str) -> None:
    """Bring a database to this version's tables, within one transaction.

    Args:
        connection: of psycopg, its transaction open; several replicas may come at once.
        dimension: D of the templates.
        model: fingerprint of the recogniser.

    Raises:
        MinusfaceError: the database was made for another model or dimension, or by a newer version.
    """
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATING,))
    connection.execute("CREATE TABLE IF NOT EXISTS migrations (number integer PRIMARY KEY)")
    row = connection.execute("SELECT coalesce(max(number), 0) FROM migrations").fetchone()
    done = int(row[0])
    if done > len(MIGRATIONS):
        raise MinusfaceError(
            f"PostgreSQL: tables of version {done}, expected {len(MIGRATIONS)} or older: a newer "
            "minusface made them"
        )
    for number, statements in enumerate(MIGRATIONS[done:], done + 1):
        connection.execute(statements.format(dimension=int(dimension)))
        connection.execute("INSERT INTO migrations VALUES (%s)", (number,))
    about = {"dimension": str(dimension), "model": model}
    for name, value in about.items():
        connection.execute(
            "INSERT INTO about VALUES (%s, %s) ON CONFLICT DO NOTHING", (name, value)
        )
    known = dict(connection.execute("SELECT name, value FROM about").fetchall())
    for name, value in about.items():
        if known[name] != value:
            raise MinusfaceError(
                f"PostgreSQL: made for {name} {known[name]!r}, not {value!r}; templates of another model are "
                "not comparable: enroll anew in another database"
            )


def check_master(connection: Any, master: bytes, dimension: int) -> None:
    """Refuse another master key than a database's; to be called after ``migrate``.

    Databases of earlier versions do not say which is theirs: it is the one that opens who was enrolled first,
    and is noted. So is that of a new database.

    Raises:
        MinusfaceError: another master key.
    """
    if same_master(connection, check_of(master)):
        return
    first = connection.execute(
        "SELECT c.salt, c.version, p.handle, p.name FROM people p JOIN collections c "
        "ON c.id = p.collection ORDER BY p.id LIMIT 1"
    ).fetchone()
    if first is not None:
        salt, version, handle, name = first
        CollectionKeys(master, bytes(salt), version, dimension).open(bytes(name), bytes(handle))
    note_master(connection, master)


def same_master(connection: Any, check: str) -> bool:
    """Whether a database says that this is its master key's check; False where it says nothing.

    Raises:
        MinusfaceError: it says that another is.
    """
    row = connection.execute("SELECT value FROM about WHERE name = %s", (CHECK,)).fetchone()
    if row is not None and row[0] != check:
        raise MinusfaceError("PostgreSQL: another master key than the database was made with")
    return row is not None


def note_master(connection: Any, master: bytes) -> None:
    """From here on it is a database's master key."""
    connection.execute(
        "INSERT INTO about VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (CHECK, check_of(master)),
    )

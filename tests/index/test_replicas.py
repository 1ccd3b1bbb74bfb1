"""Several services on one PostgreSQL, and the database going away and coming back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minusface.errors import MinusfaceError
from minusface.index import (
    Added,
    PgVectorIndex,
    Request,
    StorageError,
    UnknownPersonError,
    pggraphs,
)

D = 16
MASTER = bytes(range(32))


def unit(count: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, D))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def replicas(database: Callable[[], str]) -> Iterator[tuple[PgVectorIndex, PgVectorIndex]]:
    url = database()
    both = PgVectorIndex(url, D, MASTER), PgVectorIndex(url, D, MASTER)
    both[0].create("a")
    yield both
    for one in both:
        one.close()


def together(*calls: Callable[[], object]) -> list[object]:
    """All at once; what each returned or raised."""
    found: list[object] = [None] * len(calls)
    gate = threading.Barrier(len(calls))

    def run(place: int) -> None:
        gate.wait()
        try:
            found[place] = calls[place]()
        except Exception as error:
            found[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_the_same_person_at_two_replicas_is_one(
    replicas: tuple[PgVectorIndex, PgVectorIndex],
) -> None:
    for turn in range(15):
        rows = unit(2, turn)
        calls = [
            partial(r.add, "a", f"p{turn}", rows[place : place + 1])
            for place, r in enumerate(replicas)
        ]
        assert all(isinstance(one, Added) for one in together(*calls))
    for one in replicas:
        assert [(p.name, p.templates) for p in one.people("a")] == [(f"p{n}", 2) for n in range(15)]


def test_the_same_request_at_two_replicas_enrolls_once(
    replicas: tuple[PgVectorIndex, PgVectorIndex],
) -> None:
    for turn in range(15):
        request, rows = Request(f"k{turn}", b"x"), unit(2, turn)
        found = together(*[partial(r.add, "a", f"p{turn}", rows, request) for r in replicas])
        added = [one for one in found if isinstance(one, Added)]
        assert len(added) == 2, found
        assert added[0].templates == added[1].templates
        assert sorted(one.replayed for one in added) == [False, True]
    assert replicas[0].stats("a").templates == 30


def test_erasing_and_enrolling_at_once_leaves_all_or_nothing(
    replicas: tuple[PgVectorIndex, PgVectorIndex],
) -> None:
    one, other = replicas
    for turn in range(15):
        one.add("a", "Ann", unit(2, turn))
        found = together(lambda: other.erase("a", "Ann"), lambda: one.add("a", "Ann", unit(1)))
        assert not [error for error in found if isinstance(error, Exception)], found
        people = {person.name: person.templates for person in one.people("a")}
        assert people.get("Ann", 0) in (0, 1)
        assert one.stats("a").templates == people.get("Ann", 0)
        if people:
            one.erase("a", "Ann")


def test_a_rekeyed_collection_is_found_by_the_other_replica(
    replicas: tuple[PgVectorIndex, PgVectorIndex],
) -> None:
    one, other = replicas
    rows = unit(5)
    for number, row in enumerate(rows):
        other.add("a", f"p{number}", row[None])
    found = together(
        lambda: one.rekey("a"),
        *[lambda n=n: other.add("a", f"q{n}", unit(1, n)) for n in range(9, 15)],
    )
    assert not [error for error in found if isinstance(error, Exception)], found
    for index in replicas:
        assert [hits[0].person for hits in index.search("a", rows, 1)] == [
            f"p{n}" for n in range(5)
        ]
        for number in range(9, 15):
            assert index.scores("a", f"q{number}", unit(1, number))[0] > 0.999


Between = Callable[[PgVectorIndex, str, Callable[[], object]], None]


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Between:
    """Has something happen once, right after a step of a replica's read."""

    def call(replica: PgVectorIndex, step: str, what: Callable[[], object]) -> None:
        real, left = getattr(replica, step), [what]

        def then(*values: object) -> object:
            found = real(*values)
            if left:
                left.pop()()
            return found

        monkeypatch.setattr(replica, step, then)

    return call


@pytest.mark.parametrize("step", ["_known", "_person"])
@pytest.mark.parametrize("what", ["rekey", "erase"])
def test_a_read_sees_one_moment_whatever_another_replica_does(
    replicas: tuple[PgVectorIndex, PgVectorIndex], between: Between, step: str, what: str
) -> None:
    one, other = replicas
    one.add("a", "Ann", unit(1))

    def change() -> None:
        other.rekey("a") if what == "rekey" else other.erase("a", "Ann")

    between(one, step, change)
    assert one.scores("a", "Ann", unit(1))[0] > 0.999
    if what == "erase":
        with pytest.raises(UnknownPersonError):
            one.scores("a", "Ann", unit(1))


def test_lists_searches_and_exports_see_one_moment(
    replicas: tuple[PgVectorIndex, PgVectorIndex], between: Between
) -> None:
    one, other = replicas
    one.add("a", "Ann", unit(1))
    for read in (
        lambda: one.search("a", unit(1), 1)[0][0].score > 0.999,
        lambda: one.people("a")[0].name == "Ann",
        lambda: float((next(one.entries("a")).vectors @ unit(1).T).item()) > 0.999,
        lambda: one.stats("a").people == 1,
    ):
        between(one, "_known", lambda: other.rekey("a"))
        assert read()


def test_another_master_key_is_refused_at_the_start(database: Callable[[], str]) -> None:
    url = database()
    index = PgVectorIndex(url, D, MASTER)
    with pytest.raises(MinusfaceError, match="another master key"):
        PgVectorIndex(url, D, bytes(32))
    index.create("a")
    index.add("a", "Ann", unit(1))
    index.change_master(bytes(32))
    index.close()
    with pytest.raises(MinusfaceError, match="another master key"):
        PgVectorIndex(url, D, MASTER)
    PgVectorIndex(url, D, bytes(32)).close()


def test_a_database_of_an_earlier_version_takes_the_key_that_opens_it(
    database: Callable[[], str],
) -> None:
    import psycopg

    url = database()
    index = PgVectorIndex(url, D, MASTER)
    index.create("a")
    index.add("a", "Ann", unit(1))
    index.close()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DELETE FROM about WHERE name = 'check'")
        with pytest.raises(MinusfaceError, match="another master key"):
            PgVectorIndex(url, D, bytes(32))
        PgVectorIndex(url, D, MASTER).close()
        noted = connection.execute("SELECT value FROM about WHERE name = 'check'").fetchone()
    assert noted is not None
    assert MASTER.hex() not in noted[0]


def test_a_replica_with_the_old_master_key_enrolls_nobody(
    replicas: tuple[PgVectorIndex, PgVectorIndex],
) -> None:
    one, other = replicas
    one.add("a", "Ann", unit(1))
    one.change_master(bytes(32))
    with pytest.raises(MinusfaceError, match="another master key"):
        other.add("a", "Bob", unit(1, 1))
    assert [person.name for person in one.people("a")] == ["Ann"]


def test_a_collection_made_while_the_master_key_changes_is_not_left_under_the_old_one(
    replicas: tuple[PgVectorIndex, PgVectorIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    from minusface.index import pgvector

    one, other = replicas
    real, found = pgvector.reseal, []

    def late() -> None:
        try:
            other.create("late")
            found.append(other.add("late", "Ann", unit(1)))
        except MinusfaceError as error:
            found.append(error)

    thread = threading.Thread(target=late)

    def reseal(*values: Any) -> None:
        thread.start()
        # Time enough to be enrolled, were nothing held.
        thread.join(1)
        real(*values)

    monkeypatch.setattr(pgvector, "reseal", reseal)
    one.change_master(bytes(32))
    thread.join()
    assert isinstance(found[0], MinusfaceError)
    assert "master key" in str(found[0])
    assert one.people("late") == []


def test_who_is_enrolled_stays_so_though_no_graph_can_be_made(
    database: Callable[[], str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url, tries = database(), []
    index = PgVectorIndex(url, D, MASTER, exact_below=20)
    index.create("a")

    def fails(*given: object) -> str:
        tries.append(given)
        raise StorageError("PostgreSQL: no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(pggraphs, "count_of", fails)
        for number in range(10):
            assert not index.add("a", f"p{number}", unit(3, number)).replayed
        index._graphs.wait()
        # Not with each enrolment: trying may take minutes.
        assert len(tries) == 1
    assert "no space left" in caplog.text
    assert index.stats("a").exact
    index.add("a", "late", unit(1, 99))
    assert index.stats("a").exact
    index._graphs._rest = 0.0
    index.add("a", "later", unit(1, 98))
    index._graphs.wait()
    assert not index.stats("a").exact
    assert index.stats("a").templates == 32
    index.close()


def test_others_enroll_and_erase_while_a_graph_is_made(
    database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for whoever was there before, and nobody waits for it."""
    import psycopg

    url = database()
    index = PgVectorIndex(url, D, MASTER, exact_below=20)
    for name in ("a", "b"):
        index.create(name)
    index.add("b", "Bob", unit(3, 1))
    with psycopg.connect(url) as before:
        # Somebody who may have written, and is not done: the graph is not made before.
        before.execute("LOCK TABLE templates IN ROW EXCLUSIVE MODE")
        index.add("a", "Ann", unit(30, 2))
        _until(lambda: _making(url))
        began = time.monotonic()
        index.add("b", "Cem", unit(2, 3))
        assert index.erase("b", "Bob") == 3
        assert index.drop("b") == 2
        assert [hit[0].person for hit in index.search("a", unit(1, 2), 1)] == ["Ann"]
        assert time.monotonic() - began < 20
        assert index.stats("a").exact
        # One database makes one at a time: another replica leaves it alone.
        other = PgVectorIndex(url, D, MASTER, exact_below=20)
        other.add("a", "late", unit(3, 4))
        other._graphs.wait()
        assert other.stats("a").exact
        other.close()
    index._graphs.wait()
    assert not index.stats("a").exact
    index.close()


def test_a_graph_that_was_cut_short_is_made_anew(database: Callable[[], str]) -> None:
    import psycopg

    url = database()
    index = PgVectorIndex(url, D, MASTER, exact_below=20)
    index.create("a")
    with psycopg.connect(url) as before:
        before.execute("LOCK TABLE templates IN ROW EXCLUSIVE MODE")
        index.add("a", "Ann", unit(30, 2))
        _until(lambda: _making(url))
        # Neither waits for the other.
        index.close()
    ruin = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"
    with psycopg.connect(url) as look:
        assert look.execute(ruin).fetchone() == (1,)
    index = PgVectorIndex(url, D, MASTER, exact_below=20)
    assert index.stats("a").exact
    # A service that only searches makes it, too.
    index.search("a", unit(1, 3), 1)
    index._graphs.wait()
    assert not index.stats("a").exact
    with psycopg.connect(url) as look:
        assert look.execute(ruin).fetchone() == (0,)
    graphs = "SELECT count(*) FROM pg_indexes WHERE indexname LIKE 'templates_graph%'"
    index.drop("a")
    index._graphs.wait()
    with psycopg.connect(url) as look:
        assert look.execute(graphs).fetchone() == (0,)
        # One that is left all the same goes when the next is made.
        look.execute(
            "CREATE INDEX templates_graph_99 ON templates USING hnsw (vector vector_ip_ops) "
            "WHERE collection = 99"
        )
    index.create("b")
    index.add("b", "Ann", unit(30, 2))
    index._graphs.wait()
    with psycopg.connect(url) as look:
        assert look.execute(graphs).fetchone() == (1,)
    assert not index.stats("b").exact
    index.close()


def test_erased_rows_are_freed_though_another_vacuum_is_under_way(
    database: Callable[[], str],
) -> None:
    """It is waited for; a table that is held for long is given up."""
    import psycopg

    url = database()
    index = PgVectorIndex(url, D, MASTER)
    index.create("a")
    index.add("a", "Ann", unit(3, 1))
    with psycopg.connect(url) as held:
        held.execute("LOCK TABLE templates IN SHARE UPDATE EXCLUSIVE MODE")
        ended = threading.Timer(1.0, held.rollback)
        ended.start()
        assert index.erase("a", "Ann") == 3
        ended.join()
    count = "SELECT vacuum_count FROM pg_stat_user_tables WHERE relname = 'templates'"
    _until(lambda: _one(url, count) > 0)
    with psycopg.connect(url) as held:
        index.add("a", "Bob", unit(3, 1))
        held.execute("LOCK TABLE templates IN SHARE UPDATE EXCLUSIVE MODE")
        began = time.monotonic()
        assert index.erase("a", "Bob") == 3
        assert time.monotonic() - began < 60
    # The connection goes back as it was.
    with index._db.transaction() as db:
        assert db.execute("SHOW lock_timeout").fetchone() == ("0",)
    index.close()


def _one(url: str, asked: str) -> int:
    import psycopg

    with psycopg.connect(url) as look:
        row = look.execute(asked).fetchone()  # type: ignore[arg-type]
    return 0 if row is None else int(row[0])


def _making(url: str) -> bool:
    import psycopg

    with psycopg.connect(url) as look:
        asked = "SELECT count(*) FROM pg_stat_progress_create_index"
        row = look.execute(asked).fetchone()
    return row is not None and row[0] > 0


def _until(happened: Callable[[], bool]) -> None:
    patience = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < patience
        time.sleep(0.02)


def test_replicas_that_start_together_make_the_tables_once(database: Callable[[], str]) -> None:
    url = database()
    found = together(*[lambda: PgVectorIndex(url, D, MASTER)] * 4)
    for one in found:
        assert isinstance(one, PgVectorIndex), one
        one.close()


def test_a_database_made_by_a_newer_version_is_left_alone(database: Callable[[], str]) -> None:
    import psycopg

    url = database()
    PgVectorIndex(url, D, MASTER).close()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO migrations VALUES (99)")
    with pytest.raises(MinusfaceError, match="newer minusface"):
        PgVectorIndex(url, D, MASTER)


ENROLLING = """
import sys, numpy as np
from minusface.index import PgVectorIndex, Request
index = PgVectorIndex(sys.argv[1], 16, bytes(range(32)))
for number in range(int(sys.argv[2]), 200):
    rows = np.random.default_rng(number).standard_normal((1, 16)).astype("float32")
    index.add("a", f"p{number}", rows, Request(f"k{number}", b"x"))
    print(number, flush=True)
"""


def test_kill_9_loses_no_acknowledged_enrolment_and_doubles_none(
    database: Callable[[], str],
) -> None:
    url = database()
    index = PgVectorIndex(url, D, MASTER)
    index.create("a")
    acknowledged, random = -1, np.random.default_rng(3)
    for _ in range(5):
        # The last one acknowledged is sent again, as a client does that heard nothing.
        child = subprocess.Popen(
            [sys.executable, "-c", ENROLLING, url, str(max(0, acknowledged))],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        for _ in range(int(random.integers(5, 40))):
            line = child.stdout.readline()
            if not line:
                break
            acknowledged = int(line)
        child.send_signal(signal.SIGKILL)
        child.wait()
        for line in child.stdout:
            acknowledged = int(line)
        names = [person.name for person in index.people("a", limit=500)]
        assert names[: acknowledged + 1] == [f"p{n}" for n in range(acknowledged + 1)]
        # At most the one under way when it was killed.
        assert len(names) <= acknowledged + 2
        assert index.stats("a").templates == len(names)
    index.close()


def test_a_database_that_goes_away_is_told_of_and_found_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pgserver = pytest.importorskip("pgserver", reason="brings PostgreSQL with pgvector")
    from minusface.index import pgpool

    monkeypatch.setattr(pgpool, "PATIENCE", 1.5)
    folder = Path(tempfile.mkdtemp(prefix="minusface-pg-"))
    server = pgserver.get_server(folder, cleanup_mode=None)
    index = PgVectorIndex(server.get_uri(), D, MASTER)
    try:
        index.create("a")
        index.add("a", "Ann", unit(1))
        stop(folder)
        with pytest.raises(StorageError, match="PostgreSQL"):
            index.add("a", "Bob", unit(1, 1))
        pgserver.PostgresServer._instances.clear()
        pgserver.get_server(folder, cleanup_mode=None)
        deadline = time.monotonic() + 30
        while True:
            try:
                index.add("a", "Cem", unit(1, 2), Request("c", b"c"))
                break
            except StorageError:
                assert time.monotonic() < deadline
                time.sleep(0.3)
        assert [person.name for person in index.people("a")] == ["Ann", "Cem"]
    finally:
        index.close()
        stop(folder)
        shutil.rmtree(folder, ignore_errors=True)


def stop(folder: Path) -> None:
    """Kill a server, as a power cut does."""
    process = int((folder / "postmaster.pid").read_text().split()[0])
    os.kill(process, signal.SIGQUIT)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    (folder / "postmaster.pid").unlink(missing_ok=True)

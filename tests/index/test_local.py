"""The embedded index: exactness against brute force, erasure, tenants, idempotency, faults."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minusface.errors import MinusfaceError
from minusface.index import (
    ConflictError,
    LocalIndex,
    Request,
    StorageError,
    UnknownCollectionError,
    UnknownPersonError,
    gallery,
    local,
)
from minusface.index.nearest import Nearest
from minusface.index.schema import DATABASE

D = 16
MASTER = bytes(range(32))
Open = Callable[..., LocalIndex]


def unit(count: int, dimension: int = D, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens the index of the test's folder; the one before is closed first, as at a restart."""
    now: list[LocalIndex] = []

    def call(
        folder: Path = tmp_path / "index", master: bytes = MASTER, **more: object
    ) -> LocalIndex:
        while now:
            now.pop().close()
        now.append(LocalIndex(folder, D, master, **more))  # type: ignore[arg-type]
        return now[0]

    yield call
    while now:
        now.pop().close()


def brute(rows: dict[str, np.ndarray], query: np.ndarray, count: int) -> list[tuple[str, float]]:
    """Best cosine of each person, best first: the slow, obvious way."""
    best = {p: float((v.astype(np.float64) @ query).max()) for p, v in rows.items()}
    return sorted(best.items(), key=lambda item: (-item[1], item[0]))[:count]


def test_answers_are_those_of_brute_force(opened: Open) -> None:
    index = opened()
    index.create("a")
    vectors, rows = unit(120), {}
    for person in range(40):
        rows[f"p{person}"] = vectors[3 * person : 3 * person + 3]
        index.add("a", f"p{person}", rows[f"p{person}"])
    queries = unit(10, seed=1)
    for again in (index.search("a", queries, 7), opened().search("a", queries, 7)):
        for query, hits in zip(queries, again, strict=True):
            wanted = brute(rows, query, 7)
            assert [h.person for h in hits] == [p for p, _ in wanted]
            np.testing.assert_allclose([h.score for h in hits], [s for _, s in wanted], atol=1e-5)
    index = opened()
    np.testing.assert_allclose(
        index.scores("a", "p3", queries), (queries @ rows["p3"].T).max(1), atol=1e-5
    )
    assert len(index.search("a", queries, 1000)[0]) == 40


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=25), st.integers(1, 6))
def test_any_history_equals_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, bool]], count: int
) -> None:
    index = LocalIndex(tmp_path_factory.mktemp("index"), D, MASTER, exact_below=6)
    index.create("a")
    rows: dict[str, np.ndarray] = {}
    for number, (who, erase) in enumerate(steps):
        person = f"p{who}"
        if not erase:
            vector = unit(1, seed=number)
            index.add("a", person, vector)
            rows[person] = np.concatenate([rows[person], vector]) if person in rows else vector
        elif person in rows:
            assert index.erase("a", person) == len(rows.pop(person))
        else:
            with pytest.raises(UnknownPersonError):
                index.erase("a", person)
    query = unit(1, seed=999)
    assert [h.person for h in index.search("a", query, count)[0]] == [
        p for p, _ in brute(rows, query[0], count)
    ]
    assert {p.name: p.templates for p in index.people("a")} == {p: len(v) for p, v in rows.items()}
    index.close()


def test_erasing_leaves_nothing(opened: Open, tmp_path: Path) -> None:
    index = opened()
    index.create("a")
    vectors = unit(3)
    index.add("a", "Ann Unmistakable", vectors[:2], Request("k", b"d"))
    index.add("a", "Bob", vectors[2:])
    with sqlite3.connect(tmp_path / "index" / DATABASE) as db:
        blobs = [b for row in db.execute("SELECT uid, vector FROM templates LIMIT 2") for b in row]
        blobs += [row[0] for row in db.execute("SELECT name FROM people LIMIT 1")]
    db.close()
    files = list((tmp_path / "index").iterdir())
    assert all(any(b in f.read_bytes() for f in files) for b in blobs)
    assert index.erase("a", "Ann Unmistakable") == 2
    for file in (tmp_path / "index").iterdir():
        data = file.read_bytes()
        assert not any(blob in data for blob in blobs), file.name
        assert b"Unmistakable" not in data
    assert [h.person for h in index.search("a", vectors[:1], 5)[0]] == ["Bob"]
    with pytest.raises(UnknownPersonError):
        index.scores("a", "Ann Unmistakable", vectors[:1])
    assert index.stats("a").templates == 1
    assert [p.name for p in opened().people("a")] == ["Bob"]


def test_names_and_templates_are_never_in_plain(opened: Open, tmp_path: Path) -> None:
    index = opened()
    index.create("a")
    rows = unit(2)
    index.add("a", "Ann Unmistakable", rows)
    rotated = index._collections["a"].keys.rotate(rows)
    for file in (tmp_path / "index").iterdir():
        data = file.read_bytes()
        assert b"Unmistakable" not in data
        assert rows[0].tobytes() not in data
        assert rotated[0].tobytes() not in data


def test_an_older_backup_brings_nobody_back(opened: Open, tmp_path: Path) -> None:
    index = opened()
    for name in ("a", "b"):
        index.create(name)
        index.add(name, "Ann", unit(2), Request("k", b"one"))
        index.add(name, "Bob", unit(1, seed=5))
    backup = tmp_path / "backup.sqlite"
    index.backup(backup)
    index.erase("a", "Ann")
    index.drop("b")
    index.close()
    for file in (tmp_path / "index").glob("gallery.sqlite*"):
        file.unlink()
    (tmp_path / "index" / DATABASE).write_bytes(backup.read_bytes())
    index = opened()
    assert index.collections() == ["a"]
    assert [p.name for p in index.people("a")] == ["Bob"]
    with pytest.raises(ConflictError, match="erased since"):
        index.add("a", "Ann", unit(2), Request("k", b"one"))
    # Enrolled anew, they are there: only what was erased is gone.
    index.add("a", "Ann", unit(2))
    assert len(opened().people("a")) == 2


def test_tenants_do_not_see_each_other(opened: Open) -> None:
    index = opened()
    for name in ("a", "b"):
        index.create(name)
        index.add(name, "Ann", unit(1))
    index.erase("a", "Ann")
    assert index.search("a", unit(1), 3) == [[]]
    assert index.search("b", unit(1), 3)[0][0].score == pytest.approx(1, abs=1e-5)
    keys = [index._collections[name].keys for name in ("a", "b")]
    assert abs(float((keys[0].rotate(unit(1)) * keys[1].rotate(unit(1))).sum())) < 0.95
    with pytest.raises(UnknownCollectionError, match="no collection 'c'"):
        index.search("c", unit(1), 1)
    with pytest.raises(ConflictError):
        index.create("a")
    index.drop("a")
    assert index.collections() == ["b"]


def test_a_repeated_request_is_answered_not_done(opened: Open) -> None:
    index = opened()
    index.create("a")
    first = index.add("a", "Ann", unit(1), Request("k", b"one"))
    again = opened().add("a", "Ann", unit(1), Request("k", b"one"))
    assert (first.replayed, again.replayed) == (False, True)
    assert first.templates == again.templates
    index = opened()
    assert index.stats("a").templates == 1
    with pytest.raises(ConflictError, match="idempotency"):
        index.add("a", "Bob", unit(1), Request("k", b"two"))
    index.erase("a", "Ann")
    with pytest.raises(ConflictError, match="erased since"):
        index.add("a", "Ann", unit(1), Request("k", b"one"))


def test_rekeying_keeps_every_answer_and_changes_every_byte(opened: Open, tmp_path: Path) -> None:
    index = opened()
    index.create("a")
    for person in range(5):
        index.add("a", f"p{person}", unit(2, seed=person))
    query = unit(1, seed=3)
    before, old_keys = index.search("a", query, 5), index._collections["a"].keys
    with sqlite3.connect(tmp_path / "index" / DATABASE) as db:
        blobs = [row[0] for row in db.execute("SELECT vector FROM templates")]
    db.close()
    assert index.rekey("a") == 2
    for hits, wanted in zip(index.search("a", query, 5)[0], before[0], strict=True):
        assert hits.person == wanted.person
        assert hits.score == pytest.approx(wanted.score, abs=1e-5)
    assert np.abs(index._collections["a"].keys.rotation - old_keys.rotation).max() > 0.1
    for file in (tmp_path / "index").iterdir():
        assert not any(blob in file.read_bytes() for blob in blobs)
    other = bytes(32)
    index.change_master(other)
    assert opened(master=other).search("a", query, 5)[0][0].person == before[0][0].person
    with pytest.raises(MinusfaceError, match="another master key"):
        opened()
    assert opened(master=other).stats("a").key_version == 3


def test_what_does_not_fit_is_refused(opened: Open, tmp_path: Path) -> None:
    index = opened(model="one")
    index.create("a")
    for vectors in (np.zeros((1, D)), np.full((1, D), np.nan), unit(1, D + 1), np.zeros((0, D))):
        with pytest.raises(MinusfaceError, match="templates"):
            index.add("a", "Ann", vectors)
    for name in ("", " Ann", "A\nnn", "x" * 201):
        with pytest.raises(MinusfaceError, match="1 to 200 printable"):
            index.add("a", name, unit(1))
    with pytest.raises(MinusfaceError, match="another process"):
        LocalIndex(tmp_path / "index", D, MASTER)
    with pytest.raises(MinusfaceError, match="made for model 'one', not 'two'"):
        opened(model="two")
    assert opened(model="one").collections() == ["a"]


def test_a_full_disk_changes_nothing(opened: Open) -> None:
    index = opened()
    index.create("a")
    index.add("a", "Ann", unit(1))
    pages = index._db.execute("PRAGMA page_count").fetchone()[0]
    index._db.execute(f"PRAGMA max_page_count = {pages}")

    def fill() -> None:
        for number in range(200):
            index.add("a", f"p{number}", unit(20, seed=number))

    with pytest.raises(StorageError, match="full"):
        fill()
    before = index.stats("a")
    assert [h.person for h in index.search("a", unit(1), 1)[0]] == ["Ann"]
    assert opened().stats("a") == before


CHILD = """
import sys, numpy as np
from minusface.index import LocalIndex, Request
index = LocalIndex(sys.argv[1], 16, bytes(range(32)))
if "a" not in index.collections():
    index.create("a")
for n in range(200):
    vector = np.random.default_rng(n).standard_normal((1, 16)).astype("float32")
    index.add("a", f"p{n}", vector, Request(f"k{n}", b"d"))
    print(n, flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_killed_in_the_middle_nothing_acknowledged_is_lost(tmp_path: Path, opened: Open) -> None:
    folder = tmp_path / "index"
    acknowledged: set[int] = set()
    for wait in (20, 90, 10**9):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        for count, line in enumerate(child.stdout):
            acknowledged.add(int(line))
            if count == wait:
                child.send_signal(signal.SIGKILL)
                break
        child.wait(60)
        child.stdout.close()
        people = {p.name: p.templates for p in opened().people("a", limit=1000)}
        assert {f"p{n}" for n in acknowledged} <= set(people)
        assert set(people.values()) == {1}
        opened().close()
    assert acknowledged == set(range(200))


def test_many_threads(opened: Open) -> None:
    index = opened()
    index.create("a")
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(10):
                index.add("a", f"p{number}", unit(1, seed=100 * number + step))
                index.search("a", unit(2, seed=step), 3)
            index.erase("a", f"p{number}") if number % 2 else None
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert (index.stats("a").people, index.stats("a").templates) == (3, 30)


def test_clock_jumps_do_not_matter(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    index = opened()
    index.create("a")
    index.add("a", "Ann", unit(1))
    monkeypatch.setattr(time, "time", lambda: 0.0)
    index.erase("a", "Ann")
    index.add("a", "Ann", unit(1))
    assert opened().stats("a").templates == 1


def test_a_page_of_people(opened: Open) -> None:
    index = opened()
    index.create("a")
    for number in range(7):
        index.add("a", f"p{number}", unit(1, seed=number))
    first = index.people("a", limit=3)
    rest = index.people("a", after=first[-1].cursor)
    assert [p.name for p in (*first, *rest)] == [f"p{n}" for n in range(7)]


def test_coarse_search_finds_what_exact_search_finds() -> None:
    rows, queries = unit(4000, 64), unit(300, 64, seed=1)
    numbers = np.arange(4000) * 3 + 7
    exact, coarse = Nearest(64), Nearest(64, exact_below=100)
    for start in range(0, 4000, 500):
        for one in (exact, coarse):
            one.add(numbers[start : start + 500], rows[start : start + 500])
    assert exact.exact
    assert not coarse.exact
    scores, found = exact.search(queries, 5)
    near_scores, near = coarse.search(queries, 5)
    assert (found[:, 0] == near[:, 0]).mean() >= 0.99
    assert (found == near).mean() >= 0.99
    np.testing.assert_allclose(scores[:, 0], near_scores[:, 0], atol=1e-3)
    assert coarse.remove(found[:, 0]) == len(set(found[:, 0]))
    assert not set(coarse.search(queries, 5)[1].ravel()) & set(found[:, 0])
    assert len(coarse) == 4000 - len(set(found[:, 0]))
    assert coarse.remove([]) == 0
    few = Nearest(64, exact_below=1)
    few.add(np.array([5]), rows[:1])
    assert few.search(rows[:1], 3)[1].tolist() == [[5, -1, -1]]


def test_a_damaged_search_is_rebuilt_and_a_damaged_truth_is_told(opened: Open) -> None:
    index = opened()
    index.create("a")
    for number in range(20):
        index.add("a", f"p{number}", unit(1, seed=number))
    before = index.search("a", unit(3, seed=5), 4)
    # What is searched lies in memory only: lost, it comes back from the truth at the next start.
    index._collections["a"].nearest.remove(list(index._collections["a"].owner))
    assert not index.search("a", unit(1), 1)[0]
    index = opened()
    assert index.search("a", unit(3, seed=5), 4) == before
    index.close()
    path = index.folder / DATABASE
    (index.folder / f"{DATABASE}-shm").write_bytes(b"\xff" * 32768)
    assert opened().search("a", unit(3, seed=5), 4) == before
    opened().close()
    data = path.read_bytes()
    path.write_bytes(b"\0" * 100 + data[100:])
    with pytest.raises(StorageError, match="not a database"):
        opened()
    path.write_bytes(data)
    assert opened().stats("a").templates == 20


def test_a_full_disk_erases_nobody_half(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    index = opened()
    index.create("a")
    index.add("a", "Ann", unit(1))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space left"):
            index.erase("a", "Ann")
    assert index.erase("a", "Ann") == 1


def test_who_cannot_be_erased_now_is_not_erased_later_unasked(opened: Open) -> None:
    index = opened()
    index.create("a")
    index.add("a", "Ann", unit(1))
    index._db.execute("PRAGMA busy_timeout = 50")
    other = sqlite3.connect(index.folder / DATABASE)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="locked"):
        index.erase("a", "Ann")
    with pytest.raises(StorageError, match="locked"):
        index.drop("a")
    other.close()
    assert [person.name for person in opened().people("a")] == ["Ann"]


def test_what_was_dropped_after_new_keys_stays_away(opened: Open, tmp_path: Path) -> None:
    index = opened()
    index.create("a")
    index.add("a", "Ann", unit(2))
    backup = tmp_path / "backup.sqlite"
    index.backup(backup)
    index.rekey("a")
    index.drop("a")
    index.close()
    for file in (tmp_path / "index").glob("gallery.sqlite*"):
        file.unlink()
    (tmp_path / "index" / DATABASE).write_bytes(backup.read_bytes())
    index = opened()
    assert [index.people(name) for name in index.collections()] == [[]]


def test_a_row_that_cannot_be_opened_is_named(opened: Open) -> None:
    index = opened()
    index.create("door")
    for name in ("Ann", "Bob"):
        index.add("door", name, unit(1))
    index._db.execute("UPDATE templates SET vector = zeroblob(92) WHERE id = 2")
    with pytest.raises(StorageError, match="altered data"):
        index.scores("door", "Bob", unit(1))
    with pytest.raises(StorageError, match=r"collection .door., template 2: .*altered data"):
        opened()


class Fails:
    """A database whose log cannot be emptied for now, as on a full disk."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        if "wal_checkpoint" in statement:
            raise sqlite3.OperationalError("database or disk is full")
        return self._db.execute(statement, *values)  # type: ignore[arg-type]


@pytest.mark.parametrize("what", ["rekey", "change_master"])
def test_new_keys_are_used_though_the_log_cannot_be_emptied(opened: Open, what: str) -> None:
    index = opened()
    index.create("a")
    index.add("a", "Ann", unit(1))
    index._log._db = Fails(index._db)  # type: ignore[assignment]
    master = MASTER if what == "rekey" else bytes(32)
    index.rekey("a") if what == "rekey" else index.change_master(master)
    assert index._log.due
    assert index.stats("a").key_version == 2
    index.add("a", "Bob", unit(1, seed=1))
    assert index.scores("a", "Ann", unit(1))[0] > 0.999
    index = opened(master=master)
    assert [p.name for p in index.people("a")] == ["Ann", "Bob"]


def test_new_keys_that_cannot_be_read_into_memory_change_nothing(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = opened()
    index.create("a")
    index.add("a", "Ann", unit(1))
    with monkeypatch.context() as patched:
        patched.setattr(Nearest, "add", lambda *_: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(MemoryError):
            index.rekey("a")
    index.add("a", "Bob", unit(1, seed=1))
    assert len(opened().people("a")) == 2


@pytest.mark.parametrize("what", ["erase", "drop"])
def test_who_was_erased_is_found_no_more_though_the_log_cannot_be_emptied(
    opened: Open, what: str
) -> None:
    index = opened()
    for name in ("a", "b"):
        index.create(name)
        index.add(name, "Ann", unit(2))
    index._log._db = Fails(index._db)  # type: ignore[assignment]
    assert (index.erase("a", "Ann") if what == "erase" else index.drop("a")) == 2
    assert index._log.due
    if what == "erase":
        assert index.search("a", unit(1), 5) == [[]]
        assert index.stats("a").templates == 0
    else:
        assert index.collections() == ["b"]
    assert len(index.people("b")) == 1


@pytest.mark.parametrize("after", ["a write", "a while", "closing"])
def test_what_was_erased_under_a_reader_goes_when_the_reader_has_gone(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    monkeypatch.setattr("minusface.index.changes.AGAIN", 0.2 if after == "a while" else 1000.0)
    index = opened()
    index.create("a")
    for number in range(50):
        index.add("a", f"p{number}", unit(1, seed=number))
    (sealed,) = index._db.execute("SELECT vector FROM templates WHERE id = 25").fetchone()

    def lies_there() -> bool:
        return any(sealed in file.read_bytes() for file in (tmp_path / "index").iterdir())

    reader = sqlite3.connect(tmp_path / "index" / DATABASE, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM people").fetchone()
    start = time.monotonic()
    assert index.erase("a", "p24") == 1
    assert time.monotonic() - start < 2
    assert index._log.due
    assert lies_there()
    reader.close()
    if after == "a write":
        index.add("a", "late", unit(1, seed=99))
    elif after == "closing":
        index.close()
    deadline = time.monotonic() + 10
    while (index._log.due or lies_there()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not lies_there()
    assert not index._log.due
    assert len(opened().people("a")) == (50 if after == "a write" else 49)


def test_what_a_killed_process_had_erased_goes_at_the_next_start(
    opened: Open, tmp_path: Path
) -> None:
    index = opened()
    index.create("a")
    index.add("a", "Ann", unit(1))
    index.add("a", "Bob", unit(1, seed=1))
    (sealed,) = index._db.execute("SELECT vector FROM templates WHERE id = 1").fetchone()
    index._log._db = Fails(index._db)  # type: ignore[assignment]
    index.erase("a", "Ann")
    # As a kill leaves it: the files as they are, the log not folded in.
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "index", copy)
    assert any(sealed in file.read_bytes() for file in copy.iterdir())
    index = opened(copy)
    assert not any(sealed in file.read_bytes() for file in copy.iterdir())
    assert [p.name for p in index.people("a")] == ["Bob"]


FIRST_START = """
import os, signal, sqlite3, sys
from minusface.index import LocalIndex, schema

class Killed(sqlite3.Connection):
    def executemany(self, statement, rows):
        # After the first of them.
        super().executemany(statement, list(rows)[:1])
        os.kill(os.getpid(), signal.SIGKILL)

real = sqlite3.connect
schema.sqlite3.connect = lambda *a, **k: real(*a, factory=Killed, **k)
LocalIndex(sys.argv[1], 16, bytes(range(32)), model="m")
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_killed_at_the_first_start_a_folder_serves_at_the_next(
    opened: Open, tmp_path: Path
) -> None:
    folder = tmp_path / "index"
    done = subprocess.run([sys.executable, "-c", FIRST_START, str(folder)], check=False)
    assert done.returncode == -signal.SIGKILL
    with sqlite3.connect(folder / DATABASE) as db:
        # In one transaction: all, or as here nothing.
        assert db.execute("SELECT count(*) FROM about").fetchone() == (0,)
        # What earlier versions left.
        db.execute("INSERT INTO about VALUES ('format', '1')")
    db.close()
    opened(model="m").create("a")
    with pytest.raises(MinusfaceError, match="made for model 'm', not 'n'"):
        opened(model="n")


def test_another_master_key_is_refused_though_nobody_is_enrolled(
    opened: Open, tmp_path: Path
) -> None:
    opened().create("a")
    with pytest.raises(MinusfaceError, match="another master key"):
        opened(master=bytes(32))
    opened().change_master(bytes(32))
    with pytest.raises(MinusfaceError, match="another master key"):
        opened()
    index = opened(master=bytes(32))
    index.add("a", "Ann", unit(1))
    index.close()
    with sqlite3.connect(tmp_path / "index" / DATABASE) as db:
        # As earlier versions made it.
        db.execute("DELETE FROM about WHERE name = 'check'")
    db.close()
    with pytest.raises(MinusfaceError, match="another master key"):
        opened()
    assert opened(master=bytes(32)).stats("a").people == 1


def test_others_are_answered_while_new_keys_are_prepared(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what they change meanwhile is there afterwards."""
    index = opened()
    for place in ("a", "b"):
        index.create(place)
    # Several pages of people, each with a photo of his own.
    rows = unit(3 * local.PAGE)
    for number, row in enumerate(rows):
        index.add("a", f"p{number}", row[None])
    index.add("b", "Bob", unit(1, seed=1))
    real, done = gallery.Ahead.take, []

    def meanwhile() -> None:
        done.append(index.search("b", unit(1, seed=1), 1)[0][0].person)
        index.erase("a", "p1")
        index.erase("a", f"p{2 * local.PAGE}")
        index.add("a", "p0", unit(1, seed=2))
        index.add("a", "late", unit(1, seed=3))
        done.append("changed")

    def take(*values: Any) -> None:
        real(*values)
        if not done:
            other = threading.Thread(target=meanwhile)
            other.start()
            other.join(10)

    monkeypatch.setattr(gallery.Ahead, "take", take)
    assert index.rekey("a") == 2
    assert done == ["Bob", "changed"]
    for now in (index, None):
        now = now or opened()
        assert now.stats("a").templates == 3 * local.PAGE
        assert now.scores("a", "p0", unit(1, seed=2))[0] > 0.999
        assert now.scores("a", "late", unit(1, seed=3))[0] > 0.999
        found = now.search("a", rows, 1)
        right = [
            hits[0].person == f"p{n}" and hits[0].score > 0.999 for n, hits in enumerate(found)
        ]
        assert [n for n, one in enumerate(right) if not one] == [1, 2 * local.PAGE]


@pytest.mark.parametrize("what", ["rekey", "change_master", "made anew", "drop"])
def test_keys_that_changed_while_new_ones_are_prepared_are_not_mixed(
    opened: Open, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    index = opened()
    index.create("a")
    rows = unit(2 * local.PAGE)
    for number, row in enumerate(rows):
        index.add("a", f"p{number}", row[None])
    real, left = gallery.Ahead.take, [what]
    master = bytes(32) if what == "change_master" else MASTER

    def take(*values: Any) -> None:
        real(*values)
        if not left:
            return
        left.pop()
        if what == "rekey":
            index.rekey("a")
        elif what == "change_master":
            index.change_master(master)
        else:
            index.drop("a")
        if what == "made anew":
            index.create("a")
            index.add("a", "Ann", unit(1))

    monkeypatch.setattr(gallery.Ahead, "take", take)
    if what == "drop":
        with pytest.raises(UnknownCollectionError):
            index.rekey("a")
        return
    assert index.rekey("a") == (2 if what == "made anew" else 3)
    for found in (index, None):
        found = found or opened(master=master)
        if what == "made anew":
            assert [person.name for person in found.people("a")] == ["Ann"]
        else:
            names = [hits[0].person for hits in found.search("a", rows, 1)]
            assert names == [f"p{n}" for n in range(len(rows))]


def test_collections_are_told_while_one_gets_new_keys(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = opened()
    for place in ("b", "a", "c"):
        index.create(place)
    index.drop("c")
    told: list[list[str]] = []
    real = local.reseal

    def reseal(*values: Any) -> None:
        asking = threading.Thread(target=lambda: told.append(index.collections()))
        asking.start()
        asking.join(5)
        real(*values)

    monkeypatch.setattr(local, "reseal", reseal)
    index.rekey("a")
    assert told == [["a", "b"]]
    assert opened().collections() == ["a", "b"]

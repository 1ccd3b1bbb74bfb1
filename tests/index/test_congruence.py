"""Three backends, one behaviour: any history gives the same answers on all of them, and on a dictionary."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from minusface.errors import MinusfaceError
from minusface.index import (
    ConflictError,
    Index,
    LocalIndex,
    PgVectorIndex,
    QdrantIndex,
    Request,
    UnknownCollectionError,
    UnknownPersonError,
)
from minusface.index.tombstones import Tombstones
from minusface.index.transfer import Gallery, Moved, transfer

D = 16
MASTER = bytes(range(32))


class Reopened(Protocol):
    """Opens a backend on what it held before."""

    def __call__(self, master: bytes = MASTER, model: str = "m", dimension: int = D) -> Any: ...


@pytest.fixture(params=["local", "pgvector", "qdrant"])
def backend(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Reopened]:
    """Each of the three; what is opened again closes what was open before, as at a restart."""
    kind: str = request.param
    url = request.getfixturevalue("database")() if kind == "pgvector" else ""
    if kind == "qdrant":
        qdrant_client = pytest.importorskip("qdrant_client", reason="the extra qdrant")
        from minusface.index import qdrant

        # A server outlives its clients; the memory of this process stands for it.
        kept = qdrant_client.QdrantClient(":memory:")
        monkeypatch.setattr(qdrant, "connect", lambda url: kept)
        monkeypatch.setattr(kept, "close", lambda: None)
    now: list[Index] = []

    def call(master: bytes = MASTER, model: str = "m", dimension: int = D) -> Index:
        while now:
            now.pop().close()
        stones = Tombstones(tmp_path / "erased.log")
        found: Index
        if kind == "local":
            found = LocalIndex(tmp_path / "index", dimension, master, model=model, exact_below=20)
        elif kind == "pgvector":
            found = PgVectorIndex(
                url, dimension, master, model=model, tombstones=stones, exact_below=20
            )
        else:
            found = QdrantIndex(
                ":memory:", dimension, master, model=model, tombstones=stones, exact_below=20
            )
        now.append(found)
        return found

    yield call
    while now:
        now.pop().close()


def unit(count: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, D))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def in_order(rows: np.ndarray) -> np.ndarray:
    """Rows sorted by their first number."""
    return rows[np.argsort(rows[:, 0])]


class Dictionary:
    """What an index means, the slow, obvious way."""

    def __init__(self) -> None:
        self.held: dict[str, dict[str, np.ndarray]] = {}
        self.requests: dict[tuple[str, str], tuple[bytes, str]] = {}
        self.spent: set[tuple[str, str]] = set()

    def add(self, place: str, person: str, rows: np.ndarray, request: Request | None) -> bool:
        """Whether it was new."""
        if request is not None:
            if (place, request.key) in self.spent:
                raise ConflictError("erased")
            known = self.requests.get((place, request.key))
            if known is not None:
                if known[0] != request.digest:
                    raise ConflictError("used")
                return False
            self.requests[place, request.key] = request.digest, person
        own = self.held[place]
        own[person] = np.concatenate([own[person], rows]) if person in own else rows
        return True

    def erase(self, place: str, person: str) -> int:
        gone = len(self.held[place].pop(person))
        theirs = {k for k, v in self.requests.items() if (k[0], v[1]) == (place, person)}
        self.requests = {k: v for k, v in self.requests.items() if k not in theirs}
        self.spent |= theirs
        return gone

    def forget_requests(self, place: str) -> None:
        self.requests = {k: v for k, v in self.requests.items() if k[0] != place}
        self.spent = {k for k in self.spent if k[0] != place}

    def search(self, place: str, row: np.ndarray, count: int) -> list[tuple[str, float]]:
        best = {p: float((v @ row).max()) for p, v in self.held[place].items()}
        return sorted(best.items(), key=lambda item: (-item[1], item[0]))[:count]


def agree(index: Index, truth: Dictionary, place: str, seed: int) -> None:
    """Every question has the dictionary's answer."""
    queries = unit(3, 900 + seed)
    for count in (1, 4, 100):
        for row, hits in zip(queries, index.search(place, queries, count), strict=True):
            wanted = truth.search(place, row, count)
            assert [hit.person for hit in hits] == [person for person, _ in wanted]
            scores = [score for _, score in wanted]
            assert [hit.score for hit in hits] == pytest.approx(scores, abs=1e-5)
    held = truth.held[place]
    for person, rows in held.items():
        expected = (queries @ rows.T).max(1)
        assert index.scores(place, person, queries) == pytest.approx(expected, abs=1e-5)
    listed, after = [], 0
    while page := index.people(place, after, 3):
        listed += page
        after = page[-1].cursor
    assert [(one.name, one.templates) for one in listed] == [(p, len(v)) for p, v in held.items()]
    stats = index.stats(place)
    assert (stats.people, stats.templates) == (len(held), sum(map(len, held.values())))
    moved = {entry.person: entry.vectors for entry in index.entries(place)}
    assert list(moved) == list(held)
    for person, rows in held.items():
        # A person's templates have no order.
        assert in_order(moved[person]) == pytest.approx(in_order(rows), abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_any_history(backend: Reopened, seed: int) -> None:
    random = np.random.default_rng(seed)
    index, truth = backend(), Dictionary()
    for place in ("a", "b"):
        index.create(place)
        truth.held[place] = {}
    master = MASTER
    for step in range(60):
        place = str(random.choice(["a", "b"]))
        kind = random.choice(["add", "add", "add", "again", "erase", "rekey", "restart"])
        person = f"p{random.integers(8)}"
        if kind in ("add", "again"):
            rows = unit(int(random.integers(1, 4)), 1000 * seed + step)
            key = f"k{random.integers(6)}" if kind == "again" else f"s{step}"
            request = None if random.integers(3) == 0 else Request(key, bytes([random.integers(2)]))
            outcome: Any
            try:
                outcome = truth.add(place, person, rows, request)
            except ConflictError:
                with pytest.raises(ConflictError):
                    index.add(place, person, rows, request)
                continue
            added = index.add(place, person, rows, request)
            assert added.replayed != outcome
        elif kind == "erase" and person in truth.held[place]:
            assert index.erase(place, person) == truth.erase(place, person)
        elif kind == "rekey":
            before = index.stats(place).key_version
            assert index.rekey(place) == before + 1
            truth.forget_requests(place)
        elif kind == "restart":
            index = backend(master)
        if step % 10 == 9:
            agree(index, truth, "a", step)
            agree(index, truth, "b", step)
    index = backend()
    agree(index, truth, "a", 0)
    gone = sum(map(len, truth.held["a"].values()))
    assert index.drop("a") == gone
    assert index.collections() == ["b"]
    agree(index, truth, "b", 1)


def test_a_repeated_request_gives_the_same_names(backend: Reopened) -> None:
    index = backend()
    index.create("a")
    request = Request("once", b"x")
    first = index.add("a", "Ann", unit(2), request)
    again = backend().add("a", "Ann", unit(2), request)
    assert (again.templates, again.replayed) == (first.templates, True)
    assert len(set(first.templates)) == 2
    assert all(len(name) == 32 for name in first.templates)


def test_what_was_erased_comes_again_by_a_new_request_alone(backend: Reopened) -> None:
    """A try that was long on its way does not bring back who was erased meanwhile."""
    index = backend()
    index.create("a")
    request = Request("once", b"x")
    first = index.add("a", "Ann", unit(2), request)
    assert index.erase("a", "Ann") == 2
    for _ in range(2):
        with pytest.raises(ConflictError, match="erased since"):
            index.add("a", "Ann", unit(2), request)
        assert index.stats("a").templates == 0
        index = backend()
    anew = index.add("a", "Ann", unit(2), Request("another", b"x"))
    assert not anew.replayed
    assert not set(anew.templates) & set(first.templates)
    assert backend().stats("a").templates == 2


def test_a_persons_templates_and_earlier_tries_are_told(backend: Reopened) -> None:
    index = backend()
    for place in ("a", "b"):
        index.create(place)
    request = Request("once", b"x")
    assert index.count("a", "Jos\u00e9") == 0
    assert index.earlier("a", request, 2) is None
    first = index.add("a", "Jos\u00e9", unit(2), request)
    index.add("a", "Jos\u00e9", unit(1, 1))
    index.add("a", "Bob", unit(1, 2))
    for again_opened in (False, True):
        index = backend() if again_opened else index
        assert [index.count("a", name) for name in ("Jose\u0301", "Bob", "Ann")] == [3, 1, 0]
        assert index.count("b", "Bob") == 0
        again = index.earlier("a", request, 2)
        assert (again.templates, again.replayed) == (first.templates, True)
        assert index.earlier("a", Request("another", b"x"), 2) is None
        assert index.earlier("b", request, 2) is None
    with pytest.raises(ConflictError, match="used for another"):
        index.earlier("a", Request("once", b"y"), 2)
    index.erase("a", "Jos\u00e9")
    assert index.count("a", "Jos\u00e9") == 0
    with pytest.raises(ConflictError, match="erased since"):
        index.earlier("a", request, 2)


def test_a_restored_backup_brings_no_request_back(backend: Reopened, tmp_path: Path) -> None:
    """Its rows are there again and their names are noted as erased: what a start finds after a restore."""
    index = backend()
    index.create("a")
    request = Request("once", b"x")
    added = index.add("a", "Ann", unit(2), request)
    local = tmp_path / "index" / "erased.log"
    Tombstones(local if local.exists() else tmp_path / "erased.log").add(added.templates)
    index = backend()
    assert index.people("a") == []
    with pytest.raises(ConflictError, match="erased since"):
        index.add("a", "Ann", unit(2), request)


def test_a_drop_after_new_keys_notes_its_templates(backend: Reopened, tmp_path: Path) -> None:
    """A backup from before has another salt, by which it is not known again."""
    index = backend()
    index.create("a")
    added = index.add("a", "Ann", unit(2))
    index.rekey("a")
    index.drop("a")
    noted = " ".join(file.read_text() for file in tmp_path.rglob("erased.log")).split()
    assert set(added.templates) < set(noted)


def test_names_are_one_however_they_were_typed(backend: Reopened) -> None:
    index = backend()
    index.create("a")
    composed, typed = "Jos\u00e9", "Jose\u0301"
    for number, name in enumerate((typed, composed)):
        index.add("a", name, unit(1, number))
    index.rekey("a")
    assert [(person.name, person.templates) for person in index.people("a")] == [(composed, 2)]
    assert index.scores("a", typed, unit(1)).shape == (1,)
    assert index.erase("a", typed) == 2
    assert index.people("a") == []


def test_refusals(backend: Reopened) -> None:
    index = backend()
    index.create("a")
    with pytest.raises(ConflictError, match="already there"):
        index.create("a")
    for call in (
        lambda: index.search("no", unit(1), 1),
        lambda: index.add("no", "Ann", unit(1)),
        lambda: index.drop("no"),
        lambda: index.rekey("no"),
        lambda: index.count("no", "Ann"),
        lambda: index.earlier("no", Request("once", b"x"), 1),
        lambda: list(index.entries("no")),
    ):
        with pytest.raises(UnknownCollectionError):
            call()
    for call in (lambda: index.scores("a", "Ann", unit(1)), lambda: index.erase("a", "Ann")):
        with pytest.raises(UnknownPersonError):
            call()
    with pytest.raises(MinusfaceError, match="expected"):
        index.add("a", "Ann", np.zeros((1, D), np.float32))
    with pytest.raises(MinusfaceError, match="expected 1 to 200"):
        index.add("a", " ", unit(1))
    with pytest.raises(MinusfaceError, match="made for model"):
        backend(model="another")
    with pytest.raises(MinusfaceError, match="made for dimension"):
        backend(dimension=8)


def test_tenants_do_not_meet_and_another_master_opens_nothing(backend: Reopened) -> None:
    index = backend()
    for place in ("a", "b"):
        index.create(place)
    index.add("a", "Ann", unit(1))
    assert index.search("b", unit(1), 5) == [[]]

    def with_another_key() -> None:
        other = backend(master=bytes(32))
        other.people("a")

    with pytest.raises(MinusfaceError, match="another master key"):
        with_another_key()


def test_the_master_key_is_changed_without_photos(backend: Reopened) -> None:
    index = backend()
    index.create("a")
    rows = unit(6)
    for number, row in enumerate(rows):
        index.add("a", f"p{number}", row[None])
    index.change_master(bytes(reversed(MASTER)))
    index.add("a", "late", unit(1, 5))
    for found in (index, None):
        found = found or backend(master=bytes(reversed(MASTER)))
        assert [hits[0].person for hits in found.search("a", rows, 1)] == [
            f"p{n}" for n in range(6)
        ]
        assert len(found.people("a")) == 7


def test_a_large_collection_is_searched_by_a_graph_and_finds(backend: Reopened) -> None:
    index = backend()
    index.create("a")
    rows = unit(300)
    for number in range(0, 300, 3):
        index.add("a", f"p{number // 3}", rows[number : number + 3])
    patience = time.monotonic() + 60
    # PostgreSQL makes it beside.
    while index.stats("a").exact and time.monotonic() < patience:
        time.sleep(0.05)
    assert not index.stats("a").exact
    near = rows + 0.02 * unit(300, 1)
    hits = index.search("a", near, 1)
    right = [hit[0].person == f"p{number // 3}" for number, hit in enumerate(hits)]
    assert np.mean(right) >= 0.99


def test_what_is_there_is_not_doubled_whatever_happened_in_between(backend: Reopened) -> None:
    index: Index = backend()
    rows = unit(5)

    def moved(count: int) -> Moved:
        """Ann has so many photos at the source."""
        source = Gallery(["Ann"] * count + ["Bob"], np.concatenate([rows[:count], rows[4:]]), "m")
        return transfer(source.entries(), index, "a")

    assert moved(2) == Moved(2, 3, 0)
    assert moved(2) == Moved(2, 0, 3)
    index.rekey("a")
    assert moved(2) == Moved(2, 0, 3)
    assert moved(3) == Moved(2, 1, 3)
    # Also under other rounding, as after the source was re-keyed.
    rows = rows + np.float32(1e-7) * unit(5, 9)
    assert moved(3) == Moved(2, 0, 4)
    assert index.stats("a").templates == 4


def test_whoever_was_erased_at_the_target_alone_comes_again(backend: Reopened) -> None:
    index: Index = backend()
    source = Gallery(["Ann", "Ann", "Bob"], unit(3), "m")
    transfer(source.entries(), index, "a")
    for _ in range(2):
        index.erase("a", "Ann")
        assert transfer(source.entries(), index, "a") == Moved(2, 2, 1)

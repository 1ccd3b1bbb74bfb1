"""``minusface index``: galleries counted, exported, imported and moved between backends."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minusface import runtime
from minusface.cli import main
from minusface.index import Index, LocalIndex
from minusface.index.places import Made, made_for, open_index, parts, safe
from minusface.index.schema import DATABASE
from minusface.runtime import ExportCard

D = 16
MASTER = bytes(range(32))


@pytest.fixture(autouse=True)
def master(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINUSFACE_MASTER_KEY", MASTER.hex())


def unit(count: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, D))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    """A folder with two tenants."""
    index = LocalIndex(tmp_path / "gallery", D, MASTER, model="m")
    rows = unit(30)
    for place in ("a", "b"):
        index.create(place)
    for number in range(10):
        index.add("a", f"p{number}", rows[3 * number : 3 * number + 3])
    index.add("b", "Ann", rows[:1])
    index.close()
    return tmp_path / "gallery"


def test_an_address_that_cannot_be_understood_keeps_its_password(
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("psycopg_pool", reason="the extra pgvector")
    for password in ("hunter%2", "hun ter"):
        place = f"postgresql://minusface:{password}@127.0.0.1:1/x"
        assert main(["index", "stats", place]) == 2
        said = capfd.readouterr().err
        assert len(said.splitlines()) == 1
        assert "cannot be understood" in said
        assert "hun" not in said


Call = Callable[..., str]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*words: object, code: int = 0) -> str:
        capsys.readouterr()
        assert main(["index", *map(str, words)]) == code, capsys.readouterr().err
        said = capsys.readouterr()
        if code:
            assert len(said.err.splitlines()) == 1
            return said.err
        return said.out

    return run


def held(index: Index, place: str) -> dict[str, list[float]]:
    found = {e.person: sorted(e.vectors[:, 0].tolist()) for e in index.entries(place)}
    index.close()
    return found


def test_stats(gallery: Path, call: Call) -> None:
    told = json.loads(call("stats", gallery, "--json"))
    assert (told["dimension"], told["model"]) == (D, "m")
    assert told["collections"]["a"]["templates"] == 30
    said = call("stats", f"local:{gallery}", "--collection", "b")
    assert "Ann" not in said
    assert "30" not in said


def test_a_collection_is_called_what_it_is_called(tmp_path: Path, call: Call) -> None:
    index = LocalIndex(tmp_path / "g", D, MASTER, model="m")
    for name in ("[red]door", "[/]", ":door:"):
        index.create(name)
    index.close()
    said = call("stats", tmp_path / "g")
    for name in ("[red]door", "[/]", ":door:"):
        assert name in said


def test_export_and_import_twice(gallery: Path, call: Call, tmp_path: Path) -> None:
    file, other = tmp_path / "a.npz", tmp_path / "other"
    said = call("export", gallery, "--collection", "a", "--out", file)
    assert "30 templates of 10 people" in said
    assert file.stat().st_mode & 0o077 == 0
    asked = ("import", file, "--to", other, "--collection", "new", "--json")
    assert json.loads(call(*asked))["new"] == {"people": 10, "templates": 30, "repeated": 0}
    assert json.loads(call(*asked))["new"] == {"people": 10, "templates": 0, "repeated": 30}
    made = Made(D, "m")
    ours, theirs = open_index(str(gallery), MASTER, made), open_index(str(other), MASTER, made)
    expected, found = held(ours, "a"), held(theirs, "new")
    assert list(found) == list(expected)
    for person, values in expected.items():
        assert found[person] == pytest.approx(values, abs=1e-6)


def test_move_to_postgresql_and_back(
    gallery: Path,
    call: Call,
    database: Callable[[], str],
    tmp_path: Path,
) -> None:
    url, back = database(), tmp_path / "back"
    said = call("move", gallery, "--to", url)
    assert "a: 30 templates of 10 people" in said
    assert "next: minusface index stats" in said
    assert made_for(url) == Made(D, "m")
    moved = json.loads(call("move", url, "--to", back, "--json"))
    assert {name: one["templates"] for name, one in moved.items()} == {"a": 30, "b": 1}
    made = Made(D, "m")
    expected = held(open_index(str(gallery), MASTER, made), "a")
    found = held(open_index(str(back), MASTER, made), "a")
    assert list(found) == list(expected)
    for person, values in expected.items():
        assert found[person] == pytest.approx(values, abs=1e-6)


def test_what_migrate_writes_is_imported_for_a_model(
    gallery: Path, call: Call, tmp_path: Path
) -> None:
    file = tmp_path / "gallery.npz"
    np.savez(file, keys=np.array(["x"] * 4), people=np.array(list("aabb")), templates=unit(4))
    into = ("import", file, "--collection", "t", "--to")
    assert "no index there" in call(*into, tmp_path / "nowhere", code=2)
    assert "4 templates of 2 people" in call(*into, gallery)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("fly", "x"), "action 'fly'"),
        (("export", "x"), "--out is missing"),
        (("import", "x", "--to", "y"), "--collection is missing"),
        (("move", "x"), "--to is missing"),
        (("stats", "nowhere"), "no index there"),
        (("stats", "mysql://x"), "expected a folder"),
        (("import", "nothing.npz", "--to", "y", "--collection", "z"), "cannot read"),
    ],
)
def test_refusals(words: tuple[str, ...], said: str, call: Call) -> None:
    assert said in call(*words, code=2)


def test_other_refusals(gallery: Path, call: Call, tmp_path: Path) -> None:
    assert "to itself" in call("move", gallery, "--to", f"local:{gallery}", code=2)
    url = "postgresql://me:secret@nowhere/d"
    said = call("move", url, "--to", url, code=2)
    assert "me@nowhere/d" in said
    assert "secret" not in said
    known = call("stats", gallery, "--collection", "c", code=2)
    assert "no collection 'c'" in known
    bad = tmp_path / "bad.npz"
    np.savez(bad, people=np.array(["a"]), templates=np.full((1, D), np.nan))
    asked = ("--to", gallery, "--collection", "a")
    assert "NaN" in call("import", bad, *asked, code=2)
    np.savez(bad, people=np.array(["a"]), templates=np.ones((1, 4)))
    assert "4 numbers a template, expected 16" in call("import", bad, *asked, code=2)
    np.savez(bad, people=np.array(["a"]), templates=np.ones((1, D)), model=np.array("other"))
    assert "made for model" in call("import", bad, *asked, code=2)
    bad.write_bytes(b"no zip")
    assert "not an .npz" in call("import", bad, *asked, code=2)


def test_templates_of_another_size_than_the_models(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new index would be made for them, and nobody ever found in it."""
    entry = {half: {"float32": {"sha256": "f" * 64}} for half in ("client", "recognizer")}
    card = ExportCard(112, 192, 1, D + 1, 18, entry)
    monkeypatch.setattr(runtime, "load_export_card", lambda _: card)
    file = tmp_path / "gallery.npz"
    np.savez(file, people=np.array(["a"]), templates=unit(1))
    asked = ("import", file, "--to", tmp_path / "new", "--collection", "t", "--model", "exp")
    said = call(*asked, code=2)
    assert f"{file}: {D} numbers a template, expected {D + 1} as exp makes them" in said
    assert not (tmp_path / "new").exists()
    card = replace(card, embedding_size=D)
    assert "1 templates of 1 people" in call(*asked)


def test_places() -> None:
    assert parts("local:x") == ("local", "x")
    assert parts("some/folder") == ("local", "some/folder")
    assert parts("postgres://h/d") == ("postgresql", "postgres://h/d")
    assert parts("qdrant:http://h:1") == ("qdrant", "http://h:1")
    assert safe("postgresql://me:secret@h/d") == "postgresql://me@h/d"
    assert safe("qdrant:http://me:secret@h:1") == "qdrant:http://me@h:1"
    assert safe("postgresql://h/d?user=me&password=secret&x=1") == (
        "postgresql://h/d?user=me&password=...&x=1"
    )


def test_a_folder_that_says_nothing_yet_holds_no_index(tmp_path: Path, call: Call) -> None:
    LocalIndex(tmp_path / "g", D, MASTER, model="m").close()
    with sqlite3.connect(tmp_path / "g" / DATABASE) as db:
        db.execute("DELETE FROM about")
    db.close()
    assert "no index there" in call("stats", tmp_path / "g", code=2)

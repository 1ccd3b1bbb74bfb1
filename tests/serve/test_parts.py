"""Keys, rate limits, micro-batches, settings."""

from __future__ import annotations

import json
import os
import shutil
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from minusface.cli import main
from minusface.errors import MinusfaceError
from minusface.serve.batching import Batcher, BusyError
from minusface.serve.keys import ApiKeys
from minusface.serve.limits import RateLimit, Rekeyings, TooManyError
from minusface.serve.settings import Settings


def test_keys_are_kept_as_hashes_and_seen_at_once(tmp_path: Path) -> None:
    keys, others = ApiKeys(tmp_path / "keys.json"), ApiKeys(tmp_path / "keys.json")
    key, token = keys.add("a", ("verify",), name="door")
    assert token.split("_", 2)[2] not in (tmp_path / "keys.json").read_text()
    assert (tmp_path / "keys.json").stat().st_mode & 0o077 == 0
    assert others.find(token) == key
    for wrong in (
        "",
        "mf",
        token[:-1],
        token + "a",
        "mf_" + key.id,
        f"xx_{token[3:]}",
        "mf_0_\ud800",
    ):
        assert keys.find(wrong) is None
    keys.revoke(key.id)
    assert others.find(token) is None
    with pytest.raises(MinusfaceError, match="unknown API key"):
        keys.revoke(key.id)


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
def test_nobody_else_may_read_keys_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes, real = [], os.fsync

    def fsync(descriptor: int) -> None:
        modes.append(os.fstat(descriptor).st_mode & 0o777)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    before = os.umask(0o022)
    try:
        ApiKeys(tmp_path / "keys.json").add("a", ("verify",))
    finally:
        os.umask(before)
    assert modes == [0o600]


def test_a_folder_that_cannot_be_entered_is_told(tmp_path: Path) -> None:
    keys = ApiKeys(tmp_path / "data" / "keys.json")
    _, token = keys.add("a", ("verify",))
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "data").write_text("no folder")
    with pytest.raises(MinusfaceError, match=r"keys\.json: cannot read \(Not a directory\)"):
        keys.find(token)


@pytest.mark.skipif(os.name != "posix", reason="owners of files")
def test_what_root_writes_is_the_folders_owners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[str, int, int]] = []

    def fchown(descriptor: int, user: int, group: int) -> None:
        given.append((os.readlink(f"/proc/self/fd/{descriptor}"), user, group))

    monkeypatch.setattr(os, "fchown", fchown)
    keys, owner = ApiKeys(tmp_path / "keys.json"), tmp_path.stat()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    keys.add("a", ("verify",))
    assert given == []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    number = keys.add("a", ("verify",))[0].id
    keys.revoke(number)
    lock, temporary = ".keys.json.lock", f".keys.json.{os.getpid()}.tmp"
    names = [Path(name).name for name, *_ in given]
    assert names == [lock, temporary] * 2, "before it takes its place"
    assert {(user, group) for _, user, group in given} == {(owner.st_uid, owner.st_gid)}


@pytest.mark.skipif(os.name != "posix", reason="owners of files")
def test_root_gives_nobody_elses_file_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder's owner may have put another name of a file in the place of the lock."""
    given: list[object] = []
    monkeypatch.setattr(os, "fchown", lambda *values: given.append(values))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    secret, lock = tmp_path / "secret", tmp_path / "data" / ".keys.json.lock"
    secret.touch()
    lock.parent.mkdir()
    os.link(secret, lock)
    ApiKeys(tmp_path / "data" / "keys.json").add("a", ("verify",))
    assert len(given) == 1, "the keys alone"
    lock.unlink()
    lock.symlink_to(secret)
    with pytest.raises(MinusfaceError, match=r"keys\.json\.lock: cannot write"):
        ApiKeys(tmp_path / "data" / "keys.json").add("a", ("verify",))
    assert len(given) == 1


def test_keys_that_may_not_be_read_are_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ApiKeys(tmp_path / "keys.json").add("a", ("verify",))

    def denied(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(MinusfaceError, match=r"keys\.json: cannot read \(Permission denied\)"):
        ApiKeys(tmp_path / "keys.json")


def test_keys_expire(tmp_path: Path) -> None:
    keys = ApiKeys(tmp_path / "keys.json")
    key, token = keys.add("a", ("verify",), days=2)
    assert keys.find(token, key.created + 86_400) == key
    assert keys.find(token, key.created + 2 * 86_400) is None


def _add(path: Path) -> str:
    return ApiKeys(path).add("a", ("verify",))[0].id


def test_processes_that_write_keys_at_once_undo_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        made = list(pool.map(_add, [path] * 24))
    assert {key.id for key in ApiKeys(path).all()} == set(made)
    assert (tmp_path / ".keys.json.lock").stat().st_mode & 0o077 == 0


def test_who_writes_keys_waits_and_reads_again(tmp_path: Path) -> None:
    """A key revoked while another is being added stays revoked."""
    path = tmp_path / "keys.json"
    victim = _add(path)
    adder, revoker = ApiKeys(path), ApiKeys(path)
    added: list[str] = []
    thread = threading.Thread(target=lambda: added.append(adder.add("a", ("verify",))[0].id))
    with revoker._alone():
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        revoker._write({})
    thread.join(10)
    assert [key.id for key in ApiKeys(path).all()] == added
    assert victim not in added


def test_keys_that_make_no_sense(tmp_path: Path) -> None:
    keys = ApiKeys(tmp_path / "keys.json")
    with pytest.raises(MinusfaceError, match="unknown scope 'all'"):
        keys.add("a", ("all",))
    with pytest.raises(MinusfaceError, match="without scopes"):
        keys.add("a", ())
    for collection in ("", " door", "door ", "a\tb", "x" * 201):
        with pytest.raises(MinusfaceError, match="collection"):
            keys.add(collection, ("verify",))
    for days in (float("nan"), float("inf"), 1e20, 40_000, 0, -1):
        with pytest.raises(MinusfaceError, match=r"days .*: expected more than 0"):
            keys.add("a", ("verify",), days)
    for note in ("a\nb", "\udcff", "x" * 201):
        with pytest.raises(MinusfaceError, match="name: expected"):
            keys.add("a", ("verify",), name=note)
    assert keys.all() == []
    (tmp_path / "keys.json").write_text('{"keys": [1]}')
    with pytest.raises(MinusfaceError, match="damaged key file"):
        ApiKeys(tmp_path / "keys.json")


def test_the_keys_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", str(tmp_path)]
    assert main(["keys", "add", *data, "--collection", "a", "--name", "door", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert ApiKeys(tmp_path / "keys.json").find(made["token"]) is not None
    assert main(["keys", "list", *data, "--json"]) == 0
    listed = capsys.readouterr().out
    assert "sha256" not in listed
    assert json.loads(listed)[0]["name"] == "door"
    assert main(["keys", "revoke", *data, "--id", made["id"]]) == 0
    assert capsys.readouterr().out == f"{made['id']}: revoked\n"
    assert main(["keys", "list", *data]) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"{tmp_path}: no keys yet\n")
    # A folder that is mistyped has no keys, and is no service's.
    for action in (["list"], ["revoke", "--id", made["id"]]):
        assert main(["keys", *action, "--data", str(tmp_path / "none")]) == 2
        assert "no such folder, expected a service's --data" in capsys.readouterr().err
    for wrong in (["add"], ["revoke"], ["melt"]):
        assert main(["keys", *wrong, *data]) == 2


def test_ends_that_are_no_dates_open_nothing_and_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such keys could be made once."""
    path = tmp_path / "keys.json"
    tokens = [ApiKeys(path).add("a", ("verify",), days=1)[1] for _ in range(2)]
    raw = json.loads(path.read_text())
    for entry, end in zip(raw["keys"], (float("nan"), 1e20), strict=True):
        entry["expires"] = end
    path.write_text(json.dumps(raw))
    assert ApiKeys(path).find(tokens[0]) is None
    assert main(["keys", "list", "--data", str(tmp_path)]) == 0
    listed = capsys.readouterr().out
    assert "until nan" in listed
    assert "until 1e+20" in listed
    for days in (".nan", ".inf", "1e20"):
        add = ["keys", "add", "--data", str(tmp_path), "--collection", "a", "--days", days]
        assert main(add) == 2
        assert "days" in capsys.readouterr().err


def test_a_bucket_fills_steadily() -> None:
    now = [0.0]
    limit = RateLimit(2.0, 4.0, clock=lambda: now[0])
    assert [limit.take("a") for _ in range(4)] == [0.0] * 4
    assert limit.take("a") == pytest.approx(0.5)
    assert limit.take("b") == 0.0
    now[0] = 0.5
    assert limit.take("a") == 0.0
    assert limit.take("a") > 0
    now[0] = 100.0
    assert [limit.take("a") > 0 for _ in range(5)] == [False] * 4 + [True]


def test_new_keys_are_made_one_by_one_and_now_and_then() -> None:
    now = [0.0]
    turns = Rekeyings(600.0, clock=lambda: now[0])
    with turns.one("a"), pytest.raises(TooManyError, match="being made"), turns.one("b"):
        pass
    with pytest.raises(TooManyError, match="a short time ago") as refused, turns.one("a"):
        pass
    assert refused.value.retry == 600.0
    with turns.one("b"):
        pass
    with pytest.raises(OSError, match="disk"), turns.one("c"):
        raise OSError("disk full")
    with turns.one("c"):
        pass
    now[0] = 600.0
    with turns.one("a"):
        pass
    always = Rekeyings(0.0, clock=lambda: now[0])
    for _ in range(2):
        with always.one("a"):
            pass


def test_buckets_do_not_pile_up() -> None:
    now = [0.0]
    limit = RateLimit(1.0, 1.0, clock=lambda: now[0])
    for number in range(10_050):
        limit.take(str(number))
    now[0] = 10.0
    limit.take("last")
    assert len(limit._buckets) < 10


def test_work_is_done_together_and_given_back_apart() -> None:
    sizes: list[int] = []
    opened = threading.Event()

    def embed(rows: np.ndarray) -> np.ndarray:
        opened.wait(5)
        return rows[:, 0, 0, :1] * 2

    batcher = Batcher(embed, most=4, wait=0.05, waiting=100, seen=sizes.append)
    images = [np.full((n, 1, 1, 1), n, np.float32) for n in (1, 2, 3, 1, 1)]
    futures = [batcher.submit(image) for image in images]
    opened.set()
    for image, future in zip(images, futures, strict=True):
        assert (future.result(5) == image[:, 0, 0] * 2).all()
    assert sum(sizes) == 8
    assert max(sizes) <= 4
    assert batcher.count == 0
    last = batcher.submit(images[0])
    batcher.close()
    assert last.result(0).tolist() == [[2.0]]
    assert not batcher.alive
    with pytest.raises(BusyError):
        batcher.submit(images[0])


def test_an_error_reaches_whoever_waits_and_the_worker_goes_on() -> None:
    def embed(rows: np.ndarray) -> np.ndarray:
        if rows[0, 0, 0, 0] < 0:
            raise RuntimeError("no")
        return rows[:, 0, 0, :1]

    batcher = Batcher(embed, most=1)
    bad = batcher.submit(np.full((1, 1, 1, 1), -1, np.float32))
    good = batcher.submit(np.ones((1, 1, 1, 1), np.float32))
    with pytest.raises(RuntimeError, match="no"):
        bad.result(5)
    assert good.result(5).tolist() == [[1.0]]
    batcher.close()


def test_who_gives_up_while_an_error_is_told_does_not_stop_the_worker() -> None:
    class Gone(Future[np.ndarray]):
        def done(self) -> bool:
            waiting = not super().done()
            self.cancel()
            return not waiting

    def embed(rows: np.ndarray) -> np.ndarray:
        if rows[0, 0, 0, 0] < 0:
            raise RuntimeError("no")
        return rows[:, 0, 0, :1]

    batcher = Batcher(embed, most=1)
    batcher._queue.put((np.full((1, 1, 1, 1), -1, np.float32), Gone(), ""))
    good = batcher.submit(np.ones((1, 1, 1, 1), np.float32))
    assert good.result(5).tolist() == [[1.0]]
    assert batcher.alive
    batcher.close()


def test_a_full_queue_refuses() -> None:
    opened = threading.Event()
    batcher = Batcher(lambda rows: (opened.wait(5), rows[:, 0, 0])[1], most=1, waiting=3)
    image = np.ones((1, 1, 1, 1), np.float32)
    futures = [batcher.submit(image, name) for name in "abc"]
    with pytest.raises(BusyError, match="busy"):
        batcher.submit(image, "d")
    opened.set()
    assert all(len(future.result(5)) == 1 for future in futures)
    batcher.close()


def test_a_collection_fills_half_of_the_queue() -> None:
    opened = threading.Event()
    batcher = Batcher(lambda rows: (opened.wait(5), rows[:, 0, 0])[1], most=4, waiting=12)
    image = np.ones((1, 1, 1, 1), np.float32)
    # More than half at once, where nothing of it waits: otherwise it could never be sent.
    futures = [batcher.submit(np.repeat(image, 7, 0), "a")]
    with pytest.raises(TooManyError, match="of this collection"):
        batcher.submit(image, "a")
    futures += [batcher.submit(image, "b") for _ in range(5)]
    with pytest.raises(BusyError, match="busy"):
        batcher.submit(image, "c")
    opened.set()
    assert sum(len(future.result(5)) for future in futures) == 12
    batcher.close()
    # Nothing of who once asked is kept.
    assert not batcher._of_collection


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINUSFACE_RATE", "7")
    monkeypatch.setenv("MINUSFACE_MAX_TEMPLATES", "8")
    monkeypatch.setenv("MINUSFACE_MAX_TEMPLATES_PERSON", "9")
    monkeypatch.setenv("MINUSFACE_CORS_ORIGINS", '["https://a.example"]')
    settings = Settings(model=Path("m"), data=Path("d"))
    assert (settings.rate, settings.cors_origins) == (7.0, ["https://a.example"])
    assert (settings.max_templates, settings.max_templates_person) == (8, 9)
    for given, meant in (("0.01", "fmr_1e-2"), ("fmr_1e-3", "fmr_1e-3"), ("", ""), ("odd", "odd")):
        monkeypatch.setenv("MINUSFACE_FMR", given)
        assert Settings(model=Path("m"), data=Path("d")).fmr == meant
    with pytest.raises(ValueError, match="port"):
        Settings(model=Path("m"), data=Path("d"), port=70_000)

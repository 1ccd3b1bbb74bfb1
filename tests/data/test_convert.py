"""Conversions that are stopped go on where they were, to the same bytes."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minusface.data import FolderDataset, SyntheticFaces, export_folder
from minusface.data import convert as module
from minusface.data.convert import FORMATS, convert
from minusface.data.listing import ListDataset
from minusface.data.source import open_faces
from minusface.data.writers import (
    ListWriter,
    Mark,
    RecordIOWriter,
    ShardWriter,
    TFRecordWriter,
    Writer,
)
from minusface.errors import MinusfaceError

SIZE = 32
Items = list[tuple[str, int, bytes]]
MAKERS: dict[str, Callable[[Path, Mark | None], Writer]] = {
    "list": lambda root, mark: ListWriter(root, True, mark),
    "tfrecord": lambda root, mark: TFRecordWriter(root, "x_TFR", 3, mark),
    "recordio": lambda root, mark: RecordIOWriter(root, 32, mark),
    "shards": lambda root, mark: ShardWriter(root, 3, mark),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("faces") / "people"
    export_folder(SyntheticFaces(4, 3, seed=1, size=SIZE), root)
    return root


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", MAKERS)
def test_a_writer_goes_on_from_any_mark(name: str, tmp_path: Path) -> None:
    """Killed after two images more than the mark, at every place a shard can have."""
    items: Items = [
        (f"p{n // 2}/x.{'png' if n % 2 else 'jpg'}", n // 2, b"\x89PNG" + bytes([n]) * (n * 7))
        for n in range(8)
    ]
    whole = MAKERS[name](tmp_path / "whole", None)
    for item in items:
        whole.write(*item)
    whole.finish()
    for stop in range(len(items) + 1):
        root = tmp_path / f"stopped{stop}"
        first = MAKERS[name](root, None)
        for item in items[:stop]:
            first.write(*item)
        mark = first.mark()
        for item in items[stop : stop + 2]:
            first.write(*item)
        first.mark()  # they reached the disk, but no progress was noted
        second = MAKERS[name](root, mark)
        for item in items[stop:]:
            second.write(*item)
        second.finish()
        assert tree(root) == tree(tmp_path / "whole"), stop


class Stopping(FolderDataset):
    """A folder whose reader is interrupted at an image, once."""

    def __init__(self, root: Path, at: int) -> None:
        super().__init__(root, size=SIZE)
        self.at, self.reads = at, 0

    def encoded(self, index: int) -> bytes:
        self.reads += 1
        if self.reads == self.at:
            raise KeyboardInterrupt
        return super().encoded(index)


@pytest.mark.parametrize("to", FORMATS)
def test_an_interrupted_conversion_goes_on(
    to: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MARK_SECONDS", 0.0)
    source = FolderDataset(folder, size=SIZE)
    (tmp_path / "a").mkdir()
    convert(source, to, tmp_path / "a" / "faces")
    stopping, out = Stopping(folder, at=7), tmp_path / "b" / "faces"
    with pytest.raises(KeyboardInterrupt):
        convert(stopping, to, out)
    assert not out.exists()
    steps: list[int] = []
    done = convert(stopping, to, out, advance=steps.append)
    assert (done.resumed, done.written, done.people) == (6, 12, 4)
    assert sum(steps) == 12
    assert stopping.reads == 7 + 6  # nothing was read twice but the one it was stopped at
    assert tree(out) == tree(tmp_path / "a" / "faces")
    assert [p.name for p in out.parent.iterdir()] == ["faces"]


def test_what_another_conversion_left_is_not_taken(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MARK_SECONDS", 0.0)
    source, out = FolderDataset(folder, size=SIZE), tmp_path / "faces"
    with pytest.raises(KeyboardInterrupt):
        convert(Stopping(folder, at=5), "recordio", out)
    done = convert(source, "list", out)
    assert (done.resumed, done.written) == (0, 12)
    assert not (out / "train.rec").exists()


def stopped(dataset: Any, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Convert a dataset of any format to shards, interrupted at its eighth image."""
    read, seen = dataset.encoded, []

    def stopping(index: int) -> bytes:
        seen.append(index)
        if len(seen) == 8:
            raise KeyboardInterrupt
        data: bytes = read(index)
        return data

    with monkeypatch.context() as patched:
        patched.setattr(dataset, "encoded", stopping)
        with pytest.raises(KeyboardInterrupt):
            convert(dataset, "shards", out)


def test_a_list_below_another_root_is_another_conversion(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MARK_SECONDS", 0.0)
    out, here, other = tmp_path / "faces", tmp_path / "here", tmp_path / "other"
    shutil.copytree(folder, here)
    shutil.copytree(folder, other)
    keys = list(FolderDataset(folder, size=SIZE).keys())
    lines = "".join(f"{key}\t{int(number >= 6)}\n" for number, key in enumerate(keys))
    (tmp_path / "list.txt").write_text(lines)
    first = ListDataset(tmp_path / "list.txt", here, size=SIZE)
    stopped(first, out, monkeypatch)
    assert (tmp_path / ".faces.partial").is_dir()
    done = convert(ListDataset(tmp_path / "list.txt", other, size=SIZE), "shards", out)
    assert (done.resumed, done.written) == (0, 12)


def test_called_from_another_folder_it_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MARK_SECONDS", 0.0)
    convert(FolderDataset(folder, size=SIZE), "recordio", tmp_path / "records")
    source, out = open_faces(f"recordio:{tmp_path / 'records'}", size=SIZE), tmp_path / "faces"
    stopped(source, out, monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert convert(source, "shards", out).resumed > 0


def test_two_at_once_are_refused(folder: Path, tmp_path: Path) -> None:
    with open(tmp_path / ".faces.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(MinusfaceError, match="another process is writing it now"):
            convert(FolderDataset(folder, size=SIZE), "list", tmp_path / "faces")


SCRIPT = """
import sys, time
from pathlib import Path
from minusface.data import convert as module
from minusface.data import FolderDataset
module.MARK_SECONDS = 0.0
source = FolderDataset(sys.argv[1], size=32)
read = FolderDataset.encoded
def slowly(self, index):
    time.sleep(0.05)
    return read(self, index)
FolderDataset.encoded = slowly
module.convert(source, "shards", Path(sys.argv[2]))
"""


def test_killed_at_any_moment(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "faces"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), str(out)])
    progress = tmp_path / ".faces.partial" / ".progress.json"
    patience = time.monotonic() + 60
    while not progress.is_file() and process.poll() is None and time.monotonic() < patience:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    done = convert(FolderDataset(folder, size=SIZE), "shards", out)
    assert done.resumed > 0
    assert len(open_faces(done.spec, size=SIZE)) == 12


def test_recordio_holds_the_size_that_it_tells(folder: Path, tmp_path: Path) -> None:
    source = FolderDataset(folder, size=SIZE + 4)
    with pytest.raises(
        MinusfaceError, match=rf"{SIZE}x{SIZE} pixels, expected {SIZE + 4}x{SIZE + 4}"
    ):
        convert(source, "recordio", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert convert(source, "folder", tmp_path / "out").written == 12


@pytest.mark.parametrize("name", ["a\tb", "a\nb"])
def test_names_that_a_list_cannot_hold(name: str, folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "people"
    shutil.copytree(folder, root)
    person = next(root.iterdir())
    person.rename(person.with_name(name))
    source = FolderDataset(root, size=SIZE)
    for to in ("list", "tfrecord"):
        with pytest.raises(MinusfaceError, match="a tab or a new line in the name") as caught:
            convert(source, to, tmp_path / "out")
        assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["people"]
    assert convert(source, "folder", tmp_path / "out").written == 12

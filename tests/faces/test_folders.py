"""A folder of photos to a folder of crops."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from minusface.errors import MinusfaceError
from minusface.faces import folders, is_crop, read_photo
from minusface.faces.folders import MISSES, SHEET, align_folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for person in ("a", "b"):
        (root / person).mkdir(parents=True)
        cv2.imwrite(str(root / person / "1.png"), cv2.cvtColor(astronaut(), cv2.COLOR_RGB2BGR))
    cv2.imwrite(str(root / "b" / "wall.png"), np.full((120, 160, 3), 128, np.uint8))
    (root / "b" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    return root


@pytest.mark.parametrize("workers", [1, 2])
def test_crops_misses_and_a_sheet(photos: Path, tmp_path: Path, workers: int) -> None:
    out, passed = tmp_path / "crops", []
    done = align_folder(photos, out, workers=workers, advance=passed.append)
    assert (done.photos, done.written, done.present, sum(passed)) == (4, 2, 0, 4)
    assert [name for name, _ in done.misses] == ["b/cut.jpg", "b/wall.png"]
    assert is_crop(read_photo(out / "a" / "1.jpg"))
    rows = list(csv.reader((out / MISSES).open()))
    assert rows == [["photo", "reason"], *[list(miss) for miss in done.misses]]
    assert read_photo(out / SHEET).shape == (112, 12 * 112, 3)


def test_many_processes_after_the_detector_has_been_used_here(photos: Path, tmp_path: Path) -> None:
    """Its threads are none of theirs: forked, every other process would wait for them for ever."""
    script = f"""
from skimage.data import astronaut
from minusface.faces import align_photo
from minusface.faces.folders import align_folder
if __name__ == "__main__":
    for time in range(4):
        align_photo(astronaut()[:250, 100:350])
        done = align_folder({str(photos)!r}, {str(tmp_path)!r} + f"/crops{{time}}", workers=3)
        assert done.written == 2, done
"""
    (tmp_path / "script.py").write_text(script)
    subprocess.run([sys.executable, str(tmp_path / "script.py")], check=True, timeout=120)


def test_a_process_that_dies_is_told_of(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_one_thread", _die)
    with pytest.raises(MinusfaceError, match="a process died"):
        align_folder(photos, tmp_path / "crops", workers=2)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_goes_on_where_it_stopped(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "crops"
    align_folder(photos, out, workers=1)
    kept = (out / "a" / "1.jpg").stat().st_mtime_ns
    (out / "b" / "1.jpg").unlink()
    done = align_folder(photos, out, workers=1)
    assert (done.written, done.present) == (1, 1)
    assert (out / "a" / "1.jpg").stat().st_mtime_ns == kept


def test_crops_of_two_sizes_are_not_mixed(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "crops"
    align_folder(photos, out, workers=1, size=64)
    kept = (out / "a" / "1.jpg").read_bytes()
    with pytest.raises(MinusfaceError, match=r"a/1.jpg: 64x64 pixels, expected a crop of 112x112"):
        align_folder(photos, out, workers=1)
    assert (out / "a" / "1.jpg").read_bytes() == kept
    (out / "a" / "1.jpg").write_bytes(b"no picture")
    with pytest.raises(MinusfaceError, match=r"a/1.jpg: no JPEG, expected a crop of 64x64"):
        align_folder(photos, out, workers=1, size=64)
    for size in (15, 0, -112):
        with pytest.raises(MinusfaceError, match=f"size {size}: expected crops of 16 pixels"):
            align_folder(photos, tmp_path / "other", workers=1, size=size)


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    person = tmp_path / "photos" / os.fsdecode(b"J\xf6rg")
    person.mkdir(parents=True)
    (person / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    done = align_folder(tmp_path / "photos", tmp_path / "crops", workers=1)
    assert len(done.misses) == 1
    assert b"J\xf6rg/cut.jpg," in (tmp_path / "crops" / MISSES).read_bytes()


def test_refusals(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(MinusfaceError, match="no such folder"):
        align_folder(tmp_path / "none", tmp_path / "out")
    with pytest.raises(MinusfaceError, match="lies inside"):
        align_folder(photos, photos / "crops")
    (photos / "a" / "1.jpeg").write_bytes(b"")
    with pytest.raises(MinusfaceError, match="would overwrite"):
        align_folder(photos, tmp_path / "out")

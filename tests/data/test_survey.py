"""What a dataset holds."""

from __future__ import annotations

import shutil
from pathlib import Path

from minusface.data import FolderDataset, SyntheticFaces, export_folder
from minusface.data.survey import survey


def test_a_folder(tmp_path: Path) -> None:
    export_folder(SyntheticFaces(3, 2, seed=1, size=32), tmp_path / "faces")
    files = sorted((tmp_path / "faces").rglob("*.*"))
    shutil.copy(files[0], files[0].with_stem("copy"))
    files[3].write_bytes(b"\xff\xd8 cut")
    passed = []
    found = survey(
        FolderDataset(tmp_path / "faces", size=32), everything=True, advance=passed.append
    )
    assert (found.people, found.images, sum(passed)) == (3, 7, 7)
    assert found.per_person == {"least": 2, "median": 2.0, "most": 3, "with one image": 0}
    assert found.sizes == {"32x32": 6}
    assert len(found.unreadable) == 1
    assert files[3].name in found.unreadable[0]
    assert len(found.duplicates) == 1
    assert "copy" in " ".join(found.duplicates[0])


def test_other_sizes_are_counted_and_not_refused(tmp_path: Path) -> None:
    export_folder(SyntheticFaces(2, 2, seed=1, size=32), tmp_path / "faces")
    found = survey(FolderDataset(tmp_path / "faces", size=112), everything=True)
    assert found.sizes == {"32x32": 4}
    assert not found.unreadable


def test_drawn_faces() -> None:
    found = survey(SyntheticFaces(3, 2, seed=1, size=32))
    assert (found.people, found.images, found.sizes) == (3, 6, {"32x32": 6})

"""Files of templates: damage is told in one line, before anybody is enrolled; only their owner reads them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from minusface.commands import migrate
from minusface.errors import MinusfaceError
from minusface.index.transfer import Gallery, read_gallery, write_gallery

D = 16


def unit(count: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, D))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def changed(value: float) -> np.ndarray:
    rows = unit(4).astype(np.float64)
    rows[2, 3] = value
    return rows


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"people": np.array(["a", "b", " c", "d"])}, r"people\[2\]: expected 1 to 200"),
        ({"people": np.array(["a", "", "c", "d"])}, r"people\[1\]: expected 1 to 200"),
        ({"people": np.array(["a", "b", "c", "\ud800"])}, r"people\[3\]: expected 1 to 200"),
        ({"templates": changed(np.nan)}, r"templates\[2\]: NaN"),
        ({"templates": changed(np.inf)}, r"templates\[2\]: NaN"),
        ({"templates": changed(1e300)}, r"templates\[2\]: NaN"),
        ({"templates": unit(4) * np.array([[1], [0], [1], [1]])}, r"templates\[1\]: NaN"),
        ({"model": np.array(["m", "n"])}, "expected one fingerprint"),
        ({"model": np.array("\ud800")}, "expected one fingerprint"),
        ({"people": np.full(4, 2**31 - 1, np.uint32).view("<U1")}, "not an .npz"),
    ],
)
def test_rows_are_checked_before_any_is_used(
    tmp_path: Path, arrays: dict[str, np.ndarray], said: str
) -> None:
    whole = {"people": np.array(list("abcd")), "templates": unit(4), "model": np.array("m")}
    path = tmp_path / "a.npz"
    np.savez(path, **(whole | arrays))  # type: ignore[arg-type]
    with pytest.raises(MinusfaceError, match=said) as raised:
        read_gallery(path)
    assert str(raised.value).startswith(f"{path}: ")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_files_are_told_in_one_line(tmp_path: Path, save: Callable[..., None]) -> None:
    path, random = tmp_path / "a.npz", np.random.default_rng(1)
    save(path, people=np.array(list("abcd")), templates=unit(4), model=np.array("m"))
    whole, said = path.read_bytes(), []
    for _ in range(800):
        data = bytearray(whole)
        for place in random.integers(len(data), size=random.choice([1, 3, 20])):
            data[place] = random.integers(256)
        path.write_bytes(data)
        try:
            read_gallery(path)
        except MinusfaceError as error:
            said.append(str(error))
    assert len(said) > 400
    assert not [one for one in said if len(one.splitlines()) != 1]


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
@pytest.mark.parametrize("left_over", [False, True])
@pytest.mark.parametrize("who", ["export", "migrate"])
def test_no_other_user_may_read_them_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str, left_over: bool
) -> None:
    path, modes, real = tmp_path / "a.npz", [], os.fsync
    if left_over:
        (tmp_path / f".a.npz.{os.getpid()}.tmp").write_bytes(b"of a process that was killed")

    def fsync(descriptor: int) -> None:
        modes.append(os.fstat(descriptor).st_mode & 0o777)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    before = os.umask(0o022)
    try:
        if who == "export":
            write_gallery(path, Gallery(list("ab"), unit(2), "m"))
        else:
            migrate._write(path, ["a/1.png", "b/1.png"], torch.from_numpy(unit(2)))
    finally:
        os.umask(before)
    assert modes == [0o600]
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(read_gallery(path).people) == ["a", "b"]

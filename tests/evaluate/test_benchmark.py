"""Benchmarks by name, each from files in its own format."""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from minusface.errors import MinusfaceError
from minusface.evaluate import Pair, PairList
from minusface.evaluate.benchmark import find_benchmarks, with_impostors
from minusface.evaluate.suites.cfp import read_cfp


def _png(seed: int, side: int = 32) -> bytes:
    image = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    return cv2.imencode(".png", image)[1].tobytes()


def _bin(path: Path, pairs: int = 10) -> None:
    path.parent.mkdir(exist_ok=True)
    held = ([_png(n) for n in range(2 * pairs)], [n % 2 == 0 for n in range(pairs)])
    path.write_bytes(pickle.dumps(held))


def _cfp(root: Path) -> Path:
    """Two people, of each two frontal images and a profile."""
    protocol = root / "cfp-dataset" / "Protocol"
    for kind, names in (("F", ("1", "2")), ("P", ("1",))):
        folder = "frontal" if kind == "F" else "profile"
        lines = []
        for person in ("001", "002"):
            for name in names:
                path = root / "cfp-dataset" / "Data" / "Images" / person / folder / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(_png(int(person) * 10 + len(lines)))
                relative = f"../Data/Images/{person}/{folder}/{name}.png"
                lines.append(f"{len(lines) + 1} {relative}")
        protocol.mkdir(parents=True, exist_ok=True)
        (protocol / f"Pair_list_{kind}.txt").write_text("\n".join(lines))
    for kind, same, diff in (("FF", "1,2\n3,4\n", "1,3\n2,4\n"), ("FP", "1,1\n3,2", "1,2\n3,1")):
        for fold in range(1, 11):
            folder = protocol / "Split" / kind / f"{fold:02d}"
            folder.mkdir(parents=True)
            (folder / "same.txt").write_text(same)
            (folder / "diff.txt").write_text(diff)
    return root / "cfp-dataset"


def test_names_stand_for_files(tmp_path: Path) -> None:
    _bin(tmp_path / "lfw.bin")
    _bin(tmp_path / "own.bin")
    for race in ("African", "Asian", "Caucasian", "Indian"):
        _bin(tmp_path / "rfw" / f"{race}_test.bin")
    _cfp(tmp_path)
    found = find_benchmarks(["lfw", "own.bin", "rfw", "cfp_fp", "cfp_ff"], tmp_path, size=32)
    names = ["lfw", "own", *(f"{r}_test" for r in ("African", "Asian", "Caucasian", "Indian"))]
    assert [one.name for one in found] == [*names, "cfp_fp", "cfp_ff"]
    assert [one.group for one in found] == [None, None, *["rfw"] * 4, None, None]
    for one in found:
        assert one.read(one.pairs.keys[0]).shape == (32, 32, 3)
        assert len(one.fingerprint) == 64
    assert found[0].fingerprint == found[1].fingerprint != found[6].fingerprint


def test_cfp_pairs_are_those_of_its_lists(tmp_path: Path) -> None:
    root = _cfp(tmp_path)
    pairs = list(read_cfp(root, "FP"))
    frontal, profile = "Data/Images/{}/frontal/1.png", "Data/Images/{}/profile/1.png"
    assert pairs[:4] == [
        Pair(frontal.format("001"), profile.format("001"), True),
        Pair(frontal.format("002"), profile.format("002"), True),
        Pair(frontal.format("001"), profile.format("002"), False),
        Pair(frontal.format("002"), profile.format("001"), False),
    ]
    assert read_cfp(root, "FF").folds.tolist() == [fold for fold in range(10) for _ in range(4)]


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("Split/FP/03/same.txt", "1,9\n", "line 1"),
        ("Split/FP/03/same.txt", "1 1\n", "line 1"),
        ("Split/FP/03/diff.txt", "", "empty"),
        ("Pair_list_P.txt", "1 ../../../etc/passwd\n", "outside"),
        ("Pair_list_P.txt", "1 /etc/passwd\n", "outside"),
        ("Pair_list_P.txt", "one x\n", "line 1"),
        ("Pair_list_P.txt", None, "cannot read"),
    ],
)
def test_cfp_refusals(tmp_path: Path, file: str, content: str | None, words: str) -> None:
    path = _cfp(tmp_path) / "Protocol" / file
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(MinusfaceError, match=words) as error:
        read_cfp(tmp_path / "cfp-dataset", "FP")
    assert "\n" not in str(error.value)


def test_cfp_changes_with_its_images(tmp_path: Path) -> None:
    image = _cfp(tmp_path) / "Data" / "Images" / "001" / "profile" / "1.png"
    first = find_benchmarks(["cfp_fp"], tmp_path)[0].fingerprint
    assert find_benchmarks(["cfp_fp"], tmp_path)[0].fingerprint == first
    stat = image.stat()
    os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    second = find_benchmarks(["cfp_fp"], tmp_path)[0].fingerprint
    assert second != first
    image.unlink()
    with pytest.raises(MinusfaceError, match=r"1\.png: cannot read"):
        find_benchmarks(["cfp_fp"], tmp_path)


def test_unknown_or_missing(tmp_path: Path) -> None:
    with pytest.raises(MinusfaceError, match="known: lfw"):
        find_benchmarks(["lwf"], tmp_path)
    with pytest.raises(MinusfaceError, match=r"agedb_30\.bin: no such file"):
        find_benchmarks(["agedb_30"], tmp_path)
    with pytest.raises(MinusfaceError, match="no such folder"):
        find_benchmarks(["lfw"], tmp_path / "none")


def test_many_genuine_pairs_get_impostors_at_once() -> None:
    """As many as there are genuine ones, and no walk over all the millions that there could be."""
    count = 6000
    genuine = PairList.from_pairs([Pair(f"{n}/0", f"{n}/1", True) for n in range(count)])
    began = time.process_time()
    found = list(with_impostors(genuine))[count:]
    assert time.process_time() - began < 5
    assert len(found) == count
    assert found[0] == Pair("0/0", "1/1", False)
    assert found[-1] == Pair(f"{count - 1}/0", "0/1", False)


def test_impostors_are_made_of_different_people() -> None:
    genuine = [Pair("a1", "a2", True), Pair("b1", "b2", True), Pair("a2", "a3", True)]
    found = with_impostors(PairList.from_pairs(genuine))
    made = [pair for pair in found if not pair.same]
    assert len(made) == 3
    assert all(pair.a[0] != pair.b[0] for pair in made)
    mixed = PairList.from_pairs([*genuine, Pair("a1", "b1", False)])
    assert with_impostors(mixed) is mixed
    with pytest.raises(MinusfaceError, match="one person"):
        with_impostors(PairList.from_pairs(genuine[::2]))

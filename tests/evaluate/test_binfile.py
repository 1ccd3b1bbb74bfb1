""".bin benchmarks: what the field's files hold, and nothing that runs."""

from __future__ import annotations

import itertools
import os
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from minusface.errors import MinusfaceError
from minusface.evaluate import Pair, PairList, evaluate_pairs
from minusface.evaluate.suites.binfile import read_bin


def _jpeg(side: int = 112, width: int | None = None) -> bytes:
    image = np.random.default_rng(side).integers(0, 255, (side, width or side, 3), dtype=np.uint8)
    return cv2.imencode(".png", image)[1].tobytes()


def _write(path: Path, held: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(held, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["bytes", "arrays", "matrix"])
def test_every_form(tmp_path: Path, protocol: int, kind: str) -> None:
    several = [_jpeg(side) for side in range(100, 108)]
    images: Any = several
    same: Any = [True, False, True, False]
    if kind != "bytes":
        images = [np.frombuffer(one, np.uint8) for one in several]
    if kind == "matrix":
        same = np.array(same)
    found = read_bin(_write(tmp_path / "x.bin", (images, same), protocol))
    assert found.pairs.same.tolist() == [True, False, True, False]
    assert len(found.pairs.keys) == 8
    assert found.read(found.pairs.keys[3]).shape == (112, 112, 3)


def test_python_2_strings(tmp_path: Path) -> None:
    """Protocol 2 as Python 2 wrote it: SHORT_BINSTRING and BINSTRING rather than bytes."""
    several = [_jpeg(side) for side in range(100, 104)]
    body = b"".join(b"T" + len(one).to_bytes(4, "little") + one for one in several)
    data = b"\x80\x02(]" + b"(" + body + b"e](\x88\x89et."
    (tmp_path / "old.bin").write_bytes(data)
    found = read_bin(tmp_path / "old.bin")
    assert found.pairs.same.tolist() == [True, False]
    assert [found.images[key] for key in found.pairs.keys] == several


def test_an_image_that_is_there_twice_is_one(tmp_path: Path) -> None:
    one, two, three = (_jpeg(side) for side in (100, 101, 102))
    held = ([one, two, one, three], [True, False])
    found = read_bin(_write(tmp_path / "x.bin", held)).pairs
    assert len(found.keys) == 3
    assert (found.a_index == 0).all()


def test_other_sizes(tmp_path: Path) -> None:
    found = read_bin(_write(tmp_path / "x.bin", ([_jpeg(224), _jpeg(112, 96)], [True])))
    keys = found.pairs.keys
    assert found.read(keys[0]).shape == (112, 112, 3)
    with pytest.raises(MinusfaceError, match="96x112"):
        found.read(keys[1])


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/minusface-was-here",)


class _Sneaky:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("1 + 1",)


@pytest.mark.parametrize("evil", [_Evil(), _Sneaky(), np.load, np.random.default_rng])
def test_code_is_refused_unrun(tmp_path: Path, evil: Any) -> None:
    path = _write(tmp_path / "x.bin", ([evil, _jpeg()], [True]))
    with pytest.raises(MinusfaceError, match="holds code") as error:
        read_bin(path)
    assert "\n" not in str(error.value)
    assert not Path("/tmp/minusface-was-here").exists()


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ([1, 2, 3], "holds a list of 3"),
        ({"a": 1}, "holds a dict"),
        (([b"x"], [True]), "1 images for 1 pairs"),
        (([], []), "0 images for 0 pairs"),
        (([b"x", 7], [True]), "image 1: a int, expected bytes"),
        (([b"x", b"y"], ["yes"]), "pair 0: a str"),
        ((7, 8), "holds a int where"),
    ],
)
def test_other_contents(tmp_path: Path, held: Any, words: str) -> None:
    with pytest.raises(MinusfaceError, match=words):
        read_bin(_write(tmp_path / "x.bin", held))


def test_damaged_files(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.bin", ([_jpeg()] * 2, [True]))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(MinusfaceError, match="truncated"):
        read_bin(path)
    path.write_bytes(b"no pickle")
    with pytest.raises(MinusfaceError, match="damaged"):
        read_bin(path)
    with pytest.raises(MinusfaceError, match="cannot read"):
        read_bin(tmp_path / "none.bin")


def test_a_real_one(shared: Path) -> None:
    found = read_bin(shared / "faces" / "small_lfw.bin")
    # It holds genuine pairs only.
    assert found.pairs.same.tolist() == [True] * 10
    assert found.read(found.pairs.keys[0]).shape == (112, 112, 3)
    assert len(np.unique(found.pairs.folds)) == 10


def test_arrays_that_promise_more_than_they_hold(tmp_path: Path) -> None:
    """A shape of a terabyte must not be made room for."""
    whole = pickle.dumps(([np.arange(7, dtype=np.uint8)] * 2, [True]), protocol=2)
    at = whole.index(b"K\x07\x85")
    broken = whole[:at] + b"\x8a\x05\x00\x00\x00\x00\x01\x85" + whole[at + 3 :]
    (tmp_path / "x.bin").write_bytes(broken)
    with pytest.raises(MinusfaceError, match="do not fill"):
        read_bin(tmp_path / "x.bin")


def test_numpy_booleans_and_old_names(tmp_path: Path) -> None:
    one = _jpeg()
    held = ([np.frombuffer(one, np.uint8)] * 4, [np.True_, np.False_])
    data = pickle.dumps(held, protocol=2).replace(b"numpy._core.", b"numpy.core.")
    (tmp_path / "x.bin").write_bytes(data)
    found = read_bin(tmp_path / "x.bin")
    assert found.pairs.same.tolist() == [True, False]
    assert found.images == {"x.bin#0": one}


class _Colours:
    """Embeds an image as its mean colour."""

    def embed(self, images: Any, keys: Any, draw: int, flip: bool) -> Any:
        return images.float().mean((2, 3)) - 100


def test_it_can_be_evaluated(shared: Path) -> None:
    found = read_bin(shared / "faces" / "small_lfw.bin")
    genuine = list(found.pairs)
    # All of its pairs are genuine: impostors are made of neighbours that share no image.
    impostor = [
        Pair(one.a, other.b, False)
        for one, other in itertools.pairwise(genuine)
        if len({one.a, one.b, other.a, other.b}) == 4
    ]
    pairs = PairList.from_pairs([*genuine, *impostor])
    result = evaluate_pairs(_Colours(), found.read, pairs)
    assert result.pairs == len(genuine) + len(impostor)
    assert 0 <= result.eer <= 1

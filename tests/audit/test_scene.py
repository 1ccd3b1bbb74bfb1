"""Whose photos an audit uses."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest

from minusface.audit.scene import Scene, open_scene
from minusface.data import SyntheticFaces
from minusface.data.synthetic import export_folder
from minusface.errors import MinusfaceError


def people(keys: list[str]) -> set[str]:
    return {key.split("/")[-2] for key in keys}


def test_nobody_is_attacked_whom_the_attacker_knows(scene: Scene) -> None:
    assert not people(scene.train.keys) & people(scene.test.keys)
    assert not people(scene.validation.keys) & people(scene.test.keys)
    assert list(scene.pairs.keys) == scene.test.keys
    assert len(scene.train) >= 150
    assert scene.test.crops([0]).shape == (1, 3, 32, 32)
    assert abs(float(scene.pairs.same.mean()) - 0.5) < 0.05


def test_fewer_pairs_keep_both_kinds_and_their_photos(scene: Scene) -> None:
    some = scene.fewer(20)
    assert len(some.pairs) == 20
    assert some.pairs.same.sum() == 10
    assert list(some.pairs.keys) == some.test.keys
    first = scene.test.keys.index(some.test.keys[3])
    assert (some.test.image(3) == scene.test.image(first)).all()


def test_folders_with_lists(tmp_path: Path) -> None:
    export_folder(SyntheticFaces(10, 3, seed=0, size=32), tmp_path / "faces")
    names = sorted(path.name for path in (tmp_path / "faces").iterdir())
    lines = [f"{n}/0000.png {n}/0001.png 1\n" for n in names[6:]]
    lines += [f"{a}/0000.png {b}/0002.png 0\n" for a, b in pairwise(names[6:])]
    pairs, known = tmp_path / "pairs", tmp_path / "people"
    pairs.write_text("".join(lines))
    known.write_text("\n".join(["6", *names[:6]]))
    data = str(tmp_path / "faces")
    settings = {"train_images": None, "validation_images": 3, "pairs": 6}
    found = open_scene(data, 32, people=str(known), pairs_file=str(pairs), **settings)  # type: ignore[arg-type]
    assert people(found.train.keys) <= set(names[:6])
    assert people(found.test.keys) <= set(names[6:])
    assert len(found.pairs) == 6
    everybody = open_scene(data, 32, pairs_file=str(pairs), **settings)  # type: ignore[arg-type]
    again = open_scene(data, 32, pairs_file=str(pairs), **settings)  # type: ignore[arg-type]
    assert again.fingerprint == everybody.fingerprint
    prints = {everybody.fingerprint}
    right = pairs.read_text()
    for wrong in (
        right.replace(" 1\n", " x\n").replace(" 0\n", " 1\n").replace(" x\n", " 0\n"),
        "".join([*lines[:4], lines[5].replace("0002", "0001"), *lines[4:]]),
    ):
        pairs.write_text(wrong)
        prints.add(open_scene(data, 32, pairs_file=str(pairs), **settings).fingerprint)  # type: ignore[arg-type]
    pairs.write_text(right)
    for key in (everybody.train.keys[0], everybody.validation.keys[0], everybody.test.keys[0]):
        # Another picture of equal size under the same name: the attacker's, or one of those attacked.
        picture = tmp_path / "faces" / key
        when = picture.stat()
        os.utime(picture, ns=(when.st_atime_ns, when.st_mtime_ns + 1))
        prints.add(open_scene(data, 32, pairs_file=str(pairs), **settings).fingerprint)  # type: ignore[arg-type]
    assert len(prints) == 6, "what is known of one is not known of another"
    assert not people(everybody.train.keys) & people(everybody.test.keys)
    split = open_scene(data, 32, **settings)  # type: ignore[arg-type]
    assert not people(split.train.keys) & people(split.test.keys)
    known.write_text("\n".join(["7", *names[:7]]))
    with pytest.raises(MinusfaceError, match="must not know"):
        open_scene(data, 32, people=str(known), pairs_file=str(pairs), **settings)  # type: ignore[arg-type]
    with pytest.raises(MinusfaceError, match="expected a face folder"):
        open_scene("synthetic:9x3", 32, pairs_file=str(pairs), **settings)  # type: ignore[arg-type]


def test_pictures_of_a_list_are_told_apart_too(tmp_path: Path) -> None:
    faces, file = tmp_path / "faces", tmp_path / "list.txt"
    export_folder(SyntheticFaces(10, 3, seed=0, size=32), faces)
    pictures = sorted(faces.rglob("*.png"))
    lines = [f"{p.relative_to(faces)}\t{n // 3}\n" for n, p in enumerate(pictures)]
    file.write_text("".join(lines))

    def opened() -> Scene:
        return open_scene(
            f"list:{file}@{faces}", 32, train_images=None, validation_images=3, pairs=6
        )

    before = opened()
    assert opened().fingerprint == before.fingerprint
    for key in (before.train.keys[0], before.test.keys[0]):
        when = (faces / key).stat()
        os.utime(faces / key, ns=(when.st_atime_ns, when.st_mtime_ns + 1))
        now = opened()
        assert now.fingerprint != before.fingerprint
        before = now


def test_too_few_photos_are_one_line() -> None:
    with pytest.raises(MinusfaceError, match="photos to attack with"):
        open_scene("synthetic:8x2", 32, train_images=4, validation_images=50, pairs=4)

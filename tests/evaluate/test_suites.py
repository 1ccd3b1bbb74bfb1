"""IJB and MegaFace from their folders: what is kept ends with the images, lists are read as they say."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from torch import Tensor

from minusface.cli import main
from minusface.errors import MinusfaceError
from minusface.evaluate.models import Model
from minusface.evaluate.rates import RatesResult
from minusface.evaluate.reader import files_fingerprint
from minusface.evaluate.suites import megaface as module
from minusface.evaluate.suites.ijb_run import _searches, measure_ijb, missing_lists
from minusface.evaluate.suites.megaface import measure_megaface
from minusface.faces import TEMPLATE_112
from tests.products import tiny_checkpoint

SIZE = 16


class Means:
    """Embeds by mean colours, and counts."""

    def __init__(self) -> None:
        self.seen = 0

    def embed(self, images: Tensor, keys: Sequence[str], draw: int, flip: bool) -> Tensor:
        self.seen += len(images)
        return images.float().mean((2, 3)) + 1


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(seed).integers(0, 255, (2, 2, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), cv2.resize(colours, (SIZE, SIZE)))


def ijb(root: Path) -> Path:
    """Three people of two templates, an image each; the changing image."""
    points = " ".join(f"{x} {y}" for x, y in TEMPLATE_112 * SIZE / 112)
    names = [f"{number}.bmp" for number in range(6)]
    for number, name in enumerate(names):
        picture(root / "loose_crop" / name, number)
    (root / "meta").mkdir()
    lines = {
        "face_tid_mid": [f"{name} {number} 0" for number, name in enumerate(names)],
        "name_5pts_score": [f"{name} {points} 0.9" for name in names],
        "template_pair_label": [
            f"{a} {b} {int(a // 2 == b // 2)}" for a, b in combinations(range(6), 2)
        ],
    }
    for name, content in lines.items():
        (root / "meta" / f"ijbc_{name}.txt").write_text("\n".join(content))
    return root / "loose_crop" / "3.bmp"


def megaface(root: Path) -> Path:
    for person in "ab":
        for number in range(2):
            picture(root / "facescrub_images" / person / f"{number} x.bmp", number)
    for number in range(12):
        picture(root / "megaface_images" / "deep" / f"{number} x.bmp", 9 + number)
    return root / "megaface_images" / "deep" / "3 x.bmp"


@pytest.mark.parametrize(
    ("make", "measure", "images"), [(ijb, measure_ijb, 6), (megaface, measure_megaface, 16)]
)
def test_what_is_kept_ends_with_the_images(
    make: Callable[[Path], Path],
    measure: Callable[..., RatesResult],
    images: int,
    tmp_path: Path,
) -> None:
    changing = make(tmp_path / "root")

    def seen() -> int:
        embedder = Means()
        measure(Model("means", embedder, False, SIZE, "m"), tmp_path / "root", cache=tmp_path / "c")
        return embedder.seen

    assert (seen(), seen()) == (images, 0)
    before = changing.stat()
    picture(changing, 99)
    assert changing.stat().st_size == before.st_size
    os.utime(changing, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert (seen(), seen()) == (images, 0)


def test_a_missing_image_is_told_before_any_is_embedded(tmp_path: Path) -> None:
    ijb(tmp_path).unlink()
    embedder = Means()
    with pytest.raises(MinusfaceError, match=r"3\.bmp: cannot read"):
        measure_ijb(Model("means", embedder, False, SIZE, "m"), tmp_path)
    assert embedder.seen == 0
    with pytest.raises(MinusfaceError, match=r"none\.jpg: cannot read"):
        files_fingerprint(tmp_path, ["none.jpg"])


def searches(meta: Path, prefix: str, lists: dict[str, list[int]]) -> None:
    """Lists of 1:N; template n shows person n // 2."""
    for name, templates in lists.items():
        rows = "".join(f"{template},{template // 2}\n" for template in templates)
        (meta / f"{prefix}_1N_{name}.csv").write_text(f"TEMPLATE_ID,SUBJECT_ID\n{rows}")


@pytest.mark.parametrize(("prefix", "names"), [("ijbb", ("S1", "S2")), ("ijbc", ("G1", "G2"))])
def test_galleries_are_found_under_either_benchmarks_names(
    tmp_path: Path, prefix: str, names: tuple[str, str]
) -> None:
    """Person 0 and 1 in one gallery, 2 in the other: each search has probes with a mate and without."""
    one, other = (f"gallery_{name}" for name in names)
    lists = {one: [0, 2], other: [4], "probe_mixed": [1, 3, 5]}
    searches(tmp_path, prefix, lists)
    pooled = np.eye(3)[np.arange(6) // 2]
    assert missing_lists(tmp_path, prefix) == ""
    found = _searches(tmp_path, prefix, np.arange(6), pooled)
    assert found["rank-1"] == 1
    assert found["FNIR@FPIR 0.1"] is None, "one or two probes without a mate tell no tenth"
    # All probes have a mate in the one gallery that is there.
    (tmp_path / f"{prefix}_1N_{other}.csv").unlink()
    searches(tmp_path, prefix, {one: [0, 2, 4]})
    assert f"one gallery, {prefix}_1N_{one}.csv" in missing_lists(tmp_path, prefix)
    found = _searches(tmp_path, prefix, np.arange(6), pooled)
    assert found["rank-1"] == 1
    assert found["FNIR@FPIR 0.01"] is found["FNIR@FPIR 0.1"] is None


def test_open_set_needs_probes_without_a_mate_enough(tmp_path: Path) -> None:
    """Ten of them tell a tenth, not a hundredth."""
    templates = np.arange(24)
    searches(tmp_path, "ijbb", {"gallery_S1": [0, 2], "probe_mixed": [1, 3, *range(4, 24, 2)]})
    found = _searches(tmp_path, "ijbb", templates, np.eye(12)[templates // 2])
    assert found["FNIR@FPIR 0.1"] == 0
    assert found["FNIR@FPIR 0.01"] is None


def test_missing_lists_of_a_search_are_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tiny_checkpoint(tmp_path / "model", size=16))
    ijb(tmp_path / "ijbc")
    meta = tmp_path / "ijbc" / "meta"
    line = ["evaluate", model, model, "--suite", "ijbc", "--root", str(tmp_path), "--draws", "1"]
    assert main(line) == 0
    said = capsys.readouterr().err
    gallery = "no ijbc_1N_gallery_G1.csv and G2.csv; 1:N is left out"
    assert said.count(f"warning: {meta}: no ijbc_1N_probe_mixed.csv, {gallery}") == 1
    searches(meta, "ijbc", {"probe_mixed": [1]})
    assert missing_lists(meta, "ijbc") == f"{meta}: {gallery}"
    (meta / "ijbc_1N_probe_mixed.csv").unlink()
    searches(meta, "ijbc", {"gallery_G1": [0], "gallery_G2": [2]})
    assert missing_lists(meta, "ijbc") == f"{meta}: no ijbc_1N_probe_mixed.csv; 1:N is left out"


def test_lists_of_what_to_leave_out(tmp_path: Path) -> None:
    megaface(tmp_path)
    model = Model("means", Means(), False, SIZE, "m")
    noise = tmp_path / "megaface_noises.txt"
    noise.write_bytes(b"\xef\xbb\xbf0 x.bmp\r\n\r\ndeep/1 x.bmp\r\nx.bmp\n11\n")
    assert measure_megaface(model, tmp_path).counts["distractors"] == 10
    noise.write_bytes("J\xf6rg.bmp\n".encode("latin-1"))
    with pytest.raises(MinusfaceError, match=r"megaface_noises\.txt: .*no UTF-8 text") as error:
        measure_megaface(model, tmp_path)
    assert "\n" not in str(error.value)


def test_the_first_strangers_are_no_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files beside one another are of one album; the order is the same each time."""
    megaface(tmp_path)
    seen = []

    def kept(rows: np.ndarray, people: np.ndarray, strangers: np.ndarray, *more: object) -> Any:
        seen.append(strangers)
        return real(rows, people, strangers, *more)

    real = module.against_distractors
    monkeypatch.setattr(module, "against_distractors", kept)
    model = Model("means", Means(), False, SIZE, "m")
    for _ in range(2):
        measure_megaface(model, tmp_path)
    monkeypatch.setattr(np.random, "default_rng", lambda seed: Still())
    measure_megaface(model, tmp_path)
    first, again, by_name = seen
    assert np.array_equal(first, again)
    assert not np.allclose(first, by_name)
    assert np.allclose(np.sort(first, 0), np.sort(by_name, 0))


class Still:
    """Draws nothing: everything stays in its order."""

    def permutation(self, count: int) -> np.ndarray:
        return np.arange(count)


def test_models_of_different_crops_are_refused_on_one_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = str(tiny_checkpoint(tmp_path / "small", size=16))
    large = str(tiny_checkpoint(tmp_path / "large", size=32))
    ijb(tmp_path / "ijbc")
    faces, pairs = tmp_path / "faces", tmp_path / "pairs.txt"
    for number in range(4):
        picture(faces / "abcd"[number // 2] / f"{number}.bmp", number)
    pairs.write_text("a/0.bmp a/1.bmp 1\nb/2.bmp b/3.bmp 1\na/0.bmp b/2.bmp 0\na/1.bmp b/3.bmp 0\n")
    listed = ["--pairs", str(pairs), "--faces", str(faces), "--draws", "1"]
    table = tmp_path / "table.md"
    assert main(["evaluate", small, large, *listed, "--markdown", str(table)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert all(word in said for word in (small, large, "16x16", "32x32"))
    assert not table.exists()
    assert main(["evaluate", small, small, *listed]) == 0
    # Photos are cut for each model.
    suite = ["--suite", "ijbc", "--root", str(tmp_path), "--draws", "1"]
    assert main(["evaluate", small, large, *suite]) == 0
    capsys.readouterr()
    megaface(tmp_path / "megaface")
    suite[1] = "megaface"
    assert main(["evaluate", small, large, *suite]) == 2
    assert large in capsys.readouterr().err

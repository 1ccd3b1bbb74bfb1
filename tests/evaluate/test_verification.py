"""Pair lists, the evaluation of an embedder, its reports, image similarity."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from minusface.errors import MinusfaceError
from minusface.evaluate import (
    Pair,
    PairList,
    VerificationResult,
    evaluate_pairs,
    markdown_table,
    psnr,
    read_pairs,
    ssim,
    to_json,
    verification_result,
    write_json,
    write_roc_plot,
)
from minusface.evaluate.verification import mean_over_groups


class Means:
    """Embeds an image by its colours; counts what it is asked for."""

    def __init__(self, noise: float = 0.0) -> None:
        self.noise, self.asked = noise, []

    def embed(self, images: Tensor, keys: Sequence[str], draw: int, flip: bool) -> Tensor:
        self.asked += [(key, draw) for key in keys]
        seeds = [zlib.crc32(f"{draw}/{key}".encode()) for key in keys]
        noise = [torch.randn(3, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return images.float().mean((2, 3)) - 127 + self.noise * torch.stack(noise)


def colours(key: str) -> np.ndarray:
    person = int(key.split("/")[0])
    angle = 2 * np.pi * person / 20
    colour = 127 + 100 * np.array([np.cos(angle), np.sin(angle), 0])
    return np.broadcast_to(colour.astype(np.uint8), (4, 4, 3)).copy()


def pair_list() -> PairList:
    genuine = [Pair(f"{i}/0.png", f"{i}/1.png", True) for i in range(20)]
    impostor = [Pair(f"{i}/0.png", f"{(i + 7) % 20}/1.png", False) for i in range(20)]
    return PairList.from_pairs(genuine + impostor)


def test_each_image_is_embedded_once_a_draw() -> None:
    embedder, done = Means(), []
    result = evaluate_pairs(
        embedder, colours, pair_list(), draws=2, batch_size=7, progress=lambda *n: done.append(n)
    )
    assert len(embedder.asked) == len(set(embedder.asked)) == 80
    assert done[-1] == (80, 80)
    assert result.accuracy > 0.9
    assert result.accuracy_spread == 0.0
    assert result.tar_at_far[1e-1] == 1.0
    assert result.tar_at_far[1e-4] is None
    assert (result.pairs, result.genuine, result.images, result.draws) == (40, 20, 40, 2)


def test_each_image_is_read_once_whatever_the_draws() -> None:
    read: list[str] = []

    def reader(key: str) -> np.ndarray:
        read.append(key)
        return colours(key)

    evaluate_pairs(Means(), reader, pair_list(), draws=3, batch_size=16)
    assert sorted(read) == sorted(pair_list().keys)


def test_batches_do_not_change_the_numbers() -> None:
    by_batch = [
        evaluate_pairs(Means(80.0), colours, pair_list(), draws=2, batch_size=size)
        for size in (1, 7, 64)
    ]
    for other in by_batch[1:]:
        np.testing.assert_allclose(other.scores, by_batch[0].scores, atol=1e-6)


def test_scores_are_cosines_of_the_named_images() -> None:
    vectors = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    pairs = pair_list()
    numbers = {key: row for row, key in enumerate(pairs.keys)}

    class Table:
        def embed(self, images: Tensor, keys: Sequence[str], draw: int, flip: bool) -> Tensor:
            return vectors[[numbers[key] for key in keys]]

    result = evaluate_pairs(Table(), colours, pairs)
    expected = [
        float(torch.cosine_similarity(vectors[numbers[p.a]], vectors[numbers[p.b]], dim=0))
        for p in pairs
    ]
    np.testing.assert_allclose(result.scores[0], expected, atol=1e-6)
    assert result.curve()[0] == (0, 0)
    assert result.curve()[-1] == (1, 1)


def test_spread_over_draws_is_theirs() -> None:
    result = evaluate_pairs(Means(noise=80.0), colours, pair_list(), draws=4)
    accuracies = [one.accuracy for one in result.per_draw]
    assert len(set(accuracies)) > 1
    assert result.accuracy == pytest.approx(np.mean(accuracies))
    assert result.accuracy_spread == pytest.approx(np.std(accuracies, ddof=1))
    assert result.accuracy < 1
    assert result.eer == pytest.approx(np.mean([one.eer for one in result.per_draw]))
    single = evaluate_pairs(Means(noise=80.0), colours, pair_list())
    assert single.accuracy_spread is None


@pytest.mark.parametrize(
    ("value", "message"),
    [(float("nan"), "holds NaN"), (float("inf"), "infinity"), (0.0, "is zero")],
)
def test_broken_model_is_named(value: float, message: str) -> None:
    class Broken:
        def embed(self, images: Tensor, keys: Sequence[str], draw: int, flip: bool) -> Tensor:
            rows = torch.ones(len(keys), 3)
            rows[1] = value
            return rows

    with pytest.raises(MinusfaceError, match=rf"^0/1\.png: its embedding .*{message}"):
        evaluate_pairs(Broken(), colours, pair_list())


def test_refuses_what_it_cannot_evaluate(tmp_path: Path) -> None:
    genuine = [Pair(f"{i}/0.png", f"{i}/1.png", True) for i in range(5)]
    with pytest.raises(MinusfaceError, match="5 genuine and 0 impostor pairs"):
        evaluate_pairs(Means(), colours, PairList.from_pairs(genuine))
    two = PairList.from_pairs([genuine[0], Pair("0/0.png", "1/0.png", False)])
    with pytest.raises(MinusfaceError, match="in one fold"):
        evaluate_pairs(Means(), colours, two)
    with pytest.raises(MinusfaceError, match="draws 0"):
        evaluate_pairs(Means(), colours, pair_list(), draws=0)
    with pytest.raises(MinusfaceError, match="no such folder"):
        evaluate_pairs(Means(), tmp_path / "none", pair_list())
    with pytest.raises(MinusfaceError, match=r"0\.png: cannot read"):
        evaluate_pairs(Means(), tmp_path, pair_list())
    with pytest.raises(MinusfaceError, match="others of the batch"):
        evaluate_pairs(
            Means(), lambda k: np.zeros((4, len(k) + int(k[0]), 3), np.uint8), pair_list()
        )
    with pytest.raises(MinusfaceError, match="no pairs"):
        PairList.from_pairs([])


def part_of(counts: tuple[int, int], noise: float, seed: int) -> VerificationResult:
    """A group's result of two draws: so many genuine pairs and impostor pairs, told apart but for noise."""
    genuine, impostor = counts
    keys = [(f"{n}/0", f"{n}/1", True) for n in range(genuine)]
    keys += [(f"{n}/0", f"{(n + 1) % genuine}/1", False) for n in range(impostor)]
    pairs = PairList.from_pairs([Pair(*key) for key in keys])
    random = np.random.default_rng(seed)
    scores = [pairs.same + random.normal(0, noise, len(pairs)) for _ in range(2)]
    return verification_result("part", scores, pairs)


def test_a_row_over_groups_spreads_as_its_own_mean_does() -> None:
    parts = [part_of((40, 40), noise, seed) for seed, noise in enumerate((0.3, 0.6, 0.9))]
    row = mean_over_groups("all", parts)
    by_draw = [sum(part.per_draw[draw].accuracy for part in parts) / 3 for draw in range(2)]
    assert row.accuracy == pytest.approx(sum(by_draw) / 2)
    assert row.accuracy_spread == pytest.approx(abs(by_draw[0] - by_draw[1]) / 2**0.5)
    # Groups that scatter each its own way scatter less together.
    spreads = [part.accuracy_spread or 0.0 for part in parts]
    assert (row.accuracy_spread or 0.0) < sum(spreads) / 3
    assert row.accuracy_std == pytest.approx(float(np.std([part.accuracy for part in parts])))


def test_what_one_group_cannot_tell_no_row_over_groups_tells() -> None:
    few, many = part_of((60, 60), 0.1, 0), part_of((200, 200), 0.1, 1)
    assert few.tar_at_far[1e-2] is None
    assert many.tar_at_far[1e-2] is not None
    for parts in ([few, many], [many, few]):
        row = mean_over_groups("all", parts)
        assert row.tar_at_far[1e-2] is None
        assert row.threshold_at_fmr[1e-2] is None
        assert row.tar_at_far[1e-1] is not None


def test_reports(tmp_path: Path) -> None:
    results = [
        evaluate_pairs(Means(n), colours, pair_list(), name=f"noise {n:g}") for n in (0.0, 80.0)
    ]
    table = markdown_table(results)
    assert "| noise 0 | 40 | 100.00 ± 0.00 | – | 0.00 | 1.0000 | 100.00 | – | – | – |" in table
    assert len({line.count("|") for line in table.splitlines()}) == 1
    read = json.loads(to_json(results))
    assert read[0]["accuracy"] == 1.0
    assert read[1]["per_draw"][0]["tar_at_far"]["0.0001"] is None
    assert "scores" not in read[0]
    write_json(results, tmp_path / "new" / "results.json")
    assert (tmp_path / "new" / "results.json").read_text() == to_json(results)


def test_table_survives_odd_names() -> None:
    odd = evaluate_pairs(Means(), colours, pair_list(), name="a|b\nc")
    assert markdown_table([odd]).splitlines()[2].startswith("| a\\|b c | 40 |")


@pytest.mark.parametrize(
    ("form", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_roc_plot(tmp_path: Path, form: str, start: bytes) -> None:
    pytest.importorskip("matplotlib")
    results = [evaluate_pairs(Means(n), colours, pair_list(), name=f"n{n:g}") for n in (0.0, 80.0)]
    for name in ("a", "b"):
        write_roc_plot(results, tmp_path / f"{name}.{form}")
    first = (tmp_path / f"a.{form}").read_bytes()
    assert first.startswith(start)
    assert first == (tmp_path / f"b.{form}").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_roc_plot_refusals(tmp_path: Path) -> None:
    with pytest.raises(MinusfaceError, match=r"drawn into a \.png, \.svg or \.pdf"):
        write_roc_plot([], tmp_path / "roc.gif")
    with pytest.raises(MinusfaceError, match="no results"):
        write_roc_plot([], tmp_path / "roc.png")


@pytest.mark.parametrize(
    ("name", "pairs", "folds"), [("pairs.txt", 6000, 10), ("pairsDevTest.txt", 1000, 10)]
)
def test_lfw_lists(shared: Path, name: str, pairs: int, folds: int) -> None:
    found = read_pairs(shared / "faces" / "lfw-protocol" / name, shared / "faces" / "lfw-112x112")
    assert len(found) == pairs
    assert found.same.sum() == pairs / 2
    assert len(set(found.folds.tolist())) == folds
    for fold in range(folds):
        inside = found.folds == fold
        assert found.same[inside].sum() == inside.sum() / 2


def test_teacher_scores_what_it_is_known_to(shared: Path) -> None:
    """The teacher's own vectors reach what they are known to: the protocol is the usual one."""
    found = read_pairs(shared / "faces" / "lfw-protocol" / "pairsDevTest.txt")
    file = np.load(shared / "faces" / "lfw-teacher-dlib.npz")
    rows = {str(name): row for row, name in enumerate(file["names"])}
    vectors = file["plain"].astype(float) + file["flipped"].astype(float)
    vectors -= vectors.mean(0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors[[rows[key] for key in found.keys]]
    result = verification_result(
        "teacher", [(unit[found.a_index] * unit[found.b_index]).sum(1)], found, True
    )
    assert 0.97 < result.accuracy < 0.99


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([""], "empty"),
        (["1", "A 1 2"], "1 pairs, but its first line promises 2 x 1"),
        (["1", "A 1 2", "A 1 B"], "line 3: 3 fields, expected name i name2 j"),
        (["1", "A 1 B 1", "A 1 2"], "line 2: 4 fields, expected name i j"),
        (["1", "A 1 x", "A 1 B 1"], "line 2: image number 'x'"),
        (["1", "A 0 1", "A 1 B 1"], "line 2: image number '0'"),
        (["1", "A 1 1", "A 1 B 1"], "line 2: image 1 of 'A' paired with itself"),
        (["1", "A 1 2", "A 1 A 2"], "line 3: 'A' on both sides"),
        (["1", "A 1 2", "", "A 1 B 7"], "line 4: no image B/B_0007"),
        (["1", "A 1 2", "A 1 ../A 1"], "line 3: '../A/../A_0001' leads outside"),
        (
            ["1\t1", "A\t1\t2", "A\t1\tB\t1", "A\t1\t2"],
            "3 pairs, but its first line promises 1 x 2 x 1",
        ),
        (["A/A_0001.jpg\tB/B_0001.jpg"], "line 1: 2 fields"),
        (["A/A_0001.jpg A/A_0001.jpg 1"], "line 1: 'A/A_0001.jpg' paired with itself"),
        (["A/A_0001.jpg A/none.jpg 1"], "line 1: no image 'A/none.jpg'"),
        (["/A/A_0001.jpg A/A_0002.jpg 1"], "line 1: '/A/A_0001.jpg' leads outside"),
        (["0", "A 1 2"], "line 1"),
        (["1", "A 1 2", "A 1 Nobody 1"], "line 3: no person 'Nobody'"),
        (["1", "A 1 9", "A 1 B 1"], "line 2: no image A/A_0009"),
        (["A/A_0001.jpg A/A_0002.jpg maybe"], "line 1: label 'maybe', expected 0 or 1"),
        (["../A.jpg B/B_0001.jpg 1"], "leads outside"),
    ],
)
def test_bad_lists(tmp_path: Path, lines: list[str], message: str) -> None:
    for stem in ("A/A_0001", "A/A_0002", "B/B_0001"):
        (tmp_path / stem).parent.mkdir(exist_ok=True)
        (tmp_path / f"{stem}.jpg").write_bytes(b"")
    with pytest.raises(MinusfaceError, match=r"pairs\.txt") as caught:
        read_pairs(write(tmp_path / "pairs.txt", *lines), tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(MinusfaceError, match="cannot read"):
        read_pairs(tmp_path / "none.txt")
    with pytest.raises(MinusfaceError, match="no such folder"):
        read_pairs(write(tmp_path / "pairs.txt", "1", "A 1 2", "A 1 B 1"), tmp_path / "none")


def test_generic_list(tmp_path: Path) -> None:
    found = read_pairs(write(tmp_path / "p.txt", "x/1.png\tx/2.png\t1", "x/1.png\ty/1.png\t0"))
    assert found.keys == ("x/1.png", "x/2.png", "y/1.png")
    assert found.same.tolist() == [True, False]
    assert list(found) == [Pair("x/1.png", "x/2.png", True), Pair("x/1.png", "y/1.png", False)]


def test_keys_name_the_files_that_are_there(tmp_path: Path) -> None:
    for name in ("A A/A A_0001.png", "A A/A A_0002.jpg", "B/B_0001.jpeg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = read_pairs(write(tmp_path / "p.txt", "1", "A A\t1\t2", "A A\t1\tB\t1", ""), tmp_path)
    assert found.keys == ("A A/A A_0001.png", "A A/A A_0002.jpg", "B/B_0001.jpeg")
    assert found.a_index.tolist() == [0, 0]
    assert found.b_index.tolist() == [1, 2]


def test_no_text(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MinusfaceError, match="no UTF-8 text"):
        read_pairs(tmp_path / "p.txt", tmp_path)


def test_similarity_is_scikit_images() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    random = torch.Generator().manual_seed(0)
    a = torch.rand(2, 3, 32, 40, generator=random)
    b = (a + 0.2 * torch.randn(2, 3, 32, 40, generator=random)).clamp(0, 1)
    for i in range(2):
        x, y = (t[i].permute(1, 2, 0).double().numpy() for t in (a, b))
        expected = metrics.structural_similarity(
            x,
            y,
            data_range=1,
            channel_axis=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert float(ssim(a, b)[i]) == pytest.approx(expected, abs=1e-4)
        assert float(psnr(a, b)[i]) == pytest.approx(
            metrics.peak_signal_noise_ratio(x, y, data_range=1), abs=1e-3
        )
    assert ssim(a, a).tolist() == pytest.approx([1, 1])
    assert torch.isinf(psnr(a, a)).all()
    with pytest.raises(MinusfaceError, match="expected 11x11 or more"):
        ssim(a[..., :8], a[..., :8])
    with pytest.raises(MinusfaceError, match=r"expected \[0, 1\]"):
        psnr(a * 2 - 1, b)
    with pytest.raises(MinusfaceError, match="of shapes"):
        ssim(a, b[:1])


def test_similarity_of_bytes_and_gradients() -> None:
    a = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    bytes_ = (a * 255).round().to(torch.uint8)
    half = bytes_ // 2
    assert float(ssim(bytes_, half, data_range=255)) == pytest.approx(
        float(ssim(bytes_.double() / 255, half.double() / 255)), abs=1e-9
    )
    b = a.clone().mul_(0.5).requires_grad_()
    ssim(a, b).sum().backward()
    assert torch.isfinite(b.grad).all()
    assert b.grad.abs().sum() > 0

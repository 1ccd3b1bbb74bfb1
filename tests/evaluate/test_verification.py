"""Pair lists, the evaluation of an embedder, its reports, image similarity."""

from __future__ import annotations

import json
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
    evaluate_pairs,
    markdown_table,
    psnr,
    read_pairs,
    ssim,
    to_json,
    write_roc_plot,
)


class Means:
    """Embeds an image by its colours; counts what it is asked for."""

    def __init__(self, noise: float = 0.0) -> None:
        self.noise, self.asked = noise, []

    def embed(self, images: Tensor, keys: Sequence[str], draw: int, flip: bool) -> Tensor:
        self.asked += [(key, draw) for key in keys]
        seeds = [hash((key, draw)) % 2**31 for key in keys]
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
    assert result.tar_at_far["0.1"] == 1.0
    assert result.tar_at_far["0.0001"] is None


def test_spread_over_draws_is_theirs() -> None:
    result = evaluate_pairs(Means(noise=80.0), colours, pair_list(), draws=4)
    assert len(result.draw_accuracies) == 4
    assert result.accuracy == pytest.approx(np.mean(result.draw_accuracies))
    assert result.accuracy_spread == pytest.approx(np.std(result.draw_accuracies))
    assert result.accuracy < 1


def test_broken_model_is_named() -> None:
    class Broken:
        def embed(self, images: Tensor, keys: Sequence[str], draw: int, flip: bool) -> Tensor:
            return torch.full((len(keys), 3), float("nan"))

    with pytest.raises(MinusfaceError, match=r"0/0\.png: its embedding is not finite"):
        evaluate_pairs(Broken(), colours, pair_list())


def test_reports(tmp_path: Path) -> None:
    results = [
        evaluate_pairs(Means(n), colours, pair_list(), name=f"noise {n:g}") for n in (0.0, 80.0)
    ]
    table = markdown_table(results)
    assert "| noise 0 | 100.00 ± 0.00 | - | 100.00 | 0.00 | 100.00 | - |" in table
    assert json.loads(to_json(results))[0]["accuracy"] == 1.0
    pytest.importorskip("matplotlib")
    write_roc_plot(results, tmp_path / "roc.svg")
    assert "<svg" in (tmp_path / "roc.svg").read_text()
    with pytest.raises(MinusfaceError, match=r"\.png, \.svg or \.pdf"):
        write_roc_plot(results, tmp_path / "roc.gif")


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
    from minusface.evaluate import summarize

    found = read_pairs(shared / "faces" / "lfw-protocol" / "pairsDevTest.txt")
    file = np.load(shared / "faces" / "lfw-teacher-dlib.npz")
    rows = {str(name): row for row, name in enumerate(file["names"])}
    vectors = file["plain"].astype(float) + file["flipped"].astype(float)
    vectors -= vectors.mean(0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors[[rows[key] for key in found.keys]]
    result = summarize("teacher", [(unit[found.a] * unit[found.b]).sum(1)], found, True)
    assert 0.97 < result.accuracy < 0.99


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([""], "empty"),
        (["1", "A 1 2"], "1 pairs, but its first line promises 2"),
        (["1", "A 1 2", "A 1 B"], "line 3: expected 'name i j'"),
        (["0", "A 1 2"], "line 1"),
        (["1", "A 1 2", "A 1 Nobody 1"], "line 3: no image Nobody/Nobody_0001"),
        (["1", "A 1 9", "A 1 B 1"], "line 2: no image A/A_0009"),
        (["A/A_0001.jpg A/A_0002.jpg maybe"], "line 1: expected 'image image 0|1'"),
        (["../A.jpg B/B_0001.jpg 1"], "leads outside"),
    ],
)
def test_bad_lists(tmp_path: Path, lines: list[str], message: str) -> None:
    for stem in ("A/A_0001", "A/A_0002", "B/B_0001"):
        (tmp_path / stem).parent.mkdir(exist_ok=True)
        (tmp_path / f"{stem}.jpg").write_bytes(b"")
    with pytest.raises(MinusfaceError, match="pairs.txt") as caught:
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
    with pytest.raises(MinusfaceError, match="at least 11"):
        ssim(a[..., :8], a[..., :8])

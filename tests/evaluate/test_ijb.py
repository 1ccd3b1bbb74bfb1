"""IJB's files and templates, against plain loops."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minusface.errors import MinusfaceError
from minusface.evaluate import metrics
from minusface.evaluate.identification import cmc, open_set
from minusface.evaluate.suites import ijb, ijb_templates
from tests.reference import ijb as naive

POINTS = "38.3 51.7 73.5 51.5 56.0 71.7 41.5 92.4 70.7 92.2"


def _files(folder: Path) -> tuple[Path, Path]:
    owners, points = folder / "ijbb_face_tid_mid.txt", folder / "ijbb_name_5pts_score.txt"
    owners.write_text("1.jpg 7 10\n2.jpg 7 10\n3.jpg 2 10\n")
    points.write_text("".join(f"{n}.jpg {POINTS} 0.{n}\n" for n in (1, 2, 3)))
    return owners, points


IMAGES = st.lists(
    st.tuples(st.integers(-3, 9), st.integers(0, 2), st.integers(1, 9)), min_size=1, max_size=40
)


@settings(max_examples=100, deadline=None)
@given(IMAGES, st.booleans(), st.sampled_from([1, 3, 1 << 14]))
def test_pooling_agrees_with_plain_loops(
    rows: list[tuple[int, int, int]], weighted: bool, chunk: int
) -> None:
    templates, media, weights = (np.array(column) for column in zip(*rows, strict=True))
    features = np.random.default_rng(len(rows)).normal(size=(len(rows), 6))
    scores = weights / 10 if weighted else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ijb_templates, "CHUNK", chunk)
        ids, pooled = ijb_templates.pool_templates(features, templates, media, scores)
    plain_ids, plain = naive.pool(features, templates.tolist(), media.tolist(), scores)
    assert ids.tolist() == plain_ids
    np.testing.assert_allclose(pooled, plain, atol=1e-9)


def test_frames_of_a_video_count_as_one_image() -> None:
    image, frame = [1.0, 0.0], [0.0, 1.0]
    features = np.array([image, frame, frame, frame])
    _, pooled = ijb_templates.pool_templates(
        features, np.zeros(4, np.int64), np.array([0, 1, 1, 1])
    )
    np.testing.assert_allclose(pooled, [[0.5**0.5, 0.5**0.5]])


def test_the_same_medium_of_two_templates_stays_apart() -> None:
    features = np.eye(2)
    ids, pooled = ijb_templates.pool_templates(features, np.array([5, 4]), np.array([1, 1]))
    assert ids.tolist() == [4, 5]
    np.testing.assert_allclose(pooled, features[::-1])


def test_verification_is_the_roc_of_the_templates_cosines() -> None:
    random = np.random.default_rng(0)
    subjects = np.repeat(np.arange(12), 5)
    templates = random.permutation(1_000)[: len(subjects)]
    owners = np.repeat(np.arange(len(subjects)), 3)
    centres = random.normal(size=(12, 16))
    features = centres[subjects[owners]] + 1.5 * random.normal(size=(len(owners), 16))
    ids, pooled = ijb_templates.pool_templates(
        features, templates[owners], np.tile([0, 0, 1], len(subjects))
    )
    a, b = np.triu_indices(len(subjects), 1)
    pairs = ijb.IjbPairs(templates[a], templates[b], subjects[a] == subjects[b])
    found = ijb_templates.verify_templates(ids, pooled, pairs)
    row = {template: n for n, template in enumerate(ids.tolist())}
    cosines = [
        float(pooled[row[one]] @ pooled[row[other]])
        for one, other in zip(pairs.a.tolist(), pairs.b.tolist(), strict=True)
    ]
    plain = metrics.tar_at_far(cosines, pairs.same, ijb_templates.FARS)
    assert found.tar_at_far() == pytest.approx(plain, abs=1e-9)
    assert plain[1e-6] is None
    assert 0.1 < (plain[1e-2] or 0) < 1


def test_search_finds_the_enrolled_and_no_one_else() -> None:
    """Two galleries as in IJB: a probe's mate is in one of them."""
    random = np.random.default_rng(1)
    subjects = np.repeat(np.arange(8), 2)
    templates = 100 + random.permutation(16)
    features = np.eye(8)[subjects] + 0.1 * random.normal(size=(16, 8))
    ids, pooled = ijb_templates.pool_templates(features, templates, np.zeros(16, np.int64))
    probes = ijb.IjbList(templates[1::2], subjects[1::2])
    for low, high in ((0, 4), (4, 8)):
        rows = slice(2 * low, 2 * high, 2)
        found = ijb_templates.search_templates(
            ids, pooled, ijb.IjbList(templates[rows], subjects[rows]), probes
        )
        assert np.flatnonzero(found.rank).tolist() == list(range(low, high))
        assert cmc(found, (1,)) == {1: 1.0}
        assert open_set(found, 0.25).fnir.tolist() == [0.0]
    foreign = ijb.IjbList(np.array([7]), np.array([0]))
    with pytest.raises(MinusfaceError, match="template 7 of the gallery has no images"):
        ijb_templates.search_templates(ids, pooled, foreign, probes)


def test_images(tmp_path: Path) -> None:
    found = ijb.read_images(*_files(tmp_path))
    assert found.names == ("1.jpg", "2.jpg", "3.jpg")
    assert found.templates.tolist() == [7, 7, 2]
    assert found.media.tolist() == [10, 10, 10]
    assert found.landmarks.shape == (3, 5, 2)
    assert found.landmarks[0, 3].tolist() == [41.5, 92.4]
    assert found.scores.tolist() == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        (0, "1.jpg 7 10\n2.jpg 7 10\n", "3 images, .* has 2; expected the same"),
        (0, "1.jpg 7 10\n3.jpg 7 10\n2.jpg 2 10\n", "line 2: image '2.jpg', expected '3.jpg'"),
        (0, "1.jpg 7\n", "line 1: '1.jpg 7', expected a name and 2 numbers"),
        (0, "1.jpg 7 x\n", "line 1"),
        (0, "1.jpg 7 1\n2.jpg 7.5 1\n3.jpg 2 1\n", "line 2: expected whole numbers"),
        (0, "1.jpg 7 1\n\n3.jpg 2 1\n", "line 2"),
        (0, "1.jpg 7 1\n2.jpg 7 1\n../3.jpg 2 1\n", "line 3"),
        (0, "", "empty"),
        (0, None, "cannot read"),
        (1, f"1.jpg {POINTS} nan\n", "line 1"),
        (1, f"1.jpg {POINTS}\n", "line 1.*11 numbers"),
    ],
)
def test_image_files_refused(tmp_path: Path, file: int, content: str | None, words: str) -> None:
    files = _files(tmp_path)
    files[file].unlink() if content is None else files[file].write_text(content)
    with pytest.raises(MinusfaceError, match=words) as error:
        ijb.read_images(*files)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["../x.jpg", "/etc/x.jpg", "a/../../x.jpg"])
def test_images_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    files = _files(tmp_path)
    for file in files:
        file.write_text(file.read_text().replace("2.jpg", name))
    with pytest.raises(MinusfaceError, match=r"line 2: .* leads out of the images' folder"):
        ijb.read_images(*files)


def test_template_pairs(tmp_path: Path) -> None:
    path = tmp_path / "ijbb_template_pair_label.txt"
    path.write_text("1 11065 1\n1 11066 0\n")
    found = ijb.read_template_pairs(path)
    assert (found.a.tolist(), found.b.tolist()) == ([1, 1], [11065, 11066])
    assert found.same.tolist() == [True, False]
    assert len(found) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("1 2 1\n1 2\n", "columns"),
        ("1 2\n", "2 columns"),
        ("1 2 1\n1 2 3\n", "pair 2: label 3"),
        ("1 a 1\n", "expected lines"),
        ("1.5 2 1\n", "expected lines"),
        ("", "contained no data; expected lines"),
        ("\n\n", "contained no data; expected lines"),
        (None, "cannot read"),
    ],
)
def test_pair_files_refused(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "x.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(MinusfaceError, match=words) as error:
        ijb.read_template_pairs(path)
    assert "\n" not in str(error.value)


def test_pairs_of_another_benchmark() -> None:
    pairs = ijb.IjbPairs(np.array([1, 9]), np.array([2, 8]), np.array([True, False]))
    with pytest.raises(MinusfaceError, match=r"template 9 of the pairs has no images \(1 such"):
        ijb_templates.verify_templates(np.array([1, 2, 8]), np.eye(3), pairs)


def test_lists(tmp_path: Path) -> None:
    path = tmp_path / "ijbc_1N_gallery_G1.csv"
    path.write_text(
        "TEMPLATE_ID,SUBJECT_ID,FILENAME\n9,1,img/1.jpg\n9,1,img/2.jpg\n3,2,img/3.jpg\n"
    )
    found = ijb.read_list(path)
    assert (found.templates.tolist(), found.subjects.tolist()) == ([9, 3], [1, 2])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("A,B\n1,2\n", "columns A, B, expected TEMPLATE_ID"),
        ("", "columns none"),
        ("TEMPLATE_ID,SUBJECT_ID\n", "no templates"),
        (
            "TEMPLATE_ID,SUBJECT_ID\n1,2\n1,3\n",
            "line 3: template 1 of subject 3, before of subject 2",
        ),
        ("TEMPLATE_ID,SUBJECT_ID\n1\n", "line 2"),
        ("TEMPLATE_ID,SUBJECT_ID\nx,1\n", "line 2"),
        (None, "cannot read"),
    ],
)
def test_lists_refused(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "x.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(MinusfaceError, match=words) as error:
        ijb.read_list(path)
    assert "\n" not in str(error.value)


def test_pooling_refused() -> None:
    with pytest.raises(MinusfaceError, match="expected one an image"):
        ijb_templates.pool_templates(np.eye(2), np.zeros(3, np.int64), np.zeros(3, np.int64))
    with pytest.raises(MinusfaceError, match="template 4: its embedding is zero"):
        ijb_templates.pool_templates(np.zeros((1, 3)), np.array([4]), np.array([0]))
    with pytest.raises(MinusfaceError, match="template 4: its embedding is NaN"):
        ijb_templates.pool_templates(np.full((1, 3), np.nan), np.array([4]), np.array([0]))


def test_crops_are_cut_out_by_the_landmarks(tmp_path: Path) -> None:
    """Landmarks on ArcFace's template leave an image as it is; shifted by ten pixels they shift it."""
    images = ijb.read_images(*_files(tmp_path))
    picture = cv2.GaussianBlur(
        np.random.default_rng(0).integers(0, 255, (132, 132, 3), dtype=np.uint8), (0, 0), 4
    )
    cv2.imwrite(str(tmp_path / "1.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 100])
    images.landmarks[0] += 10
    crop = ijb.ijb_reader(tmp_path, images)("1.jpg")
    expected = picture[10:122, 10:122, ::-1].astype(int)
    assert crop.shape == (112, 112, 3)
    # The file's landmarks are rounded to a tenth of a pixel.
    assert np.abs(crop - expected).mean() < 2

    def corner(image: np.ndarray, points: np.ndarray, size: int) -> np.ndarray:
        assert points.shape == (5, 2)
        return image[:size, :size]

    np.testing.assert_allclose(
        ijb.ijb_reader(tmp_path, images, 50, corner)("1.jpg"), picture[:50, :50, ::-1], atol=12
    )
    with pytest.raises(MinusfaceError, match="cannot read"):
        ijb.ijb_reader(tmp_path, images)("2.jpg")
    with pytest.raises(MinusfaceError, match="no such image in the list"):
        ijb.ijb_reader(tmp_path, images)("9.jpg")
    with pytest.raises(MinusfaceError, match="no such folder"):
        ijb.ijb_reader(tmp_path / "none", images)

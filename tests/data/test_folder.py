from __future__ import annotations

import builtins
from pathlib import Path

import cv2
import numpy as np
import pytest

from minusface.data import FolderDataset, decode_image, read_people
from minusface.data.folder import _ends
from minusface.errors import MinusfaceError

PEOPLE = {"Cy": 1, "Ann_Lee": 3, "Bob": 2}


def picture(seed: int, size: int = 112) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), np.uint8)
    return cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC)


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "faces"
    for person, count in PEOPLE.items():
        for number in range(count):
            suffix = "png" if number else "jpg"
            write(folder / person / f"{person}_{number}.{suffix}", picture(number))
    return folder


def one_line(error: pytest.ExceptionInfo[MinusfaceError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("cache", [False, True])
def test_reads_people_in_sorted_order(root: Path, cache: bool) -> None:
    (root / "Empty").mkdir()
    (root / ".hidden").mkdir()
    (root / "Bob" / "notes.txt").write_text("no image")
    dataset = FolderDataset(root, cache=cache)
    assert dataset.people == ["Ann_Lee", "Bob", "Cy"]
    assert dataset.classes == 3
    assert dataset.name == "faces"
    keys = ["Ann_Lee/Ann_Lee_0.jpg", "Ann_Lee/Ann_Lee_1.png", "Ann_Lee/Ann_Lee_2.png"]
    keys += ["Bob/Bob_0.jpg", "Bob/Bob_1.png", "Cy/Cy_0.jpg"]
    samples = list(dataset)
    assert [sample.key for sample in samples] == list(dataset.keys()) == keys
    assert [sample.label for sample in samples] == [0, 0, 0, 1, 1, 2] == dataset.labels.tolist()
    # PNG is lossless: RGB order shows.
    assert np.array_equal(samples[4].image, picture(1))
    assert samples[0].image.dtype == np.uint8
    assert np.abs(samples[0].image.astype(int) - picture(0)).mean() < 8


def test_cached_files_are_read_once(root: Path) -> None:
    dataset = FolderDataset(root, cache=True)
    before = [sample.image for sample in dataset]
    for file in root.rglob("*.*"):
        file.unlink()
    assert all(np.array_equal(a, b.image) for a, b in zip(before, dataset, strict=True))


def test_people_as_names_and_as_a_file(root: Path, tmp_path: Path) -> None:
    listed = tmp_path / "people.txt"
    listed.write_text("2\nCy\t1\nBob\t2\n")
    for people in (["Cy", "Bob", "Bob"], listed, str(listed)):
        dataset = FolderDataset(root, people=people)
        assert dataset.people == ["Bob", "Cy"]
        assert dataset.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("2\nA B\t1\nC\t20\n", ["A B", "C"]),
        ("A\t1\nC\t20", ["A", "C"]),
        ("\ufeff2\r\nA\t1\r\nC\t20\r\n\r\n", ["A", "C"]),
        ("2\n1\nA\t3\n1\nC\t4\n", ["A", "C"]),
        ("0001\n0002\n0003\n", ["0001", "0002", "0003"]),
        ("2\n0001\n0002\n", ["0001", "0002"]),
        ("0000001\n0000007\n", ["0000001", "0000007"]),
        ("1\t3\n7\t20\n", ["1", "7"]),
        ("A\u2028B\nC\n", ["A\u2028B", "C"]),
        ("J\udcf6rg\t2\n\udcff\t1\n", ["J\udcf6rg", "\udcff"]),
    ],
)
def test_read_people(tmp_path: Path, text: str, names: list[str]) -> None:
    path = tmp_path / "people.txt"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert read_people(path) == names


def test_read_people_refuses(tmp_path: Path) -> None:
    with pytest.raises(MinusfaceError, match=r"none\.txt: cannot read"):
        read_people(tmp_path / "none.txt")
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n")
    with pytest.raises(MinusfaceError, match=r"empty\.txt: lists nobody"):
        read_people(empty)
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(MinusfaceError, match="no UTF-8 text"):
        read_people(binary)


def test_listed_person_without_a_folder(root: Path, tmp_path: Path) -> None:
    listed = tmp_path / "people.txt"
    listed.write_text("Bob\t2\nDora\t1\nEve\t1\n")
    with pytest.raises(MinusfaceError, match=r"'Dora' has no folder .*2 of 3 listed") as error:
        FolderDataset(root, people=listed)
    assert "people.txt" in one_line(error)
    (root / "Dora").mkdir()
    with pytest.raises(MinusfaceError, match="Dora: a listed person without an image"):
        FolderDataset(root, people=["Dora"])
    with pytest.raises(MinusfaceError, match="empty list"):
        FolderDataset(root, people=[])


def test_folders_of_the_wrong_form(root: Path, tmp_path: Path) -> None:
    with pytest.raises(MinusfaceError, match=r"gone: no such folder, expected .*person/image"):
        FolderDataset(tmp_path / "gone")
    with pytest.raises(MinusfaceError, match="is a file"):
        FolderDataset(root / "Cy" / "Cy_0.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MinusfaceError, match="is empty, expected one folder a person"):
        FolderDataset(tmp_path / "empty")
    with pytest.raises(MinusfaceError, match="3 images lie in it without folders") as error:
        FolderDataset(root / "Ann_Lee")
    assert "root/person/image.jpg" in one_line(error)
    (tmp_path / "hollow" / "nobody").mkdir(parents=True)
    with pytest.raises(MinusfaceError, match="no image in any person's folder"):
        FolderDataset(tmp_path / "hollow")


def test_one_person_is_told_by_classes(root: Path) -> None:
    assert FolderDataset(root, people=["Cy"]).classes == 1


@pytest.mark.parametrize("without_simplejpeg", [False, True])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
def test_damaged_files(
    suffix: str, without_simplejpeg: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if without_simplejpeg:
        hide_simplejpeg(monkeypatch)
    path = tmp_path / "root" / "P" / f"a{suffix}"
    write(path, picture(0))
    data = path.read_bytes()
    dataset = FolderDataset(tmp_path / "root")
    assert dataset[0].image.shape == (112, 112, 3)
    for broken in (b"", b"no image at all", data[: len(data) // 2], data[: len(data) - 20]):
        path.write_bytes(broken)
        with pytest.raises(MinusfaceError, match="not a readable image") as error:
            dataset[0]
        assert str(path) in one_line(error)
    path.unlink()
    with pytest.raises(MinusfaceError, match="cannot read"):
        dataset[0]


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_what_lies_behind_an_image_does_not_matter(suffix: str, tmp_path: Path) -> None:
    """As the film of a motion photo does: it may hold every marker there is."""
    write(tmp_path / f"a{suffix}", picture(0))
    data = (tmp_path / f"a{suffix}").read_bytes()
    image = decode_image(data, "a")
    behind = np.random.default_rng(0).bytes(300_000) + b"\xff\xda" + bytes(100)
    assert (decode_image(data + behind, "a") == image).all()
    assert (decode_image(data + data[: len(data) // 2], "a") == image).all()
    for end in (len(data) - 20, len(data) // 2, 200):
        with pytest.raises(MinusfaceError, match="not a readable image"):
            decode_image(data[:end], "a")


def test_scans_with_restarts_and_levels_end_where_they_end() -> None:
    for flags in ([cv2.IMWRITE_JPEG_RST_INTERVAL, 2], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]):
        done, made = cv2.imencode(".jpg", picture(0), flags)
        assert done
        data = made.tobytes()
        assert _ends(data)
        assert _ends(data + b"\xff\xda")
        assert not any(_ends(data[:end]) for end in (0, 2, 100, len(data) // 2, len(data) - 2))


def hide_simplejpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def fake(name: str, *args: object, **kwargs: object) -> object:
        if name == "simplejpeg":
            raise ImportError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", fake)


def test_jpeg_decoders_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("simplejpeg")
    for flags in ([], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]):
        data = cv2.imencode(".jpg", picture(3), flags)[1].tobytes()
        fast = decode_image(data, "x.jpg")
        with monkeypatch.context() as patch:
            hide_simplejpeg(patch)
            assert np.array_equal(fast, decode_image(data, "x.jpg"))


def test_grey_images_become_rgb(tmp_path: Path) -> None:
    for suffix in ("jpg", "png"):
        path = tmp_path / suffix / "P" / f"a.{suffix}"
        path.parent.mkdir(parents=True)
        cv2.imwrite(str(path), picture(0)[..., 0])
        image = FolderDataset(tmp_path / suffix)[0].image
        assert image.shape == (112, 112, 3)
        assert np.array_equal(image[..., 0], image[..., 2])


def test_wrong_size_names_file_and_sizes(root: Path) -> None:
    write(root / "Bob" / "Bob_0.jpg", np.zeros((90, 250, 3), np.uint8))
    dataset = FolderDataset(root)
    with pytest.raises(MinusfaceError, match=r"Bob_0\.jpg: 250x90 .*expected 112x112.*aligned"):
        dataset[3]
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_skipping_takes_the_next_image(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "Bob" / "Bob_0.jpg").write_bytes(b"no image")
    write(root / "Cy" / "Cy_0.jpg", np.zeros((90, 90, 3), np.uint8))
    dataset = FolderDataset(root, on_error="skip")
    assert [sample.key for sample in dataset][3:] == [
        "Bob/Bob_1.png",
        "Bob/Bob_1.png",
        "Ann_Lee/Ann_Lee_0.jpg",
    ]
    assert [sample.label for sample in dataset] == [0, 0, 0, 1, 1, 0]
    assert [key for key, _ in dataset.skipped] == ["Bob/Bob_0.jpg", "Cy/Cy_0.jpg"]
    said = capsys.readouterr().err.splitlines()
    assert [line.startswith(f"minusface: skipped {root}") for line in said] == [True, True]
    with pytest.raises(MinusfaceError, match=r"Bob_0\.jpg"):
        list(FolderDataset(root))
    with pytest.raises(MinusfaceError, match="on_error"):
        FolderDataset(root, on_error="no")  # type: ignore[arg-type]
    for file in root.rglob("*.*"):
        file.write_bytes(b"")
    with pytest.raises(MinusfaceError, match="faces: none of its 6 images can be read"):
        dataset[0]


def test_fingerprint_follows_files(root: Path) -> None:
    first = FolderDataset(root).fingerprint()
    assert len(first) == 64
    assert FolderDataset(root, cache=True).fingerprint() == first
    assert FolderDataset(root, people=["Bob"]).fingerprint() != first
    path = root / "Bob" / "Bob_1.png"
    path.write_bytes(path.read_bytes() + b"\0")
    second = FolderDataset(root).fingerprint()
    path.rename(path.with_name("Bob_2.png"))
    assert len({first, second, FolderDataset(root).fingerprint()}) == 3


def test_lfw(shared: Path) -> None:
    faces = shared / "faces"
    train = FolderDataset(
        faces / "lfw-112x112", people=faces / "lfw-protocol" / "peopleDevTrain.txt"
    )
    assert (train.classes, len(train)) == (4038, 9525)
    assert train[9524].image.shape == (112, 112, 3)
    everyone = read_people(faces / "lfw-protocol" / "people.txt")
    assert len(everyone) == len(set(everyone)) == 5749

"""Every format against every other: what goes in comes out, and what is damaged is refused in a line."""

from __future__ import annotations

import pickle
import struct
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minusface.data import FolderDataset, Loader, SyntheticFaces, export_folder, recordio, writers
from minusface.data.convert import FORMATS, convert
from minusface.data.recordio import HEADER, MAGIC_BYTES, RecordIODataset
from minusface.data.skipping import Skipping
from minusface.data.source import open_faces
from minusface.data.tfrecord import image_of, masked_crc
from minusface.data.writers import RecordIOWriter, ShardWriter, TFRecordWriter, Writer
from minusface.errors import MinusfaceError

SIZE, PEOPLE, IMAGES = 32, 5, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("faces") / "people"
    export_folder(SyntheticFaces(PEOPLE, IMAGES, seed=1, size=SIZE), root)
    return root


@pytest.fixture(scope="module")
def every(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same faces in every format: what opens each."""
    root = tmp_path_factory.mktemp("formats")
    source = FolderDataset(folder, size=SIZE)
    return {to: convert(source, to, root / to).spec for to in FORMATS}


def write(writer: Writer, items: list[tuple[str, int, bytes]]) -> None:
    for item in items:
        writer.write(*item)
    writer.finish()


def contents(dataset: Any) -> Counter[tuple[int, bytes]]:
    return Counter((int(dataset.labels[i]), dataset.encoded(i)) for i in range(len(dataset)))


@pytest.mark.parametrize("to", FORMATS)
def test_bytes_and_labels_are_kept(every: dict[str, str], folder: Path, to: str) -> None:
    dataset = open_faces(every[to], size=SIZE)
    assert (len(dataset), dataset.classes) == (PEOPLE * IMAGES, PEOPLE)
    assert contents(dataset) == contents(FolderDataset(folder, size=SIZE))
    sample = dataset[4]
    assert sample.image.shape == (SIZE, SIZE, 3)
    assert sample.key == dataset.key(4)  # type: ignore[attr-defined]


@pytest.mark.parametrize("to", FORMATS)
def test_there_and_back(every: dict[str, str], folder: Path, to: str, tmp_path: Path) -> None:
    back = convert(open_faces(every[to], size=SIZE), "folder", tmp_path / "back")
    assert (back.written, back.people, back.skipped) == (PEOPLE * IMAGES, PEOPLE, [])
    again = FolderDataset(tmp_path / "back", size=SIZE)
    assert contents(again) == contents(FolderDataset(folder, size=SIZE))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back"]


@pytest.mark.parametrize("to", [to for to in FORMATS if to != "folder"])
def test_readers_work_in_processes(every: dict[str, str], to: str) -> None:
    dataset = open_faces(every[to], size=SIZE)
    dataset[0]  # files are open when it is sent
    copy = pickle.loads(pickle.dumps(dataset))
    assert (copy[3].image == dataset[3].image).all()
    seen = [k for batch in Loader(copy, 5, seed=1, workers=2).epoch(0) for k in batch.keys]
    assert sorted(seen) == sorted(dataset.keys())  # type: ignore[attr-defined]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("to", FORMATS)
def test_processes_and_workers_lose_and_repeat_nothing(
    every: dict[str, str], to: str, workers: int
) -> None:
    """Two training processes, read by workers, one of them stopped after a batch and gone on."""
    dataset = open_faces(every[to], size=SIZE)
    parts = [Loader(dataset, 4, seed=1, workers=workers, part=(rank, 2)) for rank in range(2)]
    whole = [batch.keys for batch in Loader(dataset, 4, seed=1).epoch(0)]
    seen = [[batch.keys for batch in part.epoch(0)] for part in parts]
    assert [tuple(a) + tuple(b) for a, b in zip(*seen, strict=True)] == [tuple(b) for b in whole]
    assert [batch.keys for batch in parts[0].epoch(0, 1)] == seen[0][1:]
    together = [key for keys in whole for key in keys]
    assert len(set(together)) == len(together) == PEOPLE * IMAGES // 4 * 4


@pytest.mark.parametrize("to", FORMATS)
def test_fingerprint_tells_data_apart(every: dict[str, str], to: str, tmp_path: Path) -> None:
    one, same = (open_faces(every[to], size=SIZE).fingerprint() for _ in range(2))
    other = convert(SyntheticFaces(PEOPLE, IMAGES, seed=2, size=SIZE), to, tmp_path / "other")
    assert other.written == PEOPLE * IMAGES
    assert one == same != open_faces(other.spec, size=SIZE).fingerprint()


def corrupt(spec: str, to: str) -> Path:
    """Damage the image of one record."""
    kind = {"tfrecord": "*.tfrecord", "recordio": "train.rec", "shards": "*.tar"}
    root = Path(spec.partition(":")[2].rpartition("@")[2].replace("/*.tar", ""))
    file = sorted((root.parent if root.is_file() else root).rglob(kind.get(to, "*.png")))[0]
    data = bytearray(file.read_bytes())
    place = data.find(b"IDAT") + 20
    data[place : place + 30] = b"\xa5" * 30
    file.write_bytes(data)
    return file


@pytest.mark.parametrize("to", FORMATS)
def test_corrupt_records(
    folder: Path, to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = convert(FolderDataset(folder, size=SIZE), to, tmp_path / "data").spec
    corrupt(spec, to)
    failing = open_faces(spec, size=SIZE)
    with pytest.raises(MinusfaceError) as error:
        list(failing)  # type: ignore[call-overload]
    assert "\n" not in str(error.value)
    skipping = open_faces(spec, size=SIZE, on_error="skip")
    assert isinstance(skipping, Skipping)
    keys = [sample.key for _ in range(2) for sample in skipping]  # type: ignore[attr-defined]
    assert len(keys) == 2 * PEOPLE * IMAGES
    assert len(set(keys)) == PEOPLE * IMAGES - 1
    assert len(skipping.skipped) == 1
    assert skipping.skipped[0][0] not in keys
    assert capsys.readouterr().err.count("skipped") == 1
    with pytest.raises(MinusfaceError):
        convert(failing, "list", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    done = convert(failing, "recordio", tmp_path / "out", skip=True)
    assert (done.written, len(done.skipped)) == (PEOPLE * IMAGES - 1, 1)
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


def refused(spec: str, *words: str) -> None:
    with pytest.raises(MinusfaceError) as error:
        list(open_faces(spec, size=SIZE))  # type: ignore[call-overload]
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_tfrecord_refusals(folder: Path, tmp_path: Path) -> None:
    spec = convert(FolderDataset(folder, size=SIZE), "tfrecord", tmp_path / "a").spec
    index = tmp_path / "a" / "a_TFR.txt"
    shard = tmp_path / "a" / "a_TFR" / "a_TFR-00000.tfrecord"
    lines, whole = index.read_text(), shard.read_bytes()
    index.write_text(lines.replace("\t0\t0\t", "\t0\t1\t", 1))
    refused(spec, "byte 1", "checksum of the length")
    index.write_text(lines.replace("\t0\t0\t", "\t0\t99999999\t", 1))
    refused(spec, "line 1", "past the end")
    index.write_text(lines.replace("\t0\t0\t", "\t7\t0\t", 1))
    refused(spec, "a_TFR-00007.tfrecord")
    index.write_text(lines + "a_TFR\t0\t0\t-3\n")
    refused(spec, "line 16", "negative", "'-3'")
    index.write_text(lines + "a_TFR\t0\t0\t4294967296\n")
    refused(spec, "line 16", "label 4294967296")
    index.write_text(lines + "a_TFR\t0\t0\t9\n")
    refused(spec, "label 5", "holes")
    index.write_text(lines + "a_TFR\t0\t0\n")
    refused(spec, "line 16", "3 fields")
    index.write_text(lines + "../a_TFR\t0\t0\t0\n")
    refused(spec, "'../a_TFR'")
    index.write_text("")
    refused(spec, "empty")
    index.write_text(lines)
    shard.write_bytes(whole[:-9])
    refused(spec, "truncated")
    shard.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
    refused(spec, "checksum of the data")
    shard.unlink()
    refused(spec, "No such file")


def test_tfrecord_of_several_datasets_and_shards(tmp_path: Path) -> None:
    faces = SyntheticFaces(3, 4, seed=3, size=SIZE)
    png = tmp_path / "png"
    export_folder(faces, png)
    source = FolderDataset(png, size=SIZE)
    items = [(source.key(i), int(source.labels[i]), source.encoded(i)) for i in range(12)]
    for name in ("x_TFR", "yy_TFR"):
        write(TFRecordWriter(tmp_path, name, records=5), items)
    assert len(list((tmp_path / "x_TFR").glob("*.tfrecord"))) == 3
    assert (tmp_path / "x_TFR" / "x_TFR.index").read_text().splitlines()[5].split("\t")[1:] == [
        "1",
        "0",
    ]
    # Their lines mixed in one index.
    mixed = [(tmp_path / f"{n}.txt").read_text().splitlines() for n in ("x_TFR", "yy_TFR")]
    both = [line for two in zip(*mixed, strict=True) for line in two]
    (tmp_path / "both.txt").write_text("\r\n".join(both))
    dataset = open_faces(f"tfrecord:{tmp_path / 'both.txt'}", size=SIZE)
    assert len(dataset) == 24
    assert contents(dataset) == Counter({key: 2 * count for key, count in contents(source).items()})


def test_checksum_and_message_are_the_published_ones() -> None:
    # RFC 3720, appendix B.4: 32 zero bytes; the mask is TFRecord's.
    crc = 0x8A9136AA
    assert masked_crc(bytes(32)) == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    # A message written by hand: an int64 feature before the image, as TensorFlow would order them.
    label = b"\x0a\x0e\x0a\x05label\x12\x05\x1a\x03\x0a\x01\x07"
    image = b"\x0a\x10\x0a\x05image\x12\x07\x0a\x05\x0a\x03abc"
    features = label + image
    message = b"\x0a" + bytes([len(features)]) + features
    assert image_of(message, "here") == b"abc"
    with pytest.raises(MinusfaceError, match="here"):
        image_of(message[:-2], "here")
    with pytest.raises(MinusfaceError, match="image"):
        image_of(b"\x0a" + bytes([len(label)]) + label, "here")


def test_recordio_refusals(folder: Path, tmp_path: Path) -> None:
    spec = convert(FolderDataset(folder, size=SIZE), "recordio", tmp_path / "r").spec
    rec, index, prop = (tmp_path / "r" / name for name in ("train.rec", "train.idx", "property"))
    whole, lines = rec.read_bytes(), index.read_text()
    refused(f"recordio:{tmp_path}", "no train.rec")
    rec.write_bytes(b"\0\0\0\0" + whole[4:])
    refused(spec, "magic")
    rec.write_bytes(whole[:-40])
    refused(spec, "past the end")
    rec.write_bytes(whole)
    index.write_text(lines.replace("\t", "\t9", 3))
    refused(spec, "past the end")
    index.write_text(lines)
    prop.write_text("6,32,32\n")
    refused(spec, "6 people", "have 5")
    prop.write_text("five")
    refused(spec, "classes,height,width")
    assert open_faces(str(tmp_path / "r"), size=SIZE) if prop.unlink() is None else False


def test_recordio_splits_data_that_holds_the_magic_number(tmp_path: Path) -> None:
    tricky = b"abcdefgh" + MAGIC_BYTES + b"tail" + MAGIC_BYTES + MAGIC_BYTES + b"x" + MAGIC_BYTES
    assert HEADER.size % 4 == 0
    write(RecordIOWriter(tmp_path), [("a", 0, tricky), ("b", 1, b"plain")])
    dataset = RecordIODataset(tmp_path, size=SIZE)
    assert [dataset.encoded(i) for i in range(2)] == [tricky, b"plain"]
    assert (tmp_path / "train.rec").read_bytes().count(b"tail") == 1


def test_recordio_refuses_more_than_it_counts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranges are float32: beyond 2^24 they would be rounded."""
    source = FolderDataset(folder, size=SIZE)
    numbers = PEOPLE * IMAGES + PEOPLE + 1
    monkeypatch.setattr(writers, "EXACT", numbers)
    assert convert(source, "recordio", tmp_path / "fits").written == PEOPLE * IMAGES
    monkeypatch.setattr(writers, "EXACT", numbers - 1)
    with pytest.raises(MinusfaceError, match=r"out: 15 images of 5 people.* tfrecord and shards"):
        convert(source, "recordio", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fits"]
    writer = RecordIOWriter(tmp_path / "writer")
    items = [("", number // IMAGES, b"") for number in range(PEOPLE * IMAGES)]
    with pytest.raises(MinusfaceError, match="recordio counts 19 of both"):
        write(writer, items)
    assert writer.count == len(items) - 1


def test_recordio_trusts_no_range_that_float32_cannot_hold(
    folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    spec = convert(FolderDataset(folder, size=SIZE), "recordio", tmp_path / "r").spec
    before = open_faces(spec, size=SIZE)

    def of_people(*given: object) -> None:
        raise AssertionError("ranges of people are read")

    monkeypatch.setattr(recordio, "EXACT", 5)
    monkeypatch.setattr(RecordIODataset, "_of_people", of_people)
    after = open_faces(spec, size=SIZE)
    assert isinstance(after, RecordIODataset)
    assert isinstance(before, RecordIODataset)
    assert after.labels.tolist() == before.labels.tolist()
    assert after.fingerprint() == before.fingerprint()
    assert (after[7].image == before[7].image).all()


def test_recordio_without_people_and_with_float_labels(tmp_path: Path) -> None:
    """The older form: no record 0, labels as an array of floats before the image."""
    data, lines = b"", ""
    for number, label in enumerate((1, 0, 1), 1):
        body = HEADER.pack(2, 0.0, number, 0) + struct.pack("<2f", label, 0.25) + b"img%d" % number
        lines += f"{number}\t{len(data)}\n"
        data += MAGIC_BYTES + struct.pack("<I", len(body)) + body + b"\0" * (-len(body) % 4)
    (tmp_path / "train.rec").write_bytes(data)
    (tmp_path / "train.idx").write_text(lines)
    dataset = RecordIODataset(tmp_path, size=SIZE)
    assert dataset.labels.tolist() == [1, 0, 1]
    assert [dataset.encoded(i) for i in range(3)] == [b"img1", b"img2", b"img3"]


def test_list_refusals(folder: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    keys = list(FolderDataset(folder, size=SIZE).keys())
    spec = f"list:{listed}@{folder}"
    listed.write_text("".join(f"{key}\t{i // IMAGES}\n" for i, key in enumerate(keys)))
    assert len(open_faces(spec, size=SIZE)) == len(keys)
    listed.write_text(f"{keys[0]}\t0\n../{keys[1]}\t1\n")
    refused(spec, "line 2", "outside")
    listed.write_text(f"{keys[0]}\t0\n/etc/passwd\t1\n")
    refused(spec, "line 2", "outside")
    listed.write_text(f"{keys[0]}\t0\n{keys[1]}\t2\n")
    refused(spec, "label 1", "holes")
    listed.write_text(f"{keys[0]}\t0\n{keys[1]}\t4294967296\n")
    refused(spec, "line 2", "label 4294967296")
    listed.write_text(f"{keys[0]}\t0\nnone.png\t1\n")
    refused(spec, "none.png")
    listed.write_text(f"{keys[0]} 0\n")
    refused(spec, "line 1", "1 fields")
    listed.write_text(f"{keys[0]}\tseven\n")
    refused(spec, "line 1", "'seven'")


def test_a_list_with_a_byte_order_mark(folder: Path, tmp_path: Path) -> None:
    keys = list(FolderDataset(folder, size=SIZE).keys())
    text = "".join(f"{key}\t{i // IMAGES}\r\n" for i, key in enumerate(keys))
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    found = open_faces(f"list:{tmp_path}/list.txt@{folder}", size=SIZE)
    assert list(found.keys()) == keys  # type: ignore[attr-defined]
    assert found[0][2] == keys[0]


def test_shard_refusals(folder: Path, tmp_path: Path) -> None:
    spec = convert(FolderDataset(folder, size=SIZE), "shards", tmp_path / "s").spec
    tar = next((tmp_path / "s").glob("*.tar"))
    whole = tar.read_bytes()
    tar.write_bytes(whole[:700])
    refused(spec, str(tar))
    tar.write_bytes(b"no tar")
    refused(spec, str(tar))
    with tarfile.open(tar, "w") as out:
        out.add(next(folder.rglob("*.png")), "a.png")
    refused(spec, "a: an image without a label")
    picture = next(folder.rglob("*.png"))
    label = tmp_path / "label"
    for names, words in (
        (("a.cls", "a.png", "a.jpg"), "a.jpg: a second image of a"),
        (("a.cls", "a.png", "a.png"), "a.png: a second image of a"),
        (("a.cls", "a.png", "a.json"), "label 1 of a, before 0"),
    ):
        with tarfile.open(tar, "w") as out:
            for name in names:
                label.write_text('{"label": 1}' if name.endswith("json") else "0")
                out.add(label if name[2:] in ("cls", "json") else picture, name)
        refused(spec, str(tar), words)
    refused(f"shards:{tmp_path}/none-*.tar", "no such file")
    refused("shards:nowhere://x/y.tar", "nowhere://x/y.tar")
    refused("shards:x-{000..}.tar}", "not a pattern of shards")


@pytest.mark.parametrize("through", ["tfrecord", "recordio", "list", "shards"])
def test_shards_of_any_format_hold_every_image(
    every: dict[str, str], folder: Path, through: str, tmp_path: Path
) -> None:
    source = open_faces(every[through], size=SIZE)
    found = open_faces(convert(source, "shards", tmp_path / "s").spec, size=SIZE)
    assert contents(found) == contents(FolderDataset(folder, size=SIZE))
    assert len(set(found.keys())) == PEOPLE * IMAGES  # type: ignore[attr-defined]


def test_names_alike_but_for_their_ending_stay_apart_in_shards(tmp_path: Path) -> None:
    keys = [
        "p/a.jpg",
        "p/a.png",
        "p/b.c.jpg",
        "p/b_c.jpg",
        "p/a.jpeg",
        "p/.jpg",
        "p/a.JPG",
        "p/q.1",
    ]
    png = b"\x89PNG"
    items = [(key, 0, png + bytes([n])) for n, key in enumerate(keys)]
    # In one tar, and where a person's images go on in the next.
    for per_shard in (100, 1, 3):
        root = tmp_path / str(per_shard)
        write(ShardWriter(root, per_shard), items)
        found = open_faces(f"shards:{root}/*.tar")
        assert contents(found) == Counter((0, image) for _, _, image in items)
        names = list(found.keys())  # type: ignore[attr-defined]
        assert len(set(names)) == len(keys)
        assert (names[0], names[2], names[7]) == ("p/a", "p/b_c", "p/q_1")


def test_shards_that_repeat_keys_keep_their_people_apart(tmp_path: Path) -> None:
    items = [("0", 0, b"\x89PNG0"), ("1", 0, b"\x89PNG1")]
    for name in ("one", "two"):
        write(ShardWriter(tmp_path / name), items)
    (first,), (second,) = (sorted((tmp_path / n).glob("*.tar")) for n in ("one", "two"))
    second.rename(other := second.with_name("more.tar"))
    assert list(open_faces(f"shards:{first}").keys()) == ["0", "1"]  # type: ignore[attr-defined]
    for pattern, fronts in (
        (f"{first}::{other}", (first.stem, "more")),
        (f"{first}::{first}", "01"),
    ):
        found = open_faces(f"shards:{pattern}")
        names = [f"{front}/{key}" for front in fronts for key in ("0", "1")]
        assert list(found.keys()) == names  # type: ignore[attr-defined]
        assert contents(found) == Counter((label, image) for _, label, image in 2 * items)


def test_a_shard_is_fetched_once(every: dict[str, str], tmp_path: Path, monkeypatch: Any) -> None:
    tar = next(Path(every["shards"].partition(":")[2]).parent.glob("*.tar"))
    monkeypatch.setenv("MINUSFACE_CACHE", str(tmp_path))
    first = open_faces(f"shards:pipe:cat {tar}", size=SIZE)
    assert len(first) == PEOPLE * IMAGES
    kept = list(tmp_path.rglob("*.tar")) + list((tmp_path / "shards").iterdir())
    assert kept
    assert [p for p in kept if p.name.endswith(".tmp")] == []


@pytest.mark.parametrize("to", ["list", "tfrecord"])
def test_paths_with_an_at_sign(folder: Path, to: str, tmp_path: Path) -> None:
    source = FolderDataset(folder, size=SIZE)
    done = convert(source, to, tmp_path / "me@home" / "a@b")
    assert contents(open_faces(done.spec, size=SIZE)) == contents(source)
    file = done.spec.partition(":")[2].partition(f"@{tmp_path}")[0]
    moved = (tmp_path / "me@home" / "a@b").rename(tmp_path / "c@d")
    listed = Path(file).name
    (moved / listed).rename(tmp_path / "x@y.txt")
    again = open_faces(f"{to}:{tmp_path}/x@y.txt@{moved}", size=SIZE)
    assert contents(again) == contents(source)
    refused(f"{to}:{tmp_path}/none.txt@{moved}", "No such file")


def test_unknown_formats(tmp_path: Path) -> None:
    refused("recordoi:x", "recordoi", "recordio")
    with pytest.raises(MinusfaceError, match="recordio"):
        convert(SyntheticFaces(2, 2, seed=0, size=SIZE), "recordoi", tmp_path / "x")
    (tmp_path / "there").mkdir()
    with pytest.raises(MinusfaceError, match="exists already"):
        convert(SyntheticFaces(2, 2, seed=0, size=SIZE), "list", tmp_path / "there")


def test_conversion_survives_a_full_disk(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(MinusfaceError, match="No space left"):
        convert(FolderDataset(folder, size=SIZE), "recordio", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_columns_against_a_plain_reading(tmp_path: Path, monkeypatch: Any) -> None:
    from minusface.data import columns

    monkeypatch.setattr(columns, "CHUNK", 64)
    random = np.random.default_rng(0)
    rows = [
        (f"n{random.integers(3) * 'x'}", int(random.integers(10 ** random.integers(1, 12))))
        for _ in range(300)
    ]
    path = tmp_path / "c.txt"
    path.write_text("\n".join(f"{name}\t{value}" for name, value in rows))
    known: list[bytes] = []
    found = []
    for lines in columns.read_columns(path, 2, "a<tab>b"):
        numbers = columns.names(lines, 0, known)
        values = columns.integers(path, lines, 1, "b")
        found += [(known[n].decode(), int(v)) for n, v in zip(numbers, values, strict=True)]
    assert found == rows
    assert len(known) == 3

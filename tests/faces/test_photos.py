"""Reading photos: every kind comes out upright, RGB, eight bits; damaged ones are refused in one line."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from minusface.errors import MinusfaceError
from minusface.faces import list_photos, read_photo
from minusface.faces.sizes import stated_sizes

RED_LEFT = np.zeros((40, 60, 3), np.uint8)
RED_LEFT[:, :30, 0] = 255  # RGB
RED_LEFT[:, 30:, 2] = 255


def write(path: Path, image: np.ndarray, **options: int) -> Path:
    bgr = image[..., [2, 1, 0, *range(3, image.shape[-1])]] if image.ndim == 3 else image
    assert cv2.imwrite(str(path), bgr)
    return path


def with_orientation(path: Path, value: int) -> Path:
    """Put an EXIF orientation into a JPEG."""
    data = path.read_bytes()
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, value, 0, 0)
    body = b"Exif\0\0" + tiff
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:])
    return path


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".bmp", ".tif"])
def test_colours_are_rgb(tmp_path: Path, ending: str) -> None:
    photo = read_photo(write(tmp_path / f"a{ending}", RED_LEFT))
    assert photo.shape == (40, 60, 3)
    assert photo.dtype == np.uint8
    assert photo[20, 10, 0] > 200 > 60 > photo[20, 10, 2]
    assert photo[20, 50, 2] > 200 > 60 > photo[20, 50, 0]


@pytest.mark.parametrize(("value", "red"), [(3, (20, 50)), (6, (10, 20)), (8, (50, 20))])
def test_exif_rotation_is_applied(tmp_path: Path, value: int, red: tuple[int, int]) -> None:
    photo = read_photo(with_orientation(write(tmp_path / "a.jpg", RED_LEFT), value))
    assert photo.shape[:2] == ((40, 60) if value == 3 else (60, 40))
    assert photo[(*red, 0)] > 200


def with_exif(path: Path, value: int, order: str) -> Path:
    """Put an EXIF orientation into a PNG or WebP."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    tiff = mark + struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, value, 0, 0)
    data = path.read_bytes()
    if path.suffix == ".png":
        chunk = b"eXIf" + tiff
        chunk = struct.pack(">I", len(tiff)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        path.write_bytes(data[:33] + chunk + data[33:])
        return path
    flags = bytes([0x18, 0, 0, 0]) + (59).to_bytes(3, "little") + (39).to_bytes(3, "little")
    body = b"VP8X" + struct.pack("<I", 10) + flags + data[12:]
    body += b"EXIF" + struct.pack("<I", len(tiff)) + tiff
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body)
    return path


@pytest.mark.parametrize("ending", [".png", ".webp"])
@pytest.mark.parametrize("value", range(1, 9))
def test_exif_of_png_and_webp_turns_as_opencv_does(tmp_path: Path, ending: str, value: int) -> None:
    image = RED_LEFT.copy()
    image[24:, :, 1] = 200  # all eight look different
    path = with_exif(write(tmp_path / f"a{ending}", image), value, "<>"[value % 2])
    found = read_photo(path).astype(int)
    wanted = read_photo(with_orientation(write(tmp_path / "a.jpg", image), value)).astype(int)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).mean() < 12


def test_grey_sixteen_bits_and_transparency(tmp_path: Path) -> None:
    grey = np.full((20, 20), 77, np.uint8)
    assert np.all(read_photo(write(tmp_path / "g.png", grey)) == 77)
    deep = np.full((20, 20, 3), 77 * 257, np.uint16)
    assert np.all(read_photo(write(tmp_path / "d.png", deep)) == 77)
    clear = np.zeros((20, 20, 4), np.uint8)
    clear[:, 10:] = (200, 100, 50, 255)
    photo = read_photo(write(tmp_path / "c.png", clear))
    assert photo[0, 0].tolist() == [127, 127, 127]
    assert photo[0, 15].tolist() == [200, 100, 50]
    clear[:, 10:, 3] = 0
    webp = cv2.imencode(".webp", clear, [cv2.IMWRITE_WEBP_QUALITY, 101])[1]
    (tmp_path / "c.webp").write_bytes(webp.tobytes())
    assert np.all(read_photo(tmp_path / "c.webp") == 127)


@pytest.mark.parametrize("ending", [".png", ".jpg"])
@pytest.mark.parametrize("keep", [0.3, 0.7, 0.95])
def test_truncated_files_are_refused(tmp_path: Path, ending: str, keep: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = write(tmp_path / f"a{ending}", noise)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(MinusfaceError, match="not a readable image, or cut short"):
        read_photo(path)


def test_bytes_after_the_end_do_not_matter(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jpg", RED_LEFT)
    path.write_bytes(path.read_bytes() + b"\xff\xda" + bytes(range(256)) * 40)
    assert read_photo(path).shape == (40, 60, 3)


def test_other_refusals(tmp_path: Path) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(MinusfaceError) as caught:
            read_photo(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "cannot read" in refused(tmp_path / "none.jpg")
    assert "is a folder" in refused(tmp_path)
    (tmp_path / "empty.jpg").write_bytes(b"")
    assert "empty file" in refused(tmp_path / "empty.jpg")
    (tmp_path / "text.jpg").write_text("hello")
    assert "not a readable image" in refused(tmp_path / "text.jpg")
    assert "16 or more" in refused(write(tmp_path / "s.png", np.zeros((8, 30, 3), np.uint8)))
    bomb = bytearray(write(tmp_path / "b.png", RED_LEFT).read_bytes())
    bomb[16:24] = struct.pack(">II", 60000, 60000)
    (tmp_path / "bomb.png").write_bytes(bomb)
    assert "100 megapixels" in refused(tmp_path / "bomb.png")


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", "lossless.webp", ".bmp", ".tif"])
def test_sizes_are_stated_by_headers(tmp_path: Path, ending: str) -> None:
    """What a decoder makes of a file is what its header says, whichever writer it is from."""
    quality = [cv2.IMWRITE_WEBP_QUALITY, 80] if ending == ".webp" else []
    path = tmp_path / f"a{ending}"
    assert cv2.imwrite(str(path), RED_LEFT, quality)
    data = path.read_bytes()
    assert list(stated_sizes(data)) == [(60, 40)]
    # Cut short anywhere, a header says the same, or nothing.
    for end in range(len(data)):
        assert list(stated_sizes(data[:end])) in ([(60, 40)], [])


def test_headers_of_other_writers() -> None:
    vp8x = b"RIFF" + bytes(4) + b"WEBPVP8X" + bytes(8) + (59).to_bytes(3, "little")
    assert list(stated_sizes(vp8x + (39).to_bytes(3, "little"))) == [(60, 40)]
    old = b"BM" + bytes(12) + struct.pack("<IHH", 12, 60, 40)
    upside = b"BM" + bytes(12) + struct.pack("<Iii", 40, 60, -40)
    assert [*stated_sizes(old), *stated_sizes(upside)] == [(60, 40)] * 2
    entries = struct.pack(">HHHIHHHHIIH", 2, 256, 3, 1, 60, 0, 257, 4, 1, 40, 0)
    assert list(stated_sizes(b"MM\0*" + struct.pack(">I", 8) + entries)) == [(60, 40)]
    assert list(stated_sizes(b"hello")) == []


def test_huge_ones_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    huge = b"BM" + bytes(12) + struct.pack("<Iii", 40, 30000, -20000)
    (tmp_path / "bomb.bmp").write_bytes(huge)
    with pytest.raises(MinusfaceError, match="30000x20000 pixels, expected at most 100 megapixels"):
        read_photo(tmp_path / "bomb.bmp")


def test_filling_before_a_marker_is_no_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jpg", RED_LEFT)
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xff" + data[2:])
    assert read_photo(path).shape == (40, 60, 3)


def test_linked_folders_are_searched_and_loops_end(tmp_path: Path) -> None:
    root, ann = tmp_path / "people", tmp_path / "elsewhere"
    (root / "Bob").mkdir(parents=True)
    ann.mkdir()
    write(ann / "1.png", RED_LEFT)
    write(root / "Bob" / "1.png", RED_LEFT)
    (root / "Ann").symlink_to(ann)
    (root / "Bob" / "up").symlink_to(root)
    (ann / "here").symlink_to(ann)
    assert list_photos([root]) == [root / "Ann" / "1.png", root / "Bob" / "1.png"]


def test_listing(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    second = write(tmp_path / "sub" / "b.PNG", RED_LEFT)
    first = write(tmp_path / "a.jpg", RED_LEFT)
    (tmp_path / "notes.txt").write_text("")
    assert list_photos([tmp_path]) == [first, second]
    assert list_photos([second]) == [second]
    (tmp_path / "empty").mkdir()
    with pytest.raises(MinusfaceError, match="no image in this folder"):
        list_photos([tmp_path / "empty"])
    with pytest.raises(MinusfaceError, match="no such file or folder"):
        list_photos([tmp_path / "none"])

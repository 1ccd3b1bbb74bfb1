"""Dlib's network by torch against its description, and its file read."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from minusface.errors import MinusfaceError
from minusface.train.dlib_net import DlibNet, chips
from tests.reference.dlib_file import descriptor, random_layers, written


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dlib") / "net.dat"
    path.write_bytes(written(*random_layers(0)))
    return path


def test_descriptors_are_those_of_the_description(file: Path) -> None:
    layers, last = random_layers(0)
    faces = torch.randint(
        0, 256, (2, 3, 150, 150), generator=torch.Generator().manual_seed(1)
    ).float()
    found = DlibNet.load(file)(faces)
    expected = torch.stack([descriptor(layers, last, face) for face in faces])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert float((expected[0] - expected[1]).abs().max()) > 0.01


def smooth(side: int) -> torch.Tensor:
    """A picture that any interpolation draws alike."""
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    return torch.stack([x * 200, y * 150 + 50, 100 + 80 * torch.sin(4 * x + 3 * y)])[None]


def test_a_chip_lies_where_opencv_puts_it() -> None:
    pixels = smooth(112).round()
    image = pixels[0].permute(1, 2, 0).numpy().astype(np.uint8)
    for eye, mirrored in ((54.9, False), (56.1, True)):
        turn = np.array([[1.6, 0, 74 - 1.6 * eye], [0, 1.6, 47.1 - 1.6 * 51.6]])
        wanted = cv2.warpAffine(
            image, turn, (150, 150), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )
        found = chips(pixels, mirrored)[0].permute(1, 2, 0).numpy()
        assert np.abs(found - wanted).mean() < 0.5
        assert np.abs(found - wanted).max() <= 3


def test_chips_of_larger_crops_show_the_same() -> None:
    small, large = chips(smooth(112)), chips(smooth(224))
    assert float((small - large).abs().mean()) < 1


def test_mirror_images_are_embedded_as_such(file: Path) -> None:
    net = DlibNet.load(file)
    crops = smooth(112) / 127.5 - 1
    plain, mirrored = net.embed(crops)
    assert plain.shape == mirrored.shape == (1, 128)
    assert torch.equal(net(chips((crops.flip(-1) + 1) * 127.5, mirrored=True)), mirrored)
    assert not torch.equal(plain, mirrored)


def test_files_that_are_no_such_network(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    bad = tmp_path / "bad.dat"
    with pytest.raises(MinusfaceError, match="cannot read"):
        DlibNet.load(bad)
    at = whole.index(b"con_4") + 40
    layers, last = random_layers(0)
    layers[3].weight = layers[3].weight[:, :16]
    for data in (
        b"",
        b"noise" * 100,
        whole[: len(whole) // 2],
        written(layers, last),
        whole.replace(b"con_4", b"con_5", 1),
        whole[:at] + b"\xff\xff\xff\x7f" * 8 + whole[at + 32 :],
    ):
        bad.write_bytes(data)
        with pytest.raises(MinusfaceError, match="expected dlib_face_recognition") as caught:
            DlibNet.load(bad)
        assert str(caught.value).startswith(str(bad))

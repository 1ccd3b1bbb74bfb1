"""What reads features without their being there, against the features."""

from __future__ import annotations

from typing import cast

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from minusface.config import CodecConfig, GeneratorConfig
from minusface.errors import MinusfaceError
from minusface.protect import DCTCodec, DWTCodec, Protector, draw_permutation
from minusface.protect.codec import BlockCodec
from minusface.protect.reading import UnwrittenFeatures, WrittenFeatures
from minusface.protect.row_convolution import _summed
from minusface.protect.rows import Rows

CODECS = [DCTCodec(32, 8), DWTCodec(16, 4), DCTCodec(48, 2), DCTCodec(4, 8)]


def crops(codec: BlockCodec, count: int = 3, seed: int = 0) -> Tensor:
    """Noise with a gradient under it, in [-1, 1]."""
    random = torch.Generator().manual_seed(seed)
    pixels = torch.rand(count, 3, codec.size, codec.size, generator=random) - 0.5
    return (pixels + torch.linspace(-0.5, 0.5, codec.size)).clamp(-1, 1)


def convolution(codec: BlockCodec, outside: int, stride: int, bias: bool = True) -> nn.Conv2d:
    """Filters that answer to each channel alike, however small its values."""
    with torch.random.fork_rng():
        torch.manual_seed(stride)
        conv = nn.Conv2d(codec.channels, outside, 3, stride, 1, bias=bias)
    spread = codec.encode(crops(codec, 8, 9)).std((0, 2, 3)).clamp(min=1e-2)
    conv.weight.data /= spread[None, :, None, None]
    return conv


def both(codec: BlockCodec, images: Tensor) -> tuple[UnwrittenFeatures, WrittenFeatures]:
    rows = Rows(codec)
    return (
        UnwrittenFeatures(rows, rows.lines(images)),
        WrittenFeatures(codec, codec.encode(images)),
    )


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_convolution_and_its_gradients(codec: BlockCodec, stride: int, bias: bool) -> None:
    conv = convolution(codec, 5, stride, bias)
    found = []
    for features in both(codec, crops(codec)):
        conv.zero_grad()
        response = features.convolve(conv)
        weights = torch.randn(response.shape, generator=torch.Generator().manual_seed(3))
        (response * weights).sum().backward()
        found.append(
            [response.detach(), *(cast(Tensor, p.grad).clone() for p in conv.parameters())]
        )
    assert len(found[0]) == 2 + bias
    for ours, literal in zip(*found, strict=True):
        torch.testing.assert_close(ours, literal, rtol=1e-3, atol=1e-4 * float(literal.abs().max()))


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_weighing(codec: BlockCodec) -> None:
    order = draw_permutation(3, codec.channels, torch.Generator().manual_seed(1))
    ours, literal = (features.weigh(order) for features in both(codec, crops(codec)))
    torch.testing.assert_close(ours, literal, rtol=1e-3, atol=1e-3)


def test_narrow_responses_are_as_good_as_a_convolution_of_narrow_features() -> None:
    # Most channels are small differences of large numbers: rounding those first would bury them.
    codec = DCTCodec(32, 8)
    images, conv = crops(codec), convolution(codec, 16, 1)
    rows = Rows(codec)
    exact = conv(codec.encode(images)).detach()
    ours = rows.convolve(rows.lines(images, torch.bfloat16), conv)
    assert ours.dtype == torch.bfloat16
    assert conv.bias is not None
    usual = nnf.conv2d(
        codec.encode(images).bfloat16(), conv.weight.bfloat16(), conv.bias.bfloat16(), padding=1
    )
    error, usual_error = ((made.float() - exact).square().mean() for made in (ours, usual))
    assert error < 4 * usual_error


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_taps_are_summed_as_a_convolution_sums_them(
    stride: int, bias: bool, dtype: torch.dtype
) -> None:
    """Against one that moves each tap's part by hand; only the result is rounded."""
    random = torch.Generator().manual_seed(0)
    before, at, after = torch.randn(3, 6, 2, 6, 5, generator=random).to(dtype).unbind(0)
    beside = torch.randn(5, generator=random) if bias else None
    found = _summed(before, at, after, beside, stride)
    wanted = at.double()
    for x in range(6):
        if x > 0:
            wanted[:, :, x] += before[:, :, x - 1]
        if stride == 2:
            wanted[:, :, x] += after[:, :, x]
        elif x < 5:
            wanted[:, :, x] += after[:, :, x + 1]
    if beside is not None:
        wanted += beside
    assert found.dtype == dtype
    assert found.is_contiguous()
    exact = wanted.transpose(0, 1)
    within = 1e-6 if dtype == torch.float32 else 2**-8
    assert float(((found - exact).abs() - within * exact.abs()).max()) < 1e-6


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("name", ["dct", "dwt"])
def test_protected_images(name: str, copies: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        protector = Protector(CodecConfig(name, 32), GeneratorConfig(4), copies).eval()
    # So that what is regenerated counts.
    protector.generator.project.weight.data *= 20
    images = crops(cast(BlockCodec, protector.codec))
    orders = torch.stack(
        [draw_permutation(3, 192, torch.Generator().manual_seed(k)) for k in range(copies)], 1
    )
    literal = protector.obfuscate(protector.subtract(images).residue, orders)
    with torch.no_grad():
        ours = protector(images, orders)
        again = protector(images, orders)
    assert ours.shape == (3, 3 * copies, 32, 32)
    torch.testing.assert_close(ours, literal, rtol=0, atol=1e-5)
    assert torch.equal(ours, again)


def test_one_image_and_many_give_the_same() -> None:
    protector = Protector(CodecConfig(size=32), GeneratorConfig(4)).eval()
    images = crops(cast(BlockCodec, protector.codec), 5)
    order = draw_permutation(5, 192, torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = protector(images, order)
        one_by_one = torch.cat([protector(images[i : i + 1], order[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, one_by_one, rtol=0, atol=1e-5)


@torch.no_grad()
def test_filters_that_learned_in_between() -> None:
    codec = CODECS[0]
    unwritten, written = both(codec, crops(codec))
    conv = convolution(codec, 5, 1).requires_grad_(False)
    before = unwritten.convolve(conv)
    conv.requires_grad_(True)
    with torch.enable_grad():
        # It writes where Python does not see it.
        optimizer = torch.optim.AdamW(conv.parameters(), 0.5, fused=True)
        unwritten.convolve(conv).square().sum().backward()
        optimizer.step()
    conv.requires_grad_(False)
    after = unwritten.convolve(conv)
    assert not torch.allclose(before, after, rtol=1e-3)
    expected = written.convolve(conv)
    assert float((after - expected).norm() / expected.norm()) < 1e-4


def test_another_size_is_refused() -> None:
    protector = Protector(CodecConfig(size=32), GeneratorConfig(4)).eval()
    with torch.no_grad(), pytest.raises(MinusfaceError, match=r"crops: shape .*32, 32"):
        protector(torch.zeros(1, 3, 16, 16), torch.arange(192)[None])


def test_the_response_to_one_crop_can_be_changed_in_place() -> None:
    """As networks do with it; of one crop it would be a view, which gradients forbid to change."""
    codec = DCTCodec(16, 2)
    rows, conv = Rows(codec), nn.Conv2d(codec.channels, 4, 3, padding=1)
    response = rows.convolve(rows.lines(crops(codec, 1)), conv)
    nn.functional.relu_(response).sum().backward()
    assert conv.weight.grad is not None

"""Protected images straight from what enters the generator's last convolution: values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from minusface.protect import DCTCodec, DWTCodec, draw_permutation
from minusface.protect.codec import BlockCodec
from minusface.protect.difference import decode_difference

CODECS = [DCTCodec(16, 4), DWTCodec(16, 4), DCTCodec(16, 2)]


def inputs(codec: BlockCodec, seed: int = 0) -> tuple[Tensor, Tensor, nn.Conv2d, Tensor]:
    random = torch.Generator().manual_seed(seed)
    crops = torch.rand(3, 3, 16, 16, generator=random) * 2 - 1
    hidden = torch.randn(3, 5, 16, 16, generator=random)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        last = nn.Conv2d(5, codec.channels, 1)
    return codec.encode(crops), hidden, last, draw_permutation(3, codec.channels, random)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients(codec: BlockCodec, layout: torch.memory_format) -> None:
    features, hidden, last, order = inputs(codec)
    features = features.contiguous(memory_format=layout)
    weights = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(5))

    def gradients(image: Tensor, entered: Tensor) -> list[Tensor]:
        loss = (image * weights).sum()
        return [image, *torch.autograd.grad(loss, [entered, last.weight, last.bias])]  # type: ignore[list-item]

    plain = hidden.clone().requires_grad_()
    wanted = gradients(codec.decode(features - last(plain), order), plain)
    fast = hidden.contiguous(memory_format=layout).requires_grad_()
    found = gradients(
        decode_difference(codec, codec.weigh(features, order), fast, last, order), fast
    )
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)


def test_narrow_features() -> None:
    codec = CODECS[0]
    features, hidden, last, order = inputs(codec)
    wide = decode_difference(codec, codec.weigh(features, order), hidden, last, order)
    with torch.autocast("cpu", torch.bfloat16):
        kept = codec.weigh(features.bfloat16(), order)
        narrow = decode_difference(codec, kept, hidden.bfloat16(), last, order)
    assert narrow.dtype == torch.float32
    assert (narrow - wide).abs().mean() < 0.02

"""The fast codecs against the literal computation and the reference's outputs."""

from __future__ import annotations

from pathlib import Path
from shutil import which

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minusface.config import CodecConfig
from minusface.errors import MinusfaceError
from minusface.protect import DCTCodec, DWTCodec, RawCodec, build_codec
from tests.reference import codec as literal

BASES = {DCTCodec: literal.dct_matrix, DWTCodec: literal.haar_packet_matrix}
# Coefficients reach about 1000; golden and literal agree to a thousandth of that scale.
FEATURE_SCALE = 1017.0


def images(seed: int, batch: int, size: int) -> Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def permutations(seed: int, batch: int, channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, channels, generator=generator).argsort(1)


@settings(max_examples=25, deadline=None)
@given(
    codec=st.sampled_from([DCTCodec, DWTCodec]),
    size=st.integers(4, 24),
    ratio=st.sampled_from([1, 2, 4, 8]),
    batch=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_fast_equals_literal(codec: type, size: int, ratio: int, batch: int, seed: int) -> None:
    fast, basis = codec(size, ratio), BASES[codec](ratio)
    crops, order = images(seed, batch, size), permutations(seed, batch, 3 * ratio**2)
    features = literal.encode(crops, ratio, basis)
    torch.testing.assert_close(fast.encode(crops), features, atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(
        fast.decode(features), literal.decode(features, ratio, basis), atol=1e-5, rtol=0
    )
    shuffled = literal.decode(literal.shuffle(features, order), ratio, basis)
    torch.testing.assert_close(fast.decode(features, order), shuffled, atol=1e-4, rtol=0)


def test_golden(shared: Path) -> None:
    golden = np.load(shared / "golden" / "dct.npz")
    crops = torch.from_numpy(golden["images"]).permute(0, 3, 1, 2).float() / 127.5 - 1
    codec = DCTCodec(size=112, ratio=8)
    features = codec.encode(crops)
    c, i, j = torch.from_numpy(golden["positions"]).long().T
    for ours, theirs in (
        (features[:, c, i, j], golden["encoded_at"]),
        (features[:, [0, 63, 100]], golden["encoded_channels_0_63_100"]),
    ):
        assert np.abs(ours.numpy() - theirs).max() < 1e-5 * FEATURE_SCALE
    permutation = torch.from_numpy(golden["permutation"]).long()
    assert np.abs(codec.decode(features).numpy() - golden["decoded"]).max() < 1e-4
    shuffled = codec.decode(features, permutation).numpy()
    assert np.abs(shuffled - golden["decoded_permuted"]).max() < 1e-4


@pytest.mark.parametrize("codec", [DCTCodec(16, 4), DWTCodec(16, 4), DCTCodec(112, 8)])
def test_returns_smooth_images(codec: DCTCodec) -> None:
    size = codec.size
    ramp = torch.linspace(-0.9, 0.9, size)
    smooth = torch.stack(
        [ramp[:, None] * ramp, ramp.expand(size, -1), ramp[:, None].expand(-1, size)]
    )
    back = codec.decode(codec.encode(smooth[None])) * 2 - 1
    assert float((back - smooth).abs().mean()) < 2e-3


def test_encode_is_affine_and_decode_linear_before_its_clamp() -> None:
    codec, a, b = DCTCodec(16, 4), images(0, 2, 16), images(1, 2, 16)
    middle = codec.encode((a + b) / 2)
    torch.testing.assert_close(middle, (codec.encode(a) + codec.encode(b)) / 2, atol=1e-3, rtol=0)


@pytest.mark.parametrize("codec", [DCTCodec(8, 2), DWTCodec(8, 2)])
def test_gradients(codec: DCTCodec) -> None:
    codec = codec.double()
    order = permutations(3, 2, codec.channels)
    crops = images(0, 2, 8).double().requires_grad_()
    # The row transform works in float32 by design, so the tolerance is float32's.
    assert torch.autograd.gradcheck(codec.encode, (crops,), eps=1e-2, atol=5e-2)
    features = (torch.randn(2, codec.channels, 8, 8, dtype=torch.float64) * 3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda f: codec.decode(f, order), (features,), eps=1e-4, atol=1e-3
    )


def test_graph_and_cache_paths_agree() -> None:
    codec, crops = DCTCodec(16, 4), images(0, 3, 16)
    with_graph = codec.encode(crops.clone().requires_grad_())
    torch.testing.assert_close(with_graph.detach(), codec.encode(crops), atol=1e-3, rtol=1e-6)


def test_bfloat16_keeps_its_own_precision() -> None:
    codec, crops = DCTCodec(), images(0, 2, 112)
    exact = codec.encode(crops.bfloat16().float())
    rounded = codec.encode(crops.bfloat16())
    assert rounded.dtype == torch.bfloat16
    # Only the result is rounded: half a unit in the last of bfloat16's 8 bits.
    assert float(((rounded.float() - exact).abs() / exact.abs().clamp(min=1)).max()) <= 2**-8
    order = permutations(0, 2, 192)
    error = (codec.decode(rounded, order).float() - codec.decode(rounded.float(), order)).abs()
    assert float(error.max()) <= 2**-8


def test_autocast_does_not_change_features() -> None:
    codec, crops = DCTCodec(16, 4), images(0, 2, 16)
    with torch.autocast("cpu", torch.bfloat16):
        features = codec.encode(crops)
    assert torch.equal(features, codec.encode(crops))


@pytest.mark.slow
@pytest.mark.parametrize(
    "backend",
    [
        "eager",
        pytest.param(
            "inductor",
            marks=pytest.mark.skipif(which("g++") is None, reason="no C++ compiler here"),
        ),
    ],
)
def test_compiles(backend: str) -> None:
    codec, crops, order = DCTCodec(16, 4), images(0, 2, 16), permutations(0, 2, 48)

    def both(pixels: Tensor, permutation: Tensor) -> Tensor:
        return codec.decode(codec.encode(pixels), permutation)

    compiled = torch.compile(both, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(crops, order), both(crops, order), atol=1e-5, rtol=0)
    pixels = crops.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(both(pixels, order).square().sum(), pixels)
    (found,) = torch.autograd.grad(compiled(pixels, order).square().sum(), pixels)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_no_tensor_larger_than_the_features() -> None:
    codec, crops, order = DCTCodec(32, 8), images(0, 2, 32), permutations(0, 2, 192)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (list, tuple)) else [out]:
                if isinstance(tensor, Tensor):
                    largest = max(largest, tensor.numel())
            return out

    with Watch():
        features = codec.encode(crops)
        codec.decode(features, order)
    assert largest == features.numel()


def test_raw_codec_is_the_identity() -> None:
    codec, crops = RawCodec(8), images(0, 2, 8)
    torch.testing.assert_close(codec.decode(codec.encode(crops)) * 2 - 1, crops)


def test_refusals() -> None:
    codec = DCTCodec(16, 4)
    with pytest.raises(
        MinusfaceError, match=r"crops: shape \(1, 3, 8, 8\), expected \(B, 3, 16, 16\)"
    ):
        codec.encode(torch.zeros(1, 3, 8, 8))
    with pytest.raises(MinusfaceError, match="features: shape"):
        codec.decode(torch.zeros(1, 192, 16, 16))
    with pytest.raises(MinusfaceError, match="permutation: shape"):
        codec.decode(torch.zeros(2, 48, 16, 16), torch.arange(48)[None])
    with pytest.raises(MinusfaceError, match="power of two"):
        DWTCodec(16, 6)
    with pytest.raises(MinusfaceError, match="known: dct, dwt, raw"):
        build_codec(CodecConfig(name="dtc"))  # type: ignore[arg-type]

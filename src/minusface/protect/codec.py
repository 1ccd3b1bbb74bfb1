"""Crop <-> frequency channels (paper section 3.2), without ever building the upsampled image.

The paper upsamples a crop by ``ratio`` (8), converts it to YCbCr and transforms each 8x8 block. All of it
is affine and separable, so per colour ``features[u, v] = A[u] z A[v]^T`` with ``A[u]`` of at most three
taps a block; and since the downsampling of the decoder samples every block exactly once, decoding is
pointwise: a sum over the 64 frequencies of a pixel with fixed weights. Both are checked against the
literal computation in tests/reference/codec.py.

Legend: B batch, C = 3 colours, S ratio, F = 3*S*S channels (channel = colour*S*S + u*S + v), N crop side.
"""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor, nn

from minusface.config import MOST_RATIO, CodecConfig
from minusface.devices import without_autocast
from minusface.errors import MinusfaceError, choice_error
from minusface.memory import empty_large
from minusface.protect.bases import analysis, dct_basis, haar_packet_basis, synthesis
from minusface.protect.pointwise import pointwise_map
from minusface.protect.raw import RawCodec

# JPEG (JFIF) full range: rows Y, Cb, Cr; columns R, G, B; all in [0, 255].
YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
LEVEL_SHIFT = 128.0


class Codec(Protocol):
    """A fixed, parameter-free map between crops and features.

    ``linear``: encode and decode (before its clamp) are affine, the paper's Eq. 3. ``invertible``:
    decode(encode(X)) returns X up to the resampling error. ``channels``: F.
    """

    linear: bool
    invertible: bool
    channels: int

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, N, N) in [-1, 1], RGB -> features (B, F, N, N)."""
        ...

    def decode(
        self, features: Tensor, permutation: Tensor | None = None, *, clamp: bool = True
    ) -> Tensor:
        """Features (B, F, N, N), shuffled if a permutation (B, F) is given -> (B, 3, N, N) in [0, 1], or
        beyond it without the clamp."""
        ...


class BlockCodec(nn.Module):
    """A separable block transform of the bilinearly upsampled crop, for any orthonormal basis.

    Args:
        basis_ss: (S, S) orthonormal, rows are frequencies.
        size: N, side of a crop in pixels; at least 4.
    """

    linear = True
    invertible = True
    analysis_uiy: Tensor
    sample_un: Tensor
    taps_tn: Tensor
    taps_weight_tvn: Tensor
    rows_mn: Tensor
    pixel_weight_kn: Tensor
    to_ycc: Tensor
    to_rgb: Tensor
    level_k11: Tensor
    level_c1: Tensor

    def __init__(self, basis_ss: Tensor, size: int) -> None:
        super().__init__()
        ratio = len(basis_ss)
        if size < 4:
            raise MinusfaceError(f"codec size {size}: expected at least 4 pixels")
        self.size, self.ratio, self.channels = size, ratio, 3 * ratio * ratio
        analysis_snp = analysis(basis_ss, size)
        first_n = (analysis_snp.abs().sum(0) > 1e-12).int().argmax(1).clamp(max=size - 3)
        taps_tn = first_n + torch.arange(3)[:, None]
        weight_tsn = analysis_snp.gather(2, taps_tn.T.expand(ratio, -1, -1)).permute(2, 0, 1)
        sample_sn = synthesis(basis_ss, size)
        self.analysis_uiy, self.sample_un = analysis_snp, sample_sn
        pixel_uvpq = torch.einsum("up,vq->uvpq", sample_sn, sample_sn)
        ycbcr = torch.tensor(YCBCR, dtype=torch.float64)
        # Constants follow the module to a device, but are no part of a checkpoint.
        for name, value in {
            "taps_tn": taps_tn,
            "taps_weight_tvn": weight_tsn.float(),
            "rows_mn": analysis_snp.reshape(ratio * size, size).float(),
            "pixel_weight_kn": pixel_uvpq.reshape(ratio * ratio, size * size).float(),
            "to_ycc": (ycbcr * 127.5).float(),
            "to_rgb": (torch.linalg.inv(ycbcr) / 255.0).float(),
            # Made here: a GPU would have to wait for a constant made in each call.
            "level_k11": torch.tensor([127.5 - LEVEL_SHIFT, 0.0, 0.0]).view(3, 1, 1),
            "level_c1": torch.tensor([LEVEL_SHIFT, 0.0, 0.0]).view(3, 1),
        }.items():
            self.register_buffer(name, value.contiguous(), persistent=False)

    def encode(self, images: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Crops to frequency channels (paper section 3.2, e).

        Args:
            images: (B, 3, N, N) floats in [-1, 1], RGB.
            dtype: of the result; by default the images'. Sums are made in float32 or wider.

        Returns:
            (B, 3*S*S, N, N): transform coefficients of pixels in [0, 255].

        Raises:
            MinusfaceError: another shape.
        """
        self.check(images, 3, "crops")
        needs_graph = torch.is_grad_enabled() and images.requires_grad
        if needs_graph or images.device.type != "cpu" or torch.compiler.is_compiling():
            features = self._transform_columns(self._transform_rows(images))
            return features.reshape(-1, self.channels, self.size, self.size).to(
                dtype or images.dtype
            )
        shape = (len(images), self.channels, self.size, self.size)
        features = empty_large(shape, dtype or images.dtype)
        for image, into in zip(images, features, strict=True):
            self._encode_into(image[None], into)
        return features

    def decode(
        self, features: Tensor, permutation: Tensor | None = None, *, clamp: bool = True
    ) -> Tensor:
        """Frequency channels, shuffled on the way if asked, back to pixels (paper section 3.2, d; 3.4).

        Args:
            features: (B, 3*S*S, N, N).
            permutation: (B, 3*S*S) integers; channel k is taken from channel ``permutation[b, k]``.
            clamp: hold the result in [0, 1]; without, it can be asked what that costs.

        Returns:
            (B, 3, N, N) in [0, 1], RGB, of the features' dtype.

        Raises:
            MinusfaceError: another shape of either.
        """
        self.check(features, self.channels, "features")
        if permutation is not None and permutation.shape != features.shape[:2]:
            raise MinusfaceError(
                f"permutation: shape {tuple(permutation.shape)}, expected {tuple(features.shape[:2])}"
            )
        summed_bcn = self.weigh(features, permutation)
        return self.to_pixels(summed_bcn, clamp).to(features.dtype)

    def decode_projected(self, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """``decode`` of a 1x1 convolution, without its F channels ever being there.

        Both are linear in the channels, so their product is one map of M weights a pixel and colour.

        Args:
            hidden: (B, M, N, N).
            weight: (F, M, 1, 1) of the convolution.
            bias: (F,) of the convolution.

        Returns:
            (B, 3, N, N) in [0, 1], RGB, float32.
        """
        frequencies, inner = self.ratio**2, hidden.shape[1]
        with without_autocast(hidden.device.type):
            weight_ckm = weight.float().view(3, frequencies, inner)
            weight_kq = weight_ckm.permute(1, 2, 0).reshape(frequencies, inner * 3)
            map_nmc = torch.matmul(self.pixel_weight_kn.T, weight_kq).view(-1, inner, 3)
            colours_bnc = pointwise_map(hidden, map_nmc)
            bias_cn = torch.matmul(bias.float().view(3, frequencies), self.pixel_weight_kn)
            return self.to_pixels(colours_bnc.transpose(1, 2) + bias_cn)

    def to_pixels(self, ycc_bcn: Tensor, clamp: bool = True) -> Tensor:
        """Shifted YCbCr (B, 3, N*N) to RGB (B, 3, N, N), held in [0, 1] if asked."""
        with without_autocast(ycc_bcn.device.type):
            rgb_bcn: Tensor = torch.einsum("kc,bcn->bkn", self.to_rgb, ycc_bcn + self.level_c1)
        rgb_bcn = rgb_bcn.clamp(0, 1) if clamp else rgb_bcn
        return rgb_bcn.reshape(-1, 3, self.size, self.size)

    def _transform_rows(self, images: Tensor) -> Tensor:
        """Colour and the row half of the transform: (B, 3, S, N, N) float32."""
        with without_autocast(images.device.type):
            # ((x + 1) / 2 * 255) in YCbCr; only Y has an offset, as 127.5 of each colour adds up to
            # 127.5 there and to nothing in Cb and Cr.
            ycc = torch.einsum("kc,bchw->bkhw", self.to_ycc, images.to(self.to_ycc.dtype))
            rows: Tensor = torch.matmul(self.rows_mn, ycc + self.level_k11)
        return rows.reshape(-1, 3, self.ratio, self.size, self.size)

    def _transform_columns(self, rows: Tensor) -> Tensor:
        """(..., N, N) to (..., S, N, N), in one expression: for autograd and the compiler."""
        total = torch.zeros((), dtype=rows.dtype, device=rows.device)
        for taps_n, weight_vn in zip(self.taps_tn, self.taps_weight_tvn, strict=True):
            total = total + rows.index_select(-1, taps_n).unsqueeze(-3) * weight_vn.unsqueeze(1)
        return total

    def _encode_into(self, image: Tensor, into: Tensor) -> None:
        """One image, (1, 3, N, N) into (F, N, N): its channels stay in the cache for three passes."""
        rows_cun = self._transform_rows(image)[0]
        taps = [rows_cun.index_select(-1, taps_n).unsqueeze(-3) for taps_n in self.taps_tn]
        weights = [weight_vn.unsqueeze(1) for weight_vn in self.taps_weight_tvn]
        target = into.view(3, self.ratio, self.ratio, self.size, self.size)
        # Sums are rounded once, at their end: a narrower result gets a wide place to grow in.
        sums = target if target.dtype == rows_cun.dtype else target.to(rows_cun.dtype)
        torch.mul(taps[0], weights[0], out=sums)
        sums.addcmul_(taps[1], weights[1]).addcmul_(taps[2], weights[2])
        if sums is not target:
            target.copy_(sums)

    def weigh(self, features: Tensor, permutation: Tensor | None) -> Tensor:
        """Weighted sum over the frequencies of a pixel: (B, F, N, N) -> YCbCr (B, 3, N*N) float32.

        The general form shuffles and weighs whole batches, which a compiler fuses. Eager CPU code does
        it colour by colour in one small buffer instead: memory that is touched first costs more than
        the arithmetic.
        """
        features_bfn = features.flatten(2)
        batch, _, pixels = features_bfn.shape
        needs_graph = torch.is_grad_enabled() and features_bfn.requires_grad
        if needs_graph or features_bfn.device.type != "cpu" or torch.compiler.is_compiling():
            if permutation is not None:
                rows = torch.arange(batch, device=features_bfn.device)[:, None]
                features_bfn = features_bfn[rows, permutation]
            colours_bckn = features_bfn.reshape(batch, 3, self.ratio**2, pixels)
            summed: Tensor = (colours_bckn * self.pixel_weight_kn).sum(2)
            return summed
        out_bcn = self.pixel_weight_kn.new_empty(batch, 3, pixels)
        product_kn = torch.empty_like(self.pixel_weight_kn)
        picked_kn = product_kn if features_bfn.dtype == product_kn.dtype else None
        for features_ckn, out_cn, order in zip(
            features_bfn.view(batch, 3, self.ratio**2, pixels),
            out_bcn,
            permutation if permutation is not None else [None] * batch,
            strict=True,
        ):
            for colour in range(3):
                channels_kn = features_ckn[colour]
                if order is not None:
                    picks_k = order.view(3, -1)[colour]
                    every_fn = features_ckn.flatten(0, 1)
                    channels_kn = torch.index_select(every_fn, 0, picks_k, out=picked_kn)
                torch.mul(channels_kn, self.pixel_weight_kn, out=product_kn)
                torch.sum(product_kn, 0, out=out_cn[colour])
        return out_bcn

    def check(self, pixels: Tensor, channels: int, what: str) -> None:
        """Refuse another shape than (B, channels, N, N)."""
        expected = (channels, self.size, self.size)
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != expected:
            raise MinusfaceError(
                f"{what}: shape {tuple(pixels.shape)}, expected (B, {', '.join(map(str, expected))})"
            )


class DCTCodec(BlockCodec):
    """The paper's codec: upsampling, JPEG colour, orthonormal block DCT-II.

    Args:
        size: side of a crop in pixels.
        ratio: upsampling ratio and side of a block.
    """

    def __init__(self, size: int = 112, ratio: int = 8) -> None:
        super().__init__(dct_basis(ratio), size)


class DWTCodec(BlockCodec):
    """The variant of the paper's supplement: a Haar wavelet packet in the place of the DCT.

    Args:
        size: side of a crop in pixels.
        ratio: upsampling ratio, a power of two; log2(ratio) levels give ratio^2 bands a colour.
    """

    def __init__(self, size: int = 112, ratio: int = 8) -> None:
        super().__init__(haar_packet_basis(ratio), size)


def build_codec(config: CodecConfig) -> Codec:
    """The codec of a config.

    Raises:
        MinusfaceError: an unknown name, or a ratio out of range.
    """
    if config.name == "raw":
        return cast(Codec, RawCodec(config.size))
    known = {"dct": DCTCodec, "dwt": DWTCodec}
    if config.name not in known:
        raise choice_error("codec", config.name, [*known, "raw"])
    if not 1 <= config.ratio <= MOST_RATIO:
        raise MinusfaceError(f"codec.ratio {config.ratio}: expected 1 to {MOST_RATIO}")
    return cast(Codec, known[config.name](config.size, config.ratio))

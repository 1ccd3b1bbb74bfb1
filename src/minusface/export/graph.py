"""The client's computation as one graph: codec, generator, shuffle and decode, laid out for ONNX runtimes.

It is :class:`minusface.protect.Protector` rearranged, and tested against it. Two things stay out of memory:
the upsampled image, as everywhere, and the generator's F output channels, whose 1x1 convolution is folded
into the decoder's weights. The F features are written once, for the generator's first convolution
and the shuffle need them.

Legend: B batch, n copies, C = 3 colours, S ratio, F = 3*S*S channels, N crop side, K generator width.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from minusface.errors import MinusfaceError
from minusface.protect import Protector
from minusface.protect.bases import analysis, dct_basis, haar_packet_basis
from minusface.protect.codec import LEVEL_SHIFT, YCBCR, BlockCodec
from minusface.recognize import Recognizer
from minusface.recognize.prelu import PReLU

# Rows of blocks that are made at a time: each needs only the crop's rows around it, so that the product with
# the transform's matrix, which is nearly all zeros, shrinks with it.
BAND = 28


class ClientGraph(nn.Module):
    """Crop bytes and permutations to X_p.

    Args:
        protector: what it computes; copied.

    Raises:
        MinusfaceError: the toy case, which has no codec.
    """

    columns_vqj: Tensor
    place_f: Tensor
    weight_kn: Tensor
    to_ycc: Tensor
    ycc_shift: Tensor
    to_rgb: Tensor

    def __init__(self, protector: Protector) -> None:
        super().__init__()
        codec = protector.codec
        if not isinstance(codec, BlockCodec):
            raise MinusfaceError(
                "export: the toy case (codec raw) protects nothing and has no client"
            )
        self.size, self.channels = codec.size, codec.channels
        ratio, size = codec.ratio, codec.size
        basis = {"dct": dct_basis, "dwt": haar_packet_basis}[protector.codec_config.name](ratio)
        # Features are made in the order (v, colour, u), which spares a transposition of all of them.
        order_vcu = torch.arange(self.channels).view(3, ratio, ratio).permute(2, 0, 1).flatten()
        analysis_snp = analysis(basis, size)
        ycbcr = torch.tensor(YCBCR, dtype=torch.float64)
        for name, value in {
            "columns_vqj": analysis_snp.transpose(1, 2).float()[:, None],
            "place_f": order_vcu.argsort(),
            "weight_kn": codec.pixel_weight_kn,
            "to_ycc": ycbcr.float()[:, :, None, None],
            "ycc_shift": torch.tensor([-LEVEL_SHIFT, 0.0, 0.0]),
            "to_rgb": codec.to_rgb[:, :, None, None],
        }.items():
            self.register_buffer(name, value.detach().clone().contiguous(), persistent=False)
        self.bands = _bands(analysis_snp)
        for number, (first, stop, left, right) in enumerate(self.bands):
            part = analysis_snp[:, first:stop, left:right].reshape(-1, right - left)
            self.register_buffer(f"band_{number}", part.float().contiguous(), persistent=False)
        self.generator = copy.deepcopy(protector.generator).eval().requires_grad_(False)
        self.generator.recompute = False
        conv = cast(nn.Conv2d, cast(nn.Sequential, self.generator.down[0])[0])
        conv.weight.data = conv.weight.data[:, order_vcu].contiguous()

    def forward(self, crop: Tensor, permutation: Tensor) -> Tensor:
        """Crops (B, N, N, 3) uint8 RGB, permutations (B, n, F) int64 -> X_p (B, 3n, N, N) in [0, 1]."""
        features = self._encode(crop)
        hidden = self.generator.hidden(features)[0]
        copies = permutation.shape[1]
        images = [self._decode(features, hidden, permutation[:, k]) for k in range(copies)]
        return torch.cat(images, dim=1) if copies > 1 else images[0]

    def _encode(self, crop: Tensor) -> Tensor:
        pixels = crop.permute(0, 3, 1, 2).float()
        ycc = nn.functional.conv2d(pixels, self.to_ycc, self.ycc_shift)
        columns_bvcpj = torch.matmul(ycc[:, None], self.columns_vqj)
        columns_bkpj = columns_bvcpj.flatten(1, 2)
        parts = []
        for number, (first, stop, left, right) in enumerate(self.bands):
            matrix_mp = cast(Tensor, getattr(self, f"band_{number}"))
            part = torch.matmul(matrix_mp, columns_bkpj[:, :, left:right])
            parts.append(part.reshape(-1, self.channels, stop - first, self.size))
        return torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]

    def _decode(self, features: Tensor, hidden: Tensor, order_bf: Tensor) -> Tensor:
        """The residue's channels in the order asked for, weighed and summed at each pixel."""
        pixels, width = self.size**2, hidden.shape[1]
        last = self.generator.project
        start = torch.arange(features.shape[0], device=features.device)[:, None] * self.channels
        picks = (self.place_f[order_bf] + start).flatten()
        every = features.reshape(-1, pixels)
        picked_bckn = every.index_select(0, picks).reshape(-1, 3, self.channels // 3, pixels)
        kept_bcn = (picked_bckn * self.weight_kn).sum(2)
        assert last.bias is not None
        weight_bckm = last.weight.flatten(1)[order_bf].reshape(-1, 3, self.channels // 3, width)
        bias_bck = last.bias[order_bf].reshape(-1, 3, self.channels // 3)
        map_bcmn = torch.matmul(weight_bckm.transpose(2, 3), self.weight_kn)
        made_bcn = (map_bcmn * hidden.reshape(-1, 1, width, pixels)).sum(2)
        ycc_bcn = kept_bcn - made_bcn - torch.matmul(bias_bck, self.weight_kn)
        shift = -self.ycc_shift
        ycc = ycc_bcn.reshape(-1, 3, self.size, self.size) + shift[:, None, None]
        return nn.functional.conv2d(ycc, self.to_rgb).clamp(0.0, 1.0)


class RecognizerGraph(nn.Module):
    """Protected images (B, 3n, N, N) in [0, 1] to templates (B, D) of unit length.

    Args:
        recognizer: copied.
    """

    def __init__(self, recognizer: Recognizer) -> None:
        super().__init__()
        self.recognizer = _with_plain_prelu(copy.deepcopy(recognizer)).eval().requires_grad_(False)

    def forward(self, protected: Tensor) -> Tensor:
        """Unit rows."""
        return nn.functional.normalize(self.recognizer(protected), dim=1)


def _bands(analysis_snp: Tensor) -> list[tuple[int, int, int, int]]:
    """Runs of block rows and the crop's rows they depend on: (first, stop, left, right) each."""
    size = analysis_snp.shape[1]
    bands = []
    for first in range(0, size, BAND):
        stop = min(first + BAND, size)
        used = (analysis_snp[:, first:stop].abs().amax((0, 1)) > 1e-12).nonzero()
        bands.append((first, stop, int(used.min()), int(used.max()) + 1))
    return bands


def _with_plain_prelu(module: nn.Module) -> nn.Module:
    """torch's own PReLU in the place of ours, whose backward pass of its own exporters cannot read."""
    for name, child in module.named_children():
        if isinstance(child, PReLU):
            plain = nn.PReLU(child.num_parameters)
            plain.weight = child.weight
            setattr(module, name, plain)
        else:
            _with_plain_prelu(child)
    return module

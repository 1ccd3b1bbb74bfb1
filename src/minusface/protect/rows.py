"""What reads the features of crops, without the features ever being there.

The transform is separable. Along a row of the crop it gives S numbers a pixel and colour (*lines*, C*S in
all); the rest of it weighs three neighbouring rows, differently from row to row. Two things read features,
and both are linear: a 3x3 convolution (the generator's first, the recogniser's in stage 1) is a small matrix
a row over the lines of five rows, and shuffle and decode are one over the lines of three, made from the
permutation. F channels an image become C*S, and a third of the arithmetic is left.

Legend: B batch, C = 3 colours, S ratio, F = C*S*S channels (colour c, frequency u down a column, v along a
row; p and q those of the channel in whose place a permutation puts one), N crop side, i row and x column of
the crop, j one of the rows around, L = C*S numbers a pixel of the lines, O channels a convolution makes, t
tap of a filter along a row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from minusface.devices import without_autocast
from minusface.kept import Kept, may_learn
from minusface.memory import empty_large
from minusface.protect.codec import LEVEL_SHIFT, YCBCR, BlockCodec
from minusface.protect.row_convolution import AROUND, RowConvolution

# Rows of the crop that one row of features depends on.
NEAR = 3


class RowTables(NamedTuple):
    """What a codec fixes, row by row; float32."""

    columns: Tensor
    """(N, S, N): y, v, x. The transform along a row."""
    filters: Tensor
    """(N*AROUND, 3*S): (i, j), (tap down, u). Weighing of rows, for a convolution."""
    decode: Tensor
    """(N*NEAR, S*S): (i, j), (p, u). Weighing of rows, for shuffle and decode."""
    sample: Tensor
    """(S, N): weight of a frequency in the pixel that the decoder keeps."""


def row_tables(codec: BlockCodec) -> RowTables:
    """The tables of a codec."""
    ratio, size = codec.ratio, codec.size
    # Rows of zeros around, two of the crop's and one of the features', spare all edges.
    padded = nn.functional.pad(codec.analysis_uiy, (2, 2, 1, 1))
    around_ij = torch.arange(size)[:, None] + torch.arange(AROUND)
    rows_duij = torch.stack(
        [padded[:, d : d + size].gather(2, around_ij.expand(ratio, -1, -1)) for d in range(3)]
    )
    near_uij = rows_duij[1][..., 1 : 1 + NEAR]
    assert torch.allclose(near_uij.sum(-1), codec.analysis_uiy.sum(-1)), "rows out of reach"
    decode = torch.einsum("pi,uij->ijpu", codec.sample_un, near_uij)
    tables = RowTables(
        codec.analysis_uiy.permute(2, 0, 1),
        rows_duij.permute(2, 3, 0, 1).reshape(size * AROUND, 3 * ratio),
        decode.reshape(size * NEAR, ratio * ratio),
        codec.sample_un,
    )
    return RowTables(*(table.float().contiguous() for table in tables))


class Lines(NamedTuple):
    """Crops after the transform along rows, two rows of zeros above and below."""

    wide: Tensor
    """(N + 4, B, N, L) float32: i, b, x, (c, v)."""
    narrow: Tensor
    """(N, B, N, L): the crop's rows in the type that convolutions are computed in."""
    steps: Tensor
    """(N + 3, B, N, L): a row less the one above it, in that type."""


class Rows(nn.Module):
    """Convolutions and protected images of crops, for eager CPUs.

    Args:
        codec: whose features are meant.
    """

    columns: Tensor
    from_rgb: Tensor
    level: Tensor
    filters: Tensor
    decode_ijk: Tensor
    sample_qi: Tensor
    sample_xl: Tensor
    to_rgb: Tensor
    to_ycc: Tensor
    shift_c: Tensor

    def __init__(self, codec: BlockCodec) -> None:
        super().__init__()
        self.size, self.ratio, self.channels = codec.size, codec.ratio, codec.channels
        self.across, self._check = 3 * self.ratio, codec.check
        tables = row_tables(codec)
        ycbcr = torch.tensor(YCBCR, dtype=torch.float64)
        to_rgb = torch.linalg.inv(ycbcr) / 255.0
        place = torch.arange(self.channels)
        for name, value in {
            "columns": tables.columns.permute(0, 2, 1).flatten(1),
            # From pixels in [-1, 1]; Y has an offset.
            "from_rgb": ycbcr * 127.5,
            "level": torch.tensor([[127.5 - LEVEL_SHIFT], [0.0], [0.0]]),
            "filters": _of_steps(tables.filters.view(self.size, AROUND, -1)),
            "decode_ijk": tables.decode,
            "sample_qi": tables.sample,
            "sample_xl": tables.sample.T.repeat(1, 3),
            # Summed over q on the way.
            "to_rgb": to_rgb.T.repeat_interleave(self.ratio, 0),
            "to_ycc": torch.eye(3).repeat_interleave(self.ratio, 0),
            "shift_c": to_rgb[:, 0] * LEVEL_SHIFT,
        }.items():
            self.register_buffer(name, value.float().contiguous(), persistent=False)
        self._matrices = {dtype: Kept() for dtype in (torch.float32, torch.bfloat16)}
        self.place_p = place // self.ratio % self.ratio
        self.place_l = place // self.ratio**2 * self.ratio + place % self.ratio

    def lines(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Lines:
        """The transform along rows.

        Args:
            images: (B, 3, N, N) in [-1, 1], RGB, without a gradient.
            dtype: of what convolutions read.

        Raises:
            MinusfaceError: another shape.
        """
        self._check(images, 3, "crops")
        batch, size = len(images), self.size
        with without_autocast(images.device.type), torch.no_grad():
            colours = torch.matmul(self.from_rgb, images.flatten(2)) + self.level
            moved = torch.matmul(colours.view(-1, size), self.columns)
            wide = empty_large((size + 4, batch, size, self.across), torch.float32)
            wide[:2], wide[-2:] = 0, 0
            # (b, c, i), (x, v) -> i, b, x, (c, v)
            turned = moved.view(batch, 3, size, size, self.ratio).permute(2, 0, 3, 1, 4)
            wide[2:-2].view(turned.shape).copy_(turned)
            # Differences are made before they are rounded: most channels are little else.
            steps = empty_large((size + 3, *wide.shape[1:]), dtype)
            torch.sub(wide[1:], wide[:-1], out=steps)
            return Lines(wide, wide[2:-2].to(dtype), steps)

    def convolve(self, lines: Lines, conv: nn.Conv2d) -> Tensor:
        """A 3x3 convolution, padding 1, stride 1 or 2, of the features; with gradients for its filters.

        Returns:
            (B, O, N/stride, N/stride) in the type of the narrow lines, channels innermost.
        """
        stride, outside = conv.stride[0], conv.weight.shape[0]
        dtype = lines.narrow.dtype
        with without_autocast(lines.wide.device.type):

            def make() -> Tensor:
                shape = (outside, 3, self.ratio, self.ratio, 3, 3)
                filters = conv.weight.float().view(shape).permute(4, 2, 1, 3, 5, 0)
                rows = self.filters[::stride].flatten(0, 1)
                made = torch.matmul(rows, filters.reshape(3 * self.ratio, -1)).to(dtype)
                return made.view(-1, AROUND, self.across, 3, outside)

            may_learn(conv)
            learning = conv.weight.requires_grad or dtype not in self._matrices
            matrices = make() if learning else self._matrices[dtype].get(conv, [conv.weight], make)
            response: Tensor = RowConvolution.apply(  # type: ignore[no-untyped-call]
                lines.narrow, lines.steps, matrices, conv.bias, stride
            )
        return response.permute(0, 3, 1, 2)

    def protected(self, lines: Lines, hidden: Tensor, last: nn.Conv2d, orders: Tensor) -> Tensor:
        """Residues shuffled and decoded, ``last`` the 1x1 convolution that ends the generator.

        Args:
            lines: of B crops.
            hidden: (B, M, N, N), what enters ``last``; best with channels innermost.
            last: with a bias.
            orders: (B, n, F) permutations.

        Returns:
            X_p (B, 3n, N, N) in [0, 1], RGB, float32; without a gradient.
        """
        assert last.bias is not None
        with without_autocast(hidden.device.type), torch.no_grad():
            map_fm = torch.cat([last.weight.flatten(1), last.bias[:, None]], 1).float()
            images = self._weigh(lines, orders, self.to_rgb, (hidden, -map_fm))
            images.add_(self.shift_c.repeat(orders.shape[1])).clamp_(0.0, 1.0)
        size, channels = self.size, images.shape[2]
        return images.transpose(1, 2).reshape(-1, channels, size, size)

    def weigh(self, lines: Lines, order: Tensor) -> Tensor:
        """As the codec's: the features under one permutation (B, F) each -> shifted YCbCr (B, 3, N*N)."""
        with without_autocast(lines.wide.device.type), torch.no_grad():
            return self._weigh(lines, order[:, None], self.to_ycc).transpose(1, 2).contiguous()

    def _weigh(
        self,
        lines: Lines,
        orders: Tensor,
        colours: Tensor,
        made: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Shuffled, transformed back along columns and rows, to colours: (B, N*N, 3n).

        ``made``: what a 1x1 convolution adds to the features, as its input and (F, M + 1) its map.
        """
        size, copies = self.size, orders.shape[1]
        out = colours.new_empty(len(orders), size * size, 3 * copies)
        weigh = torch.kron(torch.eye(copies), colours)
        sample_xl = self.sample_xl.repeat(1, copies)
        residue = colours.new_empty(size, size, copies * self.across)
        # All copies of an image, image by image, so that what lies between stays in the cache.
        for image, orders_nf in enumerate(orders):
            rows = [lines.wide[1 + row : 1 + row + size, image] for row in range(NEAR)]
            kept = self._kept(orders_nf)
            torch.bmm(rows[0], kept[:, 0], out=residue)
            for row in range(1, NEAR):
                residue.baddbmm_(rows[row], kept[:, row])
            if made is not None:
                hidden = made[0][image].permute(1, 2, 0).to(residue.dtype)
                matrices = self._made(orders_nf, made[1])
                residue.baddbmm_(hidden, matrices[:, :-1]).add_(matrices[:, -1:])
            residue.mul_(sample_xl)
            torch.mm(residue.flatten(0, 1), weigh, out=out[image])
        return out

    def _made(self, orders_nf: Tensor, map_fm: Tensor) -> Tensor:
        """A map to features, shuffled and transformed back along columns: (i, m, (n, c, q))."""
        ratio, copies = self.ratio, len(orders_nf)
        # n, (c, p, q), m -> p, (m, n, c, q)
        picked = map_fm.index_select(0, orders_nf.flatten())
        picked = picked.view(copies, 3, ratio, ratio, -1).permute(2, 4, 0, 1, 3)
        made = torch.matmul(self.sample_qi.T, picked.reshape(ratio, -1))
        return made.view(self.size, -1, copies * self.across)

    def _kept(self, orders_nf: Tensor) -> Tensor:
        """What of the lines goes where under permutations: (i, j, (C, v), (n, c, q))."""
        ratio, copies, wide = self.ratio, len(orders_nf), len(orders_nf) * self.across
        # Channel (c, p, q) is taken from channel (C, u, v).
        source_nl = orders_nf // ratio**2 * ratio + orders_nf % ratio
        target_nl = torch.arange(copies)[:, None] * self.across + self.place_l
        picks = self.decode_ijk.new_zeros(ratio * ratio, self.across * wide)
        picks[self.place_p * ratio + orders_nf // ratio % ratio, source_nl * wide + target_nl] = 1
        return torch.mm(self.decode_ijk, picks).view(self.size, NEAR, self.across, wide)


def _of_steps(weights: Tensor) -> Tensor:
    """Weights (i, j, ...) of five rows, as such of the middle one and the four steps between them.

    A row above is the middle one less steps, a row below is it and steps. What answers to differences
    only, as most channels do, no longer hangs on the last digits of large numbers.
    """
    one, two, three, four, five = weights.double().unbind(1)
    whole = one + two + three + four + five
    return torch.stack([whole, -one, -(one + two), four + five, five], 1)

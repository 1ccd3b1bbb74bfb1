"""The client's computation as one graph: codec, generator, shuffle and decode, laid out for ONNX runtimes.

It is :class:`minusface.protect.Protector` rearranged, and tested against it. The F features are never there.
Along a row of the crop the transform gives S numbers a pixel and colour (*lines*, C*S in all); everything
else that the transform does is a weighting of three neighbouring rows, and differs from row to row. Two
things read the features, and both are linear:

- the generator's first convolution: with the weighting of rows it is one small matrix a row, over the lines
  of five rows;
- shuffle and decode: which frequency is weighed how depends on the permutation, so a matrix a row, over the
  lines of three rows, is made from it. What the generator regenerates joins in there, its last 1x1
  convolution folded in.

That takes a third of the arithmetic of writing the features down (N 112, K 16), and no tensor of their size.
The matrices of the first convolution are made from its filters by the graph itself; runtimes do so once, when
they load it.

Where it is given several permutations for an image, it makes one of each and gives the one that shows least.

Legend: B batch, n copies, T tries of each, A images made (n*T), C = 3 colours, S ratio, F = C*S*S channels
(colour, u, v), N crop side, K generator width; i row and x column of the crop, u and v frequency along a
column and a row (p and q of the channel that a permutation puts one in the place of), j one of the rows
around, o output of the first convolution.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from minusface.errors import MinusfaceError
from minusface.protect import Protector
from minusface.protect.choice import least_shown
from minusface.protect.codec import LEVEL_SHIFT, YCBCR, BlockCodec
from minusface.protect.row_convolution import AROUND
from minusface.protect.rows import NEAR, RowTables, row_tables
from minusface.recognize import Recognizer
from minusface.recognize.prelu import PReLU


class ClientGraph(nn.Module):
    """Crop bytes and permutations to X_p.

    Args:
        protector: what it computes; copied.

    Raises:
        MinusfaceError: the toy case, which has no codec.
    """

    columns: Tensor
    around_ij: Tensor
    near_ij: Tensor
    filters: Tensor
    first_bias: Tensor
    filter_rows: Tensor
    decode_rows: Tensor
    sample_ip: Tensor
    sample_qx: Tensor
    last_fm: Tensor
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
        self.size, self.channels, self.ratio = codec.size, codec.channels, codec.ratio
        self.copies = protector.n_duplicate
        self.generator = copy.deepcopy(protector.generator).eval().requires_grad_(False)
        self.generator.recompute = False
        self._row_matrices(row_tables(codec))
        self._learned()
        ycbcr = torch.tensor(YCBCR, dtype=torch.float64)
        self._keep("to_ycc", ycbcr)
        self._keep("ycc_shift", torch.tensor([LEVEL_SHIFT, 0.0, 0.0])[:, None])
        self._keep("to_rgb", torch.linalg.inv(ycbcr) / 255.0)

    def _row_matrices(self, tables: RowTables) -> None:
        """What the codec fixes."""
        around_ij = torch.arange(self.size)[:, None] + torch.arange(AROUND)
        for name, rows_ij in (("around_ij", around_ij), ("near_ij", around_ij[:, 1 : 1 + NEAR])):
            self.register_buffer(name, rows_ij.flatten(), persistent=False)
        self._keep("columns", tables.columns.flatten(1))
        self._keep("filter_rows", tables.filters)
        self._keep("decode_rows", tables.decode)
        self._keep("sample_ip", tables.sample.T)
        self._keep("sample_qx", tables.sample)

    def _learned(self) -> None:
        """The generator's first filters, as (row and u) x (all else), and its last 1x1 convolution."""
        conv = self.generator.first
        self.width, ratio = conv.weight.shape[0], self.ratio
        filters_ocuvdx = conv.weight.reshape(self.width, 3, ratio, ratio, 3, 3)
        filters = filters_ocuvdx.permute(4, 2, 5, 0, 1, 3).reshape(3 * ratio, -1)
        assert conv.bias is not None
        last = self.generator.project
        assert last.bias is not None
        self._keep("filters", filters)
        self._keep("first_bias", conv.bias[:, None])
        self._keep("last_fm", torch.cat([last.weight.flatten(1), last.bias[:, None]], 1))

    def _keep(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value.detach().float().contiguous(), persistent=False)

    def forward(self, crop: Tensor, permutation: Tensor) -> Tensor:
        """Crops (B, N, N, 3) uint8 RGB, permutations (B, n*T, F) int64 -> X_p (B, 3n, N, N) in [0, 1].

        Of T tries for each of the n images the one that shows least (:mod:`minusface.protect.choice`).
        """
        lines = self._lines(crop)
        hidden_bimx = self._hidden(lines).permute(0, 2, 1, 3)
        images = self._decode(lines, hidden_bimx, permutation)
        kept = [self._least(crop, images, copy) for copy in range(self.copies)]
        return torch.cat(kept, dim=1) if self.copies > 1 else kept[0]

    def _least(self, crop: Tensor, images: Tensor, copy: int) -> Tensor:
        """Of all tries of a copy (images (B, n*T, 3, N, N)) the one that shows least: (B, 3, N, N)."""
        tries = images.shape[1] // self.copies
        tried = images[:, copy * tries : (copy + 1) * tries]
        best = least_shown(crop.permute(0, 3, 1, 2).float(), tried)
        place = best[:, None, None, None, None].expand(-1, 1, 3, self.size, self.size)
        return tried.gather(1, place)[:, 0]

    def _lines(self, crop: Tensor) -> Tensor:
        """The transform along rows: (B, N + 4, C*S, N), two rows of zeros above and below."""
        pixels_bicx = crop.permute(0, 1, 3, 2).float()
        ycc_bicx = torch.matmul(self.to_ycc, pixels_bicx) - self.ycc_shift
        ycc_bicx = nn.functional.pad(ycc_bicx, (0, 0, 0, 0, 2, 2))
        lines = torch.matmul(ycc_bicx, self.columns)
        return lines.reshape(-1, self.size + 4, 3 * self.ratio, self.size)

    def _hidden(self, lines: Tensor) -> Tensor:
        """The generator but for its last convolution: (B, K, N, N)."""
        size, width, across = self.size, self.width, 3 * self.ratio
        around = lines.index_select(1, self.around_ij).reshape(-1, size, AROUND * across, size)
        # (i, j), (x, o, c, v) -> i, (x, o), (j, c, v)
        matrices = torch.matmul(self.filter_rows, self.filters)
        matrices = matrices.reshape(size, AROUND, 3 * width, across).permute(0, 2, 1, 3)
        matrices = matrices.reshape(size, 3 * width, AROUND * across)
        parts = torch.matmul(matrices, around).reshape(-1, size, 3, width, size)
        left = nn.functional.pad(parts[:, :, 0, :, :-1], (1, 0))
        right = nn.functional.pad(parts[:, :, 2, :, 1:], (0, 1))
        first = (parts[:, :, 1] + left + right + self.first_bias).permute(0, 2, 1, 3)
        return self.generator.after_first(first)[0]

    def _decode(self, lines: Tensor, hidden_bimx: Tensor, orders: Tensor) -> Tensor:
        """The residue's channels in the orders asked for (B, A, F), weighed and summed: (B, A, 3, N, N)."""
        ratio, size, width, across = self.ratio, self.size, self.width, 3 * self.ratio
        batch, many = orders.shape[:2]
        # Which channel (c, p, q) comes from which (C, u, v): p, u -> c, q, C, v.
        every = torch.arange(self.channels, device=orders.device)
        picks = (orders[..., None] == every).float()
        picks = picks.reshape(batch, many, 3, ratio, ratio, 3, ratio, ratio)
        picks = picks.permute(0, 1, 3, 6, 2, 4, 5, 7).reshape(batch, many, ratio**2, across**2)
        spread = torch.matmul(self.decode_rows, picks)
        spread = spread.reshape(batch, many, size, NEAR, across, across).permute(0, 1, 2, 4, 3, 5)
        near = lines.index_select(1, self.near_ij).reshape(-1, 1, size, NEAR * across, size)
        kept = torch.matmul(spread.reshape(batch, many, size, across, NEAR * across), near)
        last = self.last_fm[orders].reshape(batch, many, 3, ratio, ratio * (width + 1))
        last = last.transpose(2, 3).reshape(batch, many, ratio, across * (width + 1))
        last = torch.matmul(self.sample_ip, last).reshape(batch, many, size, across, width + 1)
        made = torch.matmul(last[..., :width], hidden_bimx[:, None])
        residue = (kept - made - last[..., width:]).reshape(batch, many, size, 3, ratio, size)
        ycc = (residue * self.sample_qx).sum(4) + self.ycc_shift
        return torch.matmul(self.to_rgb, ycc).permute(0, 1, 3, 2, 4).clamp(0.0, 1.0)


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

"""What the shuffle leaves of a face, whatever the permutation: an input transform of the receiver's own.

No part of the paper. The decoder weighs a pixel's channels by smooth fields, of at most three periods a
side, so that around a pixel a protected image is a linear mixture of a few pictures in three colours; the
permutation decides on the mixture, and a fifth of a side away it is another one. What no mixture changes:
let ``f_i`` be responses of fixed filters, a colour at a time, and C the colours' covariance around the pixel.
Then for any mixture M of the colours ``(M f_i)^T (M C M^T)^-1 (M f_j) = f_i^T C^-1 f_j``. These products are
what the backbone gets: how steep and how bent the picture is, in units of what is around, signs only relative
to one another. Nothing is learned, and nothing must be known of generator or permutation: an eye can look at
them as well as a recogniser.

A product at a pixel says nothing of two places: with ``wide`` slopes and bends over four pixels, where the
mixture is nearly the same still, are multiplied with those over one and with each other, and the colours
themselves go along, for what they hold that no product does.

Legend: B batch, n images a crop, P = B*n, C = 3 colours, K filters, G products (and colours), N side in
pixels, M side of the coarse grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement
from operator import itemgetter
from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from minusface.devices import without_autocast
from minusface.errors import MinusfaceError
from minusface.recognize.standard import standardize

# Standard deviation of the neighbourhood, in parts of a side; 4/112 and 9/112 were tried and served worse.
NEIGHBOURHOOD = 6 / 112
# Neighbourhoods are summed up on every fourth pixel: they change slowly.
COARSE = 4
# Where fewer than three pictures are mixed, some direction of the colours holds noise alone; this part of
# the mean variance keeps it from being blown up, and a third of an 8-bit step does where all is flat.
RIDGE = 0.02
FLOOR = (0.36 / 255) ** 2
# Below it products are taken as they are, above it their root: a few edges would outshout everything.
KNEE = 0.1
# Responses of one pixel's reach, and with those that reach further; the further reach, in pixels.
FINE, ALL, REACH = 6, 10, 4
# Images whose intermediate results fit a processor's cache.
CACHED = 8
PRODUCTS = tuple(combinations_with_replacement(range(FINE), 2))
FURTHER = tuple((i, j) for i, j in combinations_with_replacement(range(ALL), 2) if j >= FINE)
# Places of the squared slopes among them.
ACROSS, DOWN = PRODUCTS.index((1, 1)), PRODUCTS.index((2, 2))
Colours = tuple[Tensor, Tensor, Tensor]
# What results are written to, or None for tensors of their own.
Places = Sequence[Tensor | None]


class Unmix(nn.Module):
    """(B, 3n, N, N) to (B, 21n, N, N): products of filter responses that no mixture of colours changes.

    Args:
        size: N.
        wide: 58 channels an image: 34 products more, of responses that reach further, and the three
            colours at mean 0 and standard deviation 0.5.

    Raises:
        MinusfaceError: a size that four does not divide.
    """

    blur_nn: Tensor
    gather_mn: Tensor
    spread_nm: Tensor

    def __init__(self, size: int = 112, wide: bool = False) -> None:
        super().__init__()
        self.wide = wide
        self.products = PRODUCTS + FURTHER if wide else PRODUCTS
        self.runs = _runs(self.products)
        if size < 2 * COARSE or size % COARSE:
            raise MinusfaceError(f"input 'unmixed': size {size}, expected a multiple of {COARSE}")
        blur_nn = _gaussian(size, NEIGHBOURHOOD * size)
        centres = torch.arange(COARSE // 2, size, COARSE)
        for name, value in {
            "blur_nn": blur_nn,
            "gather_mn": blur_nn[centres],
            "spread_nm": _between(size, centres),
        }.items():
            self.register_buffer(name, value, persistent=False)

    def channels(self, images: int) -> int:
        """Channels it makes of so many of protected images."""
        return images // 3 * (len(self.products) + (3 if self.wide else 0))

    def forward(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """See the class; any float type in, computed in float32, of ``dtype`` out."""
        batch, channels, size = images.shape[:3]
        with without_autocast(images.device.type):
            colours_pcnn = images.float().reshape(-1, 3, size, size)
            if colours_pcnn.requires_grad or torch.compiler.is_compiling():
                found_pgnn = self._products(colours_pcnn).to(dtype)
            else:
                shape = (len(colours_pcnn), self.channels(3), size, size)
                found_pgnn = colours_pcnn.new_empty(shape, dtype=dtype)
                few = CACHED if images.device.type == "cpu" else max(1, len(colours_pcnn))
                for part in zip(
                    *(torch.split(t, few) for t in (found_pgnn, colours_pcnn)), strict=True
                ):
                    self._fill(*part)
        return found_pgnn.reshape(batch, self.channels(channels), size, size)

    def _products(self, colours_pcnn: Tensor) -> Tensor:
        """(P, 3, N, N) to (P, G, N, N)."""
        white = self._white(colours_pcnn, in_place=False)
        parts: list[tuple[int, Tensor]] = []
        for i, js, places in self.runs:
            dots = _dot(white, i, js)
            parts += [(place.start, dots[:, some]) for some, place in places]
        made = torch.cat([part for _, part in sorted(parts, key=itemgetter(0))], 1)
        made = made * (made.abs() + KNEE).rsqrt()
        return torch.cat([made, standardize(colours_pcnn)], 1) if self.wide else made

    def _fill(self, found_pgnn: Tensor, colours_pcnn: Tensor) -> None:
        """As :meth:`_products`, where they belong, few at a time.

        They stay in the cache, and are written once: what is written to was read by another processor
        just now, which takes longer than the products; of bfloat16 it is half as much.
        """
        white = self._white(colours_pcnn, in_place=True)
        few = (len(found_pgnn), max(run.js.stop - run.js.start for run in self.runs))
        product, scale = (white[0].new_empty(*few, *found_pgnn.shape[2:]) for _ in range(2))
        # A tensor: of a number torch would make one each time. On a GPU it would have to be sent.
        knee = white[0].new_tensor(KNEE) if white[0].device.type == "cpu" else KNEE
        for i, js, places in self.runs:
            a, b = (room[:, : js.stop - js.start] for room in (product, scale))
            torch.mul(white[0][:, i : i + 1], white[0][:, js], out=a)
            for colour in white[1:]:
                a.addcmul_(colour[:, i : i + 1], colour[:, js])
            torch.abs(a, out=b).add_(knee).rsqrt_()
            for some, place in places:
                torch.mul(a[:, some], b[:, some], out=found_pgnn[:, place])
        if self.wide:
            found_pgnn[:, len(self.products) :] = standardize(colours_pcnn)

    def _white(self, colours_pcnn: Tensor, in_place: bool) -> Colours:
        """What the products are made of: responses in units of what is around, (P, K, N, N) a colour."""
        detail_pcnn = colours_pcnn - self.blur_nn @ colours_pcnn @ self.blur_nn.T
        count = ALL if self.wide else FINE
        if not in_place:
            found = _responses(detail_pcnn, [None] * count)
            return _whitened(torch.stack(found, 2), self._covariance(detail_pcnn))
        # Each is written where it stays: to bring them together takes twice as long as to make them.
        room_kpcnn = detail_pcnn.new_empty(count, *detail_pcnn.shape)
        _responses(detail_pcnn, room_kpcnn.unbind())
        return _whitened(room_kpcnn.permute(1, 2, 0, 3, 4), self._covariance(detail_pcnn))

    def _covariance(self, detail_pcnn: Tensor) -> list[Tensor]:
        """Of the colours around each pixel, entries 00, 01, 02, 11, 12, 22: (P, N, N) each.

        Interpolated as it is, not its root or inverse: it follows a mixture of the colours linearly.
        """
        products = torch.cat([detail_pcnn[:, c : c + 1] * detail_pcnn[:, c:] for c in range(3)], 1)
        coarse = self.gather_mn @ products @ self.gather_mn.T
        rr, rg, rb, gg, gb, bb = (self.spread_nm @ coarse @ self.spread_nm.T).unbind(1)
        ridge = (rr + gg + bb) * (RIDGE / 3) + FLOOR
        return [rr + ridge, rg, rb, gg + ridge, gb, bb + ridge]


def outlines(images: Tensor) -> Tensor:
    """How steep images are at each pixel, in units of what is around: what an eye would look at.

    Args:
        images: (B, 3, N, N) floats in [0, 1].

    Returns:
        (B, N, N), 0 and more; the same, but for the ridge, whatever mixture the colours went through.
    """
    products: Tensor = Unmix(images.shape[-1]).to(images.device)(images)
    # A product p was scaled to p / sqrt(p + KNEE): near enough to a root to be added up as lengths are.
    steep: Tensor = (products[:, ACROSS].square() + products[:, DOWN].square()).sqrt()
    return steep


def _responses(detail_pcnn: Tensor, into: Places) -> list[Tensor]:
    """FINE, or ALL, responses: (P, C, N, N) each.

    The detail itself, its slopes across and down, its bends; then slopes and bends over REACH pixels to
    either side.
    """
    detail = detail_pcnn if into[0] is None else into[0].copy_(detail_pcnn)
    across, down = _slopes(detail_pcnn, into[1:3])
    bend, twist = _slopes(across, [into[3], into[5]])
    found = [detail, across, down, bend, _slopes(down, [None, into[4]])[1], twist]
    return found if len(into) == FINE else found + _far_responses(detail_pcnn, into[FINE:])


def _far_responses(detail_pcnn: Tensor, into: Places) -> list[Tensor]:
    """Slopes across and down, bends across and down, over REACH pixels to either side."""
    size, reach = detail_pcnn.shape[-1], REACH
    wide = nnf.pad(detail_pcnn, (reach,) * 4, mode="replicate")
    inner = slice(reach, reach + size)
    left, right = wide[..., inner, :size], wide[..., inner, 2 * reach :]
    above, below = wide[..., :size, inner], wide[..., 2 * reach :, inner]
    twice = 2 * detail_pcnn
    across = torch.sub(right, left, out=into[0])
    down = torch.sub(below, above, out=into[1])
    bend = torch.sub(right + left, twice, out=into[2])
    return [across, down, bend, torch.sub(above + below, twice, out=into[3])]


def _slopes(images: Tensor, into: Places) -> tuple[Tensor, Tensor]:
    """Differences of the neighbours, across and down."""
    wide = nnf.pad(images, (1, 1, 1, 1), mode="replicate")
    across = torch.sub(wide[..., 1:-1, 2:], wide[..., 1:-1, :-2], out=into[0])
    return across, torch.sub(wide[..., 2:, 1:-1], wide[..., :-2, 1:-1], out=into[1])


def _whitened(responses_pcknn: Tensor, covariance: list[Tensor]) -> Colours:
    """Responses times the inverse of the covariance's Cholesky factor, colour by colour: (P, K, N, N)."""
    c00, c01, c02, c11, c12, c22 = (entry[:, None] for entry in covariance)
    i00 = c00.rsqrt()
    l10, l20 = c01 * i00, c02 * i00
    i11 = (c11 - l10 * l10).rsqrt()
    l21 = (c12 - l20 * l10) * i11
    i22 = (c22 - l20 * l20 - l21 * l21).rsqrt()
    r, g, b = responses_pcknn.unbind(1)
    first = r * i00
    second = torch.addcmul(g, l10, first, value=-1) * i11
    third = torch.addcmul(torch.addcmul(b, l20, first, value=-1), l21, second, value=-1) * i22
    return first, second, third


def _dot(white: Colours, i: int, js: slice) -> Tensor:
    """Products of one response with some others: (P, J, N, N)."""
    one, two, three = ((colour[:, i : i + 1], colour[:, js]) for colour in white)
    return torch.addcmul(torch.addcmul(one[0] * one[1], *two), *three)


class Run(NamedTuple):
    """Products of one response with some others that lie side by side.

    Args:
        i: the one.
        js: the others.
        places: which of these products belong to which channels.
    """

    i: int
    js: slice
    places: tuple[tuple[slice, slice], ...]


def _runs(products: Sequence[tuple[int, int]]) -> list[Run]:
    """A run each first response; its others must be in order and without a gap."""
    runs = []
    for i in sorted({i for i, _ in products}):
        channels = [(j, channel) for channel, (first, j) in enumerate(products) if first == i]
        start = channels[0][0]
        assert [j for j, _ in channels] == list(range(start, start + len(channels)))
        cuts = [
            0,
            *(n for n in range(1, len(channels)) if channels[n][1] != channels[n - 1][1] + 1),
        ]
        ends = [*cuts[1:], len(channels)]
        places = tuple(
            (slice(a, b), slice(channels[a][1], channels[a][1] + b - a))
            for a, b in zip(cuts, ends, strict=True)
        )
        runs.append(Run(i, slice(start, start + len(channels)), places))
    return runs


def _gaussian(size: int, deviation: float) -> Tensor:
    """(N, N), rows add up to 1; cut off at three standard deviations and at the border."""
    places = torch.arange(size, dtype=torch.float64)
    away_nn = (places[:, None] - places).abs() / deviation
    weight_nn = torch.exp(-away_nn.square() / 2) * (away_nn <= 3)
    return (weight_nn / weight_nn.sum(1, keepdim=True)).float()


def _between(size: int, centres: Tensor) -> Tensor:
    """(N, M), linear interpolation between the places of the coarse grid, constant beyond its ends."""
    places = torch.arange(size, dtype=torch.float64)[:, None]
    near_nm = (
        1 - (places.clamp(int(centres[0]), int(centres[-1])) - centres).abs() / COARSE
    ).clamp_min(0)
    return near_nm.float()

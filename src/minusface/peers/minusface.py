"""MinusFace behind the interface of all protections, with every way its permutation can be chosen.

Legend: B batch, V views, n images a crop, N side of a crop, F channels, C = 3 colours, K = F / C.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from minusface.peers.base import Opened, Views
from minusface.protect import Protector, draw_permutation
from minusface.protect.codec import BlockCodec

Choice = Literal["random", "fixed", "secret"]
# Keeps the pseudo-inverse finite where all weights of a pixel vanish; it is far below any that do not.
RIDGE = 1e-4


class MinusFace:
    """A trained protector.

    Args:
        protector: frozen, in eval mode.
        choice: ``random`` draws a permutation an image (the method); ``fixed`` uses one for all, which the
            paper warns of; ``secret`` derives it from the secret and the crop, as a client may.
        seed: of the fixed permutation.
        secret: where ``secret`` is chosen.
        tries: of how many permutations the one is taken that shows least (:mod:`minusface.protect.choice`);
            of those drawn at random alone.
    """

    def __init__(
        self,
        protector: Protector,
        choice: Choice = "random",
        seed: int = 0,
        secret: bytes = b"",
        name: str | None = None,
        tries: int = 1,
    ) -> None:
        self.protector = protector.eval().requires_grad_(False)
        self.choice, self.seed, self.secret, self.tries = choice, seed, secret, tries
        self.images = protector.n_duplicate
        self.name = name or ("minusface" if choice == "random" else f"minusface-{choice}")
        self._said = ""

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> MinusFace:
        """Of a stage-1 or stage-2 checkpoint.

        Raises:
            MinusfaceError: no such checkpoint, or one without a generator.
        """
        return cls(Protector.load(path).to(device))

    def choosing(self, choice: Choice, seed: int = 0, secret: bytes = b"") -> MinusFace:
        """The same protector with its permutation chosen otherwise."""
        other = MinusFace(self.protector, choice, seed, secret)
        other._said = self._said
        return other

    def permutation(self, crops: Tensor, random: torch.Generator) -> Tensor:
        """(B, n, F) int64."""
        channels = self.protector.codec.channels
        if self.choice == "secret":
            from minusface.protect.secret import permutation_from_secret

            return permutation_from_secret(self.secret, crops, channels, self.images)
        if self.choice == "fixed":
            one = draw_permutation(self.images, channels, torch.Generator().manual_seed(self.seed))
            return one.expand(len(crops), -1, -1)
        drawn = draw_permutation(len(crops) * self.images, channels, random)
        return drawn.view(len(crops), self.images, channels)

    def permutations(
        self, crops: Tensor, residue: Tensor, random: torch.Generator, count: int
    ) -> Tensor:
        """``count`` independent ones for each crop, of which this is the residue: (V, B, n, F) int64."""
        if self.tries == 1 or self.choice != "random":
            return torch.stack([self.permutation(crops, random) for _ in range(count)])
        channels, shape = self.protector.codec.channels, (len(crops), self.images, self.tries)
        chosen = []
        for _ in range(count):
            orders = draw_permutation(math.prod(shape), channels, random).view(*shape, channels)
            chosen.append(self.protector.choose(crops, orders.to(crops.device), residue)[1])
        return torch.stack(chosen)

    @torch.no_grad()
    def protect(self, crops: Tensor, random: torch.Generator) -> Tensor:
        """See :class:`minusface.peers.Protection`."""
        if self.tries > 1:
            return self.open(crops, random).protected
        order = self.permutation(crops, random).to(crops.device)
        protected: Tensor = self.protector(crops, order)
        return protected

    @torch.no_grad()
    def open(self, crops: Tensor, random: torch.Generator) -> Opened:
        """See :class:`minusface.peers.Openable`."""
        residue = self.protector.residue(crops)
        order = self.permutations(crops, residue, random, 1)[0].to(crops.device)
        return Opened(self.protector.obfuscate(residue, order), order, residue)

    @torch.no_grad()
    def views(self, crops: Tensor, random: torch.Generator, count: int) -> Views:
        """See :class:`minusface.peers.base.Repeating`: the generator runs once."""
        residue = self.protector.residue(crops)
        orders = self.permutations(crops, residue, random, count).to(crops.device)
        drawn = [self.protector.obfuscate(residue, order) for order in orders]
        return Views(torch.stack(drawn), orders)

    @torch.no_grad()
    def mean_of(self, crops: Tensor, random: torch.Generator, count: int) -> Tensor:
        """See :class:`minusface.peers.base.Repeating`.

        Decoding is linear but for its clamp, so the mean of many images is one image of the mean
        permutation matrix: a product of 192 x 192 in the place of ``count`` decodings. What single draws
        lose at the clamp is kept here, in the attacker's favour; trained generators hardly reach it.
        """
        codec = self.protector.codec
        if count < 8 or not isinstance(codec, BlockCodec):
            return self.views(crops, random, count).protected.mean(0)
        residue = self.protector.residue(crops)
        residue_bfn = residue.flatten(2)
        rows_vbnf = self.permutations(crops, residue, random, count).to(crops.device)
        eye_ff = torch.eye(codec.channels, device=crops.device)
        parts = []
        for copy in range(self.images):
            mixing_bff = torch.stack(
                [eye_ff[rows_bf].mean(0) for rows_bf in rows_vbnf[:, :, copy].unbind(1)]
            )
            mixed = torch.bmm(mixing_bff, residue_bfn).view(len(crops), -1, *crops.shape[2:])
            parts.append(codec.decode(mixed))
        return torch.cat(parts, 1)

    @torch.no_grad()
    def undo(self, protected: Tensor, permutation: Tensor) -> Tensor:
        """The residue of least norm that these images show under these permutations: (B, F, N, N).

        A pixel of X_p is three weighted sums of F channels; with the permutation known, each sum's weights
        are known channel by channel. Its least-norm solution lays the pixel's brightness onto the channels
        in proportion to their weights; where each channel has landed is thereby given to what reads it.
        """
        codec = self.protector.codec
        assert isinstance(codec, BlockCodec), "the raw codec has no frequencies to undo"
        if self.images > 1:
            return self._undo_jointly(codec, protected, permutation)
        weight_kn = codec.pixel_weight_kn
        share_kn = weight_kn / (weight_kn.square().sum(0, keepdim=True) + RIDGE)
        spread_bfn = (_shifted_ycc(protected, codec)[:, :, None] * share_kn).flatten(1, 2)
        # Channel k of the sum came from channel order[k] of the residue: back to where it was.
        back = permutation[:, 0].to(protected.device).argsort(1)[:, :, None].expand_as(spread_bfn)
        return spread_bfn.gather(1, back).view(len(protected), -1, codec.size, codec.size)

    def _undo_jointly(self, codec: BlockCodec, protected: Tensor, permutation: Tensor) -> Tensor:
        """Of several images: at each pixel the least residue that gives all of their 3n sums."""
        sums, channels, weight_kn = 3 * self.images, codec.channels, codec.pixel_weight_kn
        every = weight_kn.repeat(3, 1)
        colour_f = torch.arange(channels, device=protected.device) // len(weight_kn)
        ridge = RIDGE * torch.eye(sums, device=protected.device)
        found = []
        for images, orders in zip(protected, permutation.to(protected.device), strict=True):
            ycc_sn = torch.cat([_shifted_ycc(one[None], codec)[0] for one in images.split(3)])
            mixing = ycc_sn.new_zeros(self.images, 3, channels, ycc_sn.shape[1])
            for copy, order_f in enumerate(orders):
                mixing[copy, colour_f, order_f] = every
            mixing_sfn = mixing.flatten(0, 1)
            gram_nss = torch.einsum("sfn,tfn->nst", mixing_sfn, mixing_sfn) + ridge
            share_ns = torch.linalg.solve(gram_nss, ycc_sn.T[..., None])[..., 0]
            found.append(torch.einsum("sfn,ns->fn", mixing_sfn, share_ns))
        return torch.stack(found).view(len(protected), -1, codec.size, codec.size)

    def encode(self, images: Tensor) -> Tensor:
        """See :class:`minusface.peers.Openable`."""
        return self.protector.codec.encode(images)

    def decode(self, features: Tensor) -> Tensor:
        """See :class:`minusface.peers.Openable`."""
        return self.protector.codec.decode(features)

    def fingerprint(self) -> str:
        """See :class:`minusface.peers.Protection`."""
        if not self._said:
            # The protection alone: another recogniser of its images does not change it.
            sha = hashlib.sha256(repr(self.protector.codec_config).encode())
            for tensor in self.protector.generator.state_dict().values():
                sha.update(tensor.detach().cpu().float().numpy().tobytes())
            self._said = sha.hexdigest()
        secret = hashlib.sha256(self.secret).hexdigest() if self.secret else ""
        tried = "" if self.tries == 1 else f" {self.tries}"
        return f"{self._said} {self.images} {self.choice} {self.seed} {secret}{tried}"


def _shifted_ycc(images: Tensor, codec: BlockCodec) -> Tensor:
    """Images (B, 3, N, N) in [0, 1] to level-shifted YCbCr (B, 3, N*N), the sums that decoding made."""
    inverse = torch.linalg.inv(codec.to_rgb.double()).float()
    ycc: Tensor = torch.einsum("kc,bcn->bkn", inverse, images.flatten(2).float())
    return ycc - ycc.new_tensor([128.0, 0.0, 0.0])[:, None]

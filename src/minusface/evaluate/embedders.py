"""How each kind of model embeds images for an evaluation.

Legend: B batch, n images a crop, F channels, H, W pixels, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as nnf
from torch import Tensor

from minusface.checkpoint import load_card
from minusface.config import Precision
from minusface.errors import MinusfaceError
from minusface.evaluate.embedding import PairEmbedder
from minusface.protect import Protector, mask_of_key, permutation_of_key
from minusface.protect.choice import check_tries
from minusface.recognize import Recognizer


def _crops(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1.0


class Embedder:
    """What the kinds share: mirroring, unit length, evaluation mode."""

    draws_matter = False
    copies = 1
    """How many protected images are made of an image: their unit embeddings are summed."""

    def __init__(self, recognizer: Recognizer, protector: Protector | None) -> None:
        self.recognizer, self.protector = recognizer, protector
        self._last: tuple[Tensor, bool, list[Tensor]] | None = None

    def base(self, crops: Tensor) -> Tensor:
        """What does not change between draws, of crops (B, 3, H, W) in [-1, 1]."""
        raise NotImplementedError

    def view(self, base: Tensor, keys: Sequence[str], draw: int) -> Tensor:
        """What the recogniser reads."""
        return base

    def embed(self, images: Tensor, keys: Sequence[str], draw: int, flip: bool) -> Tensor:
        """See :class:`PairEmbedder`: the sum of the unit embeddings of an image and its mirror image."""
        modules = [m for m in (self.recognizer, self.protector) if m is not None]
        modes = [module.training for module in modules]
        for module in modules:
            module.eval()
        try:
            with torch.inference_mode():
                bases = self._bases(images, flip)
                draws = range(draw * self.copies, (draw + 1) * self.copies)
                rows = [
                    self.recognizer(self.view(base, keys, one)).float()
                    for base in bases
                    for one in draws
                ]
                return torch.stack([nnf.normalize(row, dim=1) for row in rows]).sum(0)
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.train(mode)

    def _bases(self, images: Tensor, flip: bool) -> list[Tensor]:
        """Of the images and their mirror images; kept for the next draw of the same batch."""
        if self._last is not None and self._last[0] is images and self._last[1] == flip:
            return self._last[2]
        # The old ones go first: two batches of residues need not be there at once.
        self._last = None
        crops = _crops(images.to(next(self.recognizer.parameters()).device))
        bases = [self.base(crop) for crop in ([crops, crops.flip(-1)] if flip else [crops])]
        self._last = (images, flip, bases)
        return bases


class PlainEmbedder(Embedder):
    """The unprotected baseline: crops as they are."""

    def base(self, crops: Tensor) -> Tensor:
        """The crops."""
        return crops


class ResidueEmbedder(Embedder):
    """Stage 1 and the toy case: the residue, unshuffled; never leaves a client."""

    def base(self, crops: Tensor) -> Tensor:
        """The residue (B, F, H, W)."""
        assert self.protector is not None
        return self.protector.residue(crops)


class ProtectedEmbedder(Embedder):
    """Stage 2: protected images, permuted by (key, draw, seed): a mirrored image as its original.

    Where the protector masks channels, they are masked in the place of permuted, by the same.

    Args:
        recognizer: of protected images.
        protector: what makes them.
        seed: of the permutations.
        eight_bits: round X_p as a PNG does.
        copies: see :class:`Embedder`; each is permuted anew.
        tries: permutations of which the one is taken that shows least (:mod:`minusface.protect.choice`).
    """

    draws_matter = True

    def __init__(
        self,
        recognizer: Recognizer,
        protector: Protector,
        seed: int = 0,
        eight_bits: bool = False,
        copies: int = 1,
        tries: int = 1,
    ) -> None:
        super().__init__(recognizer, protector)
        if copies < 1:
            raise MinusfaceError(f"--copies {copies}: expected 1 or more")
        self.seed, self.eight_bits, self.copies = seed, eight_bits, copies
        self.tries = check_tries(tries)
        self._chosen: dict[tuple[int, tuple[str, ...]], Tensor] = {}

    def base(self, crops: Tensor) -> Tensor:
        """The residue (B, F, H, W): the generator runs once, however many draws there are.

        With several tries the crops besides, as what shows is told by them: (B, F + 3, H, W).
        """
        assert self.protector is not None
        residue = self.protector.residue(crops)
        return residue if self.tries == 1 else torch.cat([residue, crops], 1)

    def view(self, base: Tensor, keys: Sequence[str], draw: int) -> Tensor:
        """X_p (B, 3n, H, W) in [0, 1]."""
        assert self.protector is not None
        channels = self.protector.codec.channels
        order = self._order(base, keys, draw)
        protected: Tensor = self.protector.obfuscate(base[:, :channels], order)
        return (protected * 255).round() / 255 if self.eight_bits else protected

    def _order(self, base: Tensor, keys: Sequence[str], draw: int) -> Tensor:
        """Permutations (or masks) (B, n, F), on the device of the base."""
        assert self.protector is not None
        copies, channels = self.protector.n_duplicate, self.protector.codec.channels
        orders = [
            self._drawn([f"{key}#{number}" for key in keys], draw)
            for number in range(copies * self.tries)
        ]
        order = torch.stack(orders, 1).to(base.device)
        if self.tries == 1:
            return order
        # Mirrored images come after all draws of their originals, under what was chosen for those.
        which = (draw, tuple(keys))
        if which not in self._chosen:
            tried = order.view(len(keys), copies, self.tries, channels)
            self._chosen[which] = self.protector.choose(
                base[:, channels:], tried, base[:, :channels]
            )[1]
        return self._chosen[which]

    def _bases(self, images: Tensor, flip: bool) -> list[Tensor]:
        """See :class:`Embedder`; what was chosen for other images goes with them."""
        before, bases = self._last, super()._bases(images, flip)
        if self._last is not before:
            self._chosen.clear()
        return bases

    def _drawn(self, keys: Sequence[str], draw: int) -> Tensor:
        """A permutation, or which channels a mask keeps, of each key: (B, F)."""
        assert self.protector is not None
        channels, fraction = self.protector.codec.channels, self.protector.mask_fraction
        if fraction is None:
            return permutation_of_key(keys, channels, self.seed, draw)
        return mask_of_key(keys, channels, fraction, self.seed, draw)


def embedder_of(
    recognizer: Recognizer,
    protector: Protector | None,
    *,
    seed: int = 0,
    eight_bits: bool = False,
    copies: int = 1,
    tries: int = 1,
) -> PlainEmbedder | ResidueEmbedder | ProtectedEmbedder:
    """The embedder that fits what a recogniser was made for.

    Raises:
        MinusfaceError: its protector is missing.
    """
    if recognizer.kind == "crop":
        return PlainEmbedder(recognizer, None)
    if protector is None:
        raise MinusfaceError(
            f"a recogniser of {recognizer.kind!r} needs the protector it was trained with"
        )
    if recognizer.kind == "features":
        return ResidueEmbedder(recognizer, protector)
    return ProtectedEmbedder(recognizer, protector, seed, eight_bits, copies, tries)


def load_embedder(
    path: str | Path,
    *,
    seed: int = 0,
    eight_bits: bool = False,
    copies: int = 1,
    tries: int = 1,
    precision: Precision = "float32",
) -> PlainEmbedder | ResidueEmbedder | ProtectedEmbedder:
    """The embedder of a checkpoint; ``precision`` is of both its networks (:meth:`Recognizer.load`).

    Raises:
        MinusfaceError: no checkpoint, a damaged one, or one whose recogniser nothing trained.
    """
    card = load_card(path)
    if card.task in ("stage1", "toy") and card.config.get("loss", {}).get("beta") == 0:
        raise MinusfaceError(
            f"{path}: its recogniser of the residue was left untrained (loss.beta 0); "
            "expected a checkpoint of stage 2, or a beta of more than 0"
        )
    recognizer = Recognizer.load(path, precision)
    protector = (
        None if recognizer.kind == "crop" else Protector.load(path, masks=True, precision=precision)
    )
    return embedder_of(
        recognizer, protector, seed=seed, eight_bits=eight_bits, copies=copies, tries=tries
    )


__all__ = [
    "Embedder",
    "PairEmbedder",
    "PlainEmbedder",
    "ProtectedEmbedder",
    "ResidueEmbedder",
    "embedder_of",
    "load_embedder",
]

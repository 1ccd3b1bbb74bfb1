"""MinusFace changed in one place at a time: the paper's ablations, and what might serve better.

They share the generator of the protector under audit, so that a table shows what the change alone does.
Legend: B batch, V draws of an image (views), n images a crop, N side of a crop, F channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from minusface.errors import MinusfaceError, choice_error
from minusface.peers.base import Protection, Views
from minusface.peers.minusface import MinusFace
from minusface.protect import Protector, draw_mask, draw_permutation

MASKED = 0.25  # of the channels, as in training's mask_fraction
LEVELS = 255

# (protector, residue (B, F, N, N), seeded generator) -> X_p (B, 3, N, N) in [0, 1].
Obfuscation = Callable[[Protector, Tensor, torch.Generator], Tensor]


def shuffled(protector: Protector, residue: Tensor, random: torch.Generator) -> Tensor:
    """The method's: a permutation an image."""
    order = draw_permutation(len(residue), protector.codec.channels, random)
    return protector.codec.decode(residue, order.to(residue.device))


def masked(protector: Protector, residue: Tensor, random: torch.Generator) -> Tensor:
    """The paper's ablation: a quarter of the channels blanked, the others in their places."""
    kept = draw_mask(len(residue), protector.codec.channels, MASKED, random).to(residue.device)
    return protector.codec.decode(residue * kept[:, :, None, None])


def quantised(protector: Protector, residue: Tensor, random: torch.Generator) -> Tensor:
    """What a PNG keeps: 256 levels."""
    return (shuffled(protector, residue, random) * LEVELS).round() / LEVELS


def signed(protector: Protector, residue: Tensor, random: torch.Generator) -> Tensor:
    """A permutation, and a random sign for every channel."""
    flips = torch.randint(0, 2, residue.shape[:2], generator=random).to(residue) * 2 - 1
    return shuffled(protector, residue * flips[:, :, None, None], random)


def unclamped(protector: Protector, residue: Tensor, random: torch.Generator) -> Tensor:
    """The method's, with what lies outside [0, 1] left there."""
    order = draw_permutation(len(residue), protector.codec.channels, random)
    return protector.codec.decode(residue, order.to(residue.device), clamp=False)


def soft_clamped(protector: Protector, residue: Tensor, random: torch.Generator) -> Tensor:
    """Bent smoothly into (0, 1) in the place of being cut off: of slope 1 at mid grey."""
    return 0.5 + 0.5 * torch.tanh(2 * (unclamped(protector, residue, random) - 0.5))


def rescaled(protector: Protector, residue: Tensor, random: torch.Generator) -> Tensor:
    """Each image stretched to fill [0, 1], in 256 levels: nothing is cut off, less is rounded."""
    images = unclamped(protector, residue, random)
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return ((images - low) / (high - low).clamp_min(1e-6) * LEVELS).round() / LEVELS


def rotated(protector: Protector, residue: Tensor, random: torch.Generator) -> Tensor:
    """A random orthogonal matrix in the place of a permutation."""
    channels = protector.codec.channels
    drawn = torch.randn(len(residue), channels, channels, generator=random)
    basis, triangle = torch.linalg.qr(drawn)
    # Signs of the diagonal make it uniform over all orthogonal matrices (Mezzadri 2007).
    uniform = basis * triangle.diagonal(dim1=1, dim2=2).sign()[:, None]
    mixed = torch.bmm(uniform.to(residue), residue.flatten(2)).view_as(residue)
    return protector.codec.decode(mixed)


OBFUSCATIONS: dict[str, Obfuscation] = {
    "mask": masked,
    "no-subtraction": shuffled,
    "8-bit": quantised,
    "signs": signed,
    "orthogonal": rotated,
    "soft-clamp": soft_clamped,
    "rescaled": rescaled,
}
DUPLICATES = {"duplicate-2": 2, "duplicate-4": 4}
TRIES = {"tries-8": 8}
VARIANTS = (*OBFUSCATIONS, *DUPLICATES, *TRIES)


class Variant:
    """MinusFace with another obfuscation, or without its subtraction.

    Args:
        own: whose generator is used.
        kind: one of OBFUSCATIONS.
    """

    images = 1

    def __init__(self, own: MinusFace, kind: str) -> None:
        self.own, self.kind = own, kind
        self.name = f"{own.name}-{kind}"
        self._obfuscate = OBFUSCATIONS[kind]

    @torch.no_grad()
    def protect(self, crops: Tensor, random: torch.Generator) -> Tensor:
        """See :class:`minusface.peers.Protection`."""
        return self._obfuscate(self.own.protector, self._residue(crops), random).clamp(0, 1)

    @torch.no_grad()
    def views(self, crops: Tensor, random: torch.Generator, count: int) -> Views:
        """See :class:`minusface.peers.base.Repeating`: the generator runs once."""
        residue, protector = self._residue(crops), self.own.protector
        drawn = [self._obfuscate(protector, residue, random) for _ in range(count)]
        return Views(torch.stack(drawn).clamp(0, 1))

    def mean_of(self, crops: Tensor, random: torch.Generator, count: int) -> Tensor:
        """See :class:`minusface.peers.base.Repeating`."""
        return self.views(crops, random, count).protected.mean(0)

    def fingerprint(self) -> str:
        """See :class:`minusface.peers.Protection`."""
        return f"{self.own.fingerprint()} {self.kind}"

    def _residue(self, crops: Tensor) -> Tensor:
        protector = self.own.protector
        if self.kind == "no-subtraction":
            return protector.codec.encode(crops)
        return protector.residue(crops)


def mixes(protection: Protection) -> bool:
    """Whether what leaves the client is mixed anew for every image: a reader must see through that."""
    if isinstance(protection, Variant):
        return protection.kind != "mask"
    return isinstance(protection, MinusFace)


def variants_of(own: MinusFace, kinds: Sequence[str]) -> list[Protection]:
    """Variants of a protector by name.

    Raises:
        MinusfaceError: an unknown name.
    """
    return [_variant(own, kind) for kind in kinds]


def _variant(own: MinusFace, kind: str) -> Protection:
    if kind in OBFUSCATIONS:
        return Variant(own, kind)
    if kind in TRIES:
        return MinusFace(own.protector, name=f"{own.name}-{kind}", tries=TRIES[kind])
    if kind not in DUPLICATES:
        raise choice_error("variant", kind, [*VARIANTS, "all", "none"])
    one = own.protector
    many = Protector(one.codec_config, one.generator_config, DUPLICATES[kind])
    many.generator.load_state_dict(one.generator.state_dict())
    device = next(one.parameters()).device
    return MinusFace(many.to(device), name=f"{own.name}-{kind}")


def trained_besides(named: Sequence[str], size: int, device: torch.device) -> list[Protection]:
    """Other trained protectors to set beside, such as another codec or width.

    Args:
        named: ``NAME=CHECKPOINT`` each.
        size: side of the crops that they must protect.
        device: to compute on.

    Raises:
        MinusfaceError: no name or no checkpoint, or one for crops of another size.
    """
    found: list[Protection] = []
    for one in named:
        name, equals, path = one.partition("=")
        if not (name and equals and path):
            raise MinusfaceError(f"--beside {one}: expected NAME=CHECKPOINT")
        loaded = MinusFace.load(Path(path), device)
        if loaded.protector.codec_config.size != size:
            raise MinusfaceError(
                f"--beside {path}: made for crops of {loaded.protector.codec_config.size} pixels, "
                f"expected {size}"
            )
        loaded.name = f"minusface-{name}"
        found.append(loaded)
    return found

"""What every protection offers an audit, and three simple ones that attacks are tried on.

Legend: B batch, V draws of an image (views), n images a crop, N side of a crop, F channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from minusface.errors import MinusfaceError


@dataclass(frozen=True)
class Card:
    """Where a published protection comes from, and how far this one can stand for it."""

    source: str
    """The paper."""
    took: str
    """What was taken from it."""
    guessed: str
    """What it leaves open, or what was done otherwise here."""
    bytes_sent: int
    """For an image of 112 x 112 pixels, a byte a value, not compressed."""
    training: str = "none"
    """What must be learned before it can protect."""


def bytes_of(images: int, size: int = 112) -> int:
    """Bytes of ``images`` images of three channels."""
    return 3 * images * size * size


@runtime_checkable
class Carded(Protocol):
    """A protection that says where it comes from."""

    card: Card


@runtime_checkable
class Fitted(Protocol):
    """A protection that must see some crops before it can protect."""

    def fit(self, crops: Tensor) -> None:
        """Learn from crops (B, 3, N, N) in [-1, 1] that are not those under test."""
        ...


class Pupil(nn.Module):
    """What a protection learns of itself, and the recogniser it learns it with."""

    beside: Tensor | None = None
    """A loss of the last call besides that of its embeddings, where there is one."""

    def forward(self, crops: Tensor, random: torch.Generator) -> list[Tensor]:
        """Embed crops as the server would see them.

        Args:
            crops: (B, 3, N, N) in [-1, 1].
            random: a CPU generator for whatever is random.

        Returns:
            Raw embeddings (B, D) to be taught, the server's last.
        """
        raise NotImplementedError


class Protection(Protocol):
    """Turns crops into what leaves the client."""

    name: str
    """For tables and file names."""
    images: int
    """n, how many protected images a crop becomes."""

    def protect(self, crops: Tensor, random: torch.Generator) -> Tensor:
        """Protect crops.

        Args:
            crops: (B, 3, N, N) floats in [-1, 1], RGB, on the device of the protection.
            random: a CPU generator; whatever is random comes from it.

        Returns:
            (B, 3n, N, N) floats in [0, 1].
        """
        ...

    def fingerprint(self) -> str:
        """Changes when the protection does: findings of another one are not taken for this one's."""
        ...


@runtime_checkable
class Taught(Protection, Protocol):
    """A protection of which a part is learned together with a recogniser, before it can protect."""

    def pupil(self, crops: Tensor, embedding_size: int) -> Pupil:
        """What is to be taught.

        Args:
            crops: (M, 3, N, N) in [-1, 1], not those under test.
            embedding_size: D, of the teacher.
        """
        ...

    def learn(self, pupil: Pupil) -> None:
        """Take over what a pupil of its own has learned."""
        ...


class Views(NamedTuple):
    """Protected images and, of a protection that has them, their permutations."""

    protected: Tensor
    """(V, B, 3n, N, N) in [0, 1]; without V where one draw is meant."""
    permutation: Tensor | None = None
    """(V, B, n, F) int64; likewise."""

    def view(self, number: int) -> Views:
        """One draw."""
        order = None if self.permutation is None else self.permutation[number]
        return Views(self.protected[number], order)

    def take(self, places: Tensor | slice) -> Views:
        """Some images of a single draw."""
        order = None if self.permutation is None else self.permutation[places]
        return Views(self.protected[places], order)


class Opened(NamedTuple):
    """What a protection drew and hid, for attackers that are granted it."""

    protected: Tensor
    """(B, 3n, N, N) in [0, 1]."""
    permutation: Tensor
    """(B, n, F) int64."""
    residue: Tensor
    """(B, F, N, N), what was shuffled."""


@runtime_checkable
class Openable(Protocol):
    """A protection with a permutation inside, which a client or its designer could tell."""

    def open(self, crops: Tensor, random: torch.Generator) -> Opened:
        """As :meth:`Protection.protect`, with what is usually hidden."""
        ...

    def undo(self, protected: Tensor, permutation: Tensor) -> Tensor:
        """The best linear guess at the residue, (B, F, N, N), from images and their permutation."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Frequency channels (B, F, N, N) of images (B, 3, N, N) in [-1, 1]."""
        ...

    def decode(self, features: Tensor) -> Tensor:
        """Their images, (B, 3, N, N) in [0, 1]."""
        ...


@runtime_checkable
class Repeating(Protocol):
    """A protection that protects a crop several times for less than several times the cost."""

    def views(self, crops: Tensor, random: torch.Generator, count: int) -> Views:
        """``count`` independent draws."""
        ...

    def mean_of(self, crops: Tensor, random: torch.Generator, count: int) -> Tensor:
        """(B, 3n, N, N), the mean of ``count`` independent draws."""
        ...


def views_of(protection: Protection, crops: Tensor, random: torch.Generator, count: int) -> Views:
    """``count`` independent draws of protected images."""
    if isinstance(protection, Repeating):
        return protection.views(crops, random, count)
    return Views(torch.stack([protection.protect(crops, random) for _ in range(count)]))


def mean_of(protection: Protection, crops: Tensor, random: torch.Generator, count: int) -> Tensor:
    """The mean of ``count`` independent draws, (B, 3n, N, N): what averaging shows an attacker."""
    if isinstance(protection, Repeating):
        return protection.mean_of(crops, random, count)
    total = torch.zeros(())
    for _ in range(count):
        total = total + protection.protect(crops, random)
    return total / count


class Unprotected:
    """The crop itself: every attack must succeed here, or it proves nothing elsewhere."""

    name = "unprotected"
    images = 1

    def protect(self, crops: Tensor, random: torch.Generator) -> Tensor:
        """See :class:`Protection`."""
        return (crops + 1) / 2

    def fingerprint(self) -> str:
        """See :class:`Protection`."""
        return self.name


class Pixelation:
    """Squares of ``block`` pixels, each of its mean colour.

    Raises:
        MinusfaceError: a block of fewer than 2 pixels.
    """

    name = "pixelation"
    images = 1

    def __init__(self, block: int = 8) -> None:
        if block < 2:
            raise MinusfaceError(f"pixelation: block of {block} pixels, expected 2 or more")
        self.block = block

    def protect(self, crops: Tensor, random: torch.Generator) -> Tensor:
        """See :class:`Protection`."""
        means = nnf.avg_pool2d((crops + 1) / 2, self.block, ceil_mode=True, count_include_pad=False)
        wide = means.repeat_interleave(self.block, -1).repeat_interleave(self.block, -2)
        return wide[..., : crops.shape[-2], : crops.shape[-1]].contiguous()

    def fingerprint(self) -> str:
        """See :class:`Protection`."""
        return f"{self.name} {self.block}"


class Blur:
    """A Gaussian blur.

    Args:
        sigma: standard deviation in pixels.

    Raises:
        MinusfaceError: sigma is not above 0.
    """

    name = "blur"
    images = 1

    def __init__(self, sigma: float = 4.0) -> None:
        if not sigma > 0:
            raise MinusfaceError(f"blur: sigma {sigma}, expected above 0")
        self.sigma = sigma
        reach = round(3 * sigma)
        positions = torch.arange(-reach, reach + 1, dtype=torch.float32)
        weights = torch.exp(-0.5 * (positions / sigma).square())
        self._weights = weights / weights.sum()

    def protect(self, crops: Tensor, random: torch.Generator) -> Tensor:
        """See :class:`Protection`."""
        weights = self._weights.to(crops)
        reach = len(weights) // 2
        flat = ((crops + 1) / 2).flatten(0, 1)[:, None]
        # Mirrored at the border, which would darken otherwise; small images allow a shorter mirror only.
        mode = "reflect" if reach < min(flat.shape[-2:]) else "replicate"
        wide = nnf.pad(flat, (reach,) * 4, mode=mode)
        rows = nnf.conv2d(wide, weights.view(1, 1, 1, -1))
        both = nnf.conv2d(rows, weights.view(1, 1, -1, 1))
        return both.view_as(crops).clamp(0, 1)

    def fingerprint(self) -> str:
        """See :class:`Protection`."""
        return f"{self.name} {self.sigma:g}"

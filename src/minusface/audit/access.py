"""What an attacker may do, declared by each attack and granted by each target.

Legend: B batch, n images a crop, N side of a crop, D embedding.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor

from minusface.errors import MinusfaceError
from minusface.peers.base import Openable, Protection
from minusface.recognize import Recognizer

BATCH = (
    16  # images computed at once: their 192 channels in float32 take 10 MB each, several times over
)


class Access(enum.Flag):
    """Kinds of access; an attack needs some, a target grants some."""

    IMAGES = enum.auto()
    """Sees protected images, as a server does."""
    QUERY = enum.auto()
    """May have photos of its own protected, as anybody with the client can."""
    PERMUTATIONS = enum.auto()
    """Is told the permutation of each image, which a leaking client would."""
    GENERATOR = enum.auto()
    """Holds the generator's weights, which every client does."""
    RECOGNIZER = enum.auto()
    """Holds the recogniser of protected images, as the server does."""


WORDS = {
    Access.IMAGES: "sees protected images",
    Access.QUERY: "may query the protector",
    Access.PERMUTATIONS: "knows each image's permutation",
    Access.GENERATOR: "holds the generator's weights",
    Access.RECOGNIZER: "holds the recogniser",
}


def words(access: Access) -> str:
    """In words, for the report."""
    return ", ".join(text for kind, text in WORDS.items() if kind in access)


@dataclass(frozen=True)
class Target:
    """A protection under audit and, where there is one, the service that recognises its images."""

    protection: Protection
    recognizer: Recognizer | None = None

    @property
    def name(self) -> str:
        """The protection's."""
        return self.protection.name

    @property
    def grants(self) -> Access:
        """Everything that this target could give away."""
        given = Access.IMAGES | Access.QUERY
        if isinstance(self.protection, Openable):
            given |= Access.PERMUTATIONS | Access.GENERATOR
        if self.recognizer is not None:
            given |= Access.RECOGNIZER
        return given

    def admit(self, attack: str, needs: Access) -> None:
        """Refuse an attack that needs what there is not.

        Raises:
            MinusfaceError: naming what is missing.
        """
        missing = needs & ~self.grants
        if missing:
            raise MinusfaceError(
                f"{attack}: an attacker that {words(missing)}; {self.name} has nothing of the kind"
            )

    @property
    def opened(self) -> Openable:
        """The protection, for attackers that are granted its inside."""
        assert isinstance(self.protection, Openable), "admit() comes first"
        return self.protection

    @torch.no_grad()
    def templates(self, protected: Tensor) -> Tensor:
        """The service's templates of protected images (B, 3n, N, N): (B, D) unit rows."""
        assert self.recognizer is not None, "admit() comes first"
        # A service computes in float32, whatever an attacker's training runs in.
        with torch.autocast(protected.device.type, enabled=False):
            rows = [self.recognizer(part).float() for part in torch.split(protected, BATCH)]
        return nnf.normalize(torch.cat(rows), dim=1)


def seeded(*numbers: int | str) -> torch.Generator:
    """A CPU generator that depends on all of these, and on nothing else."""
    import hashlib

    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))

"""The protections that an audit can set beside the one under audit, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from minusface.errors import choice_error
from minusface.peers.base import Blur, Carded, Pixelation, Protection
from minusface.peers.dctdp import DctDp
from minusface.peers.duetface import DuetFace
from minusface.peers.instahide import InstaHide
from minusface.peers.ldp_slicing import LdpSlicing
from minusface.peers.partialface import PartialFace
from minusface.peers.peep import Peep
from minusface.peers.ppfr_fd import PpfrFd
from minusface.peers.proface import ProFace

PEERS: dict[str, Callable[[], Protection]] = {
    "pixelation": Pixelation,
    "blur": Blur,
    "partialface": PartialFace,
    "ppfr-fd": PpfrFd,
    "dctdp": DctDp,
    "peep": Peep,
    "ldp-slicing": LdpSlicing,
    "duetface": DuetFace,
    "proface": ProFace,
    "instahide": InstaHide,
}
SIMPLE = ("pixelation", "blur")
"""What an audit takes by default: the others send many channels and take their time."""


def peers_of(names: Sequence[str]) -> list[Protection]:
    """Protections beside the one under audit, by name.

    Raises:
        MinusfaceError: an unknown name.
    """
    for name in names:
        if name not in PEERS:
            raise choice_error("peer", name, [*PEERS, "all", "none"])
    return [PEERS[name]() for name in names]


def cards() -> str:
    """What is known of each, for people to read."""
    lines = []
    for name, make in PEERS.items():
        peer = make()
        if not isinstance(peer, Carded):
            lines.append(f"{name}\n  {(type(peer).__doc__ or '').splitlines()[0]}")
            continue
        card = peer.card
        lines.append(
            f"{name}\n  source    {card.source}\n  took      {card.took}\n  guessed   {card.guessed}\n"
            f"  sends     {card.bytes_sent:,} bytes an image\n  training  {card.training}"
        )
    return "\n".join(lines)

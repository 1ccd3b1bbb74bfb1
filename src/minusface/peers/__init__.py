"""Protections behind one interface, so that the same attackers meet them all."""

from minusface.peers.base import (
    Blur,
    Openable,
    Opened,
    Pixelation,
    Protection,
    Unprotected,
    Views,
    views_of,
)
from minusface.peers.dctdp import DctDp
from minusface.peers.duetface import DuetFace
from minusface.peers.instahide import InstaHide
from minusface.peers.ldp_slicing import LdpSlicing
from minusface.peers.minusface import MinusFace
from minusface.peers.partialface import PartialFace
from minusface.peers.peep import Peep
from minusface.peers.ppfr_fd import PpfrFd
from minusface.peers.proface import ProFace

__all__ = [
    "Blur",
    "DctDp",
    "DuetFace",
    "InstaHide",
    "LdpSlicing",
    "MinusFace",
    "Openable",
    "Opened",
    "PartialFace",
    "Peep",
    "Pixelation",
    "PpfrFd",
    "ProFace",
    "Protection",
    "Unprotected",
    "Views",
    "views_of",
]

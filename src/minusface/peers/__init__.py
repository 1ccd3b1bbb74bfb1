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
from minusface.peers.minusface import MinusFace

__all__ = [
    "Blur",
    "MinusFace",
    "Openable",
    "Opened",
    "Pixelation",
    "Protection",
    "Unprotected",
    "Views",
    "views_of",
]

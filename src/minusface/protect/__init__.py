"""Crop to protected image: codec, generator, shuffle, protector."""

from minusface.protect.codec import Codec, DCTCodec, DWTCodec, build_codec
from minusface.protect.generator import UNet, build_generator, rename_reference
from minusface.protect.protector import Protector, Residue
from minusface.protect.raw import RawCodec
from minusface.protect.secret import permutation_from_secret
from minusface.protect.shuffle import (
    draw_mask,
    draw_permutation,
    draw_permutation_from_entropy,
    mask_of_key,
    permutation_of_key,
)

__all__ = [
    "Codec",
    "DCTCodec",
    "DWTCodec",
    "Protector",
    "RawCodec",
    "Residue",
    "UNet",
    "build_codec",
    "build_generator",
    "draw_mask",
    "draw_permutation",
    "draw_permutation_from_entropy",
    "mask_of_key",
    "permutation_from_secret",
    "permutation_of_key",
    "rename_reference",
]

"""A protector's part of a card's ``model``, checked: cards come from other people's disks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from minusface.config import CodecConfig, GeneratorConfig
from minusface.errors import MinusfaceError

ConfigT = TypeVar("ConfigT", CodecConfig, GeneratorConfig)


def config_of(kind: type[ConfigT], model: Mapping[str, Any], part: str, where: str) -> ConfigT:
    """The config under ``part`` of a card's model.

    Raises:
        MinusfaceError: it is missing, or a field is unknown or of another type.
    """
    known = {field.name: type(field.default) for field in fields(kind)}
    found = model.get(part)
    if not isinstance(found, Mapping) or not set(found) <= set(known):
        given = sorted(map(str, found)) if isinstance(found, Mapping) else type(found).__name__
        raise MinusfaceError(f"{where}: {part} has {given}, expected {sorted(known)}")
    for name, value in found.items():
        if type(value) is not known[name]:
            raise MinusfaceError(
                f"{where}: {part}.{name} is {value!r}, expected {known[name].__name__}"
            )
    return kind(**found)


def copies_of(model: Mapping[str, Any], where: str) -> int:
    """How many images a crop is sent as: ``n_duplicate`` of a card's model.

    Raises:
        MinusfaceError: no whole number.
    """
    copies = model.get("n_duplicate", 1)
    if type(copies) is not int:
        raise MinusfaceError(f"{where}: n_duplicate is {copies!r}, expected int")
    return copies


def mask_spec(fraction: float | None) -> dict[str, Any]:
    """What a card's model says where channels are masked; nothing where they are shuffled."""
    return {} if fraction is None else {"obfuscation": "mask", "mask_fraction": fraction}


def mask_of(model: Mapping[str, Any], where: str) -> float | None:
    """Which part of the channels a card's model masks; None where it shuffles them.

    Raises:
        MinusfaceError: neither of the two, or no such part.
    """
    obfuscation = model.get("obfuscation", "shuffle")
    if obfuscation == "shuffle":
        return None
    fraction = model.get("mask_fraction")
    if obfuscation == "mask" and isinstance(fraction, int | float) and 0 <= fraction < 1:
        return float(fraction)
    raise MinusfaceError(
        f"{where}: obfuscation {obfuscation!r}, mask_fraction {fraction!r}; expected shuffle, "
        "or mask and a part of 1"
    )

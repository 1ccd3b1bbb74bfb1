"""A recogniser that begins from another's weights."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from minusface.errors import MinusfaceError
from minusface.recognize.recognizer import Recognizer, backbone_tensors
from minusface.recognize.unmix import PRODUCTS


def warm_start(recognizer: Recognizer, tensors: Mapping[str, Tensor]) -> list[str]:
    """Copy another recogniser's weights where the shapes agree; the others stay at their init.

    Meant for a first convolution with other input channels, or another embedding size. From ``unmixed`` to
    ``unmixed_wide`` the first convolution keeps what it knows, and weighs what is new by zero.

    Args:
        recognizer: changed in place.
        tensors: state dict of a :class:`Recognizer` or of its backbone.

    Returns:
        The backbone's names that were skipped.

    Raises:
        MinusfaceError: the names are another backbone's, or most shapes differ.
    """
    given = _widened(backbone_tensors(tensors), recognizer)
    own = recognizer.backbone.state_dict()
    odd = sorted(own.keys() ^ given.keys())
    if odd:
        raise MinusfaceError(
            f"warm start: weights of another backbone than {recognizer.config.backbone} "
            f"({len(odd)} names differ, {odd[0]} first)"
        )
    skipped = [name for name, tensor in given.items() if tensor.shape != own[name].shape]
    if len(skipped) > len(own) // 2:
        raise MinusfaceError(
            f"warm start: weights of another backbone than {recognizer.config.backbone} "
            f"({len(skipped)} of {len(own)} shapes differ)"
        )
    fitting = {name: tensor for name, tensor in given.items() if name not in set(skipped)}
    recognizer.backbone.load_state_dict({**own, **fitting})
    return skipped


def _widened(tensors: dict[str, Tensor], recognizer: Recognizer) -> dict[str, Tensor]:
    """With the first convolution of an ``unmixed`` recogniser as one for ``unmixed_wide``, if it is."""
    if recognizer.unmix is None or not recognizer.unmix.wide:
        return tensors
    own, images = recognizer.first.weight, recognizer.in_channels // 3
    name = next(n for n, p in recognizer.backbone.named_parameters() if p is own)
    narrow = tensors.get(name)
    if narrow is None or narrow.shape != (own.shape[0], images * len(PRODUCTS), *own.shape[2:]):
        return tensors
    sides = own.shape[2:]
    wide = narrow.new_zeros(len(own), images, own.shape[1] // images, *sides)
    wide[:, :, : len(PRODUCTS)] = narrow.view(len(own), images, len(PRODUCTS), *sides)
    return {**tensors, name: wide.flatten(1, 2)}

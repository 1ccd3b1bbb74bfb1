"""The mean of two recognisers' weights.

Two trainings that went on from the same weights end in one valley: between them lies a network that errs
less than either, as their mean embedding does, for the price of one.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from minusface.errors import MinusfaceError
from minusface.recognize.recognizer import COHORT, PREFIX


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are one: a pack keeps of a training's what half precision holds."""
    narrow = min(one.dtype, other.dtype, key=lambda dtype: dtype.itemsize)
    return bool((one.to(narrow) == other.to(narrow)).all())


def mean_of(
    mine: Mapping[str, Tensor], other: Mapping[str, Tensor], where: str
) -> dict[str, Tensor]:
    """A checkpoint's tensors with the recognisers' mean, without a cohort; counters are those of ``mine``.

    Args:
        mine: tensors by name.
        other: those of the same model, trained otherwise.
        where: what to call it in errors.

    Raises:
        MinusfaceError: other names or shapes, or something besides the recogniser that differs.
    """
    own, theirs = (
        {k: v for k, v in tensors.items() if not k.startswith(PREFIX + COHORT)}
        for tensors in (mine, other)
    )
    if own.keys() != theirs.keys() or any(own[k].shape != theirs[k].shape for k in own):
        raise MinusfaceError(f"{where}: other tensors, expected the same model")
    made: dict[str, Tensor] = {}
    for name, tensor in own.items():
        if name.startswith(PREFIX) and tensor.is_floating_point():
            made[name] = (tensor.float() + theirs[name].float()) / 2
            continue
        if not name.startswith(PREFIX) and not _same(tensor, theirs[name]):
            raise MinusfaceError(
                f"{where}: {name} differs, expected the same weights besides the recogniser's"
            )
        made[name] = tensor
    return made

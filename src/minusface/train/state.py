"""A run's state between steps, as named tensors: what a resumed run needs to go on unchanged."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from minusface.errors import MinusfaceError


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's moments as ``optimizer.<parameter number>.<name>``."""
    tensors = {}
    for number, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if value is not None:
                tensors[f"optimizer.{number}.{name}"] = torch.as_tensor(value)
    return tensors


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], where: str
) -> None:
    """Put moments back. Learning rates are the schedule's and come from the step.

    Raises:
        MinusfaceError: moments of other parameters.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".")
            state.setdefault(int(number), {})[key] = tensor
    whole = optimizer.state_dict()
    count = sum(len(group["params"]) for group in whole["param_groups"])
    if state and max(state) >= count:
        raise MinusfaceError(
            f"{where}: optimiser state of {max(state) + 1} tensors, expected {count}"
        )
    shapes = [p.shape for group in optimizer.param_groups for p in group["params"]]
    for index, values in state.items():
        for key, value in values.items():
            if value.ndim and value.shape != shapes[index]:
                raise MinusfaceError(f"{where}: {key} of parameter {index} has another shape")
    whole["state"] = state
    optimizer.load_state_dict(whole)

"""Weights by rule, so that outputs can be compared without shipping a checkpoint."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

PRELU = ("input_layer.2.weight", "res_layer.3")


def by_rule(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """A tensor a name: seeded with the name's CRC-32, scaled by the size of one output filter."""
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
        elif len(shape) > 1:
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            values = torch.randn(tuple(shape), generator=generator)
            state[name] = values * math.sqrt(2 / math.prod(shape[1:]))
        elif name.endswith(("running_mean", ".bias")):
            state[name] = torch.zeros(tuple(shape))
        elif any(part in name for part in PRELU):
            state[name] = torch.full(tuple(shape), 0.25)
        else:
            state[name] = torch.ones(tuple(shape))
    return state

"""Counted work of a computation: floating-point operations by type, and bytes that must cross memory.

torch's own counter takes the weight gradient of a grouped convolution for that of a dense one: 64 to 512
times too much for depthwise layers. Here groups are counted as such.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
PRODUCTS = {
    aten.mm.default: (0, 1),
    aten.addmm.default: (1, 2),
    aten.bmm.default: (0, 1),
    aten.baddbmm.default: (1, 2),
    aten.baddbmm_.default: (1, 2),
}


@dataclass
class Work:
    """What a part of a step asks for."""

    flops: dict[torch.dtype, float] = field(default_factory=lambda: defaultdict(float))
    bytes: float = 0.0


class Counter(TorchDispatchMode):
    """Counts work under the name that ``part`` gives when an operation is called.

    Operations: convolutions and matrix products, two a multiplication and addition. Bytes: within a part each
    tensor crosses once, when it is made or first read; what is read again may be in a cache. So both are
    floors of the operations as they are, not of what fusing them would need.

    Args:
        part: names the part of the step that is running.
    """

    def __init__(self, part: Callable[[], str] = lambda: "all") -> None:
        super().__init__()
        self.part, self.now = part, ""
        self.work: dict[str, Work] = defaultdict(Work)
        self.touched: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        name = self.part()
        if name != self.now:
            self.now, self.touched = name, set()
        work = self.work[name]
        flops = operations(function, args, result)
        if flops:
            work.flops[_tensors(args)[0].dtype] += flops
        given = {_key(t): t for t in _tensors([args, kwargs])}
        made = {_key(t): t for t in _tensors(result)}
        for key, tensor in {**given, **made}.items():
            fresh = key not in given
            # Memory that was freed and taken anew is another tensor.
            if fresh or key not in self.touched:
                self.touched.add(key)
                work.bytes += tensor.untyped_storage().nbytes()
        return result


def operations(function: Any, args: Any, result: Any) -> float:
    """Floating-point operations of a call; 0 for what is neither a convolution nor a matrix product."""
    if function in PRODUCTS:
        first, second = (args[i] for i in PRODUCTS[function])
        return 2.0 * first.numel() * second.shape[-1]
    if function is aten.convolution.default:
        weight, transposed = args[1], args[6]
        # Each place of the larger map's smaller side meets a filter of (channels / groups) x kernel.
        places = args[0] if transposed else result
        return 2.0 * places.shape[0] * math.prod(places.shape[2:]) * weight.numel()
    if function is aten.convolution_backward.default:
        grad, x, weight, transposed, wanted = args[0], args[1], args[2], args[7], args[10]
        places = x if transposed else grad
        one = 2.0 * places.shape[0] * math.prod(places.shape[2:]) * weight.numel()
        return one * (bool(wanted[0]) + bool(wanted[1]))
    return 0.0


def _tensors(values: Any) -> list[Tensor]:
    """All tensors in nested lists, tuples and dictionaries."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, (list, tuple)):
        return [tensor for value in values for tensor in _tensors(value)]
    return []


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def best_seconds(function: Callable[[], object], device: torch.device, repeats: int = 20) -> float:
    """The fastest of some calls."""
    seconds = []
    for _ in range(repeats):
        synchronise(device)
        start = time.perf_counter()
        function()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def product_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Floating-point operations a second: the better of a 3x3 convolution and a matrix product."""
    maps, filters = (torch.rand(s, device=device) for s in ((8, 256, 28, 28), (256, 256, 3, 3)))
    maps, filters = (t.to(dtype, memory_format=torch.channels_last) for t in (maps, filters))
    square = torch.rand(1024, 1024, device=device).to(dtype)
    convolved = best_seconds(lambda: torch.conv2d(maps, filters, padding=1), device)
    multiplied = best_seconds(lambda: square @ square, device)
    return max(2.0 * 8 * 28 * 28 * filters.numel() / convolved, 2.0 * 1024**3 / multiplied)


def copy_rate(device: torch.device, size: int = 1 << 28) -> float:
    """Bytes a second, read and written together, between two buffers in use that no cache holds."""
    source = torch.ones(size // 4, device=device)
    target = torch.zeros_like(source)
    times = [best_seconds(lambda: target.copy_(source), device, 1) for _ in range(9)]
    return 2 * source.nbytes / statistics.median(times[1:])

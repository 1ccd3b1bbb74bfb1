"""What processes that train together tell each other, with gradients. In one process nothing happens.

The convention: a loss is one number that every process holds. Each process computes the gradient of that
number by what it holds itself (its samples, its class centres), and gradients of what all hold alike
are summed. So neither losses nor gradients depend on the number of processes.

Legend: b samples of one process, B of all of them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if size() > 1 else 0


def share_of(count: int, number: int | None = None, parts: int | None = None) -> range:
    """Which of ``count`` things one process holds: consecutive ones, as evenly as they divide.

    Args:
        count: how many there are.
        number: of the process; this one by default.
        parts: processes; all by default.
    """
    number, parts = rank() if number is None else number, size() if parts is None else parts
    return range(count * number // parts, count * (number + 1) // parts)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        total = part.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # What follows the sum is computed alike everywhere, so each part has the sum's gradient.
        return grads[0]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        ctx.count = len(part)
        return gather_values(part)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        start = rank() * ctx.count
        return grads[0][start : start + ctx.count]


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, whole: Tensor) -> Tensor:
        return whole.view_as(whole)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def sum_over_processes(part: Tensor) -> Tensor:
    """The sum of all processes' tensors of one shape; what follows must be computed alike everywhere."""
    if size() == 1:
        return part
    result: Tensor = _Sum.apply(part)  # type: ignore[no-untyped-call]
    return result


def mean_over_processes(part: Tensor) -> Tensor:
    """The mean of all processes' tensors: of equal shares' means, the mean over the whole batch."""
    return part if size() == 1 else sum_over_processes(part / size())


def gather(part: Tensor) -> Tensor:
    """All processes' rows, (b, ...) to (B, ...), in the order of ranks.

    The gradient of the own rows comes back, which is whole where what follows is computed alike
    everywhere; see :func:`split_work` for what is not.
    """
    if size() == 1:
        return part
    result: Tensor = _Gather.apply(part)  # type: ignore[no-untyped-call]
    return result


def split_work(whole: Tensor) -> Tensor:
    """What all hold alike, before each process uses it for work of its own; the same tensor.

    Its gradient is the sum of what the processes' shares of the work give.
    """
    if size() == 1:
        return whole
    result: Tensor = _Split.apply(whole)  # type: ignore[no-untyped-call]
    return result


@torch.no_grad()
def gather_values(part: Tensor) -> Tensor:
    """:func:`gather` without gradients."""
    if size() == 1:
        return part
    part = part.detach().contiguous()
    parts = [torch.empty_like(part) for _ in range(size())]
    dist.all_gather(parts, part)
    return torch.cat(parts)


@torch.no_grad()
def max_over_processes(part: Tensor) -> Tensor:
    """The elementwise maximum of all processes' tensors, without gradients."""
    if size() == 1:
        return part.detach()
    most = part.detach().clone()
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return most


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether the flag is up anywhere; every process gets the same answer."""
    return bool(max_over_processes(torch.tensor(float(flag), device=device)))


def gather_words(words: list[str], device: torch.device) -> list[str]:
    """All processes' words, none with a newline in it, in the order of ranks.

    They may be names of files, of bytes that are no UTF-8.
    """
    data = "\n".join(words).encode("utf-8", "surrogateescape")
    counts = gather_values(torch.tensor([len(data)], device=device)).tolist()
    padded = torch.zeros(max(counts), dtype=torch.uint8, device=device)
    padded[: len(data)] = torch.tensor(list(data), dtype=torch.uint8)
    rows = gather_values(padded[None]).cpu()
    found = [
        bytes(row[:count].tolist()).decode("utf-8", "surrogateescape")
        for row, count in zip(rows, counts, strict=True)
    ]
    return [word for text in found if text for word in text.split("\n")]

"""Draws for a whole batch of which this process holds only some samples.

What is drawn for a sample then depends on the seed alone, not on how many processes share the batch.
Legend: b samples of this process, B of the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn


@dataclass(frozen=True)
class Share:
    """Which samples of the whole batch this process holds."""

    rows: Tensor
    """(b,) int64, on the CPU: their numbers in the whole batch."""
    total: int
    """B."""

    @classmethod
    def whole(cls, count: int) -> Share:
        """All of a batch."""
        return cls(torch.arange(count), count)

    def of(self, drawn: Tensor) -> Tensor:
        """(B, ...) to this process's (b, ...)."""
        return drawn if len(self.rows) == self.total else drawn[self.rows]


_CURRENT: ContextVar[tuple[Share, int] | None] = ContextVar("share", default=None)


@contextmanager
def sharing(share: Share | None, views: int = 1) -> Iterator[None]:
    """Layers that draw, within this, draw for the whole batch.

    Args:
        share: of the batch; None draws for what there is.
        views: how often each sample is in it, view after view.
    """
    token = _CURRENT.set(None if share is None else (share, views))
    try:
        yield
    finally:
        _CURRENT.reset(token)


class Dropout(nn.Dropout):
    """``nn.Dropout`` whose mask does not depend on the number of processes: see :func:`sharing`."""

    def forward(self, input: Tensor) -> Tensor:
        """(views * b, ...) to the same."""
        current = _CURRENT.get()
        if current is None or not self.training or len(current[0].rows) == current[0].total:
            return super().forward(input)
        share, views = current
        # The layout too: masks are drawn in the order of memory.
        ones = torch.empty(views * share.total, *input.shape[1:], dtype=input.dtype)
        if input.is_contiguous(memory_format=torch.contiguous_format):
            layout = torch.contiguous_format
        else:
            layout = torch.channels_last
        ones = ones.to(input.device, memory_format=layout).fill_(1.0)
        mask: Tensor = nnf.dropout(ones, self.p).reshape(views, share.total, *input.shape[1:])
        rows = share.rows.to(input.device)
        return input * mask[:, rows].flatten(0, 1)

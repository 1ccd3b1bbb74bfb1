"""Activations that are computed again in the backward pass instead of being kept: time for memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(owner: nn.Module, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """``function(*inputs)``, keeping only its inputs for the backward pass.

    The function must be free of random draws. Batch norms in ``owner`` take up the statistics of the
    first pass only, so that a run ends in the same weights and statistics with and without.

    Args:
        owner: the module whose layers the function runs.
        function: of tensors, to one tensor.
        inputs: its arguments.
    """
    if not torch.is_grad_enabled():
        return function(*inputs)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _frozen_statistics(owner)

    result = checkpoint(
        function, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
    )
    return cast(Tensor, result)


@contextmanager
def _frozen_statistics(owner: nn.Module) -> Iterator[None]:
    """Batch norms normalise with the batch's statistics, but remember nothing of it."""
    norms = [layer for layer in owner.modules() if isinstance(layer, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.training and norm.num_batches_tracked is not None:
                norm.num_batches_tracked -= 1

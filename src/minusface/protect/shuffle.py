"""Drawing what hides the residue: permutations, and the channel masks of the paper's ablation.

Drawing is apart from protecting, which is deterministic given its arguments: training and evaluation draw
from a seed, a client from the operating system's entropy. Legend: B batch, F channels.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from minusface.errors import MinusfaceError


def draw_permutation(batch: int, channels: int, generator: torch.Generator) -> Tensor:
    """A permutation a sample, uniform, seeded: (B, F) int64 (paper section 3.4)."""
    keys = torch.rand(batch, channels, generator=generator, dtype=torch.float64)
    return keys.argsort(dim=1)


def draw_permutation_from_entropy(batch: int, channels: int) -> Tensor:
    """A permutation a sample from the operating system's entropy, for clients: (B, F) int64.

    Sorting F independent 64-bit keys is uniform up to ties, of probability below F^2 / 2^65.
    """
    keys = np.frombuffer(os.urandom(8 * batch * channels), dtype=np.uint64)
    order = keys.reshape(batch, channels).argsort(axis=1, kind="stable")
    return torch.from_numpy(order.astype(np.int64))


def permutation_of_key(keys: Sequence[str], channels: int, seed: int, draw: int = 0) -> Tensor:
    """A permutation a name, the same whatever stands beside it in the batch: (B, F) int64.

    For evaluation: the numbers then do not depend on batch size or order.
    """
    rows = []
    for key in keys:
        # Names of files need not be UTF-8.
        said = f"{seed}/{draw}/{key}".encode("utf-8", "surrogateescape")
        digest = hashlib.sha256(said).digest()
        random = np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "little")))
        rows.append(random.permutation(channels))
    return torch.from_numpy(np.asarray(rows, dtype=np.int64).reshape(len(keys), channels))


def draw_mask(batch: int, channels: int, fraction: float, generator: torch.Generator) -> Tensor:
    """Which channels are kept when ``fraction`` of them is masked: (B, F) bool (paper's ablation).

    Raises:
        MinusfaceError: a fraction outside [0, 1).
    """
    return _kept(draw_permutation(batch, channels, generator), fraction)


def mask_of_key(
    keys: Sequence[str], channels: int, fraction: float, seed: int, draw: int = 0
) -> Tensor:
    """As :func:`draw_mask`, drawn as :func:`permutation_of_key` draws: a mask a name, (B, F) bool.

    Raises:
        MinusfaceError: a fraction outside [0, 1).
    """
    return _kept(permutation_of_key(keys, channels, seed, draw), fraction)


def _kept(order: Tensor, fraction: float) -> Tensor:
    if not 0 <= fraction < 1:
        raise MinusfaceError(f"mask fraction {fraction}: expected 0 <= fraction < 1")
    return order >= round(fraction * order.shape[1])


def check_permutation(permutation: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """What a caller gives as permutations, as (B, n, F) int64; or as a mask of bools.

    Args:
        permutation: (B, n, F), or (B, F) where n is 1, of any type of integers or bools.
        shape: (B, n, F), as expected.

    Raises:
        MinusfaceError: another shape or type, or a row that does not hold each channel once.
    """
    if permutation.ndim == 2 and shape[1] == 1:
        permutation = permutation[:, None]
    if tuple(permutation.shape) != shape:
        raise MinusfaceError(
            f"permutation: shape {tuple(permutation.shape)}, expected {shape} (batch, copies, channels)"
        )
    if permutation.dtype == torch.bool:
        return permutation
    if permutation.is_floating_point() or permutation.is_complex():
        raise MinusfaceError(f"permutation: {permutation.dtype}, expected integers")
    # Not every type of integers can be sorted and looked up by.
    permutation = permutation.to(torch.int64)
    every = torch.arange(shape[2], device=permutation.device)
    if not bool((permutation.sort(dim=-1).values == every).all()):
        raise MinusfaceError(f"permutation: a row does not hold each of 0..{shape[2] - 1} once")
    return permutation

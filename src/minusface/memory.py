"""Memory for large tensors on a CPU."""

from __future__ import annotations

import ctypes
import mmap
import sys
from functools import cache

import torch
from torch import Tensor

# Tensors of this many bytes and more are worth huge pages.
LARGE = 1 << 23
MADV_HUGEPAGE = 14
# glibc's mallopt(3).
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3


def empty_large(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An uninitialised CPU tensor, on huge pages where Linux grants them.

    The first touch of 4 KiB pages costs several times more than encoding into them; with 2 MiB pages
    the kernel is asked 512 times less.
    """
    tensor = torch.empty(shape, dtype=dtype)
    if tensor.nbytes >= LARGE and sys.platform == "linux":
        start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        length = tensor.data_ptr() + tensor.nbytes - start
        # Advice only: where the kernel declines, small pages serve.
        _libc().madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), MADV_HUGEPAGE)
    return tensor


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def keep_freed_memory() -> bool:
    """Let this process keep freed memory for its next tensors, where the C library is glibc.

    By default glibc hands large blocks back to the kernel and asks for them anew, page by page, at each
    operation; a training step spends more time in that than in arithmetic. Costs memory: the peak stays.

    Returns:
        True when the allocator took the settings.
    """
    settings = ((MMAP_THRESHOLD, 1 << 30), (TRIM_THRESHOLD, (1 << 31) - 1), (TOP_PAD, 1 << 26))
    return _tell_allocator(settings)


def return_freed_memory() -> bool:
    """The opposite: every block above 4 MiB goes back to the kernel when it is freed.

    What is free between blocks in use is then nobody's: a training step's peak falls by a third, for
    about a third more time. For runs that are short of memory.

    Returns:
        True when the allocator took the settings.
    """
    return _tell_allocator(((MMAP_THRESHOLD, 1 << 22), (TRIM_THRESHOLD, 1 << 20)))


def _tell_allocator(settings: tuple[tuple[int, int], ...]) -> bool:
    if sys.platform != "linux" or not hasattr(_libc(), "mallopt"):
        return False
    return all(_libc().mallopt(key, value) == 1 for key, value in settings)

"""Training with several processes: who they are, which device each has, what they hold in common.

``torchrun`` starts them and tells each its place in the environment. Networks are replicated, and their
gradients summed; class centres are spread (:mod:`minusface.recognize.sharded`); each process reads its part
of every batch. Losses do not depend on their number: see :mod:`minusface.collectives`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from minusface import collectives
from minusface.checkpoint import CARD
from minusface.errors import MinusfaceError
from minusface.train.tasks import Task

# The others wait while the first process evaluates or writes a checkpoint.
PATIENCE = timedelta(hours=4)
# How messages of a backend begin or what they hold when another process is gone.
LOST = ("gloo", "NCCL", "Connection", "connection", "socket")


def processes() -> int:
    """How many processes were started together, from torchrun's environment."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def attempts() -> int:
    """How often torchrun has started this process anew after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def restarted(out: str | Path) -> bool:
    """Whether torchrun started this process anew after a failure, and there is something to go on from."""
    return attempts() > 0 and (Path(out) / "last" / CARD).is_file()


def pick_device(name: str) -> torch.device:
    """The device of a config's ``device``, for this process.

    Raises:
        MinusfaceError: an unknown device, or one that is not here.
    """
    if name.split(":")[0] not in ("auto", "cpu", "cuda"):
        raise MinusfaceError(f"device {name!r}: expected auto, cpu or cuda")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise MinusfaceError(f"device {name!r}: expected auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise MinusfaceError(f"device {name!r}: no CUDA device is here (expected auto or cpu)")
    if device.type == "cuda" and processes() > 1:
        local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= count:
            raise MinusfaceError(
                f"process {local} of this machine: it has {count} CUDA devices; expected one a process"
            )
        return torch.device("cuda", local)
    return device


@contextmanager
def joined(device_name: str) -> Iterator[None]:
    """Within this, the processes that torchrun started train together; alone, nothing happens.

    Args:
        device_name: a config's ``device``: GPUs talk through NCCL, CPUs through gloo.

    Raises:
        MinusfaceError: the device is not here, or another process was lost.
    """
    if processes() == 1:
        yield
        return
    device = pick_device(device_name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        _meet("nccl" if device.type == "cuda" else "gloo")
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(word in str(error) for word in LOST):
            raise
        reason = str(error).splitlines()[0].strip()
        raise MinusfaceError(
            f"another process was lost ({reason}); --resume, or torchrun --max-restarts, goes on from "
            "the last save"
        ) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _meet(backend: str) -> None:
    """Find the other processes through torchrun's store.

    What processes of an earlier attempt left there would lead to their addresses, so each attempt has
    names of its own.
    """
    store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
    store = PrefixStore(f"minusface-{attempts()}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)


class _Parts(nn.Module):
    """Networks that are called through functions of the task's, which use them as they please."""

    def __init__(self, parts: nn.ModuleList) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, function: Any, *tensors: Tensor) -> Any:
        """``function(*tensors)``."""
        return function(*tensors)


def replicate(task: Task, device: torch.device) -> None:
    """Let a task's networks be trained by all processes alike, from the first one's weights.

    Gradients are summed, not averaged: each process's loss is already that of the whole batch.
    """
    if collectives.size() == 1:
        return
    ids = [device] if device.type == "cuda" else None
    network = DistributedDataParallel(_Parts(task.replicated()), device_ids=ids)
    # A remark on speed: 1x1 filters have strides that differ in name only.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    # Without annotations, which torch would compare with its own.
    network.register_comm_hook(None, lambda state, bucket: _sum_gradients(bucket))
    # In a function, so that it does not become a part of the task.
    task.through = lambda function, *tensors: network(function, *tensors)


def _sum_gradients(bucket: Any) -> torch.futures.Future[Tensor]:
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    summed: torch.futures.Future[Tensor] = work.get_future().then(lambda made: made.value()[0])
    return summed


def synchronise_norms(network: nn.Module) -> None:
    """Batch norms of a network take their statistics over all processes' samples."""
    if collectives.size() > 1:
        nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]

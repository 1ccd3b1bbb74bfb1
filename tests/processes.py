"""Several processes that train together, as torchrun starts them, for tests.

A server that has imported torch once forks them: they start at once, and clean of what the test did.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["minusface.train.run", "tests.processes"])
SECONDS = 120


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun tells a process."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def start(size: int, function: Callable[..., Any], *args: Any) -> tuple[list[BaseProcess], Any]:
    """Processes that call a function of a module, and the queue their results come by."""
    results, port = CONTEXT.Queue(), free_port()
    processes: list[BaseProcess] = []
    for rank in range(size):
        process = CONTEXT.Process(
            target=_child, args=(environment(rank, size, port), results, function, args)
        )
        process.start()
        processes.append(process)
    return processes, results


def together(size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """What a function of a module returns in each of ``size`` processes, in the order of ranks."""
    processes, results = start(size, function, *args)
    try:
        found = [results.get(timeout=SECONDS) for _ in processes]
    finally:
        for process in processes:
            process.join(5)
            process.kill()
    for _, error, _ in found:
        assert not error, error
    return [value for _, _, value in sorted(found, key=lambda result: result[0])]


def _child(
    variables: dict[str, str], results: Any, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    os.environ.update(variables)
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    from minusface.train.parallel import joined

    rank = int(variables["RANK"])
    try:
        with joined("cpu"):
            results.put((rank, "", function(*args)))
    except BaseException:
        results.put((rank, traceback.format_exc(), None))
        sys.exit(1)

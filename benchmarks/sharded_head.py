"""Memory of a margin head whose class centres are spread over processes, at growing numbers of people.

    python benchmarks/sharded_head.py [--classes 20000,40000,80000] [--processes 1,2] [--batch 64]
        [--size 512] [--sample-rate 1.0] [--device cpu] [--json FILE]

Each case runs in processes of its own: gloo on CPUs; on GPUs NCCL, one device a process. A row is the
process that needs most, above what it took before the head was made; the prediction is

    (C / N) x D x 4 bytes x (weight + momentum + gradient), and B x (C / N) x 4 bytes x the copies of the
    logits that the softmax keeps.

The last lines project to ten million people on eight GPUs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.common import machine  # noqa: E402

# Weight, momentum, gradient.
COPIES = 3
# Cosines, their clamp, scaled logits, logits without the true class, exponentials, and gradients of two.
LOGITS = 7
MIB = 2**20
PEOPLE, GPUS = 10_000_000, 8


def one(classes: int, options: argparse.Namespace) -> dict[str, float]:
    """Bytes that this process's part of a step takes, and the loss."""
    import torch

    from minusface import collectives
    from minusface.config import HeadConfig, OptimizerConfig
    from minusface.memory import return_freed_memory
    from minusface.recognize import build_head
    from minusface.recognize.sharded import draw_kept, sharded_loss
    from minusface.train.loop import peak_memory
    from minusface.train.parallel import joined, pick_device
    from minusface.train.schedule import build_optimizer

    torch.set_num_threads(1)
    return_freed_memory()
    with joined(options.device):
        device, random = pick_device(options.device), torch.Generator().manual_seed(0)
        each = options.batch // collectives.size()
        before = resident() if device.type == "cpu" else 0
        torch.manual_seed(0)
        shard = collectives.share_of(classes)
        head = build_head(HeadConfig(), options.size, classes, shard).to(device)
        optimizer = build_optimizer(OptimizerConfig("sgd"), {"head": list(head.parameters())})
        loss = torch.zeros(())
        for _ in range(2):
            embeddings = torch.randn(each, options.size, generator=random).to(device)
            embeddings.requires_grad_()
            labels = torch.randint(classes, (each,), generator=random).to(device)
            rate = options.sample_rate
            kept = draw_kept(shard, rate, random, device) if rate < 1 else None
            everyone, names = collectives.gather(embeddings), collectives.gather_values(labels)
            loss = sharded_loss(head, everyone, names, kept)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        taken = torch.tensor([float(peak_memory(device) - before)], device=device)
        most = float(collectives.max_over_processes(taken))
        return {"bytes": most, "loss": float(loss), "rank": collectives.rank()}


def resident() -> int:
    """Bytes this process has had at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def predicted(classes: int, processes: int, options: argparse.Namespace) -> dict[str, float]:
    """Bytes by what they are for, of one process."""
    share = -(-classes // processes)
    kept = share * options.sample_rate
    centres = share * options.size * 4.0
    sampled = kept * options.size * 4.0 * 2 if options.sample_rate < 1 else 0.0
    logits = options.batch * kept * 4.0 * LOGITS
    return {
        "weight": centres,
        "momentum": centres,
        "gradient": centres,
        "sampled": sampled,
        "logits": logits,
        "total": COPIES * centres + sampled + logits,
    }


def measure(classes: int, processes: int, argv: list[str]) -> dict[str, float]:
    """Run :func:`one` in fresh processes."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    started = []
    for rank in range(processes):
        variables = {
            **os.environ,
            **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)},
            **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"},
        }
        command = [sys.executable, __file__, *argv, "--one", str(classes)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=variables, **pipes))
    ended = [process.communicate() for process in started]
    for process, (_, error) in zip(started, ended, strict=True):
        if process.returncode:
            raise SystemExit(f"{classes} people on {processes} processes failed:\n{error}")
    found: dict[str, float] = json.loads(ended[0][0].splitlines()[-1])
    return found


def numbers(text: str) -> list[int]:
    """``1,2,4``."""
    return [int(part) for part in text.split(",")]


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--classes", type=numbers, default=[20_000, 40_000, 80_000, 160_000])
    parser.add_argument("--processes", type=numbers, default=[1, 2])
    parser.add_argument("--batch", type=int, default=64, help="of all processes together")
    parser.add_argument("--size", type=int, default=512, help="of an embedding")
    parser.add_argument("--sample-rate", type=float, default=1.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.one:
        print(json.dumps(one(options.one, options)))
        return
    rows: list[dict[str, Any]] = []
    print(f"{'people':>10}{'processes':>11}{'MiB a process':>15}{'predicted':>11}{'ratio':>7}")
    for classes in options.classes:
        for processes in options.processes:
            taken = measure(classes, processes, argv)["bytes"]
            expected = predicted(classes, processes, options)
            ratio = taken / expected["total"]
            rows.append({"people": classes, "processes": processes, "bytes": taken, **expected})
            shown = f"{taken / MIB:>15.0f}{expected['total'] / MIB:>11.0f}{ratio:>7.2f}"
            print(f"{classes:>10}{processes:>11}{shown}")
    far = predicted(PEOPLE, GPUS, options)
    print(f"{PEOPLE} people on {GPUS} GPUs, batch {options.batch}, GiB a GPU:")
    print("  " + ", ".join(f"{name} {value / 2**30:.2f}" for name, value in far.items()))
    if options.json:
        asked = {k: v for k, v in vars(options).items() if k not in ("json", "one")}
        table = {"options": asked, "machine": machine(), "rows": rows, "projection": far}
        options.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])

"""Milliseconds a crop of both halves: PyTorch, onnxruntime, and openvino where it is installed.

    python benchmarks/onnx.py [CHECKPOINT] [--threads 1,2] [--batch 1] [--only NAME] [--device cuda]

All of one thread count are timed in turn, so that a busy moment falls on all; --only times one alone. Beside
them stands a floor: the model's arithmetic at the rate of this machine's best convolution, measured in the
same run. --device is PyTorch's; with cuda, onnxruntime too uses it where its build can.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# In the place of this folder, where a module of this name would hide the package onnx.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from benchmarks.common import copy_bandwidth, interleaved, machine, median_ms
from benchmarks.floor import convolution_rate, count
from benchmarks.untrained import untrained_checkpoint

from minusface.config import Precision
from minusface.devices import multiplies_bfloat16
from minusface.export import export
from minusface.export.write import example
from minusface.memory import keep_freed_memory
from minusface.protect import Protector
from minusface.recognize import Recognizer
from minusface.types import ProtectedImage
from minusface.weights import resolve

Call = Callable[[], object]


def torch_calls(
    path: str, batch: int, device: str, precision: Precision = "float32"
) -> dict[str, Call]:
    protector = Protector.load(path, precision=precision).to(device)
    recognizer = Recognizer.load(path, precision).to(device)
    crop, order = example(protector, "client", batch)
    (protected,) = example(protector, "recognizer", batch)
    order, images = order.to(device), ProtectedImage(protected.to(device))

    def client() -> object:
        with torch.inference_mode():
            pixels = crop.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
            return protector(pixels, order).cpu()

    return {"client": client, "recognizer": lambda: recognizer.embed(images).vectors.cpu()}


def narrow_calls(path: str, batch: int, device: str) -> dict[str, dict[str, Call]]:
    """PyTorch in bfloat16, where the device multiplies it itself."""
    if not multiplies_bfloat16(device):
        print(f"this {device} multiplies no bfloat16: left out", file=sys.stderr)
        return {}
    return {"torch bf16": torch_calls(path, batch, device, "bfloat16")}


def onnxruntime_calls(
    out: Path, inputs: dict[str, dict[str, Any]], threads: int, device: str
) -> dict[str, Call]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = ["CUDAExecutionProvider"] if device == "cuda" else []
    providers = [p for p in providers if p in onnxruntime.get_available_providers()]
    calls: dict[str, Call] = {}
    for half, feeds in inputs.items():
        session = onnxruntime.InferenceSession(
            out / f"{half}.onnx", options, providers=[*providers, "CPUExecutionProvider"]
        )
        calls[half] = lambda session=session, feeds=feeds: session.run(None, feeds)
    return calls


def openvino_calls(out: Path, inputs: dict[str, dict[str, Any]], threads: int) -> dict[str, Call]:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    calls: dict[str, Call] = {}
    for half, feeds in inputs.items():
        model = core.compile_model(core.read_model(out / f"{half}.onnx"), "CPU", settings)
        calls[half] = lambda model=model, feeds=feeds: model(feeds)
    return calls


def differences(calls: dict[str, dict[str, Call]]) -> dict[str, float]:
    """From PyTorch, so that a fast wrong answer does not pass."""
    import numpy as np

    def array(result: object) -> Any:
        if isinstance(result, torch.Tensor):
            return result.numpy()
        return np.asarray(result[0])  # type: ignore[index]

    return {
        f"{name} {half}": float(np.abs(array(call()) - array(calls["torch"][half]())).max())
        for name, halves in calls.items()
        for half, call in halves.items()
    }


def timed(
    calls: dict[str, dict[str, Call]], only: str | None, threads: int, batch: int, repeats: int
) -> list[dict[str, Any]]:
    """One row a half and runtime, printed as they come."""
    found, rows = differences(calls), []
    chosen = {name: call for name, call in calls.items() if only in (None, name)}
    for half in ("client", "recognizer"):
        halves = {n: c[half] for n, c in chosen.items() if half in c}
        seconds = interleaved(halves, repeats, warmup=3)
        for name, some in seconds.items():
            row: dict[str, Any] = {"half": half, "runtime": name, "threads": threads}
            row |= {"batch": batch, "ms": median_ms(some, batch)}
            row |= {"best_ms": min(some) * 1000 / batch, "difference": found[f"{name} {half}"]}
            rows.append(row)
            print(
                f"{half:<11} {name:<12} {threads} threads  {row['ms']:6.1f} ms, best "
                f"{row['best_ms']:6.1f}  off by {row['difference']:.1e}",
                flush=True,
            )
    return rows


def floors(out: Path, threads: int, batch: int) -> list[dict[str, Any]]:
    """Least milliseconds a crop by this machine's rates, measured now."""
    rate, copy, rows = convolution_rate(threads), copy_bandwidth(64 << 20), []
    for half in ("client", "recognizer"):
        needs = count(out / f"{half}.onnx", batch)
        row: dict[str, Any] = {"half": half, "threads": threads, **needs}
        row |= {"gflop_per_s": rate, "gb_per_s": copy / 1e9}
        row |= {"arithmetic_ms": needs["gflop"] / rate * 1000 / batch}
        row |= {"memory_ms": needs["mb"] * 1e9 / copy / batch}
        rows.append(row)
        print(
            f"{half:<11} floor        {threads} threads  {row['arithmetic_ms']:6.1f} ms: "
            f"{needs['gflop']:.2f} GFLOP at {rate:.0f} GFLOP/s; {row['memory_ms']:.1f} ms if all of "
            f"{needs['mb']:.0f} MB went through memory ({copy / 1e9:.1f} GB/s)"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("checkpoint", nargs="?", help="by default an untrained one of width 16")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--only", help="time this runtime alone, its caches to itself")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    keep_freed_memory()
    rows: list[dict[str, Any]] = []
    least: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        given = options.checkpoint
        path = str(resolve(given) if given else untrained_checkpoint(out / "checkpoint"))
        export(path, out)
        crop, order = (t.numpy() for t in example(Protector.load(path), "client", options.batch))
        (protected,) = (
            t.numpy() for t in example(Protector.load(path), "recognizer", options.batch)
        )
        inputs = {
            "client": {"crop": crop, "permutation": order},
            "recognizer": {"protected": protected},
        }
        for threads in map(int, options.threads.split(",")):
            torch.set_num_threads(threads)
            calls = {
                "torch": torch_calls(path, options.batch, options.device),
                # Its recogniser alone is another: protected images are made in float32.
                **narrow_calls(path, options.batch, options.device),
                "onnxruntime": onnxruntime_calls(out, inputs, threads, options.device),
            }
            try:
                calls["openvino"] = openvino_calls(out, inputs, threads)
            except ImportError:
                print("openvino is not installed: left out", file=sys.stderr)
            rows += timed(calls, options.only, threads, options.batch, options.repeats)
            least += floors(out, threads, options.batch)
    if options.json:
        found = {"machine": machine(), "rows": rows, "floors": least}
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

"""The codec against the literal computation: encode, decode, shuffle and decode.

    python benchmarks/codec.py [--threads 2] [--batch 8] [--repeats 9] [--keep-memory]
        [--dtype float32|bfloat16] [--size 112] [--ratio 8] [--json FILE]

Literal: upsample, convert, cut into blocks, transform, and all the way back, in float32; see
tests/reference/codec.py. Both run in this one process, in turn; medians are compared.

The ratio depends on the allocator, so the table names it. By default glibc gives large blocks back to
the kernel, and the literal computation, which needs several as large as the upsampled features, spends
most of its time in page faults. That is how the reference runs. ``--keep-memory`` lets the process keep
freed memory for both sides, which helps the literal computation more than ours.

The floor is what memory alone would need: the bytes that must be read and written, over the bandwidth of
a copy between buffers in use, measured in the same run. Nothing is assumed to stay in a cache; where the
input does, a measurement can come out below its floor.

Threads wait briefly (see minusface.waiting, on both sides, unless the environment says otherwise):
where another process wants the same cores, threads that spin instead cost tens of milliseconds a
call, whatever is called.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from minusface.waiting import wait_briefly  # noqa: E402

# Before torch is loaded, which reads it.
wait_briefly()

import torch  # noqa: E402
from tests.reference import codec as literal  # noqa: E402
from torch import Tensor  # noqa: E402

from common import copy_bandwidth, interleaved, machine, median_ms  # noqa: E402
from minusface.memory import keep_freed_memory  # noqa: E402
from minusface.protect import DCTCodec, draw_permutation  # noqa: E402

OPERATIONS = ("encode", "decode", "shuffle_decode")
# Of the largest value: float32 sums in another order, bfloat16 rounds its inputs to 8 bits.
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}


class Case:
    """One operation, both ways, and the bytes it cannot do without."""

    def __init__(
        self, old: Callable[[], Tensor], new: Callable[[], Tensor], read: Tensor, scale: float
    ) -> None:
        self.old, self.new = old, new
        expected, result = old(), new()
        self.bytes = read.nbytes + result.nbytes
        self.difference = float((expected - result.float()).abs().max())
        self.relative = self.difference / scale


def build_cases(options: argparse.Namespace) -> dict[str, Case]:
    """The three operations on random crops."""
    random = torch.Generator().manual_seed(0)
    codec, ratio = DCTCodec(options.size, options.ratio), options.ratio
    dtype = getattr(torch, options.dtype)
    images = torch.rand(options.batch, 3, options.size, options.size, generator=random) * 2 - 1
    features = literal.encode(images, ratio)
    ours = features.to(dtype)
    order = draw_permutation(options.batch, codec.channels, random)
    scale = float(features.abs().max())
    return {
        "encode": Case(
            lambda: literal.encode(images, ratio),
            lambda: codec.encode(images, dtype),
            images,
            scale,
        ),
        "decode": Case(
            lambda: literal.decode(features, ratio), lambda: codec.decode(ours), ours, 1.0
        ),
        "shuffle_decode": Case(
            lambda: literal.decode(literal.shuffle(features, order), ratio),
            lambda: codec.decode(ours, order),
            ours,
            1.0,
        ),
    }


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (
        ("threads", 2),
        ("batch", 8),
        ("repeats", 9),
        ("size", 112),
        ("ratio", 8),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", choices=list(TOLERANCE), default="float32", help="of ours only")
    parser.add_argument("--keep-memory", action="store_true", help="keep freed memory, both sides")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(argv)


@torch.no_grad()
def main(argv: list[str]) -> None:
    options = parse(argv)
    torch.set_num_threads(options.threads)
    if options.keep_memory and not keep_freed_memory():
        raise SystemExit("--keep-memory: this C library's allocator cannot be told to")
    allocator = "keeps freed memory" if options.keep_memory else "C library's defaults"
    cases = build_cases(options)
    bandwidth = copy_bandwidth(cases["decode"].bytes)
    about = machine()
    print(f"{about['cpu']}, {options.threads} threads, torch {about['torch']}")
    print(
        f"batch {options.batch} of {options.size}x{options.size}, ratio {options.ratio}, literal "
        f"float32, ours {options.dtype}; allocator: {allocator}; copy {bandwidth / 1e9:.1f} GB/s"
    )
    head = ("literal ms", "ours ms", "ratio", "MB/image", "floor ms", "of floor", "max |diff|")
    print(f"{'per image':<16}" + "".join(f"{name:>12}" for name in head))
    result: dict[str, dict[str, float]] = {
        key: {} for key in ("ratio", "literal", "ours", "floor_ms", "floor_fraction", "difference")
    }
    for name, case in cases.items():
        seconds = interleaved({"literal": case.old, "ours": case.new}, options.repeats)
        old, new = (median_ms(seconds[side], options.batch) for side in ("literal", "ours"))
        floor = case.bytes / bandwidth * 1000 / options.batch
        values = (old / new, old, new, floor, floor / new, case.difference)
        for key, value in zip(result, values, strict=True):
            result[key][name] = value
        print(
            f"{name:<16}{old:>12.2f}{new:>12.3f}{old / new:>11.1f}x"
            f"{case.bytes / options.batch / 1e6:>12.2f}{floor:>12.3f}{floor / new:>11.0%}"
            f"{case.difference:>13.2g}"
        )
    if options.json:
        table = {
            **{key: value for key, value in result.items() if key not in ("literal", "ours")},
            "ms_per_image": {"literal": result["literal"], "ours": result["ours"]},
            "bytes": {name: case.bytes for name, case in cases.items()},
            "copy_bytes_per_second": bandwidth,
            "allocator": allocator,
            "threads_wait": {k: os.environ.get(k) for k in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")},
            "options": {k: v for k, v in vars(options).items() if k != "json"},
            "machine": about,
        }
        options.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    for name, case in cases.items():
        if not case.relative <= TOLERANCE[options.dtype]:
            raise SystemExit(f"{name}: results differ by {case.difference:.3g}")


if __name__ == "__main__":
    main(sys.argv[1:])

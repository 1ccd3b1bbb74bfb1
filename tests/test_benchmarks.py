"""Benchmarks start, find what they import, and run at sizes that take seconds; what they count is right."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks.counting import Counter
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "benchmarks").glob("*.py"))
SCRIPTS = [path for path in FILES if "__main__" in path.read_text(encoding="utf-8")]
TINY_STEP = "--batch 2 --threads 1 --width 2 --size 16 --views 2 --repeats 1 --backbone ir_lite"
TINY = {
    "codec": "--batch 1 --size 16 --ratio 2 --repeats 1 --threads 1",
    "step_floor": TINY_STEP,
    "features": TINY_STEP,
    "train_step stage1": f"{TINY_STEP} --one stage1/literal",
    "train_step stage2": f"{TINY_STEP} --one stage2/bfloat16",
    "train_step floor": f"{TINY_STEP} --one stage2/floor",
    "sharded_head": "--classes 64 --processes 1 --batch 4 --size 8",
}


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *arguments]
    source = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    variables = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=variables, check=False)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_it_imports_is_there(path: Path) -> None:
    """Within functions too, where a name that has moved would be missed only by who runs them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        if node.module.split(".")[0] not in ("minusface", "benchmarks", "tests"):
            continue
        try:
            module = importlib.import_module(node.module)
        except ModuleNotFoundError as error:
            if str(error.name).split(".")[0] in ("minusface", "benchmarks", "tests"):
                raise
            continue
        for alias in node.names:
            if not hasattr(module, alias.name):
                importlib.import_module(f"{node.module}.{alias.name}")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_it_answers_help(path: Path) -> None:
    said = run(path.stem, "--help")
    if "ModuleNotFoundError" in said.stderr and "named 'minusface" not in said.stderr:
        pytest.skip(said.stderr.splitlines()[-1])
    assert said.returncode == 0, said.stderr
    assert "--json" in said.stdout


@pytest.mark.parametrize("name", TINY)
def test_it_runs(name: str, tmp_path: Path) -> None:
    wanted = [] if "--one" in TINY[name] else ["--json", str(tmp_path / "table.json")]
    said = run(name.split()[0], *TINY[name].split(), *wanted)
    assert said.returncode == 0, said.stderr
    if wanted:
        table = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
        assert {"options", "machine"} <= table.keys()
    else:
        assert all(value >= 0 for value in json.loads(said.stdout.splitlines()[-1]).values())


@pytest.mark.parametrize(
    ("layer", "places"),
    [
        # Twice a filter's numbers at each of 2 x 16, 2 x 4 and 2 x 16 places; the last scatters its 2 x 16.
        (nn.Conv2d(8, 12, 3, padding=1, bias=False), 32),
        (nn.Conv2d(8, 8, 3, 2, 1, groups=8, bias=False), 8),
        (nn.Conv2d(8, 12, 1, groups=4, bias=False), 32),
        (nn.ConvTranspose2d(8, 4, 3, 2, 1, bias=False), 32),
    ],
    ids=["dense", "depthwise", "groups", "transposed"],
)
def test_operations_of_convolutions(layer: nn.Module, places: int) -> None:
    (weight,) = layer.parameters()
    x = torch.randn(2, 8, 4, 4, requires_grad=True)
    with Counter() as counter:
        y = layer(x)
    once = 2.0 * places * weight.numel()
    assert counter.work["all"].flops == {torch.float32: once}
    with Counter() as counter:
        y.sum().backward()
    assert counter.work["all"].flops == {torch.float32: 2 * once}


def test_operations_of_products_and_bytes_once_a_part() -> None:
    a, b = torch.randn(3, 5), torch.randn(5, 7)
    part = ["one"]
    with Counter(lambda: part[0]) as counter:
        c = a @ b
        c.mul_(2).add_(a.sum())
        part[0] = "two"
        c.sum()
    one, two = counter.work["one"], counter.work["two"]
    assert one.flops == {torch.float32: 2.0 * 3 * 5 * 7}
    assert one.bytes == 4 * (15 + 35 + 21 + 1)
    assert (dict(two.flops), two.bytes) == ({}, 4 * (21 + 1))

"""A small audit on drawn faces: 32 pixels, a hand-made recogniser, budgets of seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

from minusface.audit import scene as scenes
from minusface.audit.attack import Fit
from minusface.audit.bench import Bench
from minusface.audit.budget import Budget
from minusface.audit.finding import Finding
from minusface.audit.measures import Judge
from minusface.audit.ruler import Ruler
from minusface.audit.scene import Scene, open_scene
from minusface.config import CodecConfig, GeneratorConfig
from minusface.data import SyntheticFaces
from minusface.peers import MinusFace
from minusface.protect import Protector

SIZE = 32
FIT = Fit(steps=80, batch_size=16, lr=4e-3, validate_every=40)
TINY = Budget(
    name="tiny",
    thorough=True,
    train_images=240,
    validation_images=24,
    pairs=80,
    views=3,
    width=4,
    recovery=FIT,
    averages=(1, 16),
    averaging_images=60,
    averaging_pairs=40,
    averaging=replace(FIT, steps=20, validate_every=10),
    linkage=replace(FIT, steps=60, validate_every=20, lr=2e-3),
    linkage_images=(50, None),
    ruler=replace(FIT, steps=10),
    similar=24,
    detect=2,
    inversion_images=1,
    inversion_steps=30,
    attribute_images=80,
    attributes=replace(FIT, steps=60),
    decoder=replace(FIT, steps=30, validate_every=10),
)


def colours_ruler() -> Ruler:
    """Not a recogniser of faces, but of what drawn people keep: colours in a grid of 4 x 4."""

    def embed(crops: Tensor) -> Tensor:
        grid = nnf.adaptive_avg_pool2d(crops, 4).flatten(1)
        return grid - grid.mean(1, keepdim=True) + 1e-3

    return Ruler(embed, "colours in a grid", "colours")


def finding(attack: str, target: str, variant: str = "", **measures: float) -> Finding:
    """What an attack came to, as a test needs it."""
    return Finding(attack, target, "sees protected images", dict(measures), variant)


def write_distance(path: Path, over: str = "ReduceMean") -> None:
    """A model of two images: the mean of their absolute difference, or another operator's value of it."""
    import onnx
    from onnx import TensorProto, helper

    images = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["b", 3, "h", "w"]) for n in "xy"]
    nodes = [
        helper.make_node("Sub", ["x", "y"], ["d"]),
        helper.make_node("Abs", ["d"], ["a"]),
        helper.make_node(over, ["a", "axes"], ["m"], keepdims=0),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3])
    out = helper.make_tensor_value_info("m", TensorProto.FLOAT, ["b"])
    graph = helper.make_graph(nodes, "distance", images, [out], [axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)


@pytest.fixture(scope="session")
def scene() -> Scene:
    """People whose pictures differ little: colours then tell who they are."""

    def alike(data: str, people: str | None, size: int, seed: int) -> SyntheticFaces:
        return SyntheticFaces(60, 6, seed=seed, size=size, strength=0.15)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "open_faces", alike)
        return open_scene(
            "synthetic:60x6", SIZE, train_images=240, validation_images=24, pairs=80, seed=0
        )


@pytest.fixture(scope="session")
def protector() -> Protector:
    """Untrained: its residue is nearly the photo, and the permutation alone protects."""
    torch.manual_seed(0)
    return Protector(CodecConfig(size=SIZE), GeneratorConfig(2)).eval().requires_grad_(False)


@pytest.fixture
def minusface(protector: Protector) -> MinusFace:
    return MinusFace(protector)


@pytest.fixture
def make_bench(scene: Scene, tmp_path: Path) -> Callable[..., Bench]:
    ruler = colours_ruler()
    judge = Judge(scene, ruler, similar=TINY.similar)

    def make(budget: Budget = TINY, seed: int = 0, out: Path = tmp_path) -> Bench:
        return Bench(scene, ruler, judge, budget, out, seed)

    return make


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()

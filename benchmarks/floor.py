"""What a model needs at least: its arithmetic over the best convolution's rate, its bytes over a copy's."""

from __future__ import annotations

import math
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

import onnx
from onnx import TensorProto, helper


def count(path: Path, batch: int = 1) -> dict[str, float]:
    """GFLOP of a model's products and convolutions, MB that all of its nodes read and write.

    Nodes that depend on weights alone are left out: runtimes compute them once.
    """
    model = onnx.load(path)
    for entry in (*model.graph.input, *model.graph.output):
        entry.type.tensor_type.shape.dim[0].dim_value = batch
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    graph = model.graph
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    fixed = set(shapes)
    for value in (*graph.value_info, *graph.input, *graph.output):
        shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    flops = numbers = 0.0
    for node in graph.node:
        names = [name for name in node.input if name]
        if all(name in fixed for name in names):
            fixed.update(node.output)
            continue
        if node.op_type in ("Reshape", "Unsqueeze", "Squeeze", "Identity"):
            continue
        numbers += sum(math.prod(shapes.get(n, ())) for n in (*names, *node.output))
        flops += _flops(node, shapes)
    return {"gflop": flops / 1e9, "mb": numbers * 4 / 1e6}


def _flops(node: Any, shapes: dict[str, tuple[int, ...]]) -> float:
    out = math.prod(shapes.get(node.output[0], ()))
    if node.op_type == "MatMul":
        return 2.0 * out * shapes[node.input[0]][-1]
    if node.op_type == "Gemm":
        turned = any(a.name == "transA" and a.i for a in node.attribute)
        return 2.0 * out * shapes[node.input[0]][0 if turned else 1]
    if node.op_type == "Conv":
        return 2.0 * out * math.prod(shapes[node.input[1]][1:])
    if node.op_type == "ConvTranspose":
        return 2.0 * math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])
    return 0.0


def convolution_rate(threads: int, repeats: int = 15) -> float:
    """GFLOP/s of onnxruntime's best 3x3 convolution among a few shapes that stay in the cache."""
    import onnxruntime

    best = 0.0
    for channels, side in ((64, 28), (64, 56), (128, 28), (256, 14)):
        weight = np.ones((channels, channels, 3, 3), np.float32) / channels
        shape = [1, channels, side, side]
        nodes = []
        # Several in a row, so that changing the layout at the ends weighs little.
        for number in range(8):
            names = [f"x{number}", "w"], [f"x{number + 1}"]
            nodes.append(helper.make_node("Conv", *names, pads=[1, 1, 1, 1], kernel_shape=[3, 3]))
        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x0", "x8")]
        graph = helper.make_graph(
            nodes, "c", ends[:1], ends[1:], [onnx.numpy_helper.from_array(weight, "w")]
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        feeds = {"x0": np.ones(shape, np.float32)}
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            session.run(None, feeds)
            seconds.append(time.perf_counter() - start)
        flops = 8 * 2.0 * math.prod(shape) * channels * 9
        best = max(best, flops / statistics.median(seconds) / 1e9)
    return best

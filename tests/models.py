"""Small models for tests, made from scratch; each call gives a new one with the same weights."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def small_cnn(
    channels: tuple[int, int] = (8, 16),
    *,
    classes: int = 10,
    size: int = 8,
    batch: int | str = 1,
    prefix: str = "",
    opset: int = 17,
    seed: int = 0,
) -> onnx.ModelProto:
    """Conv, Relu, Conv, Relu, GlobalAveragePool, Flatten, Gemm.

    Args:
        channels: widths of the two convolutions.
        classes: width of the output.
        size: height and width of the input.
        batch: batch size; a name makes it dynamic.
        prefix: put before the name of every weight and node.
        opset: the opset.
        seed: of the weights.
    """
    rng = np.random.default_rng(seed)
    first, second = channels
    shapes = {
        "conv1.weight": (first, 3, 3, 3),
        "conv1.bias": (first,),
        "conv2.weight": (second, first, 3, 3),
        "conv2.bias": (second,),
        "fc.weight": (classes, second),
        "fc.bias": (classes,),
    }
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), prefix + name)
        for name, shape in shapes.items()
    ]

    def params(layer: str) -> list[str]:
        return [f"{prefix}{layer}.weight", f"{prefix}{layer}.bias"]

    pads = [1, 1, 1, 1]
    nodes = [
        helper.make_node("Conv", ["input", *params("conv1")], ["a"], prefix + "conv1", pads=pads),
        helper.make_node("Relu", ["a"], ["b"], prefix + "relu1"),
        helper.make_node("Conv", ["b", *params("conv2")], ["c"], prefix + "conv2", pads=pads),
        helper.make_node("Relu", ["c"], ["d"], prefix + "relu2"),
        helper.make_node("GlobalAveragePool", ["d"], ["e"], prefix + "pool"),
        helper.make_node("Flatten", ["e"], ["f"], prefix + "flatten"),
        helper.make_node("Gemm", ["f", *params("fc")], ["logits"], prefix + "fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small_cnn",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, classes])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)

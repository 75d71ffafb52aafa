"""Which factor of a product is cut depends on what rounding leaves of it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_prune


def grouped(groups: int, inside: int) -> onnx.ModelProto:
    """A grouped convolution of `groups` x `inside` channels between two plain ones, as in a RegNet."""
    width = groups * inside
    rng = np.random.default_rng(0)
    shapes = {"a": (width, 3, 1, 1), "b": (width, inside, 3, 3), "c": (5, width, 1, 1)}
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["p"]),
        helper.make_node("Conv", ["p", "b"], ["q"], group=groups, pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["q", "c"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, n, 6, 6])
        for name, n in (("x", 3), ("y", 5))
    ]
    graph = helper.make_graph(nodes, "grouped", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("groups", "inside", "kept"),
    [(55, 8, 28 * 8), (26, 8, 14 * 8), (2, 32, 32), (6, 8, 24)],
    ids=["groups, as 55 x k is never a multiple of 16", "groups", "inside", "either would do"],
)
def test_rounding_does_not_leave_a_grouped_layer_whole(groups: int, inside: int, kept: int) -> None:
    result = onnx_prune.prune(grouped(groups, inside), ratio=0.5, validate=False)
    assert result.model is not None
    [width] = {t.dims[0] for t in result.model.graph.initializer if t.name in "ab"}
    assert width == kept

"""Shape arithmetic and other small constants, computed ahead for analysis.

The model keeps its nodes: folding tells the rules what value an operand has.  A node folds when its
operands are small constants, or when it reads a Shape (never a value) of something.  The folded
nodes are one small model, run in onnxruntime for any assignment of shapes: before the cut at the
dynamic axes' two assignments, and after it to see which operands come out right by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from math import prod as product
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune.model.graph import Graph
from onnx_prune.model.nodes import Node
from onnx_prune.runtime import Session
from onnx_prune.shape.shapes import Shapes

Array = NDArray[Any]
SMALL, FEW = 64, 16  # elements of integers, and of others
_MOST = 1 << 20  # elements of a vector of integers: a Range of a few bytes may ask for terabytes
_INTEGERS = {
    onnx.TensorProto.BOOL,
    onnx.TensorProto.INT8,
    onnx.TensorProto.INT16,
    onnx.TensorProto.INT32,
    onnx.TensorProto.INT64,
    onnx.TensorProto.UINT8,
    onnx.TensorProto.UINT16,
    onnx.TensorProto.UINT32,
    onnx.TensorProto.UINT64,
}
# Nobody counts positions in these: more than one of them are quantized weights.
_NARROW = {
    onnx.TensorProto.INT8,
    onnx.TensorProto.INT16,
    onnx.TensorProto.UINT8,
    onnx.TensorProto.UINT16,
}
_RANDOM = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
    "Dropout",
}
# Floats that these repeat are no sizes but a tensor like any other: an initial state, a scale of ones.
_FILLS = {"ConstantOfShape", "Expand", "Tile"}


def is_random(node: Node) -> bool:
    """Whether a node may compute something else each time."""
    return node.op in _RANDOM


def small_integers(shape: tuple[int, ...], kind: int) -> bool:
    """Whether a constant is a scalar, a vector of integers or booleans, or a small table of them."""
    count = product(shape)
    return count == 1 or (kind in _INTEGERS and (len(shape) <= 1 or count <= SMALL))


def _few(shape: tuple[int, ...]) -> bool:
    """Whether numbers may be scales or borders, two a dim at most: more are a state that starts at zero."""
    return product(shape) <= FEW and sum(n > 1 for n in shape) <= 1


class Folded:
    """Which nodes fold, and what they compute for given shapes."""

    def __init__(self, graph: Graph, shapes: Shapes) -> None:
        self._graph = graph
        self.constants = {
            name
            for name, t in graph.weights.items()
            if small_integers(tuple(t.dims), t.data_type)
            and (t.data_type not in _NARROW or product(t.dims) == 1)
        }
        self.nodes: list[Node] = []
        self.names: set[str] = set()
        for node in graph.nodes:
            if node.op != "Constant" and self._folds(node, shapes):
                self.nodes.append(node)
                self.names.update(filter(None, node.outputs))

    def _folds(self, node: Node, shapes: Shapes) -> bool:
        if node.op in ("Shape", "Size"):
            return all(name in shapes.known for name in node.inputs)
        if node.domain or node.crossing or node.closed or is_random(node) or not any(node.inputs):
            return False
        if not all(not name or name in self.names or name in self.constants for name in node.inputs):
            return False
        for name in filter(None, node.outputs):
            shape = shapes.known.get(name)
            if shape is None or name not in shapes.types:
                return False
            if node.op == "DequantizeLinear" and product(shape) > 1:
                return False  # a weight, however small and integer its stored form is
            few = _few(shape) and node.op not in _FILLS
            if not few and not small_integers(shape, shapes.types[name]):
                return False
            if product(shape) > _MOST:
                return False
            if onnx.helper.tensor_dtype_to_np_dtype(shapes.types[name]).kind == "V":
                return False  # onnxruntime hands out no bfloat16, float8 or 4-bit integers
        return True

    @cached_property
    def _session(self) -> Session:
        model = onnx.ModelProto(ir_version=min(10, onnx.IR_VERSION))
        model.opset_import.extend(self._graph.model.opset_import)
        model.graph.name = "folded"
        used = {name for node in self.nodes for name in node.inputs if name}
        for name in sorted(used & self.constants):
            tensor = onnx.numpy_helper.from_array(np.array(self._graph.array(name)), name)
            model.graph.initializer.append(tensor)
        for node in self.nodes:
            if node.op in ("Shape", "Size"):
                rank = [None] if node.op == "Shape" else []
                info = onnx.helper.make_tensor_value_info(node.outputs[0], onnx.TensorProto.INT64, rank)
                model.graph.input.append(info)
            else:
                model.graph.node.append(node.proto)
                model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in node.outputs if n)
        return Session(model)

    def run(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
        """The value of every folded tensor when tensors have `shapes`."""
        values: dict[str, Array] = {}
        for node in self.nodes:
            if node.op in ("Shape", "Size"):
                shape = shapes[node.inputs[0]]
                if node.op == "Shape":
                    start, end = node.attrs.get("start", 0), node.attrs.get("end", len(shape))
                    values[node.outputs[0]] = np.array(shape[start:end], np.int64)
                else:
                    values[node.outputs[0]] = np.array(product(shape), np.int64)
        if len(values) < len(self.names):
            session = self._session
            values |= dict(zip(session.outputs, session.run(values), strict=True))
        return values

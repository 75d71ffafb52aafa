"""Where a layer keeps its bias, and how one without gets one."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune.calibration.linear import Linear, linear
from onnx_prune.model import tensors
from onnx_prune.model.graph import Graph
from onnx_prune.model.nodes import Node

Array = NDArray[Any]
_NODE = 64  # bytes of an Add without the names of tensors
_TENSOR = 48  # bytes of a vector without its numbers and name


class Biases:
    """The biases of a model's layers, read and written in place.

    Args:
        graph: the model.

    Attributes:
        after: new nodes by the position of the node that they come after; the caller puts them there.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph, self._model = graph, graph.model
        self.after: dict[int, list[onnx.NodeProto]] = {}

    def refusal(self, layer: Linear) -> str:
        """Why the layer's bias may not change, "" where it may."""
        name = _operand(layer.node, layer.bias)
        if not name:
            return ""
        if name not in self._graph.weights:
            return "its bias is computed at run time"
        return (
            ""
            if self._is_vector(layer, name) or np.prod(self._graph.dims(name)) == 1
            else "its bias is no vector"
        )

    def _is_vector(self, layer: Linear, name: str) -> bool:
        """Whether a constant has a number for each result of the layer."""
        results = layer.results_of(self._graph.dims(layer.stored))
        dims, tail = self._graph.dims(name), layer.spread(np.zeros(results)).shape
        return dims[len(dims) - len(tail) :] == tail and bool(np.prod(dims) == results)

    def of(self, layer: Linear) -> Array:
        """What is added to the layer's product by its own bias operand, a number a result."""
        results = layer.results_of(self._graph.dims(layer.stored))
        name = _operand(layer.node, layer.bias)
        if name not in self._graph.weights:
            return np.zeros(results)
        stored = self._graph.array(name).astype(np.float64)
        return layer.scale * np.broadcast_to(stored.ravel(), results)

    def write(self, layer: Linear, bias: Array) -> None:
        """Give the layer this bias: in its own operand, in the constant added after it, or in a new node."""
        node = self._model.graph.node[layer.node.place.at]
        dtype = tensors.dtype_of(self._graph.weights[layer.stored])
        if layer.bias is not None:
            shaped = (bias / layer.scale).astype(dtype)
            if layer.node.op == "Gemm":
                shaped = layer.spread(shaped)
            self._store(node, layer.bias, shaped, f"{layer.stored}.bias")
            return
        added = self._added(layer)
        if added is not None:
            after, k = added
            stored = self._graph.array(after.inputs[k])
            total = stored.astype(np.float64) + layer.spread(bias).reshape(stored.shape)
            self._store(
                self._model.graph.node[after.place.at], k, total.astype(dtype), f"{layer.stored}.bias"
            )
            return
        inner = self._fresh(f"{layer.result}.unbiased")
        node.output[0] = inner
        fresh = self._new(f"{layer.stored}.bias", layer.spread(bias).astype(dtype))
        add = onnx.helper.make_node(
            "Add", [inner, fresh], [layer.result], name=self._fresh(f"{layer.result}.Add")
        )
        self.after[layer.node.place.at] = [add]

    def gain(self, layer: Linear) -> tuple[int, int]:
        """How many parameters and bytes `write` adds at most."""
        if self.refusal(layer) or len(self._graph.uses[layer.stored]) > 1:
            return 0, 0
        results = layer.results_of(self._graph.dims(layer.stored))
        size = results * tensors.dtype_of(self._graph.weights[layer.stored]).itemsize
        size += _TENSOR + 2 * len(layer.stored)
        added = self._added(layer)
        if layer.bias is not None or added is not None:
            name = _operand(layer.node, layer.bias) if added is None else added[0].inputs[added[1]]
            return (0, 0) if self._is_own(name, results) else (results, size)
        return results, size + _NODE + 3 * len(layer.result)

    def _is_own(self, name: str, size: int) -> bool:
        """Whether a bias of so many numbers can be written where this one stands: nobody else reads it."""
        alone = len(self._graph.uses.get(name, ())) == 1 and name not in self._graph.captured
        return name in self._graph.weights and alone and bool(np.prod(self._graph.dims(name)) == size)

    def _added(self, layer: Linear) -> tuple[Node, int] | None:
        """The Add of a constant to each result that follows, and which operand that is."""
        uses = self._graph.uses.get(layer.result, ())
        outputs = {value.name for value in self._graph.outputs}
        if len(uses) != 1 or layer.result in outputs:
            return None
        node, k = self._graph.nodes[uses[0][0]], 1 - uses[0][1]
        name = node.inputs[k] if node.op == "Add" and not node.inner else ""
        return (node, k) if name in self._graph.weights and self._is_vector(layer, name) else None

    def _store(self, node: onnx.NodeProto, k: int, value: Array, name: str) -> None:
        """Write a bias where it stands if nobody else reads it, and to a new initializer otherwise."""
        mine = node.input[k] if k < len(node.input) else ""
        if self._is_own(mine, value.size):
            value = value.reshape(self._graph.dims(mine))
            tensors.fill(self._graph.weights[mine], np.ascontiguousarray(value))
            return
        while len(node.input) <= k:
            node.input.append("")
        node.input[k] = self._new(name, value)

    def _new(self, name: str, value: Array) -> str:
        name = self._fresh(name)
        self._model.graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _fresh(self, name: str) -> str:
        taken = {*self._graph.makers, *(t.name for t in self._model.graph.initializer)}
        taken |= {value.name for value in self._model.graph.input}
        while name in taken:
            name += "_"
        return name


def growth(graph: Graph, behind: Collection[str]) -> tuple[int, int]:
    """How many parameters and bytes recovery adds at most: biases where there are none of a layer's own.

    Args:
        graph: the cut model.
        behind: the results of the layers that it recovers.
    """
    biases, gains = Biases(graph), [(0, 0)]
    for node in graph.nodes:
        layer = linear(graph, node, behind=True)
        if layer is not None and layer.result in behind and not node.inner:
            gains.append(biases.gain(layer))
    params, sizes = zip(*gains, strict=True)
    return sum(params), sum(sizes)


def _operand(node: Node, k: int | None) -> str:
    return node.inputs[k] if k is not None and k < len(node.inputs) else ""

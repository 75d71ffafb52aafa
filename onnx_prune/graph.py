"""The model as the pruner walks it.

The `onnx.ModelProto` is the record: it is read here and never changed.  onnx-graphsurgeon is the
view: it links every tensor to its makers and users, those inside subgraphs too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod as product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune import tensors

# Shape constants and index tables are no parameters; quantized weights are.
_NOT_PARAMETERS = {
    onnx.TensorProto.BOOL,
    onnx.TensorProto.INT32,
    onnx.TensorProto.INT64,
    onnx.TensorProto.UINT64,
    onnx.TensorProto.STRING,
}
_ATTRIBUTE_VALUES = {"value_float": "f", "value_floats": "floats", "value_int": "i", "value_ints": "ints"}


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """One node of the top-level graph.

    Attributes:
        index: its position in the model, which is a topological order.
        proto: the record.
        attrs: attributes as Python values.
        inputs: names of operands, "" where one is left out.
        outputs: names of results, "" where one is left out.
    """

    index: int
    proto: onnx.NodeProto
    attrs: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def op(self) -> str:
        """Operator type, with its domain unless that is ONNX's own."""
        return self.proto.op_type if self.domain == "" else f"{self.domain}.{self.proto.op_type}"

    @property
    def domain(self) -> str:
        """Operator domain, "" for ONNX's own."""
        return "" if self.proto.domain == "ai.onnx" else self.proto.domain

    @property
    def label(self) -> str:
        """How the node is called in messages."""
        return f"{self.op} {self.proto.name or next(filter(None, self.outputs), '')}".strip()

    @property
    def bodies(self) -> list[onnx.GraphProto]:
        """The subgraphs that the node runs."""
        graphs = [a.g for a in self.proto.attribute if a.HasField("g")]
        return graphs + [g for a in self.proto.attribute for g in a.graphs]


class Graph:
    """A model with its nodes in order, its weights by name and who uses what.

    Args:
        model: the record, with external data left outside.
        folder: where external data are looked for.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path | None = None) -> None:
        self.model = model
        self.folder = folder
        self.opsets = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in model.opset_import}
        self.nodes = [
            Node(i, proto, _attributes(proto), tuple(proto.input), tuple(proto.output))
            for i, proto in enumerate(model.graph.node)
        ]
        self.weights: dict[str, onnx.TensorProto] = {t.name: t for t in model.graph.initializer}
        for node in self.nodes:
            if node.op == "Constant" and (tensor := _constant(node.proto)) is not None:
                self.weights[node.outputs[0]] = tensor
        self.frozen: set[str] = set()
        self.inputs = [v for v in model.graph.input if v.name not in self.weights]
        self.outputs = list(model.graph.output)

    @cached_property
    def view(self) -> Any:
        """The graphsurgeon view, its nodes in the same order; made only where something walks it."""
        import onnx_graphsurgeon  # a sixth of a second, and only nested graphs need it

        return onnx_graphsurgeon.import_onnx(self.model)

    @cached_property
    def uses(self) -> dict[str, list[tuple[int, int]]]:
        """For each tensor the (node index, operand index) pairs of the top-level graph that read it."""
        uses: dict[str, list[tuple[int, int]]] = {}
        for node in self.nodes:
            for k, name in enumerate(node.inputs):
                if name:
                    uses.setdefault(name, []).append((node.index, k))
        return uses

    @cached_property
    def makers(self) -> dict[str, Node]:
        """The node that makes each tensor."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    @cached_property
    def captured(self) -> dict[str, Node]:
        """Tensors that a subgraph reads from outside, with the node whose subgraph it is."""
        captured: dict[str, Node] = {}
        for node in self.nodes:
            for body in self.view.nodes[node.index].subgraphs(recursive=True) if node.bodies else ():
                for inner in body.nodes:
                    captured.update((t.name, node) for t in inner.inputs if t.name)
                captured.update((t.name, node) for t in body.outputs)
        return captured

    def array(self, name: str) -> NDArray[Any]:
        """The values of a weight, a view where possible: do not write into it."""
        return tensors.read(self.weights[name], self.folder)

    def freeze(self, name: str, value: NDArray[Any]) -> None:
        """Treat a computed tensor as a weight of this value."""
        self.weights[name] = onnx.numpy_helper.from_array(value, name)
        self.frozen.add(name)

    def params(self) -> int:
        """Number of parameters that the model stores."""
        stored = (name for name in self.weights if name not in self.frozen)
        return sum(product(self.weights[name].dims) for name in stored if self.is_parameter(name))

    def is_parameter(self, name: str) -> bool:
        """Whether a weight counts as parameters: shape constants and index tables do not."""
        return self.weights[name].data_type not in _NOT_PARAMETERS

    def dims(self, name: str) -> tuple[int, ...]:
        """Shape of a weight."""
        return tuple(self.weights[name].dims)


def read(graph: onnx.GraphProto) -> list[str]:
    """Every name that a node or a subgraph reads."""
    read: list[str] = []
    todo = [graph]
    while todo:
        inner = todo.pop()
        if inner is not graph:
            read += [value.name for value in inner.output]
        for node in inner.node:
            read += node.input
            for attribute in node.attribute:
                todo += [attribute.g] if attribute.HasField("g") else []
                todo += attribute.graphs
    return read


def copy_key(name: str, node: int, k: int) -> str:
    """The key of the private copy of a shared vector that operand `k` of a node reads.

    >>> weight_of(copy_key("bias", 3, 2)), weight_of("bias")
    ('bias', 'bias')
    """
    return f"{name}\0{node}.{k}"


def weight_of(key: str) -> str:
    """The name of the tensor that a key stands for: its own, or that of the vector it is a copy of."""
    return key.split("\0")[0]


def _attributes(proto: onnx.NodeProto) -> dict[str, Any]:
    """Attributes as Python values, a tensor as an array; a Constant's, which may be large, is not read."""
    found = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
    if proto.op_type != "Constant":
        found |= {k: tensors.read(v) for k, v in found.items() if isinstance(v, onnx.TensorProto)}
    return found


def _constant(proto: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor that a Constant node holds, None for strings and sparse tensors."""
    for attribute in proto.attribute:
        if attribute.name == "value":
            return attribute.t
        if attribute.name in _ATTRIBUTE_VALUES:
            value = getattr(attribute, _ATTRIBUTE_VALUES[attribute.name])
            kind = np.float32 if "float" in attribute.name else np.int64
            return onnx.numpy_helper.from_array(np.asarray(value, kind), proto.output[0])
    return None

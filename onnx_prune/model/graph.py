"""The model as the pruner walks it.

The `onnx.ModelProto` is the record: it is read here and never changed.  Local functions are written out
where they are called.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import prod as product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune.errors import InputError
from onnx_prune.model import tensors
from onnx_prune.model.dense import written_out
from onnx_prune.model.flatten import flatten
from onnx_prune.model.nodes import Node, graph_at, within
from onnx_prune.words import plain, some

# Shape constants and index tables are no parameters; quantized weights are.  Nor are single numbers: most
# are bounds and epsilons, of which every exporter stores others.
_NOT_PARAMETERS = {
    onnx.TensorProto.BOOL,
    onnx.TensorProto.INT32,
    onnx.TensorProto.INT64,
    onnx.TensorProto.UINT64,
    onnx.TensorProto.STRING,
}
_ATTRIBUTE_VALUES = {"value_float": "f", "value_floats": "floats", "value_int": "i", "value_ints": "ints"}


class Graph:
    """A model with its nodes in order (`onnx_prune.model.flatten`), its weights by name and who uses what.

    `notes` says, a sentence each, how `model` differs from what was given.

    Args:
        model: the record, with external data left outside.
        folder: where external data are looked for.

    Raises:
        InputError: a local function calls itself, or a sparse tensor has places that it can't have.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path | None = None) -> None:
        self.model, sparse = written_out(_inlined(model), folder)
        self.notes = _notes(sparse)
        model = self.model
        self.folder = folder
        self.opsets = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in model.opset_import}
        self.nodes, self.bodies = flatten(model.graph)
        self.initializers: dict[str, onnx.TensorProto] = {t.name: t for t in model.graph.initializer}
        for body in self.bodies:
            inner = graph_at(model.graph, body.path).initializer
            self.initializers |= {body.names[tensor.name]: tensor for tensor in inner}
        self.weights = dict(self.initializers)
        for node in self.nodes:
            if node.op == "Constant" and (tensor := _constant(node.proto)) is not None:
                self.weights[node.outputs[0]] = tensor
        self.frozen: set[str] = set()
        self.inputs = [v for v in model.graph.input if v.name not in self.weights]
        self.outputs = list(model.graph.output)

    @cached_property
    def uses(self) -> dict[str, list[tuple[int, int]]]:
        """For each tensor the (node index, operand index) pairs that read it."""
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
        """Tensors that a body reads which is not looked into, with the node whose body it is."""
        closed = [node for node in self.nodes if node.closed]
        if not closed:
            return {}
        # a sixth of a second, and few models have such bodies
        from onnx_graphsurgeon.importers.onnx_importer import OnnxImporter

        view = OnnxImporter.import_graph(onnx.GraphProto(node=[node.proto for node in closed]))
        return {
            read.name: node
            for node, seen in zip(closed, view.nodes, strict=True)
            for body in seen.subgraphs(recursive=True)
            for reader in (body, *body.nodes)
            for read in (reader.outputs if reader is body else reader.inputs)
        }

    def array(self, name: str) -> NDArray[Any]:
        """The values of a weight, a view where possible: do not write into it."""
        return tensors.read(self.weights[name], self.folder)

    def freeze(self, name: str, value: NDArray[Any]) -> None:
        """Treat a computed tensor as a weight of this value."""
        self.weights[name] = onnx.numpy_helper.from_array(value, name)
        self.frozen.add(name)

    def params(self) -> int:
        """Number of parameters that the model stores."""
        return sum(self.elements(name) for name in self.weights if name not in self.frozen)

    def elements(self, name: str) -> int:
        """How many parameters a weight holds."""
        tensor = self.weights[name]
        count = product(tensor.dims)
        return 0 if tensor.data_type in _NOT_PARAMETERS or count == 1 else count

    def is_parameter(self, name: str) -> bool:
        """Whether a weight counts as parameters: shape constants, index tables and single numbers do not."""
        return self.elements(name) > 0

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


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, or a new one without local functions but for those of another opset, where any is called.

    Raises:
        InputError: a function calls itself.
    """
    made = {(function.domain, function.name) for function in model.functions}
    if not made or not any((node.domain, node.op_type) in made for node in within(model.graph.node)):
        return model
    import onnx.inliner  # seldom needed

    slim = onnx.ModelProto()
    tensors.copy_fields(model, slim, skip={"graph"})
    tensors.copy_fields(model.graph, slim.graph, skip={"initializer"})
    slim.graph.initializer.extend(onnx.TensorProto(name=tensor.name) for tensor in model.graph.initializer)
    try:
        whole = onnx.inliner.inline_local_functions(slim)
    except (onnx.checker.ValidationError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"its local functions can't be inlined: {reason}; re-export the model") from None
    del whole.graph.initializer[:]
    whole.graph.initializer.extend(model.graph.initializer)
    return whole


def _notes(sparse: Sequence[str]) -> tuple[str, ...]:
    """What is worth knowing of tensors that were stored sparsely."""
    if not sparse:
        return ()
    such = f"{some(len(sparse), 'sparse tensor')} read as dense, such as {plain(sparse[0])}"
    return (f"{such}; written so, too, without --sparse-initializers",)


def _constant(proto: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor that a Constant node holds, None for strings."""
    for attribute in proto.attribute:
        if attribute.name == "value":
            return attribute.t
        if attribute.name in _ATTRIBUTE_VALUES:
            value = getattr(attribute, _ATTRIBUTE_VALUES[attribute.name])
            kind = np.float32 if "float" in attribute.name else np.int64
            return onnx.numpy_helper.from_array(np.asarray(value, kind), proto.output[0])
    return None

"""A model in the making: its structure as a ModelProto, its large weights as functions.

Both the cut and the masked model are drafts over the same original; nothing is copied before it is
written or run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import onnx
from google.protobuf.unknown_fields import UnknownFieldSet
from numpy.typing import NDArray

from onnx_prune.model import lazy, tensors
from onnx_prune.model.graph import Graph
from onnx_prune.model.nodes import Node, Place, graph_at
from onnx_prune.model.pieces import Pieces

Array = NDArray[Any]
_SMALL = 1024  # bytes: smaller tensors are simply copied
_DATA = {"raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data"}
_DATA |= {"external_data", "data_location", "dims"}


class Edit(NamedTuple):
    """A change to one weight.

    Attributes:
        apply: from its values to the new ones.
        dims: the new shape.
        pieces: the same a piece at a time, for weights that are not to be whole in memory.
        told: see `onnx_prune.model.pieces.Pieces`.
    """

    apply: Callable[[Array], Array]
    dims: tuple[int, ...]
    pieces: Callable[[Array], Iterator[Array]] | None = None
    told: tuple[Callable[[], Any], Callable[[Any], None]] | None = None


@dataclass
class Draft:
    """A model whose `content` still has to be filled in.

    Attributes:
        model: the structure; initializers named in `content` carry dims and type but no data.
        content: for such initializers, a function that makes the array.
        replaced: where nodes stand whose result is an initializer now, still to be removed.
        inserted: nodes to be put before what stands there.
    """

    model: onnx.ModelProto
    content: dict[str, Callable[[], Array]] = field(default_factory=dict)
    replaced: set[Place] = field(default_factory=set)
    inserted: dict[Place, list[onnx.NodeProto]] = field(default_factory=dict)
    _made: dict[str, lazy.Made] = field(default_factory=dict)

    def proto(self, node: Node) -> onnx.NodeProto:
        """The record of one of the original's nodes, while they are where they were."""
        return graph_at(self.model.graph, node.place.path).node[node.place.at]

    def operand(self, node: Node, k: int) -> str:
        """What operand `k` of one of the original's nodes is called where it is read."""
        (path, at), j = node.slot(k)
        graph = graph_at(self.model.graph, path)
        return graph.output[j].name if at == len(graph.node) else graph.node[at].input[j]

    def rewire(self, node: Node, k: int, name: str) -> None:
        """Let one of the original's nodes read something else."""
        (path, at), j = node.slot(k)
        graph = graph_at(self.model.graph, path)
        if at == len(graph.node):
            graph.output[j].name = name
            return
        inputs = graph.node[at].input
        inputs.extend([""] * (j + 1 - len(inputs)))
        inputs[j] = name

    def lent(self) -> onnx.ModelProto:
        """A copy of the model whose content is made whenever it is read, as long as the draft is there."""
        copy = onnx.ModelProto()
        copy.CopyFrom(self.model)
        for tensor in copy.graph.initializer:
            if tensor.name not in self.content:
                continue
            if tensor.data_type == onnx.TensorProto.STRING:
                tensors.fill(tensor, self.content[tensor.name]())
                continue
            made = self._made.setdefault(tensor.name, lazy.Made(_bytes_of(self.content[tensor.name])))
            made.put_off(tensor)
        return copy

    def whole(self) -> onnx.ModelProto:
        """The model with all content filled in; the draft keeps its structure and gains the data."""
        for tensor in self.model.graph.initializer:
            if tensor.name in self.content:
                tensors.fill(tensor, self.content.pop(tensor.name)())
        return self.model


def start(graph: Graph, change: Callable[[str], Edit | None]) -> Draft:
    """A draft of `graph` with some weights changed.

    Args:
        graph: the original, left as it is.
        change: for a weight's name how it changes, or None to keep it.

    Returns:
        The draft; weights in bodies and in Constant nodes are changed at once.
    """
    draft = Draft(_without_weights(graph.model))
    for tensor in graph.model.graph.initializer:
        edit = change(tensor.name)
        copy = draft.model.graph.initializer.add()
        light = not lazy.is_put_off(tensor) and len(tensor.raw_data) <= _SMALL
        if edit is None and (tensors.is_external(tensor) or light):
            copy.CopyFrom(tensor)
            continue
        tensors.copy_fields(tensor, copy, skip=_DATA)
        copy.dims.extend(tensor.dims if edit is None else edit.dims)
        draft.content[tensor.name] = _later(graph, tensor.name, edit)
    for name in sorted(graph.frozen):
        if (edit := change(name)) is not None:
            add_constant(draft, name, edit.apply(graph.array(name)))
            draft.replaced.add(graph.makers[name].place)
    for body in graph.bodies:
        for tensor in graph_at(draft.model.graph, body.path).initializer:
            name = body.names[tensor.name]
            if (edit := change(name)) is not None:
                tensors.fill(tensor, edit.apply(graph.array(name)))
    for node in graph.nodes:
        if node.op == "Constant" and node.outputs[0] in graph.weights:
            edit = change(node.outputs[0])
            if edit is not None:
                _set_constant(draft.proto(node), edit.apply(graph.array(node.outputs[0])))
    return draft


def _bytes_of(content: Callable[[], Array]) -> Callable[[], NDArray[np.uint8]]:
    return lambda: tensors.payload(content())


def _later(graph: Graph, name: str, edit: Edit | None) -> Callable[[], Array]:
    if edit is None:
        return lambda: graph.array(name)
    apply, pieces = edit.apply, edit.pieces
    if pieces is None or tensors.packs(graph.weights[name]):
        return lambda: apply(graph.array(name))
    dtype = tensors.dtype_of(graph.weights[name])
    return Pieces(edit.dims, dtype, lambda: pieces(graph.array(name)), edit.told)


def add_constant(draft: Draft, name: str, value: Array) -> str:
    """A new initializer; its name has a number at the end where there is one of this name."""
    taken = {tensor.name for tensor in draft.model.graph.initializer}
    fresh, j = name, 1
    while fresh in taken:
        fresh, j = f"{name}_{j}", j + 1
    draft.model.graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value), fresh))
    return fresh


def rearrange(
    draft: Draft,
    *,
    before: Mapping[Place, list[onnx.NodeProto]],
    after: Mapping[Place, list[onnx.NodeProto]] | None = None,
    dropped: set[Place],
) -> None:
    """Put nodes before and after the given places, and drop some."""
    after = after or {}
    paths = {place.path for place in (*before, *after, *dropped)}
    for path in sorted(
        paths, key=lambda path: (-len(path), path)
    ):  # a move of outer nodes changes inner paths
        graph = graph_at(draft.model.graph, path)
        nodes: list[onnx.NodeProto] = []
        for at in range(len(graph.node) + 1):
            place = Place(path, at)
            nodes += before.get(place, ())
            if at < len(graph.node) and place not in dropped:
                copy = onnx.NodeProto()
                copy.CopyFrom(graph.node[at])
                nodes.append(copy)
            nodes += after.get(place, ())
        del graph.node[:]
        graph.node.extend(nodes)


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    if len(UnknownFieldSet(model)) or len(UnknownFieldSet(model.graph)):
        # fields of a newer onnx survive only a whole copy
        copy.CopyFrom(model)
        del copy.graph.initializer[:]
        return copy
    tensors.copy_fields(model, copy, skip={"graph"})
    tensors.copy_fields(model.graph, copy.graph, skip={"initializer"})
    return copy


def _set_constant(node: onnx.NodeProto, value: Array) -> None:
    tensor = onnx.numpy_helper.from_array(np.ascontiguousarray(value))
    for attribute in node.attribute:
        if attribute.name == "value":
            tensors.fill(attribute.t, value)
            return
    del node.attribute[:]
    node.attribute.append(onnx.helper.make_attribute("value", tensor))

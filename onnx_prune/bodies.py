"""The main graph and the bodies of If, Loop and Scan, each as a scope: what can be read there."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import onnx

from onnx_prune.graph import Graph, Node, constant_of, node_of
from onnx_prune.shapes import Shapes, skeleton

Shape = tuple[int, ...]
# Where the state of a loop stands: from which operand, input of the body, and output of the body on.
_STATE = {"Loop": (2, 2, 1), "Scan": (0, 0, 0)}


@dataclass(frozen=True, slots=True)
class Scope:
    """One graph.

    Attributes:
        nodes: in order; those of a body have index -1.
        stored: tensors stored in the scope itself, by path.
        outer: the path of every value of the scopes around that can be read here, by name.
        shapes: of all values that can be read here, as far as they are known.
        constant: names of all values that can be read here and depend on stored tensors alone.
        prefix: of the paths of what is made here.
    """

    nodes: tuple[Node, ...]
    stored: Mapping[str, onnx.TensorProto]
    outer: Mapping[str, str]
    shapes: Mapping[str, Shape]
    constant: frozenset[str]
    prefix: str = ""

    def path(self, name: str) -> str:
        """The path of a value: its name in the main graph, `node/attribute/name` in a body."""
        return self.outer.get(name, self.prefix + name)


def scopes(graph: Graph, shapes: Shapes, folded: Collection[str] = ()) -> Iterator[Scope]:
    """The main graph's scope, then those of all bodies, outer ones first.

    Args:
        graph: the model; computed weights that were frozen are no stored tensors.
        shapes: of the main graph's values.
        folded: names of the main graph that are computed from shapes.
    """
    stored = {n: t for n, t in graph.weights.items() if n not in graph.frozen}
    nodes = tuple(graph.nodes)
    main = Scope(nodes, stored, {}, shapes.known, _constant(nodes, {*stored, *folded}))
    yield main
    if any(node.bodies for node in graph.nodes):
        model = onnx.shape_inference.infer_shapes(skeleton(graph, shapes.inputs), data_prop=True)
        yield from _inside(model.graph, graph.model.graph, main)


def body_tensors(graph: onnx.GraphProto, prefix: str = "") -> Iterator[tuple[str, onnx.TensorProto]]:
    """Tensors stored in the bodies below a graph, with their paths."""
    for path, _, _, body in _bodies(graph, graph, prefix):
        yield from _stored(body, path).items()
        yield from body_tensors(body, path)


def _constant(nodes: Collection[Node], known: Collection[str]) -> frozenset[str]:
    """Names that depend on what is known to be constant alone."""
    constant = set(known)
    for node in nodes:
        if node.inputs and all(not name or name in constant for name in node.inputs) and not node.bodies:
            constant.update(filter(None, node.outputs))
    return frozenset(constant)


def _inside(inferred: onnx.GraphProto, graph: onnx.GraphProto, around: Scope) -> Iterator[Scope]:
    """The scopes of the bodies below a graph, and of those below them.

    Args:
        inferred: the graph with the shapes that inference found.
        graph: the same graph as the model has it.
        around: its scope.
    """
    every = {n for node in around.nodes for n in node.outputs} | {
        path.removeprefix(around.prefix) for path in around.stored
    }
    for prefix, node, known, body in _bodies(inferred, graph, around.prefix):
        stored = _stored(body, prefix)
        own = {path.removeprefix(prefix) for path in stored}
        made = {value.name for value in body.input} | {n for inner in body.node for n in inner.output} | own
        outer = {n: around.path(n) for n in {*around.outer, *every} if n not in made}
        shapes = {n: shape for n, shape in around.shapes.items() if n not in made}
        shapes |= {path.removeprefix(prefix): tuple(t.dims) for path, t in stored.items()}
        for value in (*known.input, *known.value_info, *known.output):
            kind = value.type.tensor_type
            if kind.HasField("shape"):  # an unknown size is that of a batch, and says nothing about weights
                shapes[value.name] = tuple(d.dim_value or 1 for d in kind.shape.dim)
        constant = {n for n in around.constant if n not in made} | own
        for name, source in _unchanged(node, body):
            if source in around.constant and source in around.shapes:
                outer[name], shapes[name] = around.path(source), around.shapes[source]
                constant.add(name)
        nodes = tuple(node_of(-1, proto) for proto in body.node)
        scope = Scope(nodes, stored, outer, shapes, _constant(nodes, constant), prefix)
        yield scope
        yield from _inside(known, body, scope)


def _unchanged(node: onnx.NodeProto, body: onnx.GraphProto) -> Iterator[tuple[str, str]]:
    """State of a loop that no step changes: the body's name for it, and that of the operand."""
    if node.op_type not in _STATE:
        return
    operand, entry, leaving = _STATE[node.op_type]
    copies = {n.output[0]: n.input[0] for n in body.node if n.op_type == "Identity"}
    sides = (list(node.input)[operand:], list(body.input)[entry:], list(body.output)[leaving:])
    for source, inside, after in zip(*sides, strict=False):
        name = after.name
        while name in copies:
            name = copies[name]
        if name == inside.name:
            yield inside.name, source


def _bodies(
    one: onnx.GraphProto, other: onnx.GraphProto, prefix: str
) -> Iterator[tuple[str, onnx.NodeProto, onnx.GraphProto, onnx.GraphProto]]:
    """The bodies of two graphs of the same structure side by side, with their prefix and node."""
    for left, right in zip(one.node, other.node, strict=True):
        label = right.name or next(filter(None, right.output), "")
        for a, b in zip(left.attribute, right.attribute, strict=True):
            if b.HasField("g"):
                yield f"{prefix}{label}/{b.name}/", right, a.g, b.g
            for j, (g, h) in enumerate(zip(a.graphs, b.graphs, strict=True)):
                yield f"{prefix}{label}/{b.name}{j}/", right, g, h


def _stored(body: onnx.GraphProto, prefix: str) -> dict[str, onnx.TensorProto]:
    found = {prefix + tensor.name: tensor for tensor in body.initializer}
    for node in body.node:
        if node.op_type == "Constant" and (tensor := constant_of(node)) is not None:
            found[prefix + node.output[0]] = tensor
    return found

"""What each layer of a model costs, before a cut and after, in the order of the graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from onnx_prune.cost import Shapes, macs, repeats
from onnx_prune.model.graph import Graph
from onnx_prune.model.nodes import Node

REST = "weights that no layer reads"


@dataclass(frozen=True, slots=True)
class Layer:
    """A node that multiplies or has parameters, with the weights that it is the first to read.

    Attributes:
        name: the node's name, or its first result's.
        op: the operator.
        key: name of its first result, the same before a cut and after.
        weights: the parameters it reads, itself or through nodes that compute them from nothing else.
        params: elements of these.
        macs: multiply-accumulates, as often as it runs.
        params_after: the same after the cut; None where that is not known.
        macs_after: likewise.
    """

    name: str
    op: str
    key: str
    weights: tuple[str, ...]
    params: int
    macs: int
    params_after: int | None = None
    macs_after: int | None = None


def layers(graph: Graph, shapes: Shapes) -> tuple[Layer, ...]:
    """Every layer once; their sums are `Graph.params` and `cost.total_macs`.

    Args:
        graph: the model.
        shapes: of all tensors but the weights.
    """
    shapes = {**shapes, **{name: graph.dims(name) for name in graph.weights}}
    times = repeats(graph, shapes)
    left = {name for name in graph.weights if name not in graph.frozen and graph.is_parameter(name)}
    computed: set[str] = set()
    found: list[Layer] = []
    for node in graph.nodes:
        read = [name for name in node.inputs if name]
        if read and all(name in graph.weights or name in computed for name in read):
            computed |= set(node.outputs)
            own: list[str] = []
        else:
            own = [name for name in _behind(graph, node, computed) if name in left]
            left -= set(own)
        work = macs(node, shapes) * times[node.place.path]
        if own or work:
            key = next(filter(None, node.outputs), "")
            name = node.proto.name or key
            params = sum(map(graph.elements, own))
            found.append(Layer(name, node.op, key, tuple(own), params, work))
    if left:
        rest = tuple(name for name in graph.weights if name in left)
        found.append(Layer(REST, "", "", rest, sum(map(graph.elements, rest)), 0))
    return tuple(found)


def _behind(graph: Graph, node: Node, computed: set[str]) -> Iterator[str]:
    """The weights that a node reads, itself or through what is computed from weights alone."""
    waiting, seen = list(reversed(node.inputs)), set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in graph.weights:
            yield name
        elif name in computed:
            waiting += reversed(graph.makers[name].inputs)


def pair(before: Iterable[Layer], after: Iterable[Layer]) -> tuple[Layer, ...]:
    """The layers of a model with what they cost after a cut; nothing where they are no more.

    Args:
        before: of the original.
        after: of what is left of it, or the same paired with something later.
    """
    left = {layer.key: layer for layer in after}
    found = []
    for layer in before:
        params, work = _left(left[layer.key]) if layer.key in left else (0, 0)
        found.append(replace(layer, params_after=params, macs_after=work))
    return tuple(found)


def _left(layer: Layer) -> tuple[int, int]:
    """What a layer costs in the end."""
    if layer.params_after is None or layer.macs_after is None:
        return layer.params, layer.macs
    return layer.params_after, layer.macs_after

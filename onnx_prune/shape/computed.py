"""Weights that are computed from weights: weight norm, weight standardisation, scattered weights.

Where every operator between the stored weight and its user lets the axis through, the stored weight
is cut.  Where one takes a statistic over it or holds it, the result is frozen: analysed as a weight
of its own, and written as an initializer under its name if it is cut.  A table made of little (an outer
product, a scatter into zeros) stays as it is: written out, even half of it would be larger.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from math import prod as product
from typing import Any

import onnx
from numpy.typing import NDArray

from onnx_prune.axes.axis import atoms
from onnx_prune.axes.relation import Dims, Relation
from onnx_prune.axes.unify import Solver
from onnx_prune.model.graph import Graph
from onnx_prune.model.nodes import Node
from onnx_prune.runtime import RunError, Session
from onnx_prune.shape.fold import SMALL, is_random

Relate = Callable[[Node], Relation | None]


def freeze(graph: Graph, folded: Mapping[str, NDArray[Any]], relate: Relate) -> set[int]:
    """Make weights of those results that cannot be cut where they are stored.

    Args:
        graph: gains the frozen results as weights.
        folded: results of shape arithmetic that are the same at every run.
        relate: a node's relation, None where there is no rule for it.

    Returns:
        Indices of the nodes that compute the frozen results; what they read is not to be cut.
    """
    derived = _derived(graph, folded)
    if not derived:
        return set()
    border = {
        name
        for index in derived
        for name in graph.nodes[index].outputs
        if any(user not in derived for user, _ in graph.uses.get(name, ()))
    }
    stuck = sorted(border & _stuck(graph, derived, relate))
    try:
        computed = _run(graph, derived, stuck, folded) if stuck else {}
    except RunError:  # a kernel is missing: analysed like any other nodes, they hold what they must
        computed = {}
    for name, value in computed.items():
        if value.size > SMALL and value.dtype.kind != "i" and value.size <= _stored(graph, derived, name):
            graph.freeze(name, value)
    return _upstream(graph, derived, graph.frozen)


def _upstream(graph: Graph, derived: set[int], names: Iterable[str]) -> set[int]:
    """The nodes that these results are computed by."""
    upstream: set[int] = set()
    todo = list(names)
    while todo:
        maker = graph.makers.get(todo.pop())
        if maker is not None and maker.index in derived and maker.index not in upstream:
            upstream.add(maker.index)
            todo += maker.inputs
    return upstream


def _stored(graph: Graph, derived: set[int], name: str) -> int:
    """Elements of all stored weights that a result is computed from."""
    read = {operand for index in _upstream(graph, derived, [name]) for operand in graph.nodes[index].inputs}
    return sum(product(graph.dims(operand)) for operand in read if operand in graph.weights)


def _derived(graph: Graph, folded: Collection[str]) -> set[int]:
    """Nodes of the main graph that compute something from weights alone."""
    constant = set(graph.weights) | set(folded)
    derived: set[int] = set()
    for node in graph.nodes:
        inputs = [name for name in node.inputs if name]
        if not inputs or node.inner or node.crossing or node.closed or is_random(node):
            continue
        if not all(name in constant for name in inputs):
            continue
        if not all(name in folded for name in filter(None, node.outputs)):
            derived.add(node.index)
            constant.update(filter(None, node.outputs))
    return derived


def _stuck(graph: Graph, derived: set[int], relate: Relate) -> set[str]:
    """Results with an axis that some operator on the way from the stored weights holds or mixes."""
    solver = Solver()
    axes: dict[str, Dims] = {}
    for index in sorted(derived):
        node = graph.nodes[index]
        relation = relate(node)
        if relation is None or relation.reads:
            # left to the analysis, which holds around it: what integers stand for is not frozen as floats
            continue
        for names, sides in ((node.inputs, relation.operands), (node.outputs, relation.results)):
            for name, dims in zip(names, sides, strict=True):
                for have, said in zip(axes.setdefault(name, dims or ()), dims or (), strict=False):
                    solver.unify(have, said)
    return {
        name
        for name, dims in axes.items()
        for axis in dims
        for atom in atoms(solver.resolve(axis))
        if atom.size > 1 and (solver.held(atom) or solver.mixed(atom))
    }


def _run(
    graph: Graph, derived: set[int], names: list[str], folded: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    model = onnx.ModelProto(ir_version=graph.model.ir_version)
    model.opset_import.extend(graph.model.opset_import)
    model.graph.name = "computed weights"
    used: set[str] = set()
    for index in sorted(derived):
        model.graph.node.append(graph.nodes[index].proto)
        used.update(graph.nodes[index].inputs)
    for name in sorted(used & (set(graph.weights) | set(folded))):
        value = graph.array(name) if name in graph.weights else folded[name]
        model.graph.initializer.append(onnx.numpy_helper.from_array(value.copy(), name))
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return dict(zip(names, Session(model).run({}, names), strict=True))

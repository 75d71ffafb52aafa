"""Conditions settled in advance, so that a proof runs the branches of If that no input takes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx

from onnx_prune.axes.axis import atoms
from onnx_prune.coupling import Bound, Coupling
from onnx_prune.kept import Plan
from onnx_prune.model.nodes import graph_at, within

_NAME = "onnx_prune.taken"


def settled(
    coupling: Coupling, plan: Plan, small: onnx.ModelProto
) -> Iterator[tuple[Coupling, onnx.ModelProto]]:
    """The original and the cut model with one branch, then with the other, where any of both is cut.

    Args:
        coupling: the analysed original.
        plan: which channels stay.
        small: the cut model; it is not changed.

    Yields:
        The analysis over a model, and a cut model, that always take the same branch.
    """
    inside = [bound.node.place.path for bound in coupling.bound if _is_cut(bound, plan)]
    graph = coupling.graph
    results = {
        graph_at(graph.model.graph, node.place.path).node[node.place.at].output[0]
        for node in graph.nodes
        if node.op == "If" and node.crossing
        for (path, _), _ in node.slots[:2]
        if any(deeper[: len(path)] == path for deeper in inside)
    }
    for taken in (True, False) if results else ():
        twin = copy.copy(graph)
        twin.model = _always(taken, graph.model, results)
        yield replace(coupling, graph=twin), _always(taken, small, results)


def _always(taken: bool, model: onnx.ModelProto, results: set[str]) -> onnx.ModelProto:
    """A copy in which each If that makes one of these results takes the same branch every time."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    fixed.graph.initializer.append(onnx.numpy_helper.from_array(np.array(taken), _NAME))
    for node in within(fixed.graph.node):
        if node.op_type == "If" and node.output[0] in results:
            node.input[0] = _NAME
    return fixed


def _is_cut(bound: Bound, plan: Plan) -> bool:
    dims = [d for d in (*bound.relation.operands, *bound.relation.results) if d]
    return any(atom in plan for d in dims for axis in d for atom in atoms(axis))

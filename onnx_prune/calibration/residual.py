"""Where a layer's result ends up in a sum: there it can make up for what the other summand lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_prune.model.graph import Graph
from onnx_prune.model.nodes import Node

Array = NDArray[Any]
Undo = Callable[[Array], Array]
_LONGEST = 4


@dataclass(frozen=True)
class Residual:
    """A sum that a layer's result is added into.

    Attributes:
        total: name of the sum.
        other: name of the other summand.
        undo: from what the layer's side contributes to the sum to the layer's own result, the steps in
            between undone.
    """

    total: str
    other: str
    undo: Undo


def residual(graph: Graph, name: str, computed: Callable[[str], bool]) -> Residual | None:
    """The sum that `name` ends up in, if nothing else reads it and all steps to there can be undone.

    Args:
        graph: the graph.
        name: the layer's result.
        computed: whether a tensor depends on the inputs and is there before the layer's result is.
    """
    outputs = {value.name for value in graph.outputs}
    steps: list[Undo] = []
    for _ in range(_LONGEST):
        uses = graph.uses.get(name, ())
        if len(uses) != 1 or name in outputs or name in graph.captured:
            return None
        node, k = graph.nodes[uses[0][0]], uses[0][1]
        if node.op == "Add" and computed(node.inputs[1 - k]):
            return Residual(node.outputs[0], node.inputs[1 - k], _chain(steps))
        undone = _UNDO.get(node.op, _not)(graph, node, k)
        if undone is None:
            return None
        steps.append(undone)
        name = node.outputs[0]
    return None


def _chain(steps: list[Undo]) -> Undo:
    def undo(value: Array) -> Array:
        for step in reversed(steps):
            value = step(value)
        return value

    return undo


def _not(graph: Graph, node: Node, k: int) -> Undo | None:
    return None


def _identity(graph: Graph, node: Node, k: int) -> Undo | None:
    return lambda value: value


def _add(graph: Graph, node: Node, k: int) -> Undo | None:
    other = node.inputs[1 - k]
    if other not in graph.weights:
        return None
    return lambda value: value - graph.array(other).astype(np.float32)


def _batch_norm(graph: Graph, node: Node, k: int) -> Undo | None:
    """Undone but for channels that it multiplies with zero, which say nothing."""
    names = node.inputs[1:5]
    if k != 0 or node.attrs.get("training_mode", 0) or any(name not in graph.weights for name in names):
        return None
    gamma, beta, mean, variance = (graph.array(name).astype(np.float64) for name in names)
    scale = gamma / np.sqrt(variance + float(node.attrs.get("epsilon", 1e-5)))
    if (scale == 0).any():
        return None

    def undo(value: Array) -> Array:
        spread = (-1, *[1] * (value.ndim - 2))
        return np.asarray((value - beta.reshape(spread)) / scale.reshape(spread) + mean.reshape(spread))

    return undo


_UNDO: dict[str, Callable[[Graph, Node, int], Undo | None]] = {
    "Add": _add,
    "BatchNormalization": _batch_norm,
    "Identity": _identity,
}

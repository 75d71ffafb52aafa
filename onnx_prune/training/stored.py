"""The tensors of an exported model as parameters are looked for in them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_prune.errors import InputError
from onnx_prune.model.graph import Graph
from onnx_prune.words import plain

Array = NDArray[Any]
Copy = tuple[str, list[tuple[str, int]]]


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor, or a private copy that a plan makes of a shared one.

    Attributes:
        name: as plans and masks call it.
        shape: before the cut.
        values: None where the exported model is not at hand.
        aliases: other names that the model has for it.
        readers: positions of the nodes that compute with it, in the order of the graph.
    """

    name: str
    shape: tuple[int, ...]
    values: Array | None = None
    aliases: frozenset[str] = field(default_factory=frozenset)
    readers: tuple[int, ...] = ()


def named(rows: Mapping[str, tuple[int, ...]]) -> list[Stored]:
    """Tensors of which no more than name and shape is known."""
    return [Stored(name, shape, aliases=frozenset({name})) for name, shape in rows.items()]


def stored(
    graph: Graph,
    rows: Mapping[str, tuple[int, ...]],
    copies: Mapping[str, Copy] | None = None,
) -> list[Stored]:
    """The floating-point tensors of a model.

    Args:
        graph: the model that a plan or mask was made of.
        rows: name and shape of the tensors that the plan or mask is about.
        copies: private copies, by name the tensor that each was made of and the operands that read it.

    Raises:
        InputError: the model does not have a tensor, or not in this shape.
    """
    copies = copies or {}
    constant = _constant(graph)
    parted = {(source, *user) for source, users in copies.values() for user in users}
    found = []
    for name, shape in rows.items():
        source = copies[name][0] if name in copies else name
        if source not in graph.weights:
            raise InputError(
                f"the model has no tensor {plain(source)!r}; give the one that the plan or mask was made of"
            )
        if graph.dims(source) != shape:
            raise InputError(
                f"{plain(source)!r} has shape {list(graph.dims(source))} in the model, {list(shape)} was "
                "expected; give the one that the plan or mask was made of"
            )
    for name in graph.weights:
        array = graph.array(name) if graph.elements(name) else None
        if array is None or array.dtype.kind not in "fV":  # V: bfloat16 and its like
            continue
        uses = [(graph.nodes[i].outputs[0], k, i) for i, k in graph.uses.get(name, ())]
        own = [use for use in uses if (name, *use[:2]) not in parted]
        found.append(_entry(graph, name, array, own, constant))
        for copy, (source, users) in copies.items():
            if source == name:
                theirs = [use for use in uses if use[:2] in set(users)]
                found.append(_entry(graph, copy, array, theirs, constant))
    return found


def _entry(
    graph: Graph, name: str, array: Array, uses: list[tuple[str, int, int]], constant: Collection[str]
) -> Stored:
    readers, aliases = set[int](), {name}
    waiting = [i for _, _, i in uses]
    while waiting:
        node = graph.nodes[waiting.pop()]
        if node.outputs[0] not in constant:
            readers.add(node.index)
            continue
        if node.op == "Identity":
            aliases.add(node.outputs[0])
        waiting += [i for i, _ in graph.uses.get(node.outputs[0], ())]
    if array.dtype.kind == "V":
        array = array.astype(np.float32)
    return Stored(name, array.shape, array, frozenset(aliases), tuple(sorted(readers)))


def _constant(graph: Graph) -> set[str]:
    """Names of what is made of stored tensors alone."""
    constant = set(graph.weights)
    for node in graph.nodes:
        if any(node.inputs) and all(not name or name in constant for name in node.inputs):
            constant.update(filter(None, node.outputs))
    return constant

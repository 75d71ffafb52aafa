"""Where masking makes a channel zero by itself, found forward through the graph.

Weights are zero where they are masked, and so is what their operators make of zero: `Relation.zero`
says which.  Zero of a quantized tensor is its zero point, so every tensor has one here (its "point"),
and it is zero to a reader only if that reader means the same integer.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from onnx_prune.axes.axis import Atom, atoms
from onnx_prune.axes.relation import Relation
from onnx_prune.codes import Coded, coded, moves, point
from onnx_prune.model.graph import Graph, weight_of
from onnx_prune.model.nodes import Node

Carriers = dict[Atom, dict[int, bool]]


class Zeros:
    """What is known so far; nodes are visited in order.

    Args:
        graph: the graph.
        types: element types of tensors.
        values: small constants.
        key: the key of an operand: its name, or that of its private copy.
        asked: all nodes with their relations, in order.
    """

    def __init__(
        self,
        graph: Graph,
        types: Mapping[str, int],
        values: Mapping[str, NDArray[Any]],
        key: Callable[[Node, int], str],
        asked: Sequence[tuple[Node, Relation]],
    ) -> None:
        self._graph, self._types, self._values, self._key = graph, types, values, key
        self._flags: dict[str, tuple[bool, ...]] = {}
        self._wild: dict[str, tuple[bool, ...]] = {}
        self._points: dict[str, Hashable] = {}
        self.codes = self._codes(asked)

    def _codes(self, asked: Sequence[tuple[Node, Relation]]) -> dict[str, Coded]:
        """How the integers of each tensor are read, by its first reader, looking through what moves them."""
        codes: dict[str, Coded] = {}
        for node, relation in reversed(asked):
            for code in relation.reads:
                if code.at < len(node.inputs):
                    codes[self._key(node, code.at)] = coded(node, code)
            after = codes.get(node.outputs[0]) if node.outputs and moves(relation) else None
            if after is not None and after.code.axis is None and not after.code.bits:
                for k in self._moved(node, relation, node.outputs[0]):
                    codes[self._key(node, k)] = after
        return codes

    def _moved(self, node: Node, relation: Relation, result: str) -> list[int]:
        """The operands whose values are those of a result, where the node only moves them."""
        kind = self._types.get(result)
        pairs = enumerate(zip(node.inputs, relation.operands, strict=True))
        return [k for k, (name, dims) in pairs if dims is not None and name and self._types.get(name) == kind]

    def carriers(self, node: Node, relation: Relation) -> Carriers:
        """The operands that carry each atom, and whether masking makes them zero there."""
        found: Carriers = {}
        for k, dims in enumerate(relation.operands):
            if dims is None:
                continue
            key = self._key(node, k)
            stored = weight_of(key) in self._graph.weights
            flags = (True,) * len(dims) if stored else self._flags.get(key, (False,) * len(dims))
            means = self._means_zero(node, relation, k)
            for flag, axis in zip(flags, dims, strict=True):
                for atom in atoms(axis):
                    mine = found.setdefault(atom, {})
                    mine[k] = mine.get(k, False) or (flag and means)
        return found

    def _means_zero(self, node: Node, relation: Relation, k: int) -> bool:
        """Whether the integer that is zero in operand `k` is zero to this node too."""
        mine = self._point(self._key(node, k))
        for code in relation.reads:
            if code.at == k:  # packed bytes have no zero of their own
                return not code.bits and mine == point(node, code, self._values)
        return mine == 0 or moves(relation)

    def _point(self, key: str) -> Hashable:
        """What is zero in a tensor; a masked weight is filled with what its reader takes for zero."""
        if key not in self._points:
            found = self.codes.get(key)
            stored = found is not None and (not found.zero or found.zero in self._graph.weights)
            self._points[key] = point(found.node, found.code, self._values) if found and stored else 0
        return self._points[key]

    def propagate(self, node: Node, relation: Relation, carriers: Carriers) -> None:
        """Learn about the results of a node; its `zeroed` operands are masked where it reads them."""
        wild = self._divided(node, relation, carriers)
        written = {code.at: point(node, code, self._values) for code in relation.writes}
        for j, (name, dims) in enumerate(zip(node.outputs, relation.results, strict=True)):
            if not name:
                continue
            moved = self._moved(node, relation, name) if moves(relation) else []
            points = {self._point(self._key(node, k)) for k in moved} or {0}
            # parts with different zero points have none in common
            self._points[name] = written.get(j, points.pop() if len(points) == 1 else None)
            if dims is not None:
                self._flags[name] = tuple(
                    all(
                        a not in wild and _is_zero(node, relation, a, carriers.get(a, {}))
                        for a in atoms(axis)
                    )
                    for axis in dims
                )
                self._wild[name] = tuple(any(a in wild for a in atoms(axis)) for axis in dims)

    def _divided(self, node: Node, relation: Relation, carriers: Carriers) -> set[Atom]:
        """Atoms whose masked channels were divided by zero, here or before: zero times that is not zero."""
        wild = {a for a, found in carriers.items() if any(found.get(k) for k in relation.divisors)}
        for k, dims in enumerate(relation.operands):
            if dims is not None:
                flags = self._wild.get(self._key(node, k), (False,) * len(dims))
                wild |= {a for axis, flag in zip(dims, flags, strict=True) if flag for a in atoms(axis)}
        return {a for a in wild if a.size > 1 and not a.held}


def _is_zero(node: Node, relation: Relation, atom: Atom, carriers: dict[int, bool]) -> bool:
    """Whether a masked channel of `atom` is zero in the results."""
    if atom.held or atom.size == 1:
        return True  # never masked
    carriers = {k: zero or k in relation.zeroed for k, zero in carriers.items()}
    if not relation.zero:
        return bool(carriers) and all(carriers.values())
    return all(
        any(carriers.get(k) or k >= len(node.inputs) or not node.inputs[k] for k in clause)
        for clause in relation.zero
    )

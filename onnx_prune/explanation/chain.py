"""Why two axes go together, or why one is held: the nodes that lie between them.

Every node couples the dimensions that one letter of its rule stands on.  These steps from dimension
to dimension make a graph, and the shortest way through it is the answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from onnx_prune.axes.axis import Atom, atoms
from onnx_prune.coupling import Bound, Coupling, Site
from onnx_prune.model.graph import weight_of
from onnx_prune.model.nodes import Node


@dataclass(frozen=True, slots=True)
class Step:
    """From one dimension to the next.

    Attributes:
        node: how the node between them is called in messages, its operator first.
        tensor: the tensor that the step leads to.
        dim: its dimension.
    """

    node: str
    tensor: str
    dim: int


Chain = tuple[Step, ...]
Ways = dict[Site, tuple[Site, Node] | None]


def letters_of(coupling: Coupling, bound: Bound) -> list[tuple[list[Site], list[Site]]]:
    """For each letter of a node's rule the dimensions of operands, and of results, that it stands on."""
    node, relation = bound.node, bound.letters
    keys = [coupling.key(node, k) for k in range(len(node.inputs))]
    found: dict[Atom, tuple[list[Site], list[Site]]] = {}
    for side, (names, axes) in enumerate(((keys, relation.operands), (node.outputs, relation.results))):
        for key, dims in zip(names, axes, strict=True):
            for j, axis in enumerate(dims or () if key else ()):
                for atom in atoms(axis):
                    found.setdefault(atom, ([], []))[side].append((key, j))
    return list(found.values())


class Links:
    """The dimensions that every node couples, to be walked from any of them.

    Args:
        coupling: the analysed model.
    """

    def __init__(self, coupling: Coupling) -> None:
        self._axes = coupling.axes
        self._around: dict[Site, list[tuple[Node, list[Site]]]] = {}
        for bound in coupling.bound:
            for ins, outs in letters_of(coupling, bound):
                places = list(dict.fromkeys((*ins, *outs)))
                for place in places:
                    self._around.setdefault(place, []).append((bound.node, places))

    def walk(self, start: Site, along: Collection[Atom]) -> Ways:
        """Every dimension that is reached from one, the nearest first, and where it is reached from.

        Args:
            start: where to begin, (key, dim).
            along: the atoms to follow: a dimension is entered if one stands on its axis.
        """
        ways: Ways = {start: None}
        todo = deque([start])
        while todo:
            here = todo.popleft()
            for node, places in self._around.get(here, ()):
                for place in places:
                    if place not in ways and any(atom in along for atom in self._on(place)):
                        ways[place] = here, node
                        todo.append(place)
        return ways

    def _on(self, place: Site) -> Iterator[Atom]:
        key, dim = place
        return atoms(self._axes[key][dim])


def chain(ways: Ways, end: Site) -> Chain:
    """The steps that lead from where a walk began to one of the dimensions that it reached."""
    steps = []
    while (way := ways[end]) is not None:
        steps.append(Step(way[1].label, weight_of(end[0]), end[1]))
        end = way[0]
    return tuple(reversed(steps))

"""Why two axes go together, or why one is held: the nodes that lie between them.

Every node couples the dimensions that one letter of its rule stands on.  These steps from dimension
to dimension make a graph, and the shortest way through it is the answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from onnx_prune.axis import Atom, atoms
from onnx_prune.coupling import Coupling, Place
from onnx_prune.graph import Node, weight_of


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
Ways = dict[Place, tuple[Place, Node] | None]


class Links:
    """The dimensions that every node couples, to be walked from any of them.

    Args:
        coupling: the analysed model.
    """

    def __init__(self, coupling: Coupling) -> None:
        self._axes = coupling.axes
        self._around: dict[Place, list[tuple[Node, list[Place]]]] = {}
        for bound in coupling.bound:
            node, letters = bound.node, bound.letters
            keys = [coupling.key(node, k) for k in range(len(node.inputs))]
            carried: dict[Atom, list[Place]] = {}
            sides = zip((*keys, *node.outputs), (*letters.operands, *letters.results), strict=True)
            for key, dims in sides:
                for j, axis in enumerate(dims or () if key else ()):
                    for atom in atoms(axis):
                        carried.setdefault(atom, []).append((key, j))
            for places in carried.values():
                for place in dict.fromkeys(places):
                    self._around.setdefault(place, []).append((node, places))

    def walk(self, start: Place, along: Collection[Atom]) -> Ways:
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

    def _on(self, place: Place) -> Iterator[Atom]:
        key, dim = place
        return atoms(self._axes[key][dim])


def chain(ways: Ways, end: Place) -> Chain:
    """The steps that lead from where a walk began to one of the dimensions that it reached."""
    steps = []
    while (way := ways[end]) is not None:
        steps.append(Step(way[1].label, weight_of(end[0]), end[1]))
        end = way[0]
    return tuple(reversed(steps))

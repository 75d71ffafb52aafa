"""How far cutting reaches: along how many axes each parameter can be cut, and what keeps the others.

A weight is a box of positions.  Along each dimension a position is free, or held for one reason, or
has no channels to speak of (a kernel's height); so how many parameters can be cut along two axes,
one or none is a product of counts, and the three add up to all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod as product

from onnx_prune.axes.axis import Atom, Axis, Bundle, Cat, Prod, Weave, atoms
from onnx_prune.coupling import Coupling, Site

NO_CHANNELS = "they have no channels: scalars, kernels, scales and the like"
UNREAD = "no node that is understood reads them"
_FREE = ""


@dataclass(frozen=True, slots=True)
class Reach:
    """How many parameters can be cut along how many axes; the three add up to all of them.

    Attributes:
        two: parameters that go with a channel of either of two axes, or of more.
        one: those that stand on one axis that can be cut.
        none: those that stay, whatever is cut.
        half: about how many are left once half of the channels of every group are cut.
    """

    two: int
    one: int
    none: int
    half: int


@dataclass(frozen=True, slots=True)
class Kept:
    """What stays whole for one reason.

    Attributes:
        why: the reason.
        axes: (weight, dimension, positions) triples.
        params: parameters that stand on these axes; those of two reasons may overlap.
        alone: those of them that no other axis reaches either, so that they stay.
    """

    why: str
    axes: tuple[tuple[str, int, int], ...]
    params: int
    alone: int


@dataclass(frozen=True, slots=True)
class _Box:
    """One weight: for each dimension how many positions are free, or held for which reason."""

    weight: str
    dims: tuple[Counter[str], ...]

    def count(self, barred: Collection[str] = ()) -> int:
        """Parameters that stand on no position labelled so."""
        return product(sum(n for label, n in dim.items() if label not in barred) for dim in self.dims)

    def reach(self) -> tuple[int, int, int]:
        """Parameters free along two dimensions or more, along one, and along none."""
        none, one = 1, 0
        for dim in self.dims:
            free, rest = dim[_FREE], dim.total() - dim[_FREE]
            none, one = none * rest, one * rest + none * free
        return self.count() - one - none, one, none


def reach(coupling: Coupling, barred: Mapping[Atom, str]) -> tuple[Reach, tuple[Kept, ...]]:
    """How far cutting reaches, and what keeps the rest, the most parameters first.

    Args:
        coupling: the analysed model.
        barred: atoms of groups that are not to be cut, and why.
    """
    graph, instead = coupling.graph, computed(coupling)
    said = {(held.weight, held.dim): held.why for held in coupling.held}
    stored = [name for name in graph.weights if name not in graph.frozen and graph.elements(name)]
    boxes = [_box(coupling, name, instead.get(name, name), barred, said) for name in stored]
    two, one, none = (sum(part) for part in zip((0, 0, 0), *(box.reach() for box in boxes), strict=True))
    rows: dict[str, list[tuple[_Box, list[tuple[str, int, int]]]]] = {}
    for box in boxes:
        axes: dict[str, list[tuple[str, int, int]]] = {}
        for j, dim in enumerate(box.dims):
            for why, n in dim.items():
                if why not in (_FREE, NO_CHANNELS):
                    axes.setdefault(why, []).append((box.weight, j, n))
        if not any(label != NO_CHANNELS for dim in box.dims for label in dim):
            axes[NO_CHANNELS] = []
        for why, mine in axes.items():
            rows.setdefault(why, []).append((box, mine))
    found = [
        Kept(
            why,
            tuple(axis for _, axes in own for axis in axes),
            sum(box.count() - box.count([why]) for box, _ in own),
            sum(box.count([_FREE]) - box.count([_FREE, why]) for box, _ in own),
        )
        for why, own in rows.items()
    ]
    half = round(two / 4 + one / 2 + none)
    return Reach(two, one, none, half), tuple(sorted(found, key=lambda kept: (-kept.params, kept.why)))


def computed(coupling: Coupling) -> dict[str, str]:
    """For each weight that another of its shape is computed from, and cut instead, the name of that one."""
    graph, free = coupling.graph, {group.atom for group in coupling.groups}
    found: dict[str, str] = {}
    for result in graph.frozen:
        if not any(atom in free for axis in coupling.axes.get(result, ()) for atom in atoms(axis)):
            continue
        todo, seen = [result], {result}
        while todo:
            maker = graph.makers.get(todo.pop())
            fresh = {name for name in (maker.inputs if maker else ()) if name} - seen
            seen |= fresh
            todo += fresh
        same = (name for name in seen & graph.weights.keys() if graph.dims(name) == graph.dims(result))
        found.update((name, result) for name in same)
    return found


def _box(
    coupling: Coupling, name: str, cut: str, barred: Mapping[Atom, str], said: Mapping[Site, str]
) -> _Box:
    """A weight where `cut` is, or of its private copies the one that is reached least."""
    boxes = []
    for key in coupling.keys(cut):
        dims = coupling.axes.get(key)
        if dims is None:
            shape = coupling.graph.dims(name) or (1,)
            return _Box(name, tuple(Counter({UNREAD: n}) for n in shape))
        labels = (_labels(axis, coupling, barred, said.get((cut, j))) for j, axis in enumerate(dims))
        boxes.append(_Box(name, tuple(labels) or (Counter({NO_CHANNELS: 1}),)))
    return min(boxes, key=lambda box: box.reach()[:2])


def _labels(axis: Axis, coupling: Coupling, barred: Mapping[Atom, str], why: str | None) -> Counter[str]:
    """How many positions of an axis are free, or held for which reason; `why` is one that it is known for."""
    match axis:
        case Atom():
            return Counter({_label(axis, coupling, barred, why): axis.size})
        case Bundle():
            return _labels(axis.parts[0], coupling, barred, why)
        case Cat() | Weave():
            parts = (_labels(part, coupling, barred, why) for part in axis.parts)
            return sum(parts, Counter[str]())
        case Prod():
            found = Counter({NO_CHANNELS: 1})
            for part in axis.parts:
                inner = _labels(part, coupling, barred, why)
                outer, found = found, Counter[str]()
                for a, m in outer.items():
                    for b, n in inner.items():
                        found[_stronger(a, b)] += m * n
            return found


def _label(atom: Atom, coupling: Coupling, barred: Mapping[Atom, str], why: str | None) -> str:
    if atom in barred:
        return barred[atom]
    reason = coupling.reasons.get(atom)
    shuffled = any(atom in web.atoms for web in coupling.webs)
    if reason is None and (atom.size > 1 or shuffled):
        return _FREE
    return NO_CHANNELS if why is None else reason or why


def _stronger(a: str, b: str) -> str:
    """What a position is that is one thing in one factor and another in the other: free, if it can be."""
    return _FREE if _FREE in (a, b) else b if a == NO_CHANNELS else a

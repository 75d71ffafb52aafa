"""What makes one group of channels that would else be several: a table or a weight that all of them read.

One sine table gives every layer of a transformer the same rotary halves; one weight that two branches
read makes both cut the same channels.  Take such a tensor away, and the group falls into parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from onnx_prune.axes.axis import Atom, atoms
from onnx_prune.coupling import Coupling, Site
from onnx_prune.explanation.chain import letters_of
from onnx_prune.model.graph import weight_of

_Spot = tuple[Atom, Site]


@dataclass(frozen=True, slots=True)
class Bridge:
    """A tensor that holds parts of a group together.

    Attributes:
        tensor: its name, that of a weight if it is one or is computed from one.
        dim: the dimension that carries the group's channels.
        parts: how many parts meet there, each with channels of its own making.
    """

    tensor: str
    dim: int
    parts: int


def bridges(coupling: Coupling) -> dict[Atom, tuple[Bridge, ...]]:
    """For each group that is one only because of some tensors, these."""
    makers = {
        (group.atom, (m.key, m.dim))
        for group in coupling.groups
        for m in group.members
        if m.role == "producer"
    }
    made: set[_Spot] = set()
    parts, tables = _Classes(), _Classes()
    touching: list[tuple[_Spot, _Spot]] = []
    for ins, outs in _letters(coupling, {group.atom for group in coupling.groups}):
        if any(spot in made or spot in makers for spot in ins):
            made.update(outs)
        here = [spot for spot in (*ins, *outs) if spot in made]
        given = [spot for spot in (*ins, *outs) if spot not in made]
        parts.join(here)
        tables.join(given)
        if here and given:
            touching.append((given[0], here[0]))
    met: dict[_Spot, set[_Spot]] = {}
    for given_, part in touching:
        met.setdefault(tables.find(given_), set()).add(parts.find(part))
    found: dict[Atom, tuple[Bridge, ...]] = {}
    for table, own in met.items():
        if len(own) > 1:
            atom, (key, dim) = min(tables.members(table), key=lambda spot: not _stored(coupling, spot))
            found[atom] = (*found.get(atom, ()), Bridge(weight_of(key), dim, len(own)))
    return found


def _stored(coupling: Coupling, spot: _Spot) -> bool:
    return weight_of(spot[1][0]) in coupling.graph.weights


def _letters(coupling: Coupling, free: set[Atom]) -> Iterator[tuple[list[_Spot], list[_Spot]]]:
    """For each letter of each node, and each group on it, where it stands in operands and in results."""

    def spots(places: Iterable[Site], atom: Atom) -> list[_Spot]:
        return [(atom, place) for place in places if atom in on[place]]

    for bound in coupling.bound:
        for ins, outs in letters_of(coupling, bound):
            on = {(key, dim): free & set(atoms(coupling.axes[key][dim])) for key, dim in (*ins, *outs)}
            for atom in dict.fromkeys(atom for here in on.values() for atom in here):
                yield spots(ins, atom), spots(outs, atom)


class _Classes:
    """Which spots belong together."""

    def __init__(self) -> None:
        self._parent: dict[_Spot, _Spot] = {}
        self._members: dict[_Spot, list[_Spot]] = {}

    def find(self, spot: _Spot) -> _Spot:
        self._parent.setdefault(spot, spot)
        while (above := self._parent[spot]) != spot:
            self._parent[spot] = self._parent[above]
            spot = above
        return spot

    def join(self, spots: list[_Spot]) -> None:
        for spot in spots:
            first, other = self.find(spots[0]), self.find(spot)
            self._members.setdefault(first, [first])
            if other != first:
                self._parent[other] = first
                self._members[first] += self._members.pop(other, [other])

    def members(self, root: _Spot) -> list[_Spot]:
        return self._members[root]

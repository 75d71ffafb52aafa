"""The answer to "why was this layer not cut?", for one weight, tensor or node."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from onnx_prune.axes.axis import Atom, Axis, Prod, atoms, size
from onnx_prune.coupling import Coupling, Group, Site
from onnx_prune.errors import InputError
from onnx_prune.explanation.chain import Chain, Links, Ways, chain
from onnx_prune.explanation.reach import computed
from onnx_prune.model.graph import weight_of
from onnx_prune.model.nodes import Node
from onnx_prune.words import guess, plain


@dataclass(frozen=True, slots=True)
class With:
    """A dimension that goes with the one asked about.

    Attributes:
        weight: its weight.
        dim: the dimension.
        start: the tensor and dimension where its way leaves those of nearer ones.
        chain: the steps from there.
    """

    weight: str
    dim: int
    start: Site
    chain: Chain


@dataclass(frozen=True, slots=True)
class Why:
    """What holds a run of channels on one dimension, or what they go with.

    Attributes:
        weight: the weight (or another tensor).
        dim: its dimension.
        axis: what the dimension is made of, the run in brackets: "3 × [12] × 64" is 3 times 12 heads
            of 64; "" if the run is the whole of it.
        size: number of channels in the run.
        verdict: "cut" if they are a group that can be cut, else "held".
        why: the reason they are held, or the group's name.
        chain: the steps from the dimension to where the reason arises.
        others: the dimensions that go with it, the nearest first.
    """

    weight: str
    dim: int
    axis: str
    size: int
    verdict: Literal["cut", "held"]
    why: str
    chain: Chain = ()
    others: tuple[With, ...] = ()


def whys(coupling: Coupling, about: str, barred: Mapping[Atom, str]) -> tuple[Why, ...]:
    """Answers for every dimension that is asked about, and for each run of channels on it.

    Args:
        coupling: the analysed model.
        about: "NAME" or "NAME:DIM", where the name is that of a weight, another tensor or a node.
        barred: atoms of groups that are not to be cut, and why.

    Raises:
        InputError: there is nothing of that name.
    """
    links, groups = Links(coupling), {group.atom: group for group in coupling.groups}
    found = []
    for place in _places(coupling, about):
        axis = _axis(coupling, place)
        if size(axis) > 1 and all(atom.size == 1 and atom not in groups for atom in atoms(axis)):
            found += [
                Why(weight_of(place[0]), place[1], spelled(axis), size(axis), "held", held.why)
                for held in coupling.held
                if (held.weight, held.dim) == (weight_of(place[0]), place[1])
            ]
            continue
        for atom in dict.fromkeys(atoms(axis)):
            group, why = groups.get(atom), barred.get(atom) or coupling.reasons.get(atom)
            made = "" if axis is atom else spelled(axis, {atom})
            said = weight_of(place[0]), place[1], made, atom.size
            if group is not None:
                ways = links.walk(place, {atom})
                if why is None:
                    found.append(Why(*said, "cut", group.name, (), tuple(_others(ways, group))))
                elif group.mixed:
                    found.append(Why(*said, "held", why, _to(ways, coupling.origins[group.mixed])))
            elif why and atom.size > 1:
                ways = links.walk(place, {a for a, other in coupling.reasons.items() if other == why})
                found.append(Why(*said, "held", why, _to(ways, coupling.origins.get(why, ()))))
    return tuple(dict.fromkeys(found))


def spelled(axis: Axis, marked: Collection[Atom] = ()) -> str:
    """What an axis is made of, in numbers of channels, some of them marked.

    >>> from onnx_prune.axes.axis import cat, prod
    >>> head = Atom(2)
    >>> spelled(prod(Atom(3), cat(Atom(4), prod(head, Atom(4)))), {head})
    '3 × (4 + ([2] × 4))'
    """

    def inner(part: Axis, outermost: bool = False) -> str:
        match part:
            case Atom():
                return f"[{part.size}]" if part in marked else str(part.size)
            case _:
                text = (" × " if isinstance(part, Prod) else " + ").join(map(inner, part.parts))
                return text if outermost else f"({text})"

    return inner(axis, True)


def _axis(coupling: Coupling, place: Site) -> Axis:
    key, dim = place
    return coupling.axes[key][dim]


def _places(coupling: Coupling, about: str) -> list[Site]:
    """The dimensions asked about; of a whole weight those that have channels."""
    name, _, number = about.rpartition(":")
    keys = _keys(coupling, about)
    if keys:
        known = {(held.weight, held.dim) for held in coupling.held}
        free = {group.atom for group in coupling.groups}
        places = [(key, j) for key in keys for j in range(len(coupling.axes.get(key, ())))]
        return [
            (key, j)
            for key, j in places
            if weight_of(key) not in coupling.graph.weights
            or (weight_of(key), j) in known
            or any(a in free for a in atoms(_axis(coupling, (key, j))))
        ]
    keys = _keys(coupling, name)
    if not keys or not number.isdecimal():
        names = {*coupling.graph.weights, *coupling.axes, *_nodes(coupling)}
        raise InputError(
            f"{plain(about)!r} is no weight, tensor or node of the model"
            f"{guess(about, map(weight_of, names)) or '; onnx-prune explain -v shows names'}"
        )
    for key in keys:
        rank = len(coupling.axes.get(key, ()))
        if int(number) >= rank:
            raise InputError(f"{plain(weight_of(key))!r} has no dimension {number}: they are 0 to {rank - 1}")
    return [(key, int(number)) for key in keys]


def _keys(coupling: Coupling, name: str) -> list[str]:
    """The keys of a tensor, or of all weights that a node reads."""
    if name in coupling.graph.weights or name in coupling.axes:
        return coupling.keys(computed(coupling).get(name, name))
    node = _nodes(coupling).get(name)
    if node is None:
        return []
    read = [coupling.key(node, k) for k in range(len(node.inputs))]
    return [key for key in read if weight_of(key) in coupling.graph.weights]


def _nodes(coupling: Coupling) -> dict[str, Node]:
    return {node.proto.name: node for node in coupling.graph.nodes if node.proto.name}


def _to(ways: Ways, origins: Collection[Site]) -> Chain:
    """The steps to the nearest dimension where a reason arises."""
    end = next((place for place in ways if place in origins), None)
    return () if end is None else chain(ways, end)


def _others(ways: Ways, group: Group) -> Iterator[With]:
    """The other members, each with its way from where that leaves the ways told before."""
    members = {(member.key, member.dim) for member in group.members}
    told = {place for place, way in ways.items() if way is None}
    for end in ways:
        if end in members and ways[end] is not None:
            steps, here = chain(ways, end), end
            count = 0
            while here not in told and (way := ways[here]) is not None:
                told.add(here)
                here, count = way[0], count + 1
            yield With(weight_of(end[0]), end[1], (weight_of(here[0]), here[1]), steps[len(steps) - count :])

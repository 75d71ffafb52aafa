"""Which parts the dims of a layer's operand play, read off its relation, and carried through a node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from onnx_prune.axes.axis import Atom, Axis, Cat, atoms, size
from onnx_prune.axes.relation import Dims
from onnx_prune.sparse.orientation import Factors, Part, refine


def recurrence(dims: Dims) -> tuple[int, Atom] | None:
    """A dim of a matrix from channels to the same channels that is summed over: the one without gates."""
    places = Counter(a for axis in dims for a in set(atoms(axis)))
    for atom, count in places.items():
        if count > 1 and atom.size > 1:
            plain_dims = [j for j, axis in enumerate(dims) if axis is atom]
            if plain_dims:
                return plain_dims[-1], atom
    return None


def parts_of(axis: Axis, summed: Collection[Atom], results: Collection[Atom]) -> Factors:
    """The factors of one dim of a layer's weight."""

    def part(inside: Iterable[Atom]) -> Part:
        found = set(inside)
        return "sum" if found & set(summed) else "out" if found & set(results) else "position"

    pieces = (axis,) if isinstance(axis, Atom | Cat) else axis.parts
    return tuple((size(piece), part(atoms(piece))) for piece in pieces)


def by_piece(known: tuple[Factors, ...], result: Dims | None) -> dict[Axis, Factors] | None:
    """The factors of each piece of a result's axes."""
    found: dict[Axis, Factors] = {}
    for factors, axis in zip(known, result or (), strict=False):
        pieces = (axis,) if isinstance(axis, Atom | Cat) else axis.parts
        split = refine(factors, map(size, pieces))
        if split is None:
            return None
        found.update(zip(pieces, split, strict=True))
    return found


def carried(axis: Axis, parts: Mapping[Axis, Factors]) -> Factors:
    """The factors of an operand's axis; parts end to end play the part of the first that is known."""
    if isinstance(axis, Cat) and axis not in parts:
        known = (part for inner in axis.parts for _, part in parts.get(inner, ()))
        return ((size(axis), next(known, "position")),)
    pieces = (axis,) if isinstance(axis, Atom | Cat) else axis.parts
    found: list[tuple[int, Part]] = []
    for piece in pieces:
        found += parts.get(piece, ((size(piece), "position"),))
    return tuple(found)

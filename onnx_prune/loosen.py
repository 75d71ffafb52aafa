"""Channel shuffles whose parts may lose different channels, as long as all lose as many.

    (a b) -> a b -> b a -> (b a)

Reshape, Transpose, Reshape deal the channels of `a` parts of size `b` out in turn.  Rule by rule that makes
channel j of every part one channel of `b`; after a few shuffles on end single channels stand for dozens.  But
nothing on the way looks at them: if every part keeps as many, those that stay are dealt out as well, only in
another order, and what lies behind is written in that order.  So the parts b0, b1, ... are told apart:

    (b0 + b1) -> a (b0 | b1) -> (b0 | b1) a -> (b0 , b1)

That gives up cutting `a`, so it is done where `a` can't be cut anyhow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from onnx_prune.axes.axis import Atom, Axis, Bundle, Prod, atoms, cat, count, size, weave
from onnx_prune.axes.relation import CARRIED, Dims, Relation, hold
from onnx_prune.coupling import Bound, Coupling

DEALT = "the parts of a shuffle stay as many"


def loosened(coupling: Coupling) -> dict[int, Relation]:
    """By node the relations that tell the parts of shuffles apart, where that leaves more to cut."""
    shuffles, found = _Shuffles(coupling), dict[int, Relation]()
    for bound in coupling.bound:
        for pair in shuffles.opened(bound):
            way = shuffles.way(bound, pair)
            if way is not None and not found.keys() & way.keys():
                letters = {index: shuffles.bounds[index].letters for index in way}
                found |= {index: _told_apart(letters[index], *pair) for index, pair in way.items()}
    return found


def cuttable(coupling: Coupling) -> int:
    """Positions on the axes of weights that some group reaches whatever is asked for."""
    free = {group.atom for group in coupling.groups}
    stiff = {atom for web in coupling.webs if not web.pliant for atom in web.atoms}
    gone = dict.fromkeys(free - stiff, 0)
    return sum(
        size(axis) - count(axis, gone)
        for name in coupling.graph.weights
        for key in coupling.keys(name)
        for axis in coupling.axes.get(key, ())
    )


class _Shuffles:
    """Finds them in an analysed model.

    Attributes:
        bounds: the nodes that have a relation, by their index.
    """

    def __init__(self, coupling: Coupling) -> None:
        self._coupling = coupling
        self._free = {group.atom for group in coupling.groups}
        self._folded = {node.index for node in coupling.folded.nodes}
        self._shown = {value.name for value in coupling.graph.outputs} | coupling.graph.captured.keys()
        self.bounds = {bound.node.index: bound for bound in coupling.bound}

    def opened(self, bound: Bound) -> Iterator[tuple[Atom, Atom]]:
        """Products that a node takes apart: the factor that counts parts, and the other."""
        if not _moves(bound.letters):
            return
        operand, result = bound.letters.operands[0], bound.letters.results[0]
        for axis in operand or ():
            if (
                isinstance(axis, Prod)
                and len(axis.parts) == 2
                and all(part in (result or ()) for part in axis.parts)
            ):
                small, large = sorted(axis.parts, key=size)
                assert isinstance(small, Atom)
                assert isinstance(large, Atom)
                real = dict(zip(result or (), bound.relation.results[0] or (), strict=True))
                fixed = [a for a in (small, large) if self._free.isdisjoint(atoms(real[a]))]
                held = [a for a in (small, large) if _wholly_held(self._coupling, real[a])]
                if small.size > 1 and not (small.held or large.held) and small in fixed and large not in held:
                    yield small, large

    def way(self, opening: Bound, pair: tuple[Atom, Atom]) -> dict[int, tuple[Atom, Atom]] | None:
        """The nodes from where a product is taken apart to where it is put together, and their two letters.

        None if anything but a move of its elements happens on the way.
        """
        way: dict[int, tuple[Atom, Atom]] = {opening.node.index: pair}
        todo = [opening]
        while todo:
            bound = todo.pop()
            name, letters = bound.node.outputs[0], way[bound.node.index]
            result = bound.letters.results[0] or ()
            if name in self._shown or bound.node.inner or bound.node.crossing:
                return None
            places = [result.index(letter) for letter in letters]
            uses = self._coupling.graph.uses.get(name, [])
            if not uses:
                return None
            for index, k in uses:
                if index in self._folded:
                    continue
                reader = self.bounds.get(index)
                if reader is None or k or not _moves(reader.letters):
                    return None
                operand, after = reader.letters.operands[0] or (), reader.letters.results[0] or ()
                one, two = (operand[j] for j in places)
                if not isinstance(one, Atom) or not isinstance(two, Atom) or one.held or two.held:
                    return None
                way[index] = (one, two)
                if one in after and two in after:
                    todo.append(reader)
                elif not {Prod((one, two)), Prod((two, one))} & set(after):
                    return None
        return way


def _wholly_held(coupling: Coupling, axis: Axis) -> bool:
    return all(coupling.reasons.get(atom) for atom in atoms(axis))


def _moves(relation: Relation) -> bool:
    """Whether a node hands on every element of its one operand, and only moves it."""
    rest = (*relation.operands[1:], *relation.results[1:])
    if (
        not (relation.operands and relation.results)
        or relation.zero != CARRIED
        or relation.reads
        or relation.writes
        or any(dims is not None for dims in rest)
    ):
        return False
    before, after = (
        [a for axis in dims or () for a in atoms(axis)]
        for dims in (relation.operands[0], relation.results[0])
    )
    return len(set(before)) == len(before) and set(before) - _ones(before) == set(after) - _ones(after)


def _ones(found: list[Atom]) -> set[Atom]:
    return {atom for atom in found if atom.size == 1}


def _told_apart(relation: Relation, index: Atom, letter: Atom) -> Relation:
    """The relation with a run for each position of `index` in place of `letter`."""
    runs = [Atom(letter.size, f"{letter.name}{j}") for j in range(index.size)]
    said: dict[Axis, Axis] = {
        index: hold(index, DEALT),
        letter: Bundle(tuple(runs)),
        Prod((index, letter)): cat(*runs),
        Prod((letter, index)): weave(runs),
    }

    def dims(row: Dims | None) -> Dims | None:
        return None if row is None else tuple(said.get(axis, axis) for axis in row)

    restate = tuple(
        replace(r, axes=tuple(None if a is None else said.get(a, a) for a in r.axes))
        for r in relation.restate
    )
    operands, results = (tuple(map(dims, side)) for side in (relation.operands, relation.results))
    return replace(relation, operands=operands, results=results, restate=restate)

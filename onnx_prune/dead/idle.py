"""Channels that say nothing: what of every tensor is zero, or the same whatever the inputs are.

Found forward through the graph by the operators' rules: a filter of zeros makes its bias, a ReLU of a
constant is a constant, a layer that reads only constants makes one.  What an operator sums over is
constant where every weight that reads something else is zero.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_prune.axes.axis import Atom, Axis, Cat, Prod, atoms, owner, size
from onnx_prune.axes.relation import Dims, Relation
from onnx_prune.coupling import Bound, Coupling
from onnx_prune.shape.fold import is_random
from onnx_prune.sparse.stored import Stored

Array = NDArray[Any]
Bool = NDArray[np.bool_]
_SCALED = {"BatchNormalization": (1, 2), "InstanceNormalization": (1, 2)}  # scale and offset


@dataclass(frozen=True, slots=True)
class State:
    """What is known of each position along one dim of a tensor.

    Attributes:
        constant: the values there do not depend on the inputs.
        zero: they are zero.
    """

    constant: Bool
    zero: Bool


def idle(coupling: Coupling) -> dict[tuple[str, int], State]:
    """The dims of run-time tensors of which something is known, by the tensor's name and the dim.

    Args:
        coupling: the analysed model.
    """
    return _Walk(coupling).run()


def dim_with(dims: Dims | None, atom: Atom) -> int | None:
    """The first dim that an atom stands on."""
    return next((d for d, axis in enumerate(dims or ()) if atom in atoms(axis)), None)


def pieces(axis: Axis) -> tuple[Axis, ...]:
    """The factors of an axis."""
    return axis.parts if isinstance(axis, Prod) else (axis,)


class _Walk:
    def __init__(self, coupling: Coupling) -> None:
        self.coupling, self.graph = coupling, coupling.graph
        self.stored = Stored(coupling)
        self.found: dict[tuple[str, int], State] = {}
        self.constant: set[str] = {n for n in self.graph.weights if n not in self.graph.frozen}
        self.constant |= coupling.folded.names

    def run(self) -> dict[tuple[str, int], State]:
        for bound in self.coupling.bound:
            node = bound.node
            if any(node.inputs) and all(not n or n in self.constant for n in node.inputs):
                if not node.crossing and not is_random(node):
                    self.constant.update(filter(None, node.outputs))
                continue
            if is_random(node) or node.crossing:
                continue
            for out, dims in enumerate(bound.letters.results):
                for d, axis in enumerate(dims or ()):
                    self._result(bound, out, d, axis)
        return self.found

    def _result(self, bound: Bound, out: int, d: int, axis: Axis) -> None:
        relation, node = bound.letters, bound.node
        if not node.outputs[out] or any(a.held or a.mixed for a in atoms(axis)) or size(axis) == 1:
            return
        weight = product_with(bound, self.constant)
        known = [self._along(bound, k, axis) for k in range(len(node.inputs))]
        carried = {k for k, dims in enumerate(relation.operands) if _shared(axis, dims)}
        zero = _zeros(relation, known, carried, size(axis))
        constant = zero.copy()
        if weight is None:
            constant |= np.logical_and.reduce([state.constant for state in known if state is not None])
        else:
            rest = [s.constant for k, s in enumerate(known) if s is not None and k not in weight]
            own = self._summed(bound, *weight, axis)
            if own is not None:
                constant |= np.logical_and.reduce([own, *rest])
        if node.op in _SCALED:
            scale, offset = (known[k] for k in _SCALED[node.op])
            if scale is not None and offset is not None:
                constant |= scale.zero & offset.constant
        if constant.any():
            self.found[node.outputs[out], d] = State(constant, zero)

    def _along(self, bound: Bound, k: int, axis: Axis) -> State | None:
        """What is known of operand `k` at each position of a result's axis; None if it is left out."""
        name, relation, n = bound.node.inputs[k], bound.letters, size(axis)
        if not name:
            return None
        constant, zero = np.full(n, name in self.constant), np.zeros(n, np.bool_)
        if isinstance(axis, Cat) and (parts := _shared(axis, relation.operands[k])):
            elsewhere = np.ones(n, np.bool_)  # a part that another operand makes
            for atom in parts:
                elsewhere[owner(axis, atom)[0]] = False
            constant |= elsewhere
            zero |= elsewhere
        for e, other in enumerate(relation.operands[k] or ()):
            shared = [a for a in dict.fromkeys(atoms(axis)) if a in set(atoms(other))]
            state = self._state(name, e) if shared else None
            if state is None:
                continue
            if other == axis:
                constant |= state.constant
                zero |= state.zero
                continue
            for atom in shared:
                at, channel = owner(other, atom)
                here, mine = owner(axis, atom)
                for known, told in ((constant, state.constant), (zero, state.zero)):
                    quiet = np.ones(atom.size, np.bool_)
                    np.logical_and.at(quiet, channel, told[at])
                    known[here] |= quiet[mine]
        return State(constant, zero)

    def _state(self, name: str, d: int) -> State | None:
        if (name, d) in self.found:
            return self.found[name, d]
        if name not in self.stored:
            return None
        blank = self.stored.zeros(name)
        zero = np.asarray(blank.all(tuple(e for e in range(blank.ndim) if e != d)))
        return State(np.ones(zero.shape, np.bool_), zero)

    def _summed(self, bound: Bound, data: int, weight: int, axis: Axis) -> Bool | None:
        """Where a product reads nothing but constants: every weight that reads something else is zero."""
        live = live_weights(bound, data, weight, self._positions(bound, data), self.stored)
        if live is None:
            return None
        array, letters = live
        mine = pieces(axis)
        if any(a not in letters for a in mine):
            return None
        others = tuple(j for j, a in enumerate(letters) if a not in mine)
        quiet = np.asarray(~array.any(others))
        order = [a for a in letters if a in mine]
        return np.asarray(quiet.transpose([order.index(a) for a in mine]).reshape(-1))

    def _positions(self, bound: Bound, data: int) -> dict[int, Bool]:
        """For each dim of an operand where it is constant."""
        name = bound.node.inputs[data]
        dims = bound.letters.operands[data] or ()
        return {e: self.found[name, e].constant for e in range(len(dims)) if (name, e) in self.found}


def product_with(bound: Bound, constant: Collection[str]) -> tuple[int, int] | None:
    """The operand made at run time and the constant one that a node multiplies and sums over."""
    relation, names = bound.letters, bound.node.inputs
    for k, dims in enumerate(relation.operands):
        if not names[k] or names[k] not in constant or k in relation.unmasked:
            continue
        own = {a for axis in dims or () for a in atoms(axis)} & relation.contracted()
        for j, theirs in enumerate(relation.operands):
            moving = j != k and names[j] and names[j] not in constant
            if moving and own & {a for axis in theirs or () for a in atoms(axis)}:
                return j, k
    return None


def live_weights(
    bound: Bound, data: int, weight: int, quiet: dict[int, Bool], stored: Stored
) -> tuple[Bool, list[Axis]] | None:
    """Which weights of a product are not zero and read something that is not quiet.

    Args:
        bound: the node.
        data: its operand made at run time.
        weight: its stored operand.
        quiet: for dims of the former the positions that do not count.
        stored: the stored tensors.

    Returns:
        An array with a dim for each of the weight's letters, and the letters; None if they do not line up.
    """
    name = bound.node.inputs[weight]
    dims = bound.letters.operands[weight]
    if dims is None or name not in stored:
        return None
    letters = [piece for axis in dims for piece in pieces(axis)]
    if any(isinstance(letter, Cat) for letter in letters) or len(set(letters)) < len(letters):
        return None
    live = ~stored.zeros(name).reshape([size(letter) for letter in letters])
    for e, positions in quiet.items():
        axis = (bound.letters.operands[data] or ())[e]
        mine = pieces(axis)
        if any(a not in letters for a in mine):
            continue
        spread = np.asarray(positions.reshape([size(a) for a in mine]))
        order = [mine.index(a) for a in letters if a in mine]
        shape = [size(a) if a in mine else 1 for a in letters]
        live &= ~spread.transpose(order).reshape(shape)
    return live, letters


def _shared(axis: Axis, dims: Dims | None) -> set[Atom]:
    """The atoms of an axis that an operand carries."""
    return set(atoms(axis)) & {a for other in dims or () for a in atoms(other)}


def _zeros(relation: Relation, known: list[State | None], carried: set[int], n: int) -> Bool:
    """Where a result is zero: the operands that the rule names are, or all that carry the dim."""
    clauses = relation.zero or tuple((k,) for k in sorted(carried))
    zero = np.full(n, bool(clauses))
    for clause in clauses:
        part = np.zeros(n, np.bool_)
        for k in clause:
            state = known[k] if k < len(known) else None
            part |= True if state is None else state.zero
        zero &= part
    return zero

"""Makes sizes and positions that a model writes down follow the cut.

An operand of shape arithmetic is evaluated again with the cut shapes.  Where it comes out right it is
left alone; else it becomes a constant, or, where some entries are dynamic, the old operand with the
wrong entries replaced.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations_with_replacement
from math import prod as product
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from onnx_prune.axes.axis import Atom, atoms, count, size
from onnx_prune.axes.relation import Restate
from onnx_prune.axes.restate import restated
from onnx_prune.coupling import Bound, Coupling
from onnx_prune.draft import Draft, add_constant
from onnx_prune.errors import PruneError
from onnx_prune.kept import Plan, shapes_after, size_kept, slicer, stays

Array = NDArray[Any]


class CannotRestate(PruneError):
    """A dynamic operand can't be made to follow the cut; these atoms have to stay whole."""

    def __init__(self, atoms: set[Atom], why: str) -> None:
        super().__init__(why)
        self.atoms = atoms


class Follower:
    """Edits a draft of the cut model until every size and position in it is right.

    Args:
        coupling: the analysed original.
        plan: which channels stay.
        draft: the cut model, edited in place.
    """

    def __init__(self, coupling: Coupling, plan: Plan, draft: Draft) -> None:
        self.coupling, self.plan, self.draft = coupling, plan, draft
        self.free = {group.atom for group in coupling.groups}
        self.counts = {atom: int(mask.sum()) for atom, mask in plan.items()}
        assignments = [s.known for s in (coupling.shapes, coupling.probe) if s is not None]
        self.after = [shapes_after(coupling, plan, known) for known in assignments]
        self.old = [coupling.folded.run(known) for known in assignments]
        self.new = [coupling.folded.run(known) for known in self.after]
        self.constants: dict[tuple[str, bytes], str] = {}

    def run(self) -> None:
        """Restate all operands and attributes.

        Raises:
            CannotRestate: a run-time or dynamic operand can't follow.
        """
        for bound in self.coupling.bound:
            for restate in bound.relation.restate:
                if isinstance(restate.target, str):
                    self._attribute(bound, restate, restate.target)
                else:
                    self._operand(bound, restate, restate.target)
            self._settings(bound)

    def _attribute(self, bound: Bound, restate: Restate, name: str) -> None:
        value = bound.node.attrs.get(name)
        new: Array | None
        if restate.form == "implied":
            cut = any(a in self.plan for axis in restate.axes if axis is not None for a in atoms(axis))
            new = np.array(restate.value) if cut else None
        elif value is None:
            new = self._implied(bound, restate)
        else:
            new = restated(np.asarray(value, np.int64), restate.form, restate.axes, self.plan)
        if new is None or (value is not None and np.array_equal(new, value)):
            return
        proto = self._proto(bound)
        _drop_attribute(proto, name)
        proto.attribute.append(helper.make_attribute(name, new.tolist()))

    def _implied(self, bound: Bound, restate: Restate) -> Array | None:
        """What an operand or attribute that is left out has to say once any dim around is cut.

        Naming the dims of size one would change what happens where a dynamic dim has that size.
        """
        if restate.form == "ones":
            name, known = bound.node.inputs[0], self.coupling.shapes.known
            cut = {a for axis in bound.relation.operands[0] or () for a in atoms(axis) if a in self.plan}
            if self.after[0][name].count(1) == known[name].count(1):
                return None
            if self.coupling.probe is not None and self.coupling.probe.known[name] != known[name]:
                raise CannotRestate(cut, f"{bound.node.label} would squeeze out what is cut to one channel")
        dims = [d for d in (*bound.relation.operands, *bound.relation.results) if d]
        if not any(a in self.plan for d in dims for axis in d for a in atoms(axis)):
            return None
        return np.array([count(axis, self.counts) for axis in restate.axes if axis is not None], np.int64)

    def _operand(self, bound: Bound, restate: Restate, k: int) -> None:
        node = bound.node
        name = node.inputs[k] if k < len(node.inputs) else ""
        if not name:
            implied = self._implied(bound, restate)
            if implied is not None:
                self._rewire(bound, k, implied)
                _drop_attribute(self._proto(bound), "num_outputs")
            return
        if name in self.coupling.folded.names:
            old, new = ([values[name] for values in side] for side in (self.old, self.new))
        elif name in self.coupling.graph.weights:
            take = slicer(stays(self.coupling, self.coupling.key(node, k), self.plan))
            old = new = [take(np.array(self.coupling.graph.array(name)))] * len(self.after)
        elif cut := {a for axis in restate.axes if axis is not None for a in atoms(axis) if a in self.plan}:
            raise CannotRestate(cut, f"{node.label} gets {name} at run time")
        else:
            return
        wanted = [self._wanted(restate, value) for value in old]
        if restate.form == "shape":
            says: _Reshape | _Literal = _Reshape(bound, self.after)
            wanted = [np.array(shapes[node.outputs[0]]) for shapes in self.after]
        else:
            says = _Literal(wanted[0])
        if all(says.means(j, *pair) for j, pair in enumerate(zip(new, wanted, strict=True))):
            return
        for candidate in says.candidates(new[0]):
            if all(says.means(j, candidate, want) for j, want in enumerate(wanted)):
                self._rewire(bound, k, candidate)
                return
        self._patch(bound, restate, k, new, wanted)

    def _wanted(self, restate: Restate, value: Array) -> Array:
        """What an operand has to say; a size at another assignment is cut in its static factors."""
        wanted = restated(value, restate.form, restate.axes, self.plan)
        if restate.form == "sizes":
            flat = wanted.reshape(-1)
            for j, (axis, n) in enumerate(zip(restate.axes, value.ravel().tolist(), strict=True)):
                if axis is not None and n != size(axis) and any(a in self.plan for a in atoms(axis)):
                    flat[j] = size_kept(axis, n, self.counts, self.free)
        return wanted

    def _patch(self, bound: Bound, restate: Restate, k: int, new: list[Array], wanted: list[Array]) -> None:
        """Write a dynamic operand anew, entry by entry.

        An entry that is always the same becomes a literal, one that comes out right is taken from the
        old operand, any other has to be a multiple of a product of the inputs' dynamic dims.
        """
        name = self.draft.operand(bound.node, k)
        pieces = []
        for j in range(wanted[0].size):
            want = [int(value[j]) for value in wanted]
            if len(set(want)) == 1:
                pieces.append(self._constant(bound, k, wanted[0][j : j + 1]))
            elif all(have[j] == n for have, n in zip(new, want, strict=True)):
                index = self._constant(bound, k, np.array([j], np.int64))
                pieces.append(self._insert(bound, "Gather", [name, index]))
            else:
                pieces.append(self._product(bound, restate, k, want))
        self.draft.rewire(bound.node, k, self._insert(bound, "Concat", pieces, axis=0))

    def _product(self, bound: Bound, restate: Restate, k: int, want: list[int]) -> str:
        """An entry as a multiple of dynamic dims of the graph's inputs, read from their Shape."""
        inputs = [s.inputs for s in (self.coupling.shapes, self.coupling.probe) if s is not None]
        dims = {
            sizes: (name, j)
            for name, shape in inputs[0].items()
            for j in range(len(shape))
            if len(set(sizes := tuple(given[name][j] for given in inputs))) > 1
        }
        for count_ in (1, 2, 3):
            for factors in combinations_with_replacement(dims, count_):
                products = [product(values) for values in zip(*factors, strict=True)]
                times = {Fraction(n, p) for n, p in zip(want, products, strict=True)}
                if len(times) == 1 and (multiple := times.pop()).denominator == 1:
                    result = self._constant(bound, k, np.array([int(multiple)], np.int64))
                    for factor in factors:
                        name, j = dims[factor]
                        shape = self._insert(bound, "Shape", [name])
                        index = self._constant(bound, k, np.array([j], np.int64))
                        dim = self._insert(bound, "Gather", [shape, index])
                        result = self._insert(bound, "Mul", [result, dim])
                    return result
        cut = {a for axis in restate.axes if axis is not None for a in atoms(axis)} & set(self.plan)
        why = f"{bound.node.inputs[k]} of {bound.node.label} is dynamic in a way that is not understood"
        raise CannotRestate(cut or set(self.plan), why)

    def _insert(self, bound: Bound, op: str, inputs: list[str], **attributes: Any) -> str:
        """A new node before this one; its result."""
        nodes = self.draft.inserted.setdefault(bound.node.place, [])
        target = self._unused(f"{bound.node.outputs[0]}.{op}{len(nodes)}")
        nodes.append(helper.make_node(op, inputs, [target], name=target, **attributes))
        return target

    def _settings(self, bound: Bound) -> None:
        """An operand that is not restated keeps its value, even where shape arithmetic changed it."""
        done = {r.target for r in bound.relation.restate}
        for k, name in enumerate(bound.node.inputs):
            if k in done or name not in self.coupling.folded.names:
                continue
            old, new = ([values[name] for values in side] for side in (self.old, self.new))
            if all(np.array_equal(a, b) for a, b in zip(old, new, strict=True)):
                continue
            if not all(np.array_equal(value, old[0]) for value in old):
                raise CannotRestate(set(self.plan), f"{name} of {bound.node.label} depends on what is cut")
            self._rewire(bound, k, old[0])

    def _rewire(self, bound: Bound, k: int, value: Array) -> None:
        self.draft.rewire(bound.node, k, self._constant(bound, k, value))

    def _constant(self, bound: Bound, k: int, value: Array) -> str:
        """A private constant, named after its first user; equal ones are made once."""
        key = (value.dtype.str + str(value.shape), value.tobytes())
        if key not in self.constants:
            output = next(filter(None, bound.node.outputs))
            self.constants[key] = add_constant(self.draft, self._unused(f"{output}.operand{k}"), value)
        return self.constants[key]

    def _unused(self, name: str) -> str:
        while name in self.coupling.shapes.known:
            name += "_"
        return name

    def _proto(self, bound: Bound) -> onnx.NodeProto:
        return self.draft.proto(bound.node)


class _Literal:
    """An operand whose entries say what they say."""

    def __init__(self, wanted: Array) -> None:
        self.wanted = wanted

    def candidates(self, first: Array) -> list[Array]:
        return [self.wanted]

    def means(self, j: int, have: Array, want: Array) -> bool:
        return bool(np.array_equal(have, want))


class _Reshape:
    """The shape operand of a Reshape, where 0 repeats a dim of the input and -1 is what is left."""

    def __init__(self, bound: Bound, after: list[dict[str, tuple[int, ...]]]) -> None:
        self.sizes = [shapes[bound.node.outputs[0]] for shapes in after]
        self.sources = [shapes[bound.node.inputs[0]] for shapes in after]
        self.literal_zero = bool(bound.node.attrs.get("allowzero"))

    def means(self, j: int, have: Array, want: Array) -> bool:
        source, entries = self.sources[j], [int(v) for v in have]
        if not self.literal_zero:
            entries = [source[i] if v == 0 and i < len(source) else v for i, v in enumerate(entries)]
        if entries.count(-1) > 1 or (-1 in entries and 0 in self.sizes[j]):
            return False
        return all(v in (n, -1) for v, n in zip(entries, want.tolist(), strict=True))

    def candidates(self, first: Array) -> list[Array]:
        """Constants that may say it: the old one with its 0 and -1, then with 0 or -1 where dynamic."""
        ranks = range(len(self.sizes[0]))
        fixed = [len({sizes[i] for sizes in self.sizes}) == 1 for i in ranks]
        pairs = list(zip(self.sources, self.sizes, strict=True))
        copied = [all(i < len(source) and source[i] == sizes[i] for source, sizes in pairs) for i in ranks]
        sizes = self.sizes[0]
        kept = [int(v) if v in (0, -1) else n for v, n in zip(first, sizes, strict=True)]
        zeros = [n if f else 0 if c else -1 for n, f, c in zip(sizes, fixed, copied, strict=True)]
        return [np.array(entries) for entries in (kept, zeros)]


def _drop_attribute(node: onnx.NodeProto, name: str) -> None:
    for j, attribute in enumerate(node.attribute):
        if attribute.name == name:
            del node.attribute[j]
            return

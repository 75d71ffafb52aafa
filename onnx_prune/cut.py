"""Surgery: slice every weight, restate every size, and drop what the cut leaves dead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune.axis import Atom, Mask, atoms, count, keep
from onnx_prune.coupling import Bound, Coupling
from onnx_prune.draft import Draft, Edit, add_constant, start
from onnx_prune.errors import PruneError
from onnx_prune.relation import Restate
from onnx_prune.restate import restated

Array = NDArray[Any]
Plan = Mapping[Atom, Mask]
Shape = tuple[int, ...]


class CannotRestate(PruneError):
    """A dynamic operand can't be made to follow the cut; these atoms have to stay whole."""

    def __init__(self, atoms: set[Atom], why: str) -> None:
        super().__init__(why)
        self.atoms = atoms


def masks(coupling: Coupling, key: str, plan: Plan) -> list[Mask | None]:
    """For each dim of a tensor which positions stay, None where all do."""
    found: list[Mask | None] = []
    for axis in coupling.axes.get(key, ()):
        mask = keep(axis, plan) if any(a in plan for a in atoms(axis)) else None
        found.append(None if mask is None or mask.all() else mask)
    return found


def shapes_after(coupling: Coupling, plan: Plan, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The shape of every tensor once the plan is carried out."""
    counts = {atom: int(mask.sum()) for atom, mask in plan.items()}
    after = dict(shapes)
    for name, dims in coupling.axes.items():
        if name in after:
            after[name] = tuple(
                count(axis, counts) if any(a in plan for a in atoms(axis)) else n
                for n, axis in zip(shapes[name], dims, strict=True)
            )
    return after


def slicer(found: list[Mask | None]) -> Callable[[Array], Array]:
    """A function that takes what stays along every dim."""

    def take(array: Array) -> Array:
        for dim, mask in enumerate(found):
            if mask is not None:
                array = array.compress(mask, axis=dim)
        return array

    return take


@dataclass(frozen=True, slots=True)
class Copy:
    """A private copy of a shared vector, for the users that need another cut of it.

    Attributes:
        name: the copy's name in the cut model.
        source: the shared vector's.
        key: the key in `Coupling.axes` of one of the users.
        users: (node index, operand index) pairs that read the copy.
    """

    name: str
    source: str
    key: str
    users: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Copies:
    """How shared vectors are parted.

    Attributes:
        leading: for each shared vector the key of the cut that most users need; it keeps the name.
        made: the copies for the others.
    """

    leading: dict[str, str]
    made: tuple[Copy, ...]


def copies_made(coupling: Coupling, plan: Plan) -> Copies:
    """Copy on write: exporters merge equal vectors, and their users may be cut differently."""
    taken = {*coupling.graph.weights, *coupling.shapes.known}
    shared: dict[str, dict[tuple[tuple[int, bytes], ...], list[tuple[tuple[int, int], str]]]] = {}
    for user, key in coupling.copies.items():
        found = enumerate(masks(coupling, key, plan))
        cuts = tuple((dim, mask.tobytes()) for dim, mask in found if mask is not None)
        shared.setdefault(key.split("\0")[0], {}).setdefault(cuts, []).append((user, key))
    leading: dict[str, str] = {}
    made: list[Copy] = []
    for name, versions in shared.items():
        ranked = sorted(versions.values(), key=len, reverse=True)
        leading[name] = ranked[0][0][1]
        for version in ranked[1:]:
            (index, _), key = version[0]
            fresh = f"{name}.{next(filter(None, coupling.graph.nodes[index].outputs))}"
            while fresh in taken:
                fresh += "_"
            taken.add(fresh)
            made.append(Copy(fresh, name, key, tuple(user for user, _ in version)))
    return Copies(leading, tuple(made))


def cut(coupling: Coupling, plan: Plan) -> Draft:
    """The smaller model.

    Args:
        coupling: the analysed original.
        plan: which channels of each group stay.

    Raises:
        CannotRestate: a dynamic shape operand can't follow.
    """
    graph = coupling.graph
    copies = copies_made(coupling, plan)

    def change(name: str) -> Edit | None:
        found = masks(coupling, copies.leading.get(name, name), plan)
        if all(mask is None for mask in found):
            return None
        sizes = zip(graph.dims(name), found, strict=True)
        return Edit(slicer(found), tuple(n if mask is None else int(mask.sum()) for n, mask in sizes))

    draft = start(graph, change)
    live = _live_names(graph.model.graph)
    for copy in copies.made:
        array = slicer(masks(coupling, copy.key, plan))(graph.array(copy.source))
        add_constant(draft, copy.name, array)
        for index, k in copy.users:
            draft.model.graph.node[index].input[k] = copy.name
    _Restater(coupling, plan, draft).run()
    _declare(coupling, plan, draft.model.graph)
    _bury(draft, live)
    return draft


class _Restater:
    """Makes sizes and positions that are written down follow the cut."""

    def __init__(self, coupling: Coupling, plan: Plan, draft: Draft) -> None:
        self.coupling, self.plan, self.draft = coupling, plan, draft
        self.counts = {atom: int(mask.sum()) for atom, mask in plan.items()}
        assignments = [s for s in (coupling.shapes, coupling.probe) if s is not None]
        self.before = [s.known for s in assignments]
        self.after = [shapes_after(coupling, plan, s.known) for s in assignments]
        run = coupling.folded.run
        self.old = [run(shapes) for shapes in self.before]
        self.new = [run(shapes) for shapes in self.after]
        self.constants: dict[tuple[str, bytes], str] = {}

    def run(self) -> None:
        for bound in self.coupling.bound:
            for restate in bound.relation.restate:
                if isinstance(restate.target, str):
                    self._attribute(bound, restate, restate.target)
                else:
                    self._operand(bound, restate, restate.target)
            self._settings(bound)

    def _touched(self, restate: Restate) -> bool:
        return any(a in self.plan for axis in restate.axes if axis is not None for a in atoms(axis))

    def _implied(self, bound: Bound, restate: Restate) -> Array | None:
        """What an operand or attribute that is left out has to say once any dim around is cut."""
        dims = [d for d in (*bound.relation.operands, *bound.relation.results) if d]
        if not any(a in self.plan for d in dims for axis in d for a in atoms(axis)):
            return None
        return np.array([count(axis, self.counts) for axis in restate.axes if axis is not None], np.int64)

    def _attribute(self, bound: Bound, restate: Restate, name: str) -> None:
        value = bound.node.attrs.get(name)
        if value is None:
            new = self._implied(bound, restate)
        else:
            new = restated(np.asarray(value, np.int64), restate.form, restate.axes, self.plan)
        if new is None or (value is not None and np.array_equal(new, value)):
            return
        proto = self.draft.model.graph.node[bound.node.index]
        _drop_attribute(proto, name)
        proto.attribute.append(onnx.helper.make_attribute(name, new.tolist()))

    def _operand(self, bound: Bound, restate: Restate, k: int) -> None:
        node = bound.node
        name = node.inputs[k] if k < len(node.inputs) else ""
        if not name:
            implied = self._implied(bound, restate)
            if implied is not None:
                self._rewire(bound, k, implied)
                _drop_attribute(self.draft.model.graph.node[node.index], "num_outputs")
            return
        if name in self.coupling.folded.names:
            old, new = ([values[name] for values in side] for side in (self.old, self.new))
        elif name in self.coupling.graph.weights:
            old = new = [np.array(self.coupling.graph.array(name))]
        else:
            if self._touched(restate):
                raise CannotRestate(_cut_atoms(restate, self.plan), f"{node.label} gets {name} at run time")
            return
        want = [restated(value, restate.form, restate.axes, self.plan) for value in old]
        if all(
            self._means(bound, restate, j, have, w) for j, (have, w) in enumerate(zip(new, want, strict=True))
        ):
            return
        for candidate in self._candidates(bound, restate, new, want):
            if all(self._means(bound, restate, j, candidate, w) for j, w in enumerate(want)):
                self._rewire(bound, k, candidate)
                return
        raise CannotRestate(_cut_atoms(restate, self.plan), f"{name} of {node.label} is dynamic")

    def _means(self, bound: Bound, restate: Restate, j: int, have: Array, want: Array) -> bool:
        """Whether an operand says what is wanted; 0 and -1 of a Reshape are read as it reads them."""
        if restate.form != "shape":
            return bool(np.array_equal(have, want))
        sizes = self.after[j][bound.node.outputs[0]]
        source = self.after[j][bound.node.inputs[0]]
        entries = [int(v) for v in have]
        if not bound.node.attrs.get("allowzero"):
            entries = [source[i] if v == 0 and i < len(source) else v for i, v in enumerate(entries)]
        if entries.count(-1) > 1 or (-1 in entries and 0 in sizes):
            return False
        return all(v in (n, -1) for v, n in zip(entries, sizes, strict=True))

    def _candidates(self, bound: Bound, restate: Restate, new: list[Array], want: list[Array]) -> list[Array]:
        """Constants that may say it, the one nearest to what stands there first."""
        if restate.form != "shape":
            return want[:1]
        node = bound.node
        sizes = [shapes[node.outputs[0]] for shapes in self.after]
        sources = [shapes[node.inputs[0]] for shapes in self.after]
        fixed = [len({s[i] for s in sizes}) == 1 for i in range(len(sizes[0]))]
        copied = [
            all(i < len(src) and src[i] == s[i] for src, s in zip(sources, sizes, strict=True))
            for i in range(len(sizes[0]))
        ]
        first = new[0]
        kept = [int(v) if v in (0, -1) else n for v, n in zip(first, sizes[0], strict=True)]
        zeros = [
            n if fix else 0 if same else -1 for n, fix, same in zip(sizes[0], fixed, copied, strict=True)
        ]
        return [np.array(entries, first.dtype) for entries in (kept, zeros)]

    def _settings(self, bound: Bound) -> None:
        """An operand that is not restated keeps its value, even where shape arithmetic changed it."""
        done = {r.target for r in bound.relation.restate}
        for k, name in enumerate(bound.node.inputs):
            if k in done or name not in self.coupling.folded.names:
                continue
            if all(np.array_equal(a[name], b[name]) for a, b in zip(self.old, self.new, strict=True)):
                continue
            if len(self.old) > 1 and not np.array_equal(self.old[0][name], self.old[1][name]):
                raise CannotRestate(set(self.plan), f"{name} of {bound.node.label} depends on what is cut")
            self._rewire(bound, k, self.old[0][name])

    def _rewire(self, bound: Bound, k: int, value: Array) -> None:
        """Operand `k` reads a constant of its own; equal constants are made once."""
        key = (value.dtype.str + str(value.shape), value.tobytes())
        if key not in self.constants:
            output = next(filter(None, bound.node.outputs))
            self.constants[key] = add_constant(self.draft, f"{output}.operand{k}", value)
        inputs = self.draft.model.graph.node[bound.node.index].input
        while len(inputs) <= k:
            inputs.append("")
        inputs[k] = self.constants[key]


def _cut_atoms(restate: Restate, plan: Plan) -> set[Atom]:
    return {a for axis in restate.axes if axis is not None for a in atoms(axis) if a in plan}


def _drop_attribute(node: onnx.NodeProto, name: str) -> None:
    for j, attribute in enumerate(node.attribute):
        if attribute.name == name:
            del node.attribute[j]
            return


def _declare(coupling: Coupling, plan: Plan, graph: onnx.GraphProto) -> None:
    """Shapes that the model declares for cut tensors follow; nothing else about them changes."""
    weights = coupling.graph.weights
    inputs = [value for value in graph.input if value.name in weights]
    for value in (*graph.value_info, *inputs):
        found = masks(coupling, value.name, plan)
        for dim, mask in zip(value.type.tensor_type.shape.dim, found, strict=False):
            if mask is not None and dim.HasField("dim_value"):
                dim.dim_value = int(mask.sum())


def _live_names(graph: onnx.GraphProto) -> set[str]:
    return {value.name for value in graph.output} | set(_read(graph))


def _read(graph: onnx.GraphProto) -> list[str]:
    """Every name that a node or a subgraph reads."""
    read: list[str] = []
    todo = [graph]
    while todo:
        inner = todo.pop()
        if inner is not graph:
            read += [value.name for value in inner.output]
        for node in inner.node:
            read += node.input
            for attribute in node.attribute:
                todo += [attribute.g] if attribute.HasField("g") else []
                todo += attribute.graphs
    return read


def _bury(draft: Draft, live: set[str]) -> None:
    """Remove the nodes and initializers that were used before the cut and no longer are."""
    graph = draft.model.graph
    users = Counter(_read(graph)) + Counter(value.name for value in graph.output)
    dead = set(draft.replaced)
    for index in dead:
        users.subtract(_read(onnx.GraphProto(node=[graph.node[index]])))
    for index in range(len(graph.node) - 1, -1, -1):
        node = graph.node[index]
        outputs = [name for name in node.output if name and index not in dead]
        if outputs and not any(users[name] for name in outputs) and any(name in live for name in outputs):
            dead.add(index)
            gone = onnx.GraphProto(node=[node])
            users.subtract(_read(gone))
    for index in sorted(dead, reverse=True):
        del graph.node[index]
    declared = {value.name for value in graph.input}
    for j in range(len(graph.initializer) - 1, -1, -1):
        name = graph.initializer[j].name
        if name in live and not users[name] and name not in declared:
            del graph.initializer[j]
            draft.content.pop(name, None)
    if dead:
        made = {name for node in graph.node for name in node.output}
        made |= {tensor.name for tensor in graph.initializer} | declared
        for j in range(len(graph.value_info) - 1, -1, -1):
            name = graph.value_info[j].name
            if name in live and name not in made:
                del graph.value_info[j]

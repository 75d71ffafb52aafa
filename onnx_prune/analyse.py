"""Which channels of which tensors must go together, and for every axis that stays whole, why.

    coupling = couple(graph)

Every node's rule is asked for its relation, the solver makes the axes of every edge equal, and what
is left are groups: an atom and all the dimensions of weights that it stands on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from math import prod as product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_prune.axes.axis import Atom, Bundle, atoms, size
from onnx_prune.axes.deals import Deal, webs
from onnx_prune.axes.relation import Dims, Op, Relation
from onnx_prune.axes.unify import Solver
from onnx_prune.coupling import Bound, Coupling, Group, Held, Member, Role, Site
from onnx_prune.errors import Misfit
from onnx_prune.loosen import cuttable, loosened
from onnx_prune.model.graph import Graph, copy_key, weight_of
from onnx_prune.model.nodes import Node, Path
from onnx_prune.roles import operands_with, roles_of
from onnx_prune.rules import has_rule, relate
from onnx_prune.shape.computed import freeze
from onnx_prune.shape.fold import SMALL, Folded, is_random, small_integers
from onnx_prune.shape.shapes import Shapes, infer
from onnx_prune.zeros import Carriers, Zeros

SETTING = "it says sizes or positions, and is restated"
SINGLE = "its channels are shuffled apart until each stands alone"
UNREAD = "nothing but this weight has these positions: a slice drops them, or they are summed up at once"


def couple(graph: Graph, *, loose: bool = True) -> Coupling:
    """Analyse a graph; it never raises for a valid model: what is not understood is held.

    Args:
        graph: the graph.
        loose: let the parts of a channel shuffle keep different channels, see `onnx_prune.loosen`.
    """
    shapes, probe = infer(graph)
    found = _Analysis(graph, shapes, probe).run()
    told = loosened(found) if loose else {}
    if told:
        other = _Analysis(graph, shapes, probe, told).run()
        found = max(found, other, key=lambda coupling: (cuttable(coupling), len(coupling.webs)))
    return found


@dataclass
class _Analysis:
    graph: Graph
    shapes: Shapes
    probe: Shapes | None
    told: Mapping[int, Relation] = field(default_factory=dict)
    deals: list[Deal] = field(default_factory=list)
    solver: Solver = field(default_factory=Solver)
    axes: dict[str, Dims] = field(default_factory=dict)
    extents: set[Site] = field(default_factory=set)
    others: set[tuple[str, int]] = field(default_factory=set)
    shut: dict[Path, str] = field(default_factory=dict)
    origins: dict[str, set[Site]] = field(default_factory=dict)

    def run(self) -> Coupling:
        self.folded = Folded(self.graph, self.shapes)
        self.values = self._static_values()
        folded = {name: v for name, v in self.values.items() if name in self.folded.names}
        self.frozen = freeze(self.graph, folded, self._try_relate)
        self.copies = dict(self._shared_vectors())
        self._seed()
        done = {node.index for node in self.folded.nodes} | self.frozen
        asked = []
        for node in self.graph.nodes:
            if node.op != "Constant" and node.index not in done:
                relation = self._relation(node)
                if relation is not None:
                    asked.append((node, self.told.get(node.index, relation)))
        self.constant = self._constant([node for node, _ in asked])
        zeros = Zeros(self.graph, self.shapes.types, self.values, self._key, asked)
        relations = [Bound(node, r, r, self._obey(node, r, zeros)) for node, r in asked]
        for bound in relations:
            self._unify(bound)
        self._hold_dynamic()
        axes = {key: tuple(map(self.solver.resolve, dims)) for key, dims in self.axes.items()}
        resolved = tuple(self._resolved(bound) for bound in relations)
        self.axes = axes
        found = {atom for dims in axes.values() for axis in dims for atom in atoms(axis)}
        dealt = [Deal(tuple(map(self.solver.resolve, deal.parts)), deal.whole) for deal in self.deals]
        fixed = {atom for one in self.solver.fixed for atom in atoms(self.solver.resolve(one))}
        shuffled = {atom for deal in dealt for part in deal.parts for atom in atoms(part)} - fixed
        groups, held = self._groups(roles_of(self.constant, self._key, relations), shuffled)
        return Coupling(
            self.graph,
            self.shapes,
            self.probe,
            self.folded,
            axes,
            resolved,
            groups,
            held,
            self._heads(relations),
            self.copies,
            zeros.codes,
            frozenset(
                self._key(node, k)
                for node, relation in asked
                for k in relation.unmasked
                if k < len(node.inputs)
            ),
            {atom: why for atom in found if (why := self.solver.held(atom))},
            self.origins,
            webs(dealt, {group.atom for group in groups}, axes.values()),
        )

    # What is known before any rule is asked.

    def _static_values(self) -> dict[str, NDArray[Any]]:
        """Small constants and folded tensors whose value is the same at both assignments."""
        values = self.folded.run(self.shapes.known)
        if self.probe is not None:
            other = self.folded.run(self.probe.known)
            values = {n: v for n, v in values.items() if np.array_equal(v, other[n])}
        for name, tensor in self.graph.weights.items():
            dims = tuple(n for n in tensor.dims if n != 1)  # a vector in any number of dims
            if product(dims) <= SMALL or small_integers(dims, tensor.data_type):
                values[name] = self.graph.array(name)
        return values

    def _shared_vectors(self) -> Iterator[tuple[tuple[int, int], str]]:
        """Exporters merge equal vectors: each user of one gets a copy of its own for analysis."""
        outputs = {value.name for value in self.graph.outputs}
        fed = {value.name for value in self.graph.model.graph.input}
        for name, tensor in self.graph.weights.items():
            uses = self.graph.uses.get(name, [])
            if len(uses) < 2 or sum(n > 1 for n in tensor.dims) > 1:
                continue
            if any(self.graph.nodes[node].crossing for node, _ in uses):
                continue  # a loop hands it to all who read it inside
            if name not in outputs and name not in fed and name not in self.graph.captured:
                for node, k in uses:
                    yield (node, k), copy_key(name, node, k)

    def _seed(self) -> None:
        """Hold what no rule may let go: the graph's own inputs and outputs, and shape arithmetic."""
        for value in self.graph.inputs:
            self._hold(value.name, f"{value.name} is a graph input")
        for value in self.graph.outputs:
            self._hold(value.name, f"{value.name} is a graph output")
        for name, node in self.graph.captured.items():
            self._hold(name, f"{name} is read inside the body of {node.label}")
        for name in self.folded.names:
            self._hold(name, "it is computed from shapes")
        for index in self.frozen:
            node = self.graph.nodes[index]
            for k in range(len(node.inputs)):
                self._hold(
                    self._key(node, k), f"{node.label} computes a weight from it, which is cut instead"
                )

    def _dims(self, key: str) -> Dims | None:
        """The axes of a tensor, made when first asked for; None if its shape is not known."""
        if key not in self.axes:
            name = weight_of(key)
            shape = self.shapes.known.get(name)
            if shape is None:
                return None
            self.axes[key] = tuple(Atom(n, "c") for n in shape)
        return self.axes[key]

    def _hold(self, key: str, why: str) -> None:
        for j, axis in enumerate(self._dims(key) or ()):
            self.solver.hold(axis, why)
            self._arises(why, [(key, j)])

    def _arises(self, why: str, places: Iterable[Site]) -> None:
        """Remember where a reason to hold or mix an axis comes from."""
        self.origins.setdefault(why, set()).update(places)

    def _places(self, node: Node, relation: Relation) -> dict[Atom, list[Site]]:
        """The dimensions around a node that each of its atoms stands on."""
        found: dict[Atom, list[Site]] = {}
        ins = ((self._key(node, k), dims) for k, dims in enumerate(relation.operands))
        for key, dims in chain(ins, zip(node.outputs, relation.results, strict=True)):
            for j, axis in enumerate(dims or () if key else ()):
                for atom in atoms(axis):
                    found.setdefault(atom, []).append((key, j))
        return found

    def _key(self, node: Node, k: int) -> str:
        return self.copies.get((node.index, k), node.inputs[k])

    # Asking the rules.

    def _op(self, node: Node, shapes: Shapes) -> Op:
        def known(names: tuple[str, ...]) -> tuple[tuple[int, ...] | None, ...]:
            return tuple(shapes.known[n] if n else None for n in names)

        other = None if shapes is not self.shapes or self.probe is None else self._op(node, self.probe)
        return Op(
            node.type,
            known(node.inputs),
            known(node.outputs),
            node.attrs,
            tuple(self.values.get(n) if n else None for n in node.inputs),
            self.graph.opsets.get(node.domain, 1),
            other,
        )

    def _try_relate(self, node: Node) -> Relation | None:
        try:
            return relate(self._op(node, self.shapes), node.domain)
        except (Misfit, KeyError):  # KeyError: a shape is not known
            return None

    def _relation(self, node: Node) -> Relation | None:
        """The node's relation; where there is none every axis around the node is held."""
        names = [name for name in (*node.inputs, *node.outputs) if name]
        probes = [s.known for s in (self.shapes, self.probe) if s is not None]
        shut = next((path for path in self.shut if node.place.path[: len(path)] == path), None)
        if shut is not None:
            why = self.shut[shut]
        elif node.closed:
            why = f"the body of {node.label} is not looked into"
        elif node.inner and is_random(node) and len(node.inputs) > 2:  # Dropout in training mode
            why = f"{node.label} draws at random inside a body, which is not repeated"
        elif not has_rule(node.type, node.domain):
            why = f"no rule for {node.op} ({node.label})"
        elif not self.shapes.others.isdisjoint(names):
            why = f"{node.label} works on a sequence, which is not looked into"
        elif any(name not in known for name in names for known in probes):
            why = f"a shape around {node.label} is not known"
        else:
            try:
                relation = relate(self._op(node, self.shapes), node.domain)
                if relation is not None:
                    self._require_shapes(node, relation)
                    return relation
            except Misfit as misfit:
                why = f"{node.label}: {misfit}"
        if node.part == ".enter":  # the sizes inside may be others from step to step
            self.shut[node.slots[1].place.path] = why
        for k, name in enumerate(node.inputs):
            if name:
                self._hold(self._key(node, k), why)
        for name in filter(None, node.outputs):
            self._hold(name, why)
        return None

    def _require_shapes(self, node: Node, relation: Relation) -> None:
        """Require that a rule gives tensors the shapes that they have: both read the same attributes."""
        sides = zip((*node.inputs, *node.outputs), (*relation.operands, *relation.results), strict=True)
        for name, dims in sides:
            if name and dims is not None and tuple(map(size, dims)) != self.shapes.known[name]:
                raise Misfit(f"{name} has the shape {list(self.shapes.known[name])}, not that of its rule")

    def _obey(self, node: Node, relation: Relation, zeros: Zeros) -> tuple[int, ...]:
        """Hold what the relation holds; the operands that need a mask where this node reads them."""
        restated = {r.target for r in relation.restate}
        for k, (name, dims) in enumerate(zip(node.inputs, relation.operands, strict=True)):
            if name and dims is None:
                self._hold(self._key(node, k), SETTING if k in restated else f"{node.label} reads it whole")
        for name, dims in zip(node.outputs, relation.results, strict=True):
            if name and dims is None:
                self._hold(name, f"the rule of {node.op} says nothing about {name}")
        places = self._places(node, relation)
        for atom, around in places.items():
            if atom.held:
                self.solver.hold(atom, why := f"{node.label}: {atom.held}")
                self._arises(why, around)
            if atom.mixed:
                self.solver.mix(atom, why := f"{node.label} takes a statistic over it")
                self._arises(why, around)
        for k, dims in enumerate(relation.operands):
            for j, axis in enumerate(dims or ()):
                extent = isinstance(axis, Atom) and axis.held and _is_extent(relation, axis)
                (self.extents if extent else self.others).add((self._key(node, k), j))
        carriers = zeros.carriers(node, relation)
        exposed = self._contract(node, relation, carriers, places)
        zeros.propagate(node, relation, carriers)
        return tuple(exposed)

    def _contract(
        self, node: Node, relation: Relation, carriers: Carriers, places: Mapping[Atom, list[Site]]
    ) -> list[int]:
        """A sum over channels is cut exactly only where masking makes a factor of it zero.

        A factor that is computed from weights alone is a weight: it is masked where this node reads it.
        """
        exposed = set()
        for atom in relation.contracted():
            if self.solver.held(atom) or atom.mixed or atom.size == 1:
                continue
            factors = carriers[atom]
            a_weight = len(factors) > 1 and any(node.inputs[k] in self.constant for k in factors)
            if not a_weight and not any(factors.values()):
                why = f"{node.label} sums over values that masking does not make zero"
                self.solver.hold(atom, why)
                self._arises(why, places.get(atom, ()))
            exposed |= {k for k, zero in factors.items() if not zero}
        for k in relation.zeroed:
            mine = [(a, zero[k]) for a, zero in carriers.items() if k in zero and a.size > 1]
            if not all(zero or self.solver.held(a) for a, zero in mine):
                exposed.add(k)
        return sorted(exposed)

    def _unify(self, bound: Bound) -> None:
        node, relation = bound.node, bound.relation
        keys = [self._key(node, k) for k in range(len(node.inputs))]
        for key, dims in zip((*keys, *node.outputs), (*relation.operands, *relation.results), strict=True):
            if dims is not None and key:
                for j, (have, said) in enumerate(zip(self._dims(key) or (), dims, strict=True)):
                    if isinstance(said, Bundle):
                        self.deals.append(Deal(said.parts, whole=True))
                    if why := self.solver.unify(have, said):
                        self._arises(why, [(key, j)])
        self.deals += map(Deal, self.solver.dealt)
        self.solver.dealt.clear()

    def _hold_dynamic(self) -> None:
        """Hold axes whose size changes from run to run, but for the static factors of a product.

        The batch in `(batch heads)` comes from a graph input and is held by now; a dynamic axis with
        no such part is held whole.
        """
        if self.probe is None:
            return
        for name, shape in self.shapes.known.items():
            other = self.probe.known.get(name)
            if other == shape:
                continue
            for j, axis in enumerate(self._dims(name) or ()):
                if other is not None and len(other) == len(shape) and other[j] == shape[j]:
                    continue
                leaves = list(atoms(self.solver.resolve(axis)))
                if all(self.solver.held(leaf) is None for leaf in leaves):
                    self.solver.hold(axis, why := f"axis {j} of {name} is dynamic")
                    self._arises(why, [(name, j)])

    def _resolved(self, bound: Bound) -> Bound:
        relation, resolve = bound.relation, self.solver.resolve

        def side(values: tuple[Dims | None, ...]) -> tuple[Dims | None, ...]:
            return tuple(None if v is None else tuple(map(resolve, v)) for v in values)

        restate = tuple(
            replace(r, axes=tuple(None if a is None else resolve(a) for a in r.axes))
            for r in relation.restate
        )
        solved = replace(
            relation, operands=side(relation.operands), results=side(relation.results), restate=restate
        )
        dims = [d for d in (*relation.operands, *relation.results) if d]
        mixed = {a for d in dims for axis in d for a in atoms(axis) if a.mixed}
        leaves = frozenset(leaf for a in mixed for leaf in atoms(resolve(a)))
        return Bound(bound.node, solved, relation, bound.exposed, leaves)

    # Reading the answer.

    def _constant(self, nodes: list[Node]) -> set[str]:
        """Tensors that depend on weights alone."""
        constant = set(self.graph.weights) | self.folded.names
        for node in nodes:
            if node.crossing:
                continue  # what a loop carries changes, though it began as a weight
            if all(not name or name in constant for name in node.inputs):
                constant.update(node.outputs)
        return constant

    def _heads(self, relations: Sequence[Bound]) -> frozenset[Atom]:
        heads: set[Atom] = set()
        for bound in relations:
            moving = [
                {a for axis in dims for a in atoms(axis)}
                for name, dims in zip(bound.node.inputs, bound.relation.operands, strict=True)
                if dims and name and name not in self.constant
            ]
            result = (
                bound.relation.results[0] or ()
            )  # the others may be caches, which keep what is summed over
            results = {a for axis in result for a in atoms(axis)}
            shared = {a for a in set().union(*moving) if sum(a in own for own in moving) > 1}
            # or the projections are in the node: one weight has queries and keys on one axis
            for axis in (axis for dims in bound.relation.operands for axis in dims or ()):
                shared |= {a for a, n in Counter(atoms(axis)).items() if n > 1}
            if shared - results:
                mine = shared & results
                for axis in result:  # query heads that share a key-value head stand beside it
                    if mine & set(atoms(axis)):
                        mine |= set(atoms(axis)) & moving[0]
                heads |= {leaf for a in mine for leaf in atoms(self.solver.resolve(a))}
        return frozenset(heads)

    def _groups(
        self, roles: dict[tuple[str, int], Role], shuffled: set[Atom]
    ) -> tuple[tuple[Group, ...], tuple[Held, ...]]:
        extents = self.extents - self.others  # the rows of a tied embedding are channels elsewhere
        members: dict[Atom, list[Member]] = {}
        held: list[Held] = []
        places = Counter(atom for dims in self.axes.values() for axis in dims for atom in atoms(axis))
        for key, dims in self.axes.items():
            name = weight_of(key)
            if name not in self.graph.weights or (name == key and self._only_copies(name)):
                continue
            for j, axis in enumerate(dims):
                member = Member(name, key, j, roles.get((key, j), "other"))
                found = dict.fromkeys(atoms(axis))
                if size(axis) > 1 and all(atom.size == 1 and atom not in shuffled for atom in found):
                    reasons = (self.solver.held(atom) for atom in found)
                    held.append(Held(name, j, size(axis), next(filter(None, reasons), SINGLE)))
                for atom in found:
                    why = self.solver.held(atom) or (UNREAD if places[atom] == 1 else None)
                    if atom.size < 1 or (atom.size == 1 and atom not in shuffled):
                        continue
                    if why is None:
                        members.setdefault(atom, []).append(member)
                    elif why != SETTING and (key, j) not in extents:
                        held.append(Held(name, j, atom.size, why))
        order = {"producer": 0, "consumer": 1, "other": 2}
        groups = []
        for atom, own in members.items():
            first = min(own, key=lambda m: order[m.role])
            groups.append(Group(f"{first.weight}:{first.dim}", atom, tuple(own), self.solver.mixed(atom)))
        return tuple(groups), tuple(held)

    def _only_copies(self, name: str) -> bool:
        uses = self.graph.uses.get(name, [])
        return bool(uses) and all(use in self.copies for use in uses)


def _is_extent(relation: Relation, atom: Atom) -> bool:
    """Whether a dim is an operand's own, like a kernel's height: no channels to speak of."""
    inside = any(a is atom for dims in relation.results for axis in dims or () for a in atoms(axis))
    return not inside and operands_with(relation, atom) == 1

"""Exact clean-up: channels that say nothing are removed, and what they added goes into the next bias.

A channel goes if at every layer that sums over it the layer's weights there are zero, or its values are
zero, or one and the same constant everywhere.  Such a constant is multiplied with the weights that read
it and added to the layer's bias.  A convolution with padding reads zeros beside the constant, so there
only zeros go.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_prune.axes.axis import Atom, atoms, owner, size
from onnx_prune.calibration import taps
from onnx_prune.calibration.linear import Convolution, Linear, linear
from onnx_prune.coupling import Bound, Coupling, Group
from onnx_prune.dead.idle import State, idle, live_weights, pieces, product_with
from onnx_prune.errors import ProofFailed
from onnx_prune.kept import Plan
from onnx_prune.runtime import random_feeds
from onnx_prune.sparse.stored import Stored

Array = NDArray[Any]
Bool = NDArray[np.bool_]
_SAME = 1e-6  # how far values of a constant channel may be apart, relative to the largest
_SEEDS = 2


@dataclass(frozen=True, slots=True)
class Dead:
    """Channels that can go.

    Attributes:
        plan: for each group which channels stay.
        model: the original with constants added to biases: masked by the plan it computes the original.
        constants: how many of the channels are constant, not zero.
        padded: channels that stay because a padded convolution reads their constant.
    """

    plan: Plan
    model: onnx.ModelProto
    constants: int
    padded: int


def dead(coupling: Coupling, barred: Collection[Atom] = ()) -> Dead:
    """Find the channels that say nothing.

    Args:
        coupling: the analysed original, left as it is.
        barred: atoms that turned out to be uncuttable.

    Raises:
        RunError: onnxruntime can't run the model, and a channel's constant is not known.
    """
    return _Search(coupling, frozenset(barred)).run()


@dataclass
class _Search:
    coupling: Coupling
    barred: frozenset[Atom]
    padded: set[tuple[Atom, int]] = field(default_factory=set)

    def run(self) -> Dead:
        coupling = self.coupling
        self.stored = Stored(coupling)
        self.states = idle(coupling)
        constant = {n for n in coupling.graph.weights if n not in coupling.graph.frozen}
        self.products = {b.node.index: product_with(b, constant) for b in coupling.bound}
        self.values = self._values()
        gone = {g.atom: self._silent(g) for g in coupling.groups if self._may(g)}
        plan: dict[Atom, Bool] = {}
        for atom, channels in gone.items():
            if channels.all():
                channels[0] = False
            if channels.any():
                plan[atom] = ~channels
        model, constants = self._absorb(plan)
        padded = {(a, j) for a, j in self.padded if a not in plan or plan[a][j]}
        return Dead(plan, model, constants, len(padded))

    def _may(self, group: Group) -> bool:
        return group.mixed is None and group.atom not in self.barred

    def _values(self) -> dict[tuple[str, int], Array]:
        """The value of each constant position of what products read, NaN where it is not one value."""
        graph = self.coupling.graph
        wanted: dict[str, set[int]] = {}
        for bound in self.coupling.bound:
            found = self.products[bound.node.index]
            if found is None or bound.node.inner:
                continue
            name = bound.node.inputs[found[0]]
            for e in range(len(bound.letters.operands[found[0]] or ())):
                state = self.states.get((name, e))
                if state is not None and (state.constant & ~state.zero).any():
                    wanted.setdefault(name, set()).add(e)
        low: dict[tuple[str, int], Array] = {}
        high: dict[tuple[str, int], Array] = {}
        shapes = [s for s in (self.coupling.shapes, self.coupling.probe) if s is not None]
        feeds = [random_feeds(graph.inputs, s.inputs, seed) for s in shapes for seed in range(_SEEDS)]
        for values in taps.stream(graph.model, list(wanted), feeds, graph.folder) if wanted else ():
            for name, dims in wanted.items():
                for e in dims:
                    array = np.moveaxis(np.asarray(values[name], np.float64), e, 0)
                    rows = array.reshape(len(array), -1)
                    least, most = rows.min(1), rows.max(1)
                    key = name, e
                    low[key] = np.minimum(low.get(key, least), least)
                    high[key] = np.maximum(high.get(key, most), most)
        same: dict[tuple[str, int], Array] = {}
        for key, least in low.items():
            most = high[key]
            one = most - least <= _SAME * np.maximum(np.abs(least), np.abs(most))
            same[key] = np.where(one & self.states[key].constant, (least + most) / 2, np.nan)
        return same

    def _silent(self, group: Group) -> Bool:
        """Which channels of a group no layer would miss."""
        silent = np.ones(group.size, np.bool_)
        read = False
        for bound in self.coupling.bound:
            relation = bound.relation
            for k, dims in enumerate(relation.operands):
                for e, axis in enumerate(dims or ()):
                    if group.atom not in set(atoms(axis)) or not bound.node.inputs[k]:
                        continue
                    if k in relation.zeroed:
                        return np.zeros(group.size, np.bool_)
                    letters = (bound.letters.operands[k] or ())[e]
                    if set(atoms(letters)) & bound.letters.contracted():
                        read = True
                        at, channel = owner(axis, group.atom)
                        told = self._unheard(bound, k, e, group.atom)
                        np.logical_and.at(silent, channel, told[at])
        return silent if read else np.zeros(group.size, np.bool_)

    def _unheard(self, bound: Bound, k: int, e: int, atom: Atom) -> Bool:
        """Which positions of a dim of an operand a node would not miss that sums over it."""
        name = bound.node.inputs[k]
        n = size((bound.letters.operands[k] or ())[e])
        found = self.products[bound.node.index]
        if found is None or k not in found:
            return self._zero(name, e, n)
        data, weight = found
        if k == weight:
            return np.ones(n, np.bool_)  # asked where the data are
        told = self._zero(name, e, n)
        live = live_weights(bound, data, weight, {}, self.stored)
        if live is not None:
            array, letters = live
            mine = pieces((bound.letters.operands[data] or ())[e])
            if all(a in letters for a in mine):
                used = np.asarray(array.any(tuple(j for j, a in enumerate(letters) if a not in mine)))
                order = [a for a in letters if a in mine]
                told |= ~used.transpose([order.index(a) for a in mine]).reshape(-1)
        if (name, e) in self.values:
            one = ~np.isnan(self.values[name, e])
            told |= self.values[name, e] == 0
            layer = self._layer(bound)
            if layer is not None and not _pads(layer):
                told |= one
            elif layer is not None:
                axis = (bound.relation.operands[k] or ())[e]
                at, channel = owner(axis, atom)
                kept = one[at] & ~told[at]
                self.padded |= {(atom, int(j)) for j in channel[kept]}
        return told

    def _zero(self, name: str, e: int, n: int) -> Bool:
        state: State | None = self.states.get((name, e))
        return np.zeros(n, np.bool_) if state is None else state.zero.copy()

    def _layer(self, bound: Bound) -> Linear | None:
        """The node as a product whose bias can be changed."""
        node, graph = bound.node, self.coupling.graph
        found = linear(graph, node)
        if found is None or node.inner or found.stored in self.coupling.codes:
            return None
        bias = node.inputs[found.bias] if found.bias is not None and found.bias < len(node.inputs) else ""
        return found if not bias or bias in self.stored else None

    def _absorb(self, plan: Plan) -> tuple[onnx.ModelProto, int]:
        """The original with what removed constants add in the biases of the layers that read them."""
        model = onnx.ModelProto()
        model.CopyFrom(self.coupling.graph.model)
        constants: set[tuple[Atom, int]] = set()
        after: dict[int, onnx.NodeProto] = {}
        for bound in self.coupling.bound:
            layer = self._layer(bound)
            if layer is None:
                continue
            dims = bound.relation.operands[layer.data] or ()
            for e, axis in enumerate(dims):
                letters = (bound.letters.operands[layer.data] or ())[e]
                values = self.values.get((layer.source, e))
                if values is None or not set(atoms(letters)) & bound.letters.contracted():
                    continue
                gone = np.zeros(size(axis), np.bool_)
                for atom in set(atoms(axis)) & plan.keys():
                    at, channel = owner(axis, atom)
                    out = ~plan[atom][channel] & ~np.isnan(values[at]) & (values[at] != 0)
                    gone[at[out]] = True
                    constants |= {(atom, int(j)) for j in channel[out]}
                if gone.any():
                    self._add(model, after, layer, np.where(gone, np.nan_to_num(values), 0.0))
        for index in sorted(after, reverse=True):
            model.graph.node.insert(index + 1, after[index])
        return model, len(constants)

    def _add(
        self, model: onnx.ModelProto, after: dict[int, onnx.NodeProto], layer: Linear, values: Array
    ) -> None:
        """Add what a layer makes of constant inputs to its bias, or behind it where it has none."""
        shape = self.coupling.graph.dims(layer.stored)
        weight = self.stored.real(layer.stored)
        matrix = layer.matrix(weight.astype(np.float64))
        if isinstance(layer, Convolution):
            inputs = values.reshape(layer.groups, -1)[:, layer.columns(1, shape)]
        else:
            inputs = values.reshape(1, -1)
        added = np.einsum("grc,gc->gr", matrix, inputs).reshape(-1)
        node, dtype = model.graph.node[layer.node.place.at], self.stored.array(layer.stored).dtype
        name = _fresh(model, f"{layer.result}.bias")
        if layer.bias is None:
            node.output[0] = _fresh(model, f"{layer.result}.product")
            value = layer.spread(added)
            after[layer.node.place.at] = helper.make_node("Add", [node.output[0], name], [layer.result])
        else:
            old = layer.node.inputs[layer.bias] if layer.bias < len(layer.node.inputs) else ""
            value = layer.spread(added / (layer.scale or 1.0))
            if old:
                value = value + self.stored.real(old)
                name = old if _only(self.coupling, old) else name
            node.input.extend([""] * (layer.bias + 1 - len(node.input)))
            node.input[layer.bias] = name
        _store(model, name, np.asarray(value).astype(dtype))


def _pads(layer: Linear) -> bool:
    return isinstance(layer, Convolution) and (bool(layer.same) or any(layer.pads))


def _only(coupling: Coupling, name: str) -> bool:
    graph = coupling.graph
    outside = {value.name for value in (*graph.model.graph.input, *graph.outputs)}
    initializer = any(tensor.name == name for tensor in graph.model.graph.initializer)
    return initializer and len(graph.uses.get(name, ())) == 1 and name not in outside


def _store(model: onnx.ModelProto, name: str, array: Array) -> None:
    tensor = numpy_helper.from_array(np.ascontiguousarray(array), name)
    for old in model.graph.initializer:
        if old.name == name:
            old.CopyFrom(tensor)
            return
    model.graph.initializer.append(tensor)


def _fresh(model: onnx.ModelProto, name: str) -> str:
    taken = {n for node in model.graph.node for n in node.output}
    taken |= {tensor.name for tensor in model.graph.initializer}
    while name in taken:
        name += "_"
    return name


def carried_over(plan: Plan, before: Coupling, after: Coupling) -> Plan:
    """The plan for a model with the same groups, which may stand on some more biases.

    Args:
        plan: which channels of each group stay.
        before: the coupling that it is for.
        after: that of the other model.

    Raises:
        ProofFailed: a group is not there any more, which is a bug of ours.
    """
    there = {place: group.atom for group in after.groups for place in _places(after, group)}
    found: dict[Atom, Bool] = {}
    for group in before.groups:
        if group.atom in plan:
            atom = next(filter(None, map(there.get, _places(before, group))), None)
            if atom is None or atom.size != group.size or atom in found:
                raise ProofFailed(f"{group.name} is coupled otherwise once constants are in the biases")
            found[atom] = plan[group.atom]
    return found


def _places(coupling: Coupling, group: Group) -> list[tuple[str, int, int]]:
    """Where a group stands: weight, dim, and which of the atoms on that dim it is."""
    found = []
    for member in group.members:
        if member.key != member.weight:
            continue  # a shared vector stands in several groups
        axis = coupling.axes[member.key][member.dim]
        found.append((member.weight, member.dim, list(atoms(axis)).index(group.atom)))
    return found

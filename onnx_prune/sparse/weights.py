"""Which weights a layer multiplies its inputs with, and how each of them lies.

A weight takes part in unstructured pruning if an operator sums over a dim that it shares with values
made at run time: kernels of convolutions, factors of matrix products, and the two matrices of a
recurrent layer, as the operators' rules say.  Biases, norms and embeddings do not.  A weight is found
where it is stored, behind a Transpose, a Reshape or a DequantizeLinear, in Constant nodes and in the
bodies of If, Loop and Scan too.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import prod as product
from typing import Any

import onnx

from onnx_prune.axes.axis import Atom, atoms
from onnx_prune.axes.relation import Op, Relation
from onnx_prune.coupling import Coupling
from onnx_prune.errors import InputError, Misfit
from onnx_prune.model.nodes import Node
from onnx_prune.rules import relate
from onnx_prune.shape.fold import SMALL
from onnx_prune.sparse.orientation import Factors, Layout
from onnx_prune.sparse.packing import packing
from onnx_prune.sparse.parts import by_piece, carried, parts_of, recurrence
from onnx_prune.words import plain

PACKED = "its values are packed into bytes, and which of them mean zero is not known"
EMBEDDING = "an embedding: Gather reads it"
SCALE = "nothing is summed over, it only scales"
_COUNTS = {
    onnx.TensorProto.BOOL,
    onnx.TensorProto.INT32,
    onnx.TensorProto.INT64,
    onnx.TensorProto.UINT32,
    onnx.TensorProto.UINT64,
    onnx.TensorProto.STRING,
}
UNKNOWN = "which of its dims are summed over is not known"


@dataclass(frozen=True, slots=True)
class Weight:
    """One stored tensor that takes part.

    Attributes:
        name: of the initializer, or of the Constant node's result; in a body a path,
            `node/attribute/name`.
        layout: how it lies.
        readers: (node index, operand index) of the layers that multiply with it, or with what is made of it.
        labels: names of all layers that do, for messages and globs.
        end: "first" or "last" where no other layer comes before or after it, "both", or "".
    """

    name: str
    layout: Layout
    readers: tuple[tuple[int, int], ...] = ()
    labels: tuple[str, ...] = ()
    end: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """The stored shape."""
        return self.layout.shape

    @property
    def size(self) -> int:
        """Number of elements."""
        return product(self.shape)


@dataclass(frozen=True, slots=True)
class Spared:
    """A tensor that a layer reads and that is left alone, and why."""

    name: str
    size: int
    why: str


@dataclass(frozen=True, slots=True)
class Weights:
    """All weights that take part, in the order of the graph, and those that only might."""

    taking: tuple[Weight, ...]
    spared: tuple[Spared, ...]


def find(coupling: Coupling) -> Weights:
    """Look for the weights of all layers.

    Args:
        coupling: the analysed model.
    """
    return _Search(coupling).run()


def matches(weight: Weight, glob: str) -> bool:
    """Whether a glob matches the weight's name or that of a layer that reads it."""
    return any(fnmatch.fnmatchcase(name, glob) for name in (weight.name, *weight.labels))


def require_matches(weights: Weights, option: str, globs: Iterable[str]) -> None:
    """Raise InputError for a glob that matches no weight: most likely it is misspelt."""
    for glob in globs:
        if not any(matches(weight, glob) for weight in weights.taking):
            raise InputError(
                f"--{option} {plain(glob)!r} matches no weight and no layer; --dry-run -v shows their names"
            )


class _Search:
    def __init__(self, coupling: Coupling) -> None:
        self.coupling, self.graph = coupling, coupling.graph
        self.stored: dict[str, onnx.TensorProto] = {
            n: t for n, t in self.graph.weights.items() if n not in self.graph.frozen
        }
        self.dims: dict[str, tuple[Factors, ...] | None] = {}
        self.readers: dict[str, dict[tuple[int, int, str], None]] = {}
        self.embeddings: set[str] = set()
        self.packed: set[str] = set()

    def run(self) -> Weights:
        values = self.coupling.folded.run(self.coupling.shapes.known)
        for name, tensor in self.graph.weights.items():
            if product(tensor.dims) <= SMALL:
                values[name] = self.graph.array(name)
        self._visit(values)
        ends = self._ends()
        taking, spared = [], []
        for name, tensor in self.stored.items():
            if name not in self.dims:
                continue
            why, layout = self._judge(name, tensor)
            if layout is None:
                if why:
                    spared.append(Spared(name, product(tensor.dims), why))
                continue
            readers = self.readers[name]
            taking.append(
                Weight(
                    name,
                    layout,
                    tuple((index, k) for index, k, _ in readers),
                    tuple(dict.fromkeys(label for _, _, label in readers)),
                    ends.get(name, ""),
                )
            )
        return Weights(tuple(taking), tuple(spared))

    def _judge(self, name: str, tensor: onnx.TensorProto) -> tuple[str, Layout | None]:
        dims = self.dims[name]
        if tensor.data_type in _COUNTS and name not in self.coupling.codes:
            return "", None
        if name in self.packed:
            found = packing(self.coupling, name) if len(self.readers[name]) == 1 else None
            return ("", found.layout) if found else (PACKED, None)
        if name in self.embeddings:
            return EMBEDDING, None
        if dims is None:
            return UNKNOWN, None
        layout = Layout(dims)
        parts = {part for factors in dims for _, part in factors}
        if len(dims) < 2 or "out" not in parts or not tensor.dims or 0 in tensor.dims:
            return "", None  # a vector along what is summed over, such as the scales of a norm
        if layout.summed * layout.positions < 2:
            return SCALE, None
        return "", layout

    def _constant(self) -> set[str]:
        """Names of what depends on stored tensors alone."""
        constant = {*self.stored, *self.coupling.folded.names}
        for node in self.graph.nodes:
            alone = any(node.inputs) and not node.crossing and not node.closed
            if alone and all(not name or name in constant for name in node.inputs):
                constant.update(filter(None, node.outputs))
        return constant

    def _visit(self, values: Mapping[str, Any]) -> None:
        """Go through the nodes from the last to the first, so that a Transpose is looked through."""
        constant = self._constant()
        for node in reversed(self.graph.nodes):
            if node.op == "Gather" and node.inputs[0] in constant:
                self.embeddings.add(node.inputs[0])
            relation = None if node.crossing else self._relation(node, values)
            if any(node.inputs) and all(n in constant for n in node.outputs if n):
                self._behind(node, relation)
            elif relation is not None:
                self._layer(node, relation, constant)

    def _relation(self, node: Node, values: Mapping[str, Any]) -> Relation | None:
        shapes = self.coupling.shapes.known

        def known(names: tuple[str, ...]) -> tuple[tuple[int, ...] | None, ...]:
            return tuple(shapes[n] if n else None for n in names)

        try:
            op = Op(
                node.type,
                known(node.inputs),
                known(node.outputs),
                node.attrs,
                tuple(values.get(n) if n else None for n in node.inputs),
                self.graph.opsets.get(node.domain, 1),
            )
            return relate(op, node.domain)
        except (Misfit, KeyError):  # KeyError: a shape is not known
            return None

    def _layer(self, node: Node, relation: Relation, constant: Collection[str]) -> None:
        packed = {code.at for code in relation.reads if code.bits}
        said = relation.unmasked | {k for code in relation.reads for k in (code.scale, code.zero) if k}
        for k, (name, dims) in enumerate(zip(node.inputs, relation.operands, strict=True)):
            if not name or name not in constant or dims is None or k in said:
                continue
            summed = self._summed(node, relation, k, constant)
            again = recurrence(dims)
            if not summed and again is None and k not in packed:
                continue
            results = {a for side in relation.results for axis in side or () for a in atoms(axis)}
            found = tuple(
                parts_of(axis, {*summed, *([again[1]] if again and again[0] == j else [])}, results)
                for j, axis in enumerate(dims)
            )
            if k in packed:
                self.packed.add(name)
            self._note(name, found, {(node.index, k, node.label): None})

    def _summed(self, node: Node, relation: Relation, k: int, constant: Collection[str]) -> set[Atom]:
        """The atoms of operand `k` that are summed over together with values made at run time."""
        moving: dict[int, set[Atom]] = {
            j: {a for axis in dims or () for a in atoms(axis)}
            for j, (name, dims) in enumerate(zip(node.inputs, relation.operands, strict=True))
            if j != k and name and name not in constant
        }
        own = {a for axis in relation.operands[k] or () for a in atoms(axis)} & relation.contracted()
        if shared := own & set().union(*moving.values()):
            return shared
        # A filter for each channel: one input, which has no letter of its own, and a kernel.
        multiplied = any(k in clause and moving.keys() & set(clause) for clause in relation.zero)
        return {a for a in own if a.size == 1} if multiplied and any(a.size > 1 for a in own) else set()

    def _behind(self, node: Node, relation: Relation | None) -> None:
        """Carry what is known of a computed constant over to what it is computed from."""
        for out, name in enumerate(node.outputs):
            if name not in self.readers:
                continue
            known = self.dims[name]
            parts = None if known is None or relation is None else by_piece(known, relation.results[out])
            for k, operand in enumerate(node.inputs):
                dims = None if relation is None else relation.operands[k]
                if not operand or (relation is not None and (dims is None or k in relation.unmasked)):
                    continue
                if name in self.embeddings and dims is not None and len(dims) > 1:
                    self.embeddings.add(operand)
                found = None if parts is None or dims is None else tuple(carried(a, parts) for a in dims)
                self._note(operand, found, self.readers[name])

    def _note(
        self, name: str, dims: tuple[Factors, ...] | None, readers: Mapping[tuple[int, int, str], None]
    ) -> None:
        if self.dims.get(name) is None:
            self.dims[name] = dims
        self.readers.setdefault(name, {}).update(readers)

    def _ends(self) -> dict[str, str]:
        """Weights of layers that no other layer comes before, or after."""
        at = {i: set[str]() for places in self.readers.values() for i, _, _ in places}
        for name, places in self.readers.items():
            if name in self.stored:
                for index, _, _ in places:
                    at[index].add(name)
        fed: set[str] = set()
        leading: set[str] = set()
        for node in self.graph.nodes:
            after = any(name in fed for name in node.inputs)
            if node.index in at and not after:
                leading |= at[node.index]
            if node.index in at or after:
                fed.update(node.outputs)
        read: set[str] = set()
        trailing: set[str] = set()
        for node in reversed(self.graph.nodes):
            before = any(name in read for name in node.outputs)
            if node.index in at and not before:
                trailing |= at[node.index]
            if node.index in at or before:
                read.update(node.inputs)
        return {
            name: "both" if name in leading & trailing else "first" if name in leading else "last"
            for name in leading | trailing
        }

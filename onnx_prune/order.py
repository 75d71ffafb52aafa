"""Which tensors can be compared between two models that differ by rounding, and which cannot.

Rounding moves a float by 1e-7 and an order by a whole place: two scores that tie swap their indices,
and all that is gathered by them.  So what lies downstream of an order is not compared; the floats
that were ordered are, and if these agree, so does the order but for ties.  An integer or boolean
output is compared where it was last a float, for the same reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod as product

import onnx

from onnx_prune.axis import atoms
from onnx_prune.coupling import Coupling
from onnx_prune.graph import weight_of
from onnx_prune.kept import Plan
from onnx_prune.nodes import Node, names_read, within

_ELEMENTS = 1 << 24  # of all tensors inside that are compared
FLOATS = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
}

INTEGERS = {
    onnx.TensorProto.INT8,
    onnx.TensorProto.UINT8,
    onnx.TensorProto.INT32,
}


@dataclass(frozen=True, slots=True)
class Ordered:
    """How an operator turns values into an order.

    Attributes:
        results: its results that depend on the order.
        why: what rounding does to them.
    """

    results: tuple[int, ...]
    why: str


ORDERED: dict[str, Ordered] = {
    "ArgMax": Ordered((0,), "near-ties swap the index"),
    "ArgMin": Ordered((0,), "near-ties swap the index"),
    "Compress": Ordered((0,), "how much is selected depends on a threshold"),
    "Hardmax": Ordered((0,), "near-ties move the one"),
    "NonMaxSuppression": Ordered((0,), "boxes are selected in the order of their scores"),
    "NonZero": Ordered((0,), "how many there are depends on a threshold"),
    "TopK": Ordered((1,), "near-ties swap indices; the values only move as their operand does"),
    "Unique": Ordered((0, 1, 2, 3), "how many there are depends on equality"),
}
STEPS: dict[str, str] = {
    "Cast": "a float that becomes an integer is cut off",
    "Ceil": "jumps at integers",
    "Equal": "jumps at equality",
    "Floor": "jumps at integers",
    "Greater": "jumps at equality",
    "GreaterOrEqual": "jumps at equality",
    "Less": "jumps at equality",
    "LessOrEqual": "jumps at equality",
    "Mod": "jumps at multiples",
    "Not": "jumps with its operand",
    "Round": "jumps between integers",
    "Shrink": "jumps at its threshold",
    "Sign": "jumps at zero",
    "ThresholdedRelu": "jumps at its threshold",
}
_STEP = "jumps by a step of the scale"
QUANTIZERS: dict[str, str] = {
    "DynamicQuantizeLinear": _STEP,
    "QuantizeLinear": _STEP,
    "com.microsoft.DynamicQuantizeMatMul": _STEP,
}
_HALVES = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


@dataclass(frozen=True, slots=True)
class Watch:
    """What to compare.

    Attributes:
        compared: names of outputs, and of tensors inside that stand for outputs that can't be compared.
        inside: further tensors, sums over channels that are cut: an output that joins boxes of 640 pixels
            and scores below 1 would hide what is wrong with the scores; these are seen at their own scale.
        moving: those of all that the cut can change at all.
        stepped: those downstream of a step: one element may jump though nothing is wrong.
        quantized: those downstream of a quantizer: many elements jump by one step of a scale.
        halves: for those downstream of a half precision float the coarsest such type.
        skipped: outputs not compared, with the operator whose order they depend on.
    """

    compared: tuple[str, ...]
    inside: tuple[str, ...]
    moving: frozenset[str]
    stepped: frozenset[str]
    quantized: frozenset[str]
    halves: dict[str, int]
    skipped: dict[str, str]


def watch(coupling: Coupling, plan: Plan) -> Watch:
    """Find what can be compared between the cut and the masked model."""
    return _Watcher(coupling, plan).run()


class _Watcher:
    def __init__(self, coupling: Coupling, plan: Plan) -> None:
        self.coupling, self.graph, self.plan = coupling, coupling.graph, plan
        self.types = coupling.shapes.types
        self.cut = {
            weight_of(key)
            for key, dims in coupling.axes.items()
            if any(atom in plan for axis in dims for atom in atoms(axis))
        }
        self.moving: set[str] = set()
        self.ordered: dict[str, str] = {}
        self.stepped: set[str] = set()
        self.quantized: set[str] = set()
        self.halves: dict[str, int] = {}
        # Integer products too: on CPUs without VNNI onnxruntime's kernels saturate sums of neighbours.
        relations = [(bound.node.index, bound.relation) for bound in coupling.bound]
        self.rounding = {index for index, r in relations if r.writes or len(r.reads) > 1}
        self.taps: dict[str, None] = {}

    def run(self) -> Watch:
        marks = -1
        while marks != (marks := self._marks()):  # what a loop carries comes back to its first nodes
            for node in self.graph.nodes:
                self._visit(node)
            if not self.graph.bodies:
                break
        compared: dict[str, None] = {}
        skipped: dict[str, str] = {}
        for value in self.graph.outputs:
            name, kind = value.name, value.type.tensor_type.elem_type
            if name in self.ordered:
                skipped[name] = self.ordered[name]
            elif kind in FLOATS or (kind and name not in self.moving):
                compared[name] = None
            elif name in self.moving and kind in INTEGERS and name not in self.stepped | self.quantized:
                compared[name] = None  # computed from integers alone, which do not round
            elif name in self.moving:
                skipped[name] = "it is no float tensor"
                self._tap([name])
        compared.update(self.taps)
        inside = tuple(name for name in self._sums() if name not in compared)
        names = frozenset((*compared, *inside))
        return Watch(
            tuple(compared),
            inside,
            names & self.moving,
            names & self.stepped,
            names & self.quantized,
            self.halves,
            skipped,
        )

    def _marks(self) -> int:
        return sum(map(len, (self.moving, self.ordered, self.stepped, self.quantized, self.halves)))

    def _sums(self) -> Iterator[str]:
        """Results of nodes that sum over channels that are cut, the last first, as many as memory allows."""
        left = _ELEMENTS
        for bound in reversed(self.coupling.bound):
            if bound.node.inner or self.plan.keys().isdisjoint(bound.relation.contracted()):
                continue
            for name in bound.node.outputs:
                if name in self.moving and name not in self.ordered and self.types.get(name) in FLOATS:
                    left -= product(self.coupling.shapes.known[name])
                    if left >= 0:
                        yield name

    def _visit(self, node: Node) -> None:
        reads = list(_reads(node))
        results = [name for name in node.outputs if name]
        if node.op in ("Shape", "Size"):
            return  # sizes do not round; one that depends on an order is compared by its own merits
        for marks in (self.stepped, self.quantized):
            if any(name in marks for name in reads):
                marks.update(results)
        kinds = {self.halves.get(name, 0) for name in reads} | {self.types.get(n, 0) for n in results}
        if half := next((kind for kind in reversed(_HALVES) if kind in kinds), None):
            self.halves.update(dict.fromkeys(results, half))
        because = next((self.ordered[name] for name in reads if name in self.ordered), None)
        if because is not None:
            self.ordered.update(dict.fromkeys(results, because))
        if any(name in self.moving or name in self.cut for name in reads):
            self.moving.update(results)
            operators = _operators(node)
            if ORDERED.keys() & operators:
                self._order(node, reads, results)
            if STEPS.keys() & operators and not self._smooth_cast(node):
                self.stepped.update(results)
            if QUANTIZERS.keys() & operators or node.index in self.rounding:
                self.quantized.update(results)

    def _order(self, node: Node, reads: list[str], results: list[str]) -> None:
        rule = ORDERED.get(node.op)
        which = range(len(node.outputs)) if rule is None else rule.results
        for k in which:
            if k < len(node.outputs) and node.outputs[k]:
                self.ordered.setdefault(node.outputs[k], node.label)
        self._tap(reads)

    def _smooth_cast(self, node: Node) -> bool:
        return node.op == "Cast" and (
            node.attrs.get("to") in FLOATS or self.types.get(node.inputs[0]) not in FLOATS
        )

    def _tap(self, names: list[str]) -> None:
        """Compare the floats that `names` were last made from, if no order comes before them."""
        todo, seen = list(names), set(names)
        while todo:
            name = todo.pop()
            maker = self.graph.makers.get(name)
            if name not in self.moving or name in self.ordered or maker is None:
                continue
            if self.types.get(name) in FLOATS and name in self.coupling.axes and not maker.inner:
                self.taps[name] = None
                continue
            fresh = [operand for operand in _reads(maker) if operand not in seen]
            seen.update(fresh)
            todo += fresh


def _reads(node: Node) -> Iterator[str]:
    """Every name the node reads, those that its bodies read too."""
    return names_read([node.proto]) if node.closed else filter(None, node.inputs)


def _operators(node: Node) -> set[str]:
    return {node.op} | {inner.op_type for body in node.closed for inner in within(body.node)}

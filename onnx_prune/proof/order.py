"""Which tensors two models that differ by rounding are compared on, and where rounding becomes a jump.

Rounding moves a float by 1e-7, but an order by a whole place: two scores that tie swap their indices,
and all that is gathered by them.  A threshold is passed or not, an 8-bit number is one step of its scale
away.  The floats that such operators read are *seams* (`onnx_prune.proof.seams`): if two models disagree,
they are compared from seam to seam.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod as product

import onnx

from onnx_prune.axes.axis import atoms
from onnx_prune.coupling import Coupling
from onnx_prune.kept import Plan
from onnx_prune.model.graph import weight_of
from onnx_prune.model.nodes import Node, names_read

_ELEMENTS = 1 << 24  # of all tensors inside that are compared
HALVES = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, *HALVES}
_SUMS = {*FLOATS, onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT32}
_SIZES = {"Shape", "Size"}  # these do not round
# Operators that make floats of floats and jump.  Others jump where they make integers or booleans of floats.
JUMPS: dict[str, str] = {
    "Ceil": "at integers",
    "Floor": "at integers",
    "GridSample": "between the nearest points, and at the border",
    "Hardmax": "near-ties move the one",
    "MaxRoiPool": "regions are cut off to whole points",
    "Mod": "at multiples",
    "OneHot": "an index is cut off to an integer",
    "RoiAlign": "at the border",
    "Round": "between integers",
    "Shrink": "at its threshold",
    "Sign": "at zero",
    "ThresholdedRelu": "at its threshold",
    "com.microsoft.DynamicQuantizeLSTM": "it quantizes its operands inside",
    "com.microsoft.DynamicQuantizeMatMul": "it quantizes its operand inside",
    "com.microsoft.MatMulNBits": "it may quantize its operand inside",
}
# Operators of which a result may be as small as what rounding moves it by, though what they read is large.
STEEP = {"Exp", "Sigmoid", "Softmax"}


@dataclass(frozen=True, slots=True)
class Watch:
    """What to compare.

    Attributes:
        outputs: the graph's outputs.
        inside: further tensors, sums over channels that are cut: an output that joins boxes of 640 pixels
            and scores below 1 would hide what is wrong with the scores; these are seen at their own scale.
        moving: those of all that the cut can change at all.
        seams: floats that the cut can change and that an operator reads which jumps or is steep.
        jumping: results of all operators that jump.
        half: whether anything is computed in half precision.
    """

    outputs: tuple[str, ...]
    inside: tuple[str, ...]
    moving: frozenset[str]
    seams: tuple[str, ...]
    jumping: frozenset[str]
    half: bool


def watch(coupling: Coupling, plan: Plan) -> Watch:
    """Find what to compare between the cut and the masked model."""
    graph, types = coupling.graph, coupling.shapes.types
    moving = _moving(coupling, plan)
    seams = dict.fromkeys(
        name
        for node in graph.nodes
        if node.op in STEEP or _jumps(node, types)
        for name in _reads(node)
        if name in moving
        and types.get(name) in FLOATS
        # what a body makes exists inside it alone, and can't be compared
        and name in graph.makers
        and not graph.makers[name].inner
    )
    outputs = tuple(value.name for value in graph.outputs)
    inside = tuple(name for name in _sums(coupling, plan) if name in moving and name not in outputs)
    half = not HALVES.isdisjoint(types.values())
    moved = frozenset((*outputs, *inside)) & moving
    jumping = frozenset(name for node in graph.nodes if _jumps(node, types) for name in node.outputs)
    return Watch(outputs, inside, moved, tuple(seams), jumping, half)


def _moving(coupling: Coupling, plan: Plan) -> set[str]:
    """All tensors that the cut can change."""
    moving = {
        weight_of(key)
        for key, dims in coupling.axes.items()
        if any(atom in plan for axis in dims for atom in atoms(axis))
    }
    known = -1
    while known != (known := len(moving)):  # what a loop carries comes back to its first nodes
        for node in coupling.graph.nodes:
            if node.op not in _SIZES and not moving.isdisjoint(_reads(node)):
                moving.update(filter(None, node.outputs))
        if not coupling.graph.bodies:
            break
    return moving


def _jumps(node: Node, types: dict[str, int]) -> bool:
    """Whether a rounding of what the node reads can move a result by more than a rounding."""
    kinds = {types.get(name, onnx.TensorProto.FLOAT) for name in node.outputs if name}
    return node.op not in _SIZES and (node.op in JUMPS or bool(node.closed) or not kinds <= FLOATS)


def _sums(coupling: Coupling, plan: Plan) -> Iterator[str]:
    """Results of nodes that sum over channels that are cut, the last first, as many as memory allows."""
    left = _ELEMENTS
    for bound in reversed(coupling.bound):
        if bound.node.inner or plan.keys().isdisjoint(bound.relation.contracted()):
            continue
        for name in filter(None, bound.node.outputs):
            if coupling.shapes.types.get(name) in _SUMS:
                left -= product(coupling.shapes.known[name])
                if left >= 0:
                    yield name


def _reads(node: Node) -> Iterator[str]:
    """Every name the node reads, those that its bodies read too."""
    return names_read([node.proto]) if node.closed else filter(None, node.inputs)

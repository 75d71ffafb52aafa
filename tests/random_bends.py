"""Moves of a random model that leave layouts alone: one operand, arithmetic, norms, pools, reductions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import TensorProto, helper

from onnx_prune.rules import RULES
from onnx_prune.rules.elementwise import unary, unary_without_zero
from tests.random_graphs import FLOATS, Builder, Value, at

# Those of the registry's that leave a normal float finite and are no step, with what they may be given.
_NARROWED = {"Acos", "Asin", "Atanh", "Cosh", "Exp", "Sinh", "Sqrt", "Tan"}
_NO_FLOAT = {"BitwiseNot", "CastLike", "IsInf", "IsNaN", "Not"}
_STEPS = {"Ceil", "Floor", "Round", "Sign", "ThresholdedRelu"}
UNARY = sorted(
    n for (_, n), f in RULES.items() if f in (unary, unary_without_zero) and n not in _NO_FLOAT | _STEPS
)


def elementwise(b: Builder, x: Value) -> Value:
    """Any operator of the registry with one operand."""
    op = b.pick(UNARY)
    if op == "Acosh":
        x = b.one("Add", [b.one("Abs", [x]), b.scalar(2.0)])
    elif op in _NARROWED:
        x = b.one("Abs", [x]) if op == "Sqrt" else b.one("Mul", [b.one("Tanh", [x]), b.scalar(0.7)])
    return b.one(op, [x])


def settings(b: Builder, x: Value) -> Value:
    """Operators whose attributes decide about f(0)."""
    kind = b.pick(
        ["Clip", "HardSigmoid", "Dropout", "LeakyRelu", "Shrink", "Pow", "Reciprocal", "Log", "PRelu", "Cast"]
    )
    if kind == "Clip":
        low, high = b.pick([(0.0, 6.0), (-1.0, 1.0), (0.5, 2.0), (-2.0, -0.5)])
        if b.opset < 11:
            return b.one("Clip", [x], min=low, max=high)
        return b.one("Clip", [x, b.scalar(low), b.scalar(high)])
    if kind == "Pow":
        return b.one("Pow", [x, b.scalar(b.pick([2.0, 3.0, 0.0]))])
    if kind in ("Reciprocal", "Log"):
        return b.one(kind, [b.one("Add", [b.one("Abs", [x]), b.scalar(b.pick([1.0, 0.5]))])])
    if kind == "PRelu":
        return b.one("PRelu", [x, vector(b, x)])
    if kind == "Cast":
        there = b.one("Cast", [x], to=b.pick([k for k in FLOATS if k != b.kind]))
        return b.one("Cast", [there], to=b.kind)
    return b.one(kind, [x], **({"alpha": 0.3} if kind == "LeakyRelu" else {}))


def vector(b: Builder, x: Value) -> str:
    """A weight that broadcasts along the channels."""
    return b.weight([x.width] + [1] * (x.rank - 1 - x.channel), 0.5, b.pick([0.0, 1.0]))


def arithmetic(b: Builder, x: Value) -> Value:
    """With a vector, a scalar or one channel for all."""
    op = b.pick(["Add", "Mul", "Sub", "Max", "Min", "Div", "Mean", "Sum"])
    other = b.pick([vector(b, x), b.scalar(b.pick([0.0, 1.5, -0.5]))])
    if op == "Div":
        other = b.scalar(2.0) if b.chance(2) else b.weight([1] * x.rank, 0.1, 2.0)
    pair = [x, other] if op == "Div" or not b.chance(3) else [other, x]
    return at(b.one(op, pair), x.channel)


def choice(b: Builder, x: Value) -> Value:
    """Where, by a comparison."""
    op = b.pick(["Greater", "Less", "GreaterOrEqual", "LessOrEqual"])
    mask = b.one(op, [x, b.scalar(b.pick([0.0, 0.3]))])
    if b.chance(3):
        mask = b.one(b.pick(["And", "Or", "Xor"]), [mask, b.one("Less", [x, b.scalar(1.0)])])
    pair = [x, b.pick([b.scalar(0.0), b.scalar(0.5), b.one("Mul", [x, b.scalar(0.1)])])]
    return b.one("Where", [mask, *(pair if not b.chance(3) else pair[::-1])])


def batch_norm(b: Builder, x: Value) -> Value:
    """BatchNormalization."""
    b.need(x.rank >= 2 and x.channel == 1)
    n = x.width
    stats = [b.weight([n], 0.2, 1.0), b.weight([n], 0.3), b.weight([n], 0.3)]
    var = b.constant(np.abs(b.array([n])) + 0.5, helper.tensor_dtype_to_np_dtype(b.kind))
    return b.one("BatchNormalization", [x, *stats, var])


def norm(b: Builder, x: Value) -> Value:
    """Normalisations over channels or space."""
    op = b.pick(
        [
            "InstanceNormalization",
            "LayerNormalization",
            "GroupNormalization",
            "RMSNormalization",
            "LRN",
            "LpNormalization",
            "MeanVarianceNormalization",
        ]
    )
    n = x.width
    if op == "LayerNormalization":
        b.need(x.channel == x.rank - 1)
        return b.one(op, [x, b.weight([n], 0.2, 1.0), b.weight([n], 0.3)], axis=-1)
    if op == "RMSNormalization":
        b.need(x.channel == x.rank - 1)
        return b.one(op, [x, b.weight([n], 0.2, 1.0)], axis=-1)
    if op == "LpNormalization":
        return b.one(op, [x], axis=b.pick(range(x.rank)))
    b.need(x.channel == 1 and x.rank >= 3)
    if op == "InstanceNormalization":
        return b.one(op, [x, b.weight([n], 0.2, 1.0), b.weight([n], 0.3)])
    if op == "GroupNormalization":
        groups = b.divisor(n)
        size = n if b.opset >= 21 else groups
        return b.one(op, [x, b.weight([size], 0.2, 1.0), b.weight([size], 0.3)], num_groups=groups)
    b.need(x.rank == 4)
    return b.one(op, [x], **({"size": 3} if op == "LRN" else {}))


def pool(b: Builder, x: Value) -> Value:
    """Pooling, local or global."""
    b.need(x.rank in (3, 4) and x.channel == 1)
    op = b.pick(["MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool"])
    if op.startswith("Global"):
        return b.one(op, [x])
    return b.one(op, [x], kernel_shape=[2] * (x.rank - 2), strides=[b.pick([1, 2])] * (x.rank - 2))


def resize(b: Builder, x: Value) -> Value:
    """Twice the space, or space into depth and back."""
    b.need(x.rank == 4 and x.channel == 1 and x.shape[0] != 0)
    op = b.pick(["Resize", "DepthToSpace", "SpaceToDepth"])
    if op == "SpaceToDepth":
        return b.one(op, [x], blocksize=2)
    if op == "DepthToSpace":
        b.need(x.width % 4 == 0)
        return b.one(op, [x], blocksize=2, **({"mode": b.pick(["DCR", "CRD"])} if b.opset >= 11 else {}))
    b.need(b.opset >= 13)
    scales = b.constant([1, 1, 2, 2], np.float32)
    return b.one("Resize", [x, "", scales], mode=b.pick(["nearest", "linear"]))


def ordered(b: Builder, x: Value) -> Value:
    """Softmax and running sums, over any dim."""
    dim = b.pick(range(x.rank - 1, 0, -1))
    op = b.pick(["Softmax", "LogSoftmax", "CumSum"])
    if op == "CumSum":
        return b.one(op, [x, b.constant(dim)])
    return b.one(op, [x], axis=dim)


def reduce(b: Builder, x: Value) -> Value:
    """A reduction over one dim that is not the channels', or over the channels."""
    op = b.pick(
        [
            "ReduceMean",
            "ReduceSum",
            "ReduceMax",
            "ReduceMin",
            "ReduceL1",
            "ReduceL2",
            "ReduceSumSquare",
            "ReduceLogSumExp",
            "ReduceProd",
        ]
    )
    dim = b.pick(range(x.rank - 1, 0, -1))
    b.need(x.rank >= 3)
    kept = b.pick([1, 0])
    y = b.one(op, [x], axes=[dim], keepdims=kept)
    if dim == x.channel:
        return at(b.one("Mul", [x, y]), x.channel) if kept else at(y, -1)
    return at(y, x.channel - (not kept and dim < x.channel))


def quantized(b: Builder, x: Value) -> Value:
    """Down to eight bits and back."""
    b.need(b.kind == TensorProto.FLOAT and b.opset >= 10)
    kind, zero = b.pick([(np.uint8, 128), (np.int8, 0), (np.uint8, 100)])
    scale = [b.constant(0.05, np.float32), b.constant(zero, kind)]
    there = b.one("QuantizeLinear", [x, *scale])
    return replace(b.one("DequantizeLinear", [there, *scale]), channel=x.channel)


def random(b: Builder, x: Value) -> Value:
    """Noise."""
    return b.one("Add", [x, b.one("RandomNormalLike", [x], scale=0.1)])

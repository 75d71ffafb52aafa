"""The moves of a random model: each puts some nodes on a tensor and gives back a new one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
from onnx import TensorProto, helper

from onnx_prune.rules import RULES
from onnx_prune.rules.elementwise import unary, unary_without_zero
from tests.random_graphs import FLOATS, MICROSOFT, Builder, Size, Value, at

Move = Callable[[Builder, Value], Value]
WIDTHS = (4, 6, 8, 12)
# Those of the registry's that leave a normal float finite and are no step, with what they may be given.
_NARROWED = {"Acos", "Asin", "Atanh", "Cosh", "Exp", "Sinh", "Sqrt", "Tan"}
_NO_FLOAT = {"BitwiseNot", "CastLike", "IsInf", "IsNaN", "Not"}
_STEPS = {"Ceil", "Floor", "Round", "Sign", "ThresholdedRelu"}
UNARY = sorted(
    n for (_, n), f in RULES.items() if f in (unary, unary_without_zero) and n not in _NO_FLOAT | _STEPS
)


def scaled(fan_in: int) -> float:
    """The spread that keeps the size of what a layer makes."""
    return 1.2 / max(fan_in, 1) ** 0.5


# Layers: they make new channels.


def conv(b: Builder, x: Value) -> Value:
    """Convolution, plain, grouped or depthwise."""
    b.need(x.rank in (3, 4, 5) and x.channel == 1)
    width, space = x.width, x.rank - 2
    group = b.pick([1, 1, 1, width, *(d for d in range(2, width) if width % d == 0)])
    out = b.pick(WIDTHS) if group == 1 else group * b.pick([1, 2, width // group])
    kernel = b.pick([1, 3])
    stride = b.pick([1, 1, 2])
    weight = b.weight([out, width // group] + [kernel] * space, scaled(width // group * kernel**space))
    inputs = [x, weight, *([b.weight([out], 0.3)] if b.chance(2) else [])]
    attrs = {"group": group, "strides": [stride] * space, "pads": [kernel // 2] * 2 * space}
    return b.one("Conv", inputs, **attrs)


def conv_transpose(b: Builder, x: Value) -> Value:
    """Transposed convolution."""
    b.need(x.rank in (3, 4) and x.channel == 1)
    width, space = x.width, x.rank - 2
    group = b.pick([1, *(d for d in range(2, width + 1) if width % d == 0)])
    out = b.pick([1, 2, 3])
    weight = b.weight([width, out] + [2] * space, scaled(width // group))
    inputs = [x, weight, *([b.weight([out * group], 0.3)] if b.chance(2) else [])]
    return b.one("ConvTranspose", inputs, group=group, strides=[2] * space)


def linear(b: Builder, x: Value) -> Value:
    """MatMul over the last dim, and a bias."""
    b.need(x.rank >= 2 and x.channel == x.rank - 1)
    out = b.pick(WIDTHS)
    y = b.one("MatMul", [x, b.weight([x.width, out], scaled(x.width))])
    return b.one("Add", [y, b.weight([out], 0.3)]) if b.chance(2) else y


def gemm(b: Builder, x: Value) -> Value:
    """Gemm in all its forms."""
    b.need(x.rank == 2 and x.channel == 1)
    out, turned = b.pick(WIDTHS), b.chance(2)
    shape = [out, x.width] if turned else [x.width, out]
    bias = b.weight(b.pick([[out], [1, out], [1]]), 0.3)
    attrs = {"transB": int(turned), "alpha": b.pick([1.0, 0.5]), "beta": b.pick([1.0, 2.0])}
    return b.one("Gemm", [x, b.weight(shape, scaled(x.width)), bias], **attrs)


def einsum(b: Builder, x: Value) -> Value:
    """Einsum over any dim."""
    b.need(x.rank >= 2)
    letters, out = "abde"[: x.rank], b.pick(WIDTHS)
    b.need(len(letters) == x.rank)
    c = letters[x.channel]
    order = b.pick([c + "o", "o" + c])
    shape = [x.width if letter == c else out for letter in order]
    equation = f"{letters},{order}->{letters.replace(c, 'o')}"
    return b.one("Einsum", [x, b.weight(shape, scaled(x.width))], equation=equation)


def embedding(b: Builder, x: Value) -> Value:
    """A table read by an input of its own, added where it fits."""
    b.need(x.rank >= 2 and x.channel == x.rank - 1)
    index = b.input(x.shape[:-1], 0, TensorProto.INT64)
    table = b.weight([5, x.width], 1.0)
    return at(b.one("Add", [x, b.one("Gather", [table, index])]), x.channel)


def recurrent(b: Builder, x: Value) -> Value:
    """LSTM, GRU or RNN, one or both directions, its result flattened back."""
    b.need(x.rank == 3 and x.channel == 2)
    op, gates = b.pick([("LSTM", 4), ("GRU", 3), ("RNN", 1)])
    both, hidden = b.chance(3), b.pick([3, 4, 6])
    d = 2 if both else 1
    inputs: list[Value | str] = [
        x,
        b.weight([d, gates * hidden, x.width], scaled(x.width)),
        b.weight([d, gates * hidden, hidden], scaled(hidden)),
    ]
    if b.chance(2):
        inputs.append(b.weight([d, 2 * gates * hidden], 0.3))
    attrs = {"hidden_size": hidden, "direction": "bidirectional" if both else "forward"}
    if op == "GRU":
        attrs["linear_before_reset"] = b.pick([0, 1])
    y = b.put(op, inputs, 2, **attrs)[0]  # steps, directions, batch, hidden
    y = b.one("Transpose", [y], perm=[0, 2, 1, 3])
    return at(reshape(b, y, [*x.shape[:2], d * hidden]), 2)


# Blocks: several layers as networks have them.


def reshape(b: Builder, x: Value, shape: list[Size]) -> Value:
    """Reshape; dynamic sizes as 0, -1 or computed from Shape."""
    said: list[int] | None = []
    for j, n in enumerate(shape):
        if isinstance(n, int):
            said.append(n)
        elif j < x.rank and x.shape[j] == n:
            said.append(0)
        elif -1 not in said:
            said.append(-1)
        else:
            said = None
            break
    if said is not None and -1 not in said and b.chance(4):
        j = b.pick(range(len(said)))
        said[j] = -1
    if said is not None and not b.chance(5):
        return b.one("Reshape", [x, b.constant(said)], result=tuple(shape))
    sizes = b.one("Shape", [x])
    pieces = []
    for n in shape:
        if isinstance(n, str) or (n in x.shape and b.chance(2)):
            b.need(n in x.shape)
            pieces.append(b.one("Gather", [sizes, b.constant([x.shape.index(n)])], axis=0).name)
        else:
            pieces.append(b.constant([n]))
    return b.one("Reshape", [x, b.one("Concat", pieces, axis=0)], result=tuple(shape))


def attention(b: Builder, x: Value) -> Value:
    """Self-attention: query, key and value apart or in one matrix, heads that may share keys."""
    b.need(x.rank == 3 and x.channel == 2)
    heads, size = b.pick([2, 3, 4]), b.pick([2, 4])
    shared = b.pick([1, 1, heads])  # query heads for each key head
    parts = _projections(b, x, heads * size, heads // shared * size)
    q, k, v = (
        _heads(b, y, n, size) for y, n in zip(parts, (heads, heads // shared, heads // shared), strict=True)
    )
    if shared > 1:
        k, v = (_repeated(b, y, shared) for y in (k, v))
    turned = b.one("Transpose", [k], perm=[0, 1, 3, 2])
    q = _rescaled(b, q, size)
    scores = b.one("MatMul", [q, turned])
    scores = b.one("Softmax", [scores], axis=3 if b.opset < 13 else -1)
    y = b.one("Transpose", [b.one("MatMul", [scores, v])], perm=[0, 2, 1, 3])
    y = at(reshape(b, y, [*x.shape[:2], heads * size]), 2)
    y = b.one("MatMul", [y, b.weight([heads * size, x.width], scaled(heads * size))])
    return at(b.one("Add", [y, x]) if b.chance(2) else y, 2)


def _projections(b: Builder, x: Value, query: int, key: int) -> list[Value]:
    if b.chance(2):
        whole = b.one("MatMul", [x, b.weight([x.width, query + 2 * key], scaled(x.width))])
        if b.chance(2):
            return [at(y, 2) for y in b.put("Split", [whole], 3, axis=2, split=[query, key, key])]
        ends = np.cumsum([0, query, key, key]).tolist()
        return [slice_(b, whole, 2, start, stop) for start, stop in pairwise(ends)]
    return [b.one("MatMul", [x, b.weight([x.width, n], scaled(x.width))]) for n in (query, key, key)]


def _heads(b: Builder, x: Value, heads: int, size: int) -> Value:
    y = reshape(b, x, [*x.shape[:2], heads, size])
    return b.one("Transpose", [y], perm=[0, 2, 1, 3])


def _repeated(b: Builder, x: Value, times: int) -> Value:
    n, heads, steps, size = x.shape
    b.need(all(isinstance(s, int) for s in (n, steps)))
    wide = b.one("Expand", [b.one("Unsqueeze", [x], axes=[2])], shape=[n, heads, times, steps, size])
    return reshape(b, wide, [n, x.fixed(1) * times, steps, size])


def _rescaled(b: Builder, x: Value, size: int) -> Value:
    if b.chance(3):
        last = b.one("Gather", [b.one("Shape", [x]), b.constant([3])], axis=0)
        return b.one("Div", [x, b.one("Sqrt", [b.one("Cast", [last], to=b.kind)])])
    return b.one("Mul", [x, b.scalar(size**-0.5)])


def slice_(b: Builder, x: Value, dim: int, start: int, stop: int, step: int = 1) -> Value:
    """Slice on one dim."""
    given = {"starts": [start], "ends": [stop], "axes": [dim]} | ({"steps": [step]} if step != 1 else {})
    b.need(step == 1 or b.opset >= 10)
    return at(b.one("Slice", [x], **given), x.channel)


def bottleneck(b: Builder, x: Value) -> Value:
    """A residual block."""
    layer = conv if x.channel == 1 and x.rank > 2 else linear
    inner = b.pick([elementwise, batch_norm])(b, layer(b, x))
    b.need(inner.shape[: 1 if layer is conv else -1] == x.shape[: 1 if layer is conv else -1])
    if layer is conv:
        weight = b.weight([x.width, inner.width] + [1] * (x.rank - 2), scaled(inner.width))
        back = b.one("Conv", [inner, weight])
    else:
        back = b.one("MatMul", [inner, b.weight([inner.width, x.width], scaled(inner.width))])
    b.need(back.shape == x.shape)
    return at(b.one(b.pick(["Add", "Sum", "Sub"]), [back, x]), x.channel)


def excite(b: Builder, x: Value) -> Value:
    """Squeeze and excite."""
    b.need(x.rank == 4 and x.channel == 1)
    mean = (
        b.one("GlobalAveragePool", [x]) if b.chance(2) else b.one("ReduceMean", [x], axes=[2, 3], keepdims=1)
    )
    inner = b.pick([2, 4])
    y = b.one("Conv", [mean, b.weight([inner, x.width, 1, 1], scaled(x.width))])
    y = b.one("Conv", [b.one("Relu", [y]), b.weight([x.width, inner, 1, 1], scaled(inner))])
    return b.one("Mul", [x, b.one(b.pick(["Sigmoid", "HardSigmoid"]), [y])])


def gated(b: Builder, x: Value) -> Value:
    """Split in two, one half gates the other."""
    half = x.width // 2
    b.need(x.width % 2 == 0 and half > 1)
    left, right = b.put("Split", [x], 2, axis=x.channel, split=[half, half])
    gate = b.one(b.pick(["Sigmoid", "Tanh", "Relu"]), [right])
    return at(b.one("Mul", [left, gate]), x.channel)


def shuffle(b: Builder, x: Value) -> Value:
    """Channel shuffle, or any other order of two factors."""
    groups, c = b.divisor(x.width), x.channel
    inside = [*x.shape[:c], groups, x.width // groups, *x.shape[c + 1 :]]
    perm = list(range(x.rank + 1))
    perm[c], perm[c + 1] = perm[c + 1], perm[c]
    y = b.one("Transpose", [reshape(b, x, inside)], perm=perm)
    return at(reshape(b, y, list(x.shape)), c)


# Everything else.


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


def part(b: Builder, x: Value) -> Value:
    """Part of the channels, now and then every other one, or backwards."""
    n = x.width
    kind = b.pick(["slice", "step", "flip", "gather", "split"])
    if kind == "slice":
        start = b.pick(range(n - 1))
        return slice_(b, x, x.channel, start, b.pick(range(start + 2, n + 1)))
    if kind == "step":
        return slice_(b, x, x.channel, b.pick([0, 1]), 2**31, 2)
    if kind == "flip":
        return slice_(b, x, x.channel, -1, -(2**31), -1)
    if kind == "gather":
        index = b.constant(b.order(n)[: b.pick([n, n // 2])])
        return at(b.one("Gather", [x, index], axis=x.channel), x.channel)
    first = b.pick(range(1, n))
    parts = b.put("Split", [x], 2, axis=x.channel, split=[first, n - first])
    return at(b.one("Concat", parts[::-1], axis=x.channel), x.channel)


def layout(b: Builder, x: Value) -> Value:
    """The same elements in another layout; channels go to another dim."""
    kind = b.pick(["last", "first", "tokens", "flat", "merge", "squeeze", "any"])
    if kind == "last":
        b.need(x.rank >= 3 and x.channel == 1)
        return at(b.one("Transpose", [x], perm=[0, *range(2, x.rank), 1]), -1)
    if kind == "first":
        b.need(x.rank >= 3 and x.channel == x.rank - 1)
        return at(b.one("Transpose", [x], perm=[0, x.rank - 1, *range(1, x.rank - 1)]), 1)
    if kind == "tokens":
        b.need(x.rank == 4 and x.channel == 1)
        y = reshape(b, x, [*x.shape[:2], x.fixed(2) * x.fixed(3)])
        return at(b.one("Transpose", [y], perm=[0, 2, 1]), 2)
    if kind == "flat":
        b.need(x.rank >= 3)
        [x.fixed(j) for j in range(1, x.rank)]
        return at(b.one("Flatten", [x], axis=1), 1)
    if kind == "merge":
        b.need(x.rank >= 3 and x.channel == x.rank - 1)
        return at(reshape(b, x, [*x.shape[:-2], x.fixed(-2) * x.width]), -1)
    if kind == "squeeze":
        y = b.one("Unsqueeze", [x], axes=[b.pick(range(x.rank + 1))])
        y = b.pick(UNARY_SAFE)(b, y)
        return at(b.one("Squeeze", [y], axes=[y.shape.index(1)]), x.channel)
    perm = b.order(x.rank)
    return at(b.one("Transpose", [x], perm=perm), perm.index(x.channel))


def _relu(b: Builder, x: Value) -> Value:
    return b.one("Relu", [x])


def _tanh(b: Builder, x: Value) -> Value:
    return b.one("Tanh", [x])


UNARY_SAFE = (_relu, _tanh)


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


def ordered(b: Builder, x: Value) -> Value:
    """Softmax and running sums, over any dim."""
    dim = b.pick(range(x.rank - 1, 0, -1))
    op = b.pick(["Softmax", "LogSoftmax", "CumSum"])
    if op == "CumSum":
        return b.one(op, [x, b.constant(dim)])
    return b.one(op, [x], axis=dim)


def widen(b: Builder, x: Value) -> Value:
    """Pad, Tile, or a dim of size one expanded."""
    kind = b.pick(["Pad", "Tile", "Concat"])
    if kind == "Pad":
        pads = [0] * 2 * x.rank
        pads[b.pick(range(1, 2 * x.rank))] = 1
        b.need(pads[0] == pads[x.rank] == 0)
        return (
            b.one("Pad", [x], pads=pads) if b.opset >= 11 else b.one("Pad", [x], pads=pads, mode="constant")
        )
    if kind == "Tile":
        repeats = [1] * x.rank
        repeats[b.pick(range(1, x.rank))] = 2
        return b.one("Tile", [x, b.constant(repeats)])
    return at(b.one("Concat", [x, _relu(b, x)], axis=x.channel), x.channel)


def vendor(b: Builder, x: Value) -> Value:
    """Operators of onnxruntime's own."""
    b.need(b.kind == TensorProto.FLOAT)
    op = b.pick(["Gelu", "QuickGelu", "FastGelu", "BiasGelu", "FusedMatMul", "FusedGemm"])
    if op in ("Gelu", "QuickGelu"):
        return at(b.one(op, [x], domain=MICROSOFT, result=x.shape), x.channel)
    b.need(x.channel == x.rank - 1)
    if op in ("FastGelu", "BiasGelu"):
        y = b.one(op, [x, b.weight([x.width], 0.3)], domain=MICROSOFT, result=x.shape)
        return at(y, x.channel)
    out, turned = b.pick(WIDTHS), b.chance(2)
    weight = b.weight([out, x.width] if turned else [x.width, out], scaled(x.width))
    shape = (*x.shape[:-1], out)
    if op == "FusedMatMul":
        b.need(x.rank >= 2)
        return b.one(op, [x, weight], domain=MICROSOFT, result=shape, transB=int(turned), alpha=0.5)
    b.need(x.rank == 2)
    attrs = {"transB": int(turned), "activation": "Relu"}
    return b.one(op, [x, weight, b.weight([out], 0.3)], domain=MICROSOFT, result=shape, **attrs)


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


LAYERS: tuple[Move, ...] = (
    linear,
    conv,
    gemm,
    attention,
    bottleneck,
    einsum,
    conv_transpose,
    excite,
    recurrent,
    vendor,
)
OTHERS: tuple[Move, ...] = (
    *(elementwise, arithmetic, settings, batch_norm, pool, layout, part, gated, shuffle, norm, choice),
    *(reduce, ordered, widen, resize, embedding, quantized, random),
)


def join(b: Builder, x: Value, y: Value) -> Value:
    """Two branches into one."""
    if x.shape == y.shape and x.channel == y.channel:
        op = b.pick(["Add", "Mul", "Sub", "Max", "Min", "Sum", "Concat"])
        return at(b.one(op, [x, y], **({"axis": x.channel} if op == "Concat" else {})), x.channel)
    b.need(x.rank == y.rank and x.channel == y.channel)
    others = [j for j in range(x.rank) if x.shape[j] != y.shape[j]]
    if others == [x.channel]:
        return at(b.one("Concat", [x, y], axis=x.channel), x.channel)
    b.need(x.rank >= 2 and x.channel == x.rank - 1 and x.shape[-1] == y.shape[-1])
    turned = b.one("Transpose", [y], perm=[*range(x.rank - 2), x.rank - 1, x.rank - 2])
    return at(b.one("MatMul", [x, turned]), -1)


def head(b: Builder, x: Value) -> Value:
    """A last layer, so that the channels before it end inside of the model."""
    if x.channel == 1 and x.rank in (3, 4) and not b.chance(2):
        weight = b.weight([3, x.width] + [1] * (x.rank - 2), scaled(x.width))
        return b.one("Conv", [x, weight])
    b.need(x.rank > 1)
    if x.channel != x.rank - 1:
        perm = [j for j in range(x.rank) if j != x.channel] + [x.channel]
        x = at(b.one("Transpose", [x], perm=perm), -1)
    return b.one("MatMul", [x, b.weight([x.width, 3], scaled(x.width))])

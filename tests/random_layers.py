"""Moves of a random model that make new channels: layers, and blocks of several."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from onnx import TensorProto

from tests.random_bends import batch_norm, elementwise
from tests.random_graphs import MICROSOFT, Builder, Value, at
from tests.random_shapes import reshape, slice_

WIDTHS = (4, 6, 8, 12)


def scaled(fan_in: int) -> float:
    """The spread that keeps the size of what a layer makes."""
    return 1.2 / max(fan_in, 1) ** 0.5


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

"""Moves of a random model that set traps: sizes computed at run time, indices, quantized layers, branches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import TensorProto, helper

from tests.random_graphs import MICROSOFT, Builder, Value, at
from tests.random_layers import WIDTHS, scaled
from tests.random_shapes import reshape, slice_


def halved(b: Builder, x: Value) -> Value:
    """The two halves of the channels by bounds that a Shape says, put together again."""
    b.need(b.opset >= 10 and x.width % 2 == 0)
    size = b.one("Gather", [b.one("Shape", [x]), b.constant([x.channel])], axis=0)
    half = b.one("Div", [size, b.constant([2])])
    axes, width = b.constant([x.channel]), x.width // 2
    shape = tuple(width if j == x.channel else n for j, n in enumerate(x.shape))
    first = b.one("Slice", [x, b.constant([0]), half, axes], result=shape)
    last = b.one("Slice", [x, half, b.constant([2**31]), axes], result=shape)
    op = b.pick(["Mul", "Add", "Concat"])
    if op == "Concat":
        return at(b.one(op, [last, first], axis=x.channel), x.channel)
    return at(b.one(op, [first, last]), x.channel)


def rotary(b: Builder, x: Value) -> Value:
    """Rotate one half of the channels into the other, as rotary embeddings do."""
    half, last = x.width // 2, x.rank - 1
    b.need(x.width % 2 == 0 and x.channel == last)
    first, second = (slice_(b, x, last, j * half, (j + 1) * half) for j in (0, 1))
    turned = b.one("Concat", [b.one("Neg", [second]), first], axis=last)
    angles = b.constant(b.rng.uniform(0, 1, half), b.array([]).dtype)
    whole = b.one("Concat", [angles, angles], axis=0)
    parts = [b.one("Mul", [x, b.one("Cos", [whole])]), b.one("Mul", [turned, b.one("Sin", [whole])])]
    return at(b.one("Add", parts), last)


def spread(b: Builder, x: Value) -> Value:
    """Something of the size that a Shape says, added or multiplied."""
    sizes = b.one("Shape", [x])
    if b.chance(2):
        other = b.one("Expand", [b.weight([1] * x.rank, 0.5, 1.0), sizes], result=x.shape)
    else:
        fill = helper.make_tensor("fill", b.kind, [1], [b.pick([1.0, 0.0, 0.5])])
        other = b.one("ConstantOfShape", [sizes], value=fill, result=x.shape)
    return at(b.one(b.pick(["Add", "Mul", "Sub"]), [x, other]), x.channel)


def repeated(b: Builder, x: Value) -> Value:
    """Each channel twice, or the channels over again."""
    c = x.channel
    b.need(all(isinstance(n, int) for n in x.shape))
    after = b.pick([True, False])
    dim = c + 1 if after else c
    y = b.one("Unsqueeze", [x], axes=[dim])
    y = b.one("Expand", [y], shape=[2 if j == dim else n for j, n in enumerate(y.shape)])
    return at(reshape(b, y, [2 * n if j == c else n for j, n in enumerate(x.shape)]), c)


def group_norm(b: Builder, x: Value) -> Value:
    """GroupNorm as exporters write it: InstanceNormalization of merged channels, then the affine."""
    b.need(x.rank == 4 and x.channel == 1)
    groups, n = b.divisor(x.width), x.width
    dtype = b.array([]).dtype
    y = reshape(b, x, [x.shape[0], groups, n // groups * x.fixed(2) * x.fixed(3)])
    ones, zeros = b.constant(np.ones(groups), dtype), b.constant(np.zeros(groups), dtype)
    y = reshape(b, b.one("InstanceNormalization", [y, ones, zeros]), list(x.shape))
    y = b.one("Mul", [y, b.weight([n, 1, 1], 0.2, 1.0)])
    return at(b.one("Add", [y, b.weight([n, 1, 1], 0.3)]), 1)


def tied(b: Builder, x: Value) -> Value:
    """There and back by one matrix."""
    b.need(x.rank >= 2 and x.channel == x.rank - 1)
    weight = b.weight([x.width, b.pick(WIDTHS)], scaled(x.width))
    inner = b.one("Relu", [b.one("MatMul", [x, weight])])
    return at(b.one("MatMul", [inner, b.one("Transpose", [weight], perm=[1, 0])]), -1)


def looked_up(b: Builder, x: Value) -> Value:
    """Elements by constant indices, read or written."""
    kind = b.pick(["GatherElements", "ScatterElements", "GatherND", "ScatterND", "Trilu"])
    shape = [x.fixed(j) for j in range(x.rank)]
    dim = b.pick(range(x.rank))
    if kind == "Trilu":
        return b.one("Trilu", [x], upper=b.pick([0, 1]))
    if kind == "GatherElements":
        return b.one(kind, [x, b.constant(b.rng.integers(0, shape[dim], shape))], axis=dim)
    if kind == "ScatterElements":
        some = [max(1, n // 2) if j == dim else n for j, n in enumerate(shape)]
        index = np.arange(some[dim]).reshape([-1 if j == dim else 1 for j in range(x.rank)])
        places = b.constant(np.broadcast_to(index, some))
        return b.one(kind, [x, places, b.weight(some, 0.5)], axis=dim)
    if kind == "GatherND":
        return at(b.one(kind, [x, b.constant([[0], [shape[0] - 1]])]), x.channel)
    return b.one(kind, [x, b.constant([[0]]), b.weight([1, *shape[1:]], 0.5)])


def branched(b: Builder, x: Value) -> Value:
    """If, by what the input says, one function or another."""
    total = b.one("ReduceMax", [b.one("Abs", [x])], keepdims=0)
    chosen = b.one("Greater", [total, b.scalar(1.0)])
    info = helper.make_tensor_value_info
    bodies = {}
    for branch, op in (("then_branch", "Relu"), ("else_branch", "Tanh")):
        result = b.name()
        inside = helper.make_node(op, [x.name], [result])
        bodies[branch] = helper.make_graph([inside], branch, [], [info(result, x.kind, x.shape)])
    return at(b.one("If", [chosen], like=x, **bodies), x.channel)


def integers(b: Builder, x: Value) -> Value:
    """A layer in integers: dynamic quantization, or a fused one of onnxruntime's."""
    b.need(b.kind == TensorProto.FLOAT and b.opset >= 11 and x.rank >= 2 and x.channel == x.rank - 1)
    out = b.pick(WIDTHS)
    weight = b.constant(b.rng.integers(-120, 120, (x.width, out)), np.int8)
    scale = b.constant(np.full(b.pick([1, out]), scaled(x.width) / 70), np.float32)
    if b.chance(2):
        shape = (*x.shape[:-1], out)
        return b.one("DynamicQuantizeMatMul", [x, weight, scale], domain=MICROSOFT, result=shape)
    there, size, zero = b.put("DynamicQuantizeLinear", [x], 3)
    product = b.one("Cast", [b.one("MatMulInteger", [there, weight, zero])], to=b.kind)
    return at(b.one("Mul", [product, b.one("Mul", [size, scale])]), -1)


def fused_attention(b: Builder, x: Value) -> Value:
    """Attention as one node, ONNX's own or onnxruntime's."""
    b.need(x.rank == 3 and x.channel == 2)
    heads, size = b.pick([2, 3, 4]), b.pick([4, 8])
    width, shared = heads * size, b.pick([1, heads])
    n = heads // shared
    if b.opset >= 23 and b.chance(2):
        parts = [b.one("MatMul", [x, b.weight([x.width, k * size], scaled(x.width))]) for k in (heads, n, n)]
        y = b.one("Attention", parts, q_num_heads=heads, kv_num_heads=n)
    else:
        b.need(b.kind == TensorProto.FLOAT)
        parts = [b.one("MatMul", [x, b.weight([x.width, width], scaled(x.width))]) for _ in range(3)]
        shape = (*x.shape[:2], width)
        y = b.one("MultiHeadAttention", parts, domain=MICROSOFT, result=shape, num_heads=heads)
    return at(b.one("MatMul", [replace(y, channel=2), b.weight([width, x.width], scaled(width))]), 2)


def best(b: Builder, x: Value) -> Value:
    """The largest values along some dim."""
    b.need(b.opset >= 11)
    dim = b.pick(range(x.rank - 1, 0, -1))
    count = b.constant([max(1, x.fixed(dim) // 2)])
    values, _ = b.put("TopK", [x, count], 2, axis=dim)
    return at(values, x.channel)

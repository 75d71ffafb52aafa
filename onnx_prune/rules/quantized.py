"""Quantized operators of ONNX: the axes of their float twins, and how their integers are read.

A quantized tensor is zero where it equals its zero point.  A single scale or zero point has no axes;
vectors of them lie along an axis of their tensor and are cut with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from onnx_prune.axes.axis import Atom, Axis, prod, size
from onnx_prune.axes.relation import Code, Dims, Op, Relation, Restate, letters, positive
from onnx_prune.errors import Misfit
from onnx_prune.rules import rule
from onnx_prune.rules.conv import conv
from onnx_prune.rules.linear import matmul

PARTIAL = "its last block of one scale is not full"


def lift(
    op: Op,
    twin: Callable[[Op], Relation],
    picks: Sequence[int],
    reads: Sequence[Code],
    writes: Sequence[Code] = (),
) -> Relation:
    """The relation of a quantized operator from that of its float twin.

    Args:
        op: the node.
        twin: the rule of the float operator.
        picks: which operands are the twin's, in its order; those left out are skipped.
        reads: how the operands are read; `axis` says where a vector of scales would lie.
        writes: how the results are written.
    """
    picks = [k for k in picks if op.has(k)]
    plain = twin(replace(op, ins=tuple(op.ins[k] for k in picks), values=(), probe=None))
    operands: list[Dims | None] = [None] * len(op.ins)
    for k, dims in zip(picks, plain.operands, strict=True):
        operands[k] = dims
    after: list[tuple[Code, ...]] = []
    for codes, tensors in ((reads, operands), (writes, plain.results)):
        kept = []
        for code in codes:
            dims = tensors[code.at]
            if dims is None:
                continue
            vectors = [k for k in (code.scale, code.zero) if k is not None and k >= 0 and not _one(op, k)]
            for k in vectors:
                operands[k] = _along(op, k, dims, code.axis)
            kept.append(code if vectors else replace(code, axis=None))
        after.append(tuple(kept))
    # operands that this node leaves out are those behind its last
    zero = tuple(tuple(picks[j] if j < len(picks) else len(op.ins) for j in row) for row in plain.zero)
    return replace(plain, operands=tuple(operands), zero=zero, reads=after[0], writes=after[1])


def _one(op: Op, k: int) -> bool:
    """Whether scales or zero points are a single number, or left out."""
    return not op.has(k) or all(n == 1 for n in op.shape(k))


def _along(op: Op, k: int, dims: Dims, axis: int | tuple[int, ...] | None) -> Dims:
    """The axes of a vector of scales or zero points of a tensor."""
    shape = op.shape(k)
    if isinstance(axis, int) and shape == (size(dims[axis]),):
        return (dims[axis],)
    if len(shape) == len(dims) and all(n in (1, size(a)) for n, a in zip(shape, dims, strict=True)):
        return tuple(a if size(a) == n else Atom(1, "1") for n, a in zip(shape, dims, strict=True))
    raise Misfit(f"operand {k} of shape {shape} does not lie along its tensor {' '.join(map(str, dims))}")


@rule("QuantizeLinear")
def quantize(op: Op) -> Relation:
    """a b, b, b -> a b

    >>> print(quantize(Op("QuantizeLinear", ((2, 3), ()), ((2, 3),))))
    a b, _ -> a b
    >>> print(quantize(Op("QuantizeLinear", ((2, 6), (2, 3)), ((2, 6),), {"block_size": 2})))
    a (b k), a b -> a (b k)
    """
    relation, code = _linear(op)
    return replace(relation, writes=(code,))


@rule("DequantizeLinear")
def dequantize(op: Op) -> Relation:
    """a b, b, b -> a b

    The attribute block_size follows the channels in a block.

    >>> print(dequantize(Op("DequantizeLinear", ((2, 3), (3,), (3,)), ((2, 3),))))
    a b, b, b -> a b
    >>> print(dequantize(Op("DequantizeLinear", ((5, 3), (2, 3)), ((5, 3),), {"block_size": 4, "axis": 0})))
    *a b, *s b -> *a b
    """
    relation, code = _linear(op)
    return replace(relation, reads=(code,))


def _linear(op: Op) -> tuple[Relation, Code]:
    """The scales are one number, a vector along an axis, or one a block of that axis."""
    shape = op.shape()
    dims: tuple[Axis, ...] = letters(shape)
    scales: Dims | None = None
    restate: tuple[Restate, ...] = ()
    code = Code(0, 1, 2)
    block = op.integer("block_size")
    if not _one(op, 1):
        axis = positive(op.integer("axis", 1), len(shape))
        code = replace(code, axis=axis)
        if block:
            code = replace(code, block=block)
            inside, outside, restate = _blocks(dims[axis], op.shape(1)[axis], block)
            dims = (*dims[:axis], inside, *dims[axis + 1 :])
            scales = (*dims[:axis], outside, *dims[axis + 1 :])
        else:
            scales = _along(op, 1, dims, axis)
    operands = (dims, *(None if _one(op, k) else scales for k in range(1, len(op.ins))))
    return Relation(operands, (dims,), restate, zero=((0,),)), code


def _blocks(axis: Axis, count: int, block: int) -> tuple[Axis, Axis, tuple[Restate, ...]]:
    """An axis in blocks of one scale each, the axis of the scales, and what follows."""
    name = str(axis)
    if count * block != size(axis):
        return Atom(size(axis), name, PARTIAL), Atom(count, "s", PARTIAL), ()
    blocks, inside = Atom(count, name), Atom(block, "k")
    follows = (Restate("block_size", "sizes", (inside,)),) if block > 1 else ()
    return prod(blocks, inside), blocks, follows


@rule("DynamicQuantizeLinear")
def dynamic_quantize(op: Op) -> Relation:
    """a... -> a..., (), ()

    The range that it takes includes zero, so masked channels do not change it; they have to be zero.

    >>> print(dynamic_quantize(Op("DynamicQuantizeLinear", ((2, 3),), ((2, 3), (), ()))))
    a b -> a b, (), ()
    """
    dims = letters(op.shape())
    results = tuple(dims if k == 0 else () for k in range(len(op.outs)))
    return Relation((dims,), results, zero=((0,),), zeroed=(0,), writes=(Code(0, None, ~2),))


@rule("QLinearConv")
def qlinear_conv(op: Op) -> Relation:
    """n (g i) *d..., _, _, (g o) i *k..., (g o), (g o), _, _, (g o) -> n (g o) *e...

    >>> shapes = ((1, 6, 8, 8), (), (), (9, 2, 3, 3), (9,), (9,), (), (), (9,))
    >>> print(qlinear_conv(Op("QLinearConv", shapes, ((1, 9, 6, 6),), {"group": 3})))
    n (g i) *d0 *d1, _, _, (g o) i *k0 *k1, (g o), (g o), _, _, (g o) -> n (g o) *e0 *e1
    """
    return lift(op, conv, (0, 3, 8), (Code(0, 1, 2), Code(3, 4, 5, axis=0)), (Code(0, 6, 7),))


@rule("ConvInteger")
def conv_integer(op: Op) -> Relation:
    """n (g i) *d..., (g o) i *k..., _, (g o) -> n (g o) *e...

    >>> print(conv_integer(Op("ConvInteger", ((1, 2, 8), (9, 2, 3), (), (9,)), ((1, 9, 6),))))
    n i *d0, o i *k0, _, o -> n o *e0
    """
    return lift(op, conv, (0, 1), (Code(0, None, 2), Code(1, None, 3, axis=0)))


@rule("QLinearMatMul")
def qlinear_matmul(op: Op) -> Relation:
    """... m k, m, m, ... k n, n, n, _, _ -> ... m n

    >>> shapes = ((5, 2, 3), (), (), (3, 4), (4,), (4,), (), ())
    >>> print(qlinear_matmul(Op("QLinearMatMul", shapes, ((5, 2, 4),))))
    a m k, _, _, k n, n, n, _, _ -> a m n
    """
    reads = _factors(op, (0, 3), ((1, 2), (4, 5)))
    return lift(op, matmul, (0, 3), reads, (Code(0, 6, 7),))


@rule("MatMulInteger")
def matmul_integer(op: Op) -> Relation:
    """... m k, ... k n, m, n -> ... m n

    >>> print(matmul_integer(Op("MatMulInteger", ((2, 3), (3, 4), (), (4,)), ((2, 4),))))
    m k, k n, _, n -> m n
    """
    return lift(op, matmul, (0, 1), _factors(op, (0, 1), ((None, 2), (None, 3))))


def _factors(
    op: Op, at: tuple[int, int], said: tuple[tuple[int | None, int], tuple[int | None, int]]
) -> list[Code]:
    """How two factors are read: by one scale a row of the first, one a column of the second."""
    rows, columns = len(op.shape(at[0])) - 2, len(op.shape(at[1])) - 1
    return [Code(at[0], *said[0], axis=max(rows, 0)), Code(at[1], *said[1], axis=columns)]

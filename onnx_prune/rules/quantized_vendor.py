"""Quantized operators of com.microsoft: what onnxruntime's own tools write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from onnx_prune.axes.axis import Atom, Axis, atoms, prod, size
from onnx_prune.axes.relation import NEVER, Code, Dims, Op, Relation, Restate, hold, letters
from onnx_prune.errors import Misfit
from onnx_prune.rules import rule
from onnx_prune.rules.elementwise import product, total, unary, unary_without_zero, where
from onnx_prune.rules.linear import gemm, matmul
from onnx_prune.rules.movement import concat
from onnx_prune.rules.pool import global_pool, pool
from onnx_prune.rules.quantized import PARTIAL, dequantize, lift, qlinear_conv, quantize
from onnx_prune.rules.recurrent import lstm
from onnx_prune.rules.reduce import reduce_mean, softmax

MICROSOFT = "com.microsoft"
BLOCK = "weights in a block share a scale, and a block has a fixed size"
RANGE = "every step takes a range over it"
ORDERED = "the weights are stored in the order of another operand"

rule("QuantizeLinear", domain=MICROSOFT)(quantize)
rule("DequantizeLinear", domain=MICROSOFT)(dequantize)


@rule("QLinearConv", domain=MICROSOFT)
def conv(op: Op) -> Relation:
    """n (g i) *d..., _, _, (g o) i *k..., (g o), (g o), _, _, (g o) -> n (g o) *e...

    With channels_last the channels of the images stand behind; those of the weights do not.

    >>> shapes = ((1, 8, 8, 6), (), (), (9, 6, 3, 3), (), (), (), ())
    >>> print(conv(Op("QLinearConv", shapes, ((1, 6, 6, 9),), {"channels_last": 1})))
    n *d0 *d1 i, _, _, o i *k0 *k1, _, _, _, _ -> n *e0 *e1 o
    """
    relation = qlinear_conv(_channels_first(op))
    return _channels_last(op, relation)


def _channels_first(op: Op) -> Op:
    if not op.integer("channels_last"):
        return op
    images = tuple((s[0], s[-1], *s[1:-1]) for s in (op.shape(), op.out()))
    return replace(op, ins=(images[0], *op.ins[1:]), outs=(images[1],))


def _channels_last(op: Op, relation: Relation) -> Relation:
    if not op.integer("channels_last"):
        return relation

    def turned(dims: Dims | None) -> Dims | None:
        return None if dims is None else (dims[0], *dims[2:], dims[1])

    first, *others = relation.operands
    return replace(relation, operands=(turned(first), *others), results=(turned(relation.results[0]),))


def _one_operand(op: Op, twin: Callable[[Op], Relation]) -> Relation:
    """An operator of one tensor: its scale and zero point, then the result's."""
    return lift(op, twin, (0,), (Code(0, 1, 2),), (Code(0, 3, 4),))


@rule("QLinearGlobalAveragePool", domain=MICROSOFT)
def global_average_pool(op: Op) -> Relation:
    """n c ~d..., _, _, _, _ -> n c *e...

    >>> shapes = ((1, 3, 8, 8), (), (), (), ())
    >>> print(global_average_pool(Op("QLinearGlobalAveragePool", shapes, ((1, 3, 1, 1),))))
    n c ~d0 ~d1, _, _, _, _ -> n c *e0 *e1
    """
    return _channels_last(op, _one_operand(_channels_first(op), global_pool))


@rule("QLinearAveragePool", domain=MICROSOFT)
def average_pool(op: Op) -> Relation:
    """n c *d..., _, _, _, _ -> n c *e...

    >>> print(average_pool(Op("QLinearAveragePool", ((1, 3, 8), (), (), (), ()), ((1, 3, 4),))))
    n c *d0, _, _, _, _ -> n c *e0
    """
    return _channels_last(op, _one_operand(_channels_first(op), pool))


@rule("QLinearSigmoid", domain=MICROSOFT)
def sigmoid(op: Op) -> Relation:
    """a..., _, _, _, _ -> a...

    >>> print(sigmoid(Op("QLinearSigmoid", ((2, 3), (), (), (), ()), ((2, 3),))))
    a0 a1, _, _, _, _ -> a0 a1
    """
    return _one_operand(op, unary_without_zero)


@rule("QLinearLeakyRelu", domain=MICROSOFT)
def leaky_relu(op: Op) -> Relation:
    """a..., _, _, _, _ -> a...

    >>> print(leaky_relu(Op("QLinearLeakyRelu", ((2, 3), (), (), (), ()), ((2, 3),))))
    a0 a1, _, _, _, _ -> a0 a1
    """
    return _one_operand(op, unary)


@rule("QLinearSoftmax", domain=MICROSOFT)
def soft_max(op: Op) -> Relation:
    """a... *c b..., _, _, _, _ -> a... *c b...

    >>> settings = {"axis": 1, "opset": 13}
    >>> print(soft_max(Op("QLinearSoftmax", ((2, 3, 4), (), (), (), ()), ((2, 3, 4),), settings)))
    a *b c, _, _, _, _ -> a *b c
    """
    return _one_operand(replace(op, opset=op.integer("opset", op.opset)), softmax)


@rule("QLinearReduceMean", domain=MICROSOFT)
def mean(op: Op) -> Relation:
    """a ~b, _, _, _, _ -> a 1

    >>> print(mean(Op("QLinearReduceMean", ((2, 3), (), (), (), ()), ((2, 1),), {"axes": [1]})))
    a ~b, _, _, _, _ -> a 1
    """
    return _one_operand(op, reduce_mean)


def _two_operands(op: Op, twin: Callable[[Op], Relation]) -> Relation:
    return lift(op, twin, (0, 3), (Code(0, 1, 2), Code(3, 4, 5)), (Code(0, 6, 7),))


@rule("QLinearAdd", domain=MICROSOFT)
def add(op: Op) -> Relation:
    """a..., _, _, a..., _, _, _, _ -> a...

    >>> print(add(Op("QLinearAdd", ((2, 3), (), (), (3,), (), (), (), ()), ((2, 3),))))
    a b, _, _, b, _, _, _, _ -> a b
    """
    return _two_operands(op, total)


@rule("QLinearMul", domain=MICROSOFT)
def mul(op: Op) -> Relation:
    """a..., _, _, a..., _, _, _, _ -> a...

    >>> print(mul(Op("QLinearMul", ((2, 3), (), (), (3,), (), (), (), ()), ((2, 3),))))
    a b, _, _, b, _, _, _, _ -> a b
    """
    return _two_operands(op, product)


@rule("QLinearWhere", domain=MICROSOFT)
def select(op: Op) -> Relation:
    """a..., a..., _, _, a..., _, _, _, _ -> a...

    >>> print(select(Op("QLinearWhere", ((3,), (2, 3), (), (), (), (), (), (), ()), ((2, 3),))))
    b, a b, _, _, (), _, _, _, _ -> a b
    """
    return lift(op, where, (0, 1, 4), (Code(1, 2, 3), Code(4, 5, 6)), (Code(0, 7, 8),))


@rule("QLinearConcat", domain=MICROSOFT)
def join(op: Op) -> Relation:
    """_, _, a b, _, _, a c, _, _, ... -> a (b + c)

    >>> shapes = ((), (), (2, 3), (), (), (2, 4), (), ())
    >>> print(join(Op("QLinearConcat", shapes, ((2, 7),), {"axis": 1})))
    _, _, a b0, _, _, a b1, _, _ -> a (b0 + b1)
    """
    parts = range(2, len(op.ins), 3)
    return lift(op, concat, parts, [Code(k, k + 1, k + 2) for k in parts], (Code(0, 0, 1),))


@rule("QGemm", domain=MICROSOFT)
def qgemm(op: Op) -> Relation:
    """m k, _, _, k n, n, n, n, _, _ -> m n

    >>> shapes = ((2, 3), (), (), (4, 3), (4,), (4,), (4,))
    >>> print(qgemm(Op("QGemm", shapes, ((2, 4),), {"transB": 1})))
    m k, _, _, n k, n, n, n -> m n
    """
    columns = 0 if op.integer("transB") else 1
    reads = (Code(0, 1, 2), Code(3, 4, 5, axis=columns))
    return lift(op, gemm, (0, 3, 6), reads, (Code(0, 7, 8),) if op.has(7) else ())


@rule("MatMulIntegerToFloat", domain=MICROSOFT)
def matmul_to_float(op: Op) -> Relation:
    """... m k, ... k n, _, n, _, n, n -> ... m n

    >>> shapes = ((2, 3), (3, 4), (), (4,), (), (4,), (4,))
    >>> print(matmul_to_float(Op("MatMulIntegerToFloat", shapes, ((2, 4),))))
    m k, k n, _, n, _, n, n -> m n
    """
    reads = (Code(0, 2, 4), Code(1, 3, 5, axis=len(op.shape(1)) - 1))
    return _with_bias(op, lift(op, matmul, (0, 1), reads), 6)


@rule("DynamicQuantizeMatMul", domain=MICROSOFT)
def dynamic_matmul(op: Op) -> Relation:
    """... m k, ... k n, n, n, n -> ... m n

    The first operand is quantized over its whole range, which includes zero.

    >>> print(dynamic_matmul(Op("DynamicQuantizeMatMul", ((2, 3), (3, 4), (4,), None, (4,)), ((2, 4),))))
    m k, k n, n, _, n -> m n
    """
    lifted = lift(op, matmul, (0, 1), (Code(1, 2, 3, axis=len(op.shape(1)) - 1),))
    return _with_bias(op, replace(lifted, zeroed=(0,)), 4)


def _with_bias(op: Op, relation: Relation, k: int) -> Relation:
    """A product with a vector added along the last axis of the result."""
    if not op.has(k):
        return relation
    result = relation.results[0]
    if result is None or op.shape(k) != (size(result[-1]),):
        raise Misfit(f"a bias of shape {op.shape(k)} does not fit the result")
    operands = (*relation.operands[:k], (result[-1],), *relation.operands[k + 1 :])
    return replace(relation, operands=operands, zero=(*relation.zero, (k,)))


@rule("MatMulNBits", domain=MICROSOFT)
def matmul_nbits(op: Op) -> Relation:
    """... m (b *k), n b *p, (n b), (n *z), *x, n -> ... m n

    Whole blocks go: the attributes K and N follow.  Zero points may be packed, two or more to a byte.

    >>> attrs = {"K": 128, "N": 16, "block_size": 32}
    >>> print(matmul_nbits(Op("MatMulNBits", ((5, 128), (16, 4, 16), (64,)), ((5, 16),), attrs)))
    m (b *k), n b *p, (n b) -> m n
    >>> shapes = ((5, 128), (16, 4, 16), (16, 4), (32,))
    >>> print(matmul_nbits(Op("MatMulNBits", shapes, ((5, 16),), attrs)))
    m (b *z *k), n (b *z) *p, n (b *z), (n b) -> m n
    """
    inner, columns, block = op.integer("K"), op.integer("N"), op.integer("block_size")
    bits = op.integer("bits", 4)
    count = -(-inner // block)
    why = ORDERED if op.has(4) else PARTIAL if inner % block else None
    n = Atom(columns, "n")
    packed = op.has(3) and op.shape(3) not in ((columns, count), (columns * count,))
    each = 8 // bits if packed and bits < 8 else 1
    stored = -(-count // each)
    if each > 1 and count % each:
        why = why or "zero points of several blocks share a byte"
    bytes_ = Atom(stored, "b", why)
    blocks = prod(bytes_, Atom(each, "z", BLOCK)) if not why else Atom(count, "b", why)
    k = prod(blocks, Atom(block, "k", BLOCK)) if not why else Atom(inner, "k", why)
    rows = letters(op.shape()[:-1], "abcdefgh"[: len(op.shape()) - 2] + "m")

    def beside(j: int, axis: Atom) -> Dims:
        return (prod(n, axis),) if len(op.shape(j)) == 1 else (n, axis)

    operands: list[Dims | None] = [(*rows, k), (n, blocks, Atom(op.shape(1)[-1], "p", BLOCK))]
    operands += [None] * (len(op.ins) - 2)
    operands[2] = (prod(n, blocks),) if len(op.shape(2)) == 1 else (n, blocks)
    if op.has(3):
        operands[3] = beside(3, bytes_) if not why or packed else beside(3, Atom(count, "b", why))
    if op.has(4):
        operands[4] = (Atom(op.shape(4)[0], "x", ORDERED),)
    if op.has(5):
        operands[5] = (n,)
    return Relation(
        tuple(operands),
        ((*rows, n),),
        (Restate("K", "sizes", (k,)), Restate("N", "sizes", (n,))),
        zero=((2,), (5,)),
        reads=(
            Code(
                1,
                2,
                3 if op.has(3) else None,
                axis=1,
                block=block,
                bits=bits,
                row=0 if op.has(4) else inner,
            ),
        ),
    )


@rule("DynamicQuantizeLSTM", domain=MICROSOFT)
def dynamic_lstm(op: Op) -> Relation:
    """*s *b i, *d i (*g h), *d h (*g h), *d (*e h), ..., *d (*g h), *d (*g h), ... -> *s *d *b h, ...

    Weights are transposed to those of LSTM, with one scale a direction or one a column.  Every step
    quantizes the state of the whole batch in one range: the batch is held, and hidden channels too
    where masking does not make them zero.

    >>> shapes = ((5, 2, 3), (1, 3, 16), (1, 4, 16), *[None] * 5, (1,), (1,), (1,), (1,))
    >>> print(dynamic_lstm(Op("DynamicQuantizeLSTM", shapes, ((5, 1, 2, 4),), {"hidden_size": 4})))
    *s *b i, *d i (*g h), *d h (*g h), _, _, _, _, _, _, _, _, _ -> *s *d *b h
    """
    flip = {k: (s[0], s[2], s[1]) for k in (1, 2) for s in (op.shape(k),)}
    plain = lstm(replace(op, ins=tuple(flip.get(k, s) for k, s in enumerate(op.ins[:8]))))
    x, _, recurrent = plain.operands[:3]
    assert x is not None
    assert recurrent is not None
    held = {a: hold(a, RANGE) for a in atoms(x[1])}
    held |= {a: hold(a, RANGE) for a in atoms(recurrent[2]) if plain.zero == NEVER}
    operands, results = (
        [None if dims is None else tuple(_swapped(axis, held) for axis in dims) for dims in side]
        for side in (plain.operands, plain.results)
    )
    for k in (1, 2):
        dims = operands[k]
        assert dims is not None
        operands[k] = (dims[0], dims[2], dims[1])
        columns = (dims[0], dims[1])
        operands += [columns if len(op.shape(6 + 2 * k + j)) == 2 else None for j in (0, 1)]
    return replace(
        plain,
        operands=tuple(operands),
        results=tuple(results),
        restate=() if plain.zero == NEVER else plain.restate,
        zeroed=(0, *plain.zeroed),
        reads=tuple(Code(k, s, s + 1, axis=(0, 2)[: len(op.shape(s))]) for k, s in ((1, 8), (2, 10))),
    )


def _swapped(axis: Axis, held: Mapping[Atom, Atom]) -> Axis:
    """The axis with some atoms replaced."""
    if isinstance(axis, Atom):
        return held.get(axis, axis)
    return type(axis)(tuple(_swapped(part, held) for part in axis.parts))

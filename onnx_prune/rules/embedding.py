"""com.microsoft's embedding tables whose entries share scales in blocks."""

from __future__ import annotations

from onnx_prune.axes.axis import Atom, Axis, prod
from onnx_prune.axes.relation import Code, Dims, Op, Relation, hold, letters, positive
from onnx_prune.errors import Misfit
from onnx_prune.rules import rule
from onnx_prune.rules.indexing import BY_DATA, LOOKED_UP
from onnx_prune.rules.quantized_vendor import BLOCK


@rule("GatherBlockQuantized", domain="com.microsoft")
def gather_block_quantized(op: Op) -> Relation:
    """*v (b *k), i j, *v b, *v b -> i j (b *k)

    Whole blocks go.  Where several values share a byte, or the zero point is not said, the blocks are held.

    >>> shapes = (100, 64), (2, 5), (100, 4), (100, 4)
    >>> attrs = {"block_size": 16, "bits": 8, "quantize_axis": 1}
    >>> print(gather_block_quantized(Op("GatherBlockQuantized", shapes, ((2, 5, 64),), attrs)))
    *a (b *k), i j, *a b, *a b -> i j (b *k)
    """
    data, scales, rank = op.shape(), op.shape(2), len(op.shape())
    gathered, quantized = (
        positive(op.integer(f"{what}_axis", n), rank) for what, n in (("gather", 0), ("quantize", 1))
    )
    if gathered == quantized or len(scales) != rank:
        raise Misfit("blocks along the axis that is looked up are not understood")
    block, width = op.integer("block_size", 128), op.out()[quantized - rank]
    i: Dims = letters(op.shape(1), "ijklmnop")
    x: list[Axis] = list(letters(data))
    x[gathered] = hold(letters(data)[gathered], LOOKED_UP)
    told = op.has(3) or op.integer("bits", 4) < 8
    whole = told and width == data[quantized] == scales[quantized] * block
    count = Atom(scales[quantized], "b", None if whole else BLOCK)
    x[quantized] = prod(count, Atom(block, "k", BLOCK)) if whole else Atom(data[quantized], "c", BLOCK)
    wide = x[quantized] if whole else Atom(width, "w", BLOCK)
    beside: Dims = tuple(
        count if j == quantized else axis if n == data[j] else Atom(1, "1")
        for j, (axis, n) in enumerate(zip(x, scales, strict=True))
    )
    points: Dims | None = (
        beside if whole or not op.has(3) else tuple(Atom(n, "z", BLOCK) for n in op.shape(3))
    )
    operands: tuple[Dims | None, ...] = (tuple(x), i, beside, points if op.has(3) else None)
    result = (*x[:gathered], *i, *x[gathered + 1 :])
    at = quantized + len(i) - 1 if quantized > gathered else quantized
    return Relation(
        operands[: len(op.ins)],
        ((*result[:at], wide, *result[at + 1 :]),),
        zero=BY_DATA,
        reads=(Code(0, 2, 3 if op.has(3) else None, axis=quantized, block=block),) if whole else (),
    )

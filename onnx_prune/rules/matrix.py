"""Operators on the matrices in the last two dims: those are held, the others pass through."""

from __future__ import annotations

from onnx_prune.errors import Misfit
from onnx_prune.relation import Op, Relation, hold, letters
from onnx_prune.rules import rule

ENTRIES = "positions in a matrix are not channels"


@rule("Trilu")
@rule("Trilu", domain="com.microsoft")
def trilu(op: Op) -> Relation:
    """a... *m *n, _ -> a... *m *n

    >>> print(trilu(Op("Trilu", ((2, 3, 4), ()), ((2, 3, 4),))))
    a *b *c, _ -> a *b *c
    """
    shape = op.shape()
    if len(shape) < 2:
        raise Misfit(f"a tensor of shape {shape} holds no matrices")
    *stack, m, n = letters(shape)
    dims = (*stack, hold(m, ENTRIES), hold(n, ENTRIES))
    return Relation((dims, *(None,) * (len(op.ins) - 1)), (dims,), why=ENTRIES)

"""Operators on the matrices in the last two dims: those are held, the others pass through."""

from __future__ import annotations

from dataclasses import replace

from onnx_prune.axes.relation import NEVER, Op, Relation, hold, letters
from onnx_prune.errors import Misfit
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
    return Relation((dims, *(None,) * (len(op.ins) - 1)), (dims,))


@rule("Det")
def determinant(op: Op) -> Relation:
    """a... *m *n -> a...

    >>> print(determinant(Op("Det", ((2, 3, 3),), ((2,),))))
    a *b *c -> a
    """
    *stack, m, n = letters(op.shape())
    rows = (*stack, hold(m, ENTRIES), hold(n, ENTRIES))
    return Relation((rows,), (tuple(stack),))


@rule("Inverse", domain="com.microsoft")
def inverse(op: Op) -> Relation:
    """a... *m *n -> a... *m *n

    What a masked matrix inverts to is not defined.

    >>> print(inverse(Op("Inverse", ((2, 3, 3),), ((2, 3, 3),))))
    a *b *c -> a *b *c
    """
    return replace(trilu(op), zero=NEVER, divisors=(0,))

"""Operators on the matrices in the last two dims: those are held, the others pass through."""

from __future__ import annotations

from onnx_prune.errors import Misfit
from onnx_prune.relation import Op, Relation, hold, letters
from onnx_prune.rules import rule

ENTRIES = "positions in a matrix are not channels"


def _matrices(op: Op) -> Relation:
    """Stacks of matrices to stacks of matrices, or of numbers."""
    shape = op.shape()
    if len(shape) < 2:
        raise Misfit(f"a tensor of shape {shape} holds no matrices")
    *stack, m, n = letters(shape)
    held = hold(m, ENTRIES), hold(n, ENTRIES)
    after = held if len(op.out()) == len(shape) else ()
    rest = (None,) * (len(op.ins) - 1)
    return Relation(((*stack, *held), *rest), ((*stack, *after),), why=ENTRIES)


@rule("Trilu")
@rule("Trilu", domain="com.microsoft")
def trilu(op: Op) -> Relation:
    """a... *m *n, _ -> a... *m *n

    >>> print(trilu(Op("Trilu", ((2, 3, 4), ()), ((2, 3, 4),))))
    a *b *c, _ -> a *b *c
    """
    return _matrices(op)


@rule("Det")
def determinant(op: Op) -> Relation:
    """a... *m *m -> a...

    >>> print(determinant(Op("Det", ((2, 3, 3),), ((2,),))))
    a *b *c -> a
    """
    return _matrices(op)

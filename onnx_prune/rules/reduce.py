"""Reductions, and operators that look along one axis: the axis is contracted, mixed or held."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from onnx_prune.axes.axis import Atom
from onnx_prune.axes.relation import (
    CARRIED,
    NEVER,
    Op,
    Relation,
    Zero,
    hold,
    letters,
    mix,
    positive,
)
from onnx_prune.rules import rule

UNKNOWN = "the axes of the operator are known only at run time"
RANKED = "an order or an extreme is taken over it"
NORMED = "a norm or a mean is taken over it"

Mark = Callable[[Atom], Atom]


def _plain(atom: Atom) -> Atom:
    return atom


def _ranked(atom: Atom) -> Atom:
    return hold(atom, RANKED)


def _normed(atom: Atom) -> Atom:
    return mix(atom, NORMED)


def _unknown(op: Op) -> Relation:
    """Everything is held."""
    x, y = (tuple(hold(atom, UNKNOWN) for atom in letters(shape)) for shape in (op.shape(), op.out()))
    return Relation((x, *(None for _ in op.ins[1:])), (y,), zero=NEVER)


def _reduce(op: Op, axes: set[int], mark: Mark, zero: Zero) -> Relation:
    """Reduce the dims `axes` of the first operand after marking them."""
    dims = tuple(mark(atom) if j in axes else atom for j, atom in enumerate(letters(op.shape())))
    kept = op.attrs.get("keepdims", 1) == 1  # other numbers than 0 and 1 are read as 0
    result: list[Atom] = []
    for j, atom in enumerate(dims):
        if j not in axes:
            result.append(atom)
        elif kept:
            result.append(Atom(1, "1"))
    return Relation((dims, *(None for _ in op.ins[1:])), (tuple(result),), zero=zero)


def _reduction(op: Op, mark: Mark, zero: Zero) -> Relation:
    """A Reduce operator; its axes are an attribute or, since opset 13 or 18, an operand."""
    rank = len(op.shape())
    axes = op.constant("axes", 1)
    if axes is None and op.has(1) and op.shape(1) != (0,):
        return _unknown(op)
    every = [] if op.integer("noop_with_empty_axes") else range(rank)
    return _reduce(op, {positive(axis, rank) for axis in axes or every}, mark, zero)


@rule("ReduceL1", "ReduceSum", "ReduceSumSquare")
def reduce_sum(op: Op) -> Relation:
    """a... c b... -> a... 1 b...

    >>> print(reduce_sum(Op("ReduceSum", ((2, 3, 4),), ((2, 4),), {"axes": [1], "keepdims": 0})))
    a b c -> a c
    """
    return _reduction(op, _plain, CARRIED)


@rule("ReduceL2", "ReduceMean")
def reduce_mean(op: Op) -> Relation:
    """a... ~c b... -> a... 1 b...

    >>> print(reduce_mean(Op("ReduceMean", ((2, 3, 4),), ((2, 1, 4),), {"axes": [1]})))
    a ~b c -> a 1 c
    """
    return _reduction(op, _normed, CARRIED)


@rule("ReduceMax", "ReduceMin", "ReduceProd")
def reduce_extreme(op: Op) -> Relation:
    """a... *c b... -> a... 1 b...

    >>> print(reduce_extreme(Op("ReduceMax", ((2, 3, 4),), ((2, 1, 4),), {"axes": [1]})))
    a *b c -> a 1 c
    """
    # Over nothing the maximum is -inf and the product 1.
    return _reduction(op, _ranked, NEVER if 0 in op.shape() else CARRIED)


@rule("ReduceLogSum", "ReduceLogSumExp")
def reduce_log(op: Op) -> Relation:
    """a... *c b... -> a... 1 b...

    >>> print(reduce_log(Op("ReduceLogSumExp", ((2, 3),), ((1, 1),))))
    *a *b -> 1 1
    """
    return replace(_reduction(op, _ranked, NEVER), divisors=(0,))


@rule("ArgMax", "ArgMin")
def arg_extreme(op: Op) -> Relation:
    """a... *c b... -> a... 1 b...

    >>> print(arg_extreme(Op("ArgMax", ((2, 3),), ((2,),), {"axis": -1, "keepdims": 0})))
    a *b -> a
    """
    return _reduce(op, {positive(op.integer("axis"), len(op.shape()))}, _ranked, NEVER)


@rule("TopK")
def top_k(op: Op) -> Relation:
    """a... *c b..., _ -> a... *k b..., a... *k b...

    >>> print(top_k(Op("TopK", ((2, 9), (1,)), ((2, 5), (2, 5)), {"axis": -1})))
    a *b, _ -> a *b, a *b
    """
    axis = positive(op.integer("axis", -1), len(op.shape()))
    dims = _along(op, {axis})
    some = (*dims[:axis], Atom(op.out()[axis], dims[axis].name, RANKED), *dims[axis + 1 :])
    indices = tuple(None if shape is None else some for shape in op.outs[1:])
    zero = NEVER if any(indices) else CARRIED
    return Relation((dims, *(None for _ in op.ins[1:])), (some, *indices), zero=zero)


@rule("Hardmax", "LogSoftmax", "Softmax")
def softmax(op: Op) -> Relation:
    """a... *c b... -> a... *c b...

    Before opset 13 the operator flattens its operand to a matrix: all dims from `axis` on are held.

    >>> print(softmax(Op("Softmax", ((2, 3, 4),), ((2, 3, 4),), {"axis": 1}, opset=13)))
    a *b c -> a *b c
    >>> print(softmax(Op("Softmax", ((2, 3, 4),), ((2, 3, 4),), {"axis": 1}, opset=11)))
    a *b *c -> a *b *c
    """
    rank = len(op.shape())
    axis = positive(op.integer("axis", -1 if op.opset >= 13 else 1), rank)
    dims = _along(op, {axis} if op.opset >= 13 else set(range(axis, rank)))
    return Relation((dims,), (dims,), zero=NEVER)


@rule("CumProd", "CumSum")
def cumulate(op: Op) -> Relation:
    """a... *c b..., _ -> a... *c b...

    >>> import numpy as np
    >>> print(cumulate(Op("CumSum", ((2, 3), ()), ((2, 3),), values=(None, np.array(1)))))
    a *b, _ -> a *b
    """
    axis = op.const(1)
    if axis is None:
        return _unknown(op)
    dims = _along(op, {positive(axis[0], len(op.shape()))})
    starts_at_one = op.type == "CumProd" and op.integer("exclusive")
    return Relation((dims, None), (dims,), zero=NEVER if starts_at_one else CARRIED)


def _along(op: Op, axes: set[int]) -> tuple[Atom, ...]:
    """Letters for the first operand, held on `axes`."""
    return tuple(_ranked(atom) if j in axes else atom for j, atom in enumerate(letters(op.shape())))

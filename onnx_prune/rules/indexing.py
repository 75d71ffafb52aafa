"""Operators that look up or write positions: the axis that is indexed is held, the others pass."""

from __future__ import annotations

from onnx_prune.axes.axis import Atom, Axis
from onnx_prune.axes.relation import NEVER, Dims, Op, Relation, Restate, Zero, hold, letters, positive
from onnx_prune.rules import rule
from onnx_prune.rules.movement import run

LOOKED_UP = "its positions are looked up by index"
WRITTEN = "it says where values are written"
DEPTH = "its size is the number of classes"
SELECTED = "what is taken of it is known at run time only"
TIME = "time is not a channel axis"

# a zero index is not a zero result: only the data can carry a zero
BY_DATA: Zero = ((0,),)
BY_DATA_AND_UPDATES: Zero = ((0,), (2,))


@rule("Gather")
def gather(op: Op) -> Relation:
    """a *v b, i j -> a i j b; by constants in one run a (p + i + q) b, i -> a i b

    An embedding's table is looked up at run time: its rows are held, its width passes.

    >>> print(gather(Op("Gather", ((100, 8), (2, 5)), ((2, 5, 8),))))
    *a b, i j -> i j b

    A constant scalar keeps its channel and the channels around it may go:

    >>> import numpy as np
    >>> print(gather(Op("Gather", ((2, 7), ()), ((2,),), {"axis": 1}, (None, np.array(3)))))
    a (b0 + b1 + b2), () -> a
    """
    data, indices = op.shape(), op.shape(1)
    axis = positive(op.integer("axis"), len(data))
    x = letters(data)
    i: Dims = letters(indices, "ijklmnop")
    table: Axis = hold(x[axis], LOOKED_UP)
    restate: tuple[Restate, ...] = ()
    at = [index + data[axis] if index < 0 else index for index in op.const(1) or ()]
    if at and at == list(range(at[0], at[0] + len(at))) and len(at) == max(indices, default=1):
        table, inside = run(x[axis], at[0], at[0] + len(at))
        i = tuple(inside if atom.size > 1 else atom for atom in letters(indices, "ijklmnop"))
        restate = (Restate(1, "indices", (table,)),)
    before, after = x[:axis], x[axis + 1 :]
    return Relation(((*before, table, *after), i), ((*before, *i, *after),), restate, BY_DATA)


@rule("GatherElements")
def gather_elements(op: Op) -> Relation:
    """a *v, a i -> a i

    >>> print(gather_elements(Op("GatherElements", ((3, 9), (3, 4)), ((3, 4),), {"axis": 1})))
    a *b, a j -> a j
    """
    table, looked = _faced(op, None)
    return Relation((table, looked), (looked,), zero=BY_DATA)


def _faced(op: Op, why: str | None) -> tuple[Dims, Dims]:
    """Axes of the data and of the indices, which `why` holds on the axis that they index.

    On the other axes indices may be shorter than the data: there they face its front.
    """
    axis = positive(op.integer("axis"), len(op.shape()))
    pairs = [
        (hold(x, LOOKED_UP), Atom(i.size, i.name, why)) if j == axis else run(x, 0, i.size)
        for j, (x, i) in enumerate(zip(letters(op.shape()), letters(op.shape(1), "ijklmnop"), strict=True))
    ]
    return tuple(whole for whole, _ in pairs), tuple(front for _, front in pairs)


@rule("ScatterElements", "Scatter")
def scatter_elements(op: Op) -> Relation:
    """a *v, a *i, a *i -> a *v

    >>> print(scatter_elements(Op("ScatterElements", ((3, 9), (3, 4), (3, 4)), ((3, 9),), {"axis": 1})))
    a *b, a *j, a *j -> a *b
    """
    table, places = _faced(op, WRITTEN)
    return Relation((table, places, places), (table,), zero=BY_DATA_AND_UPDATES)


@rule("GatherND")
def gather_nd(op: Op) -> Relation:
    """n *v d, n i *k -> n i d

    >>> print(gather_nd(Op("GatherND", ((2, 9, 8), (2, 5, 1)), ((2, 5, 8),), {"batch_dims": 1})))
    a *b c, a j *k -> a j c
    """
    batch, depth = op.integer("batch_dims"), op.shape(1)[-1]
    x, i = letters(op.shape()), letters(op.shape(1), "ijklmnop")
    table = tuple(hold(axis, LOOKED_UP) for axis in x[batch : batch + depth])
    shared, looked, rest = x[:batch], i[batch:-1], x[batch + depth :]
    indices = (*shared, *looked, hold(i[-1], LOOKED_UP))
    return Relation(((*shared, *table, *rest), indices), ((*shared, *looked, *rest),), zero=BY_DATA)


@rule("ScatterND")
def scatter_nd(op: Op) -> Relation:
    """*v d, *i *k, *i d -> *v d

    >>> print(scatter_nd(Op("ScatterND", ((9, 8), (5, 1), (5, 8)), ((9, 8),))))
    *a b, *i *j, *i b -> *a b
    """
    depth = op.shape(1)[-1]
    x, i = letters(op.shape()), letters(op.shape(1), "ijklmnop")
    table = (*(hold(axis, WRITTEN) for axis in x[:depth]), *x[depth:])
    places = tuple(hold(axis, WRITTEN) for axis in i)
    return Relation((table, places, (*places[:-1], *x[depth:])), (table,), zero=BY_DATA_AND_UPDATES)


@rule("OneHot")
def one_hot(op: Op) -> Relation:
    """i j, _, _ -> i j *k

    >>> print(one_hot(Op("OneHot", ((2, 3), (), (2,)), ((2, 3, 10),))))
    a b, _, _ -> a b *k
    """
    x, out = letters(op.shape()), op.out()
    axis = positive(op.integer("axis", -1), len(out))
    return Relation((x, None, None), ((*x[:axis], Atom(out[axis], "k", DEPTH), *x[axis:]),), zero=NEVER)


@rule("ReverseSequence")
def reverse_sequence(op: Op) -> Relation:
    """*t n d, n -> *t n d

    >>> print(reverse_sequence(Op("ReverseSequence", ((9, 2, 8), (2,)), ((9, 2, 8),))))
    *a b c, b -> *a b c
    """
    batch, time = op.integer("batch_axis", 1), op.integer("time_axis", 0)
    x = tuple(hold(axis, TIME) if j == time else axis for j, axis in enumerate(letters(op.shape())))
    return Relation((x, (x[batch],)), (x,), zero=BY_DATA)


@rule("Compress")
def compress(op: Op) -> Relation:
    """a *c b, *s -> a *k b

    Without an axis the operand is flattened, and held whole.

    >>> print(compress(Op("Compress", ((3, 4, 5), (4,)), ((3, 2, 5),), {"axis": 1})))
    a *b c, *s -> a *k c
    """
    x, condition = letters(op.shape()), Atom(op.shape(1)[0], "s", SELECTED)
    if "axis" not in op.attrs:
        flat = tuple(hold(atom, SELECTED) for atom in x)
        return Relation((flat, (condition,)), ((Atom(op.out()[0], "k", SELECTED),),), zero=BY_DATA)
    axis = positive(op.integer("axis"), len(x))
    table = (*x[:axis], hold(x[axis], SELECTED), *x[axis + 1 :])
    taken = (*x[:axis], Atom(op.out()[axis], "k", SELECTED), *x[axis + 1 :])
    return Relation((table, (condition,)), (taken,), zero=BY_DATA)

"""Values that cross the border of a body of If, Loop or Scan, see `onnx_prune.model.flatten`."""

from __future__ import annotations

from onnx_prune.axes.axis import Atom
from onnx_prune.axes.pattern import pattern
from onnx_prune.axes.relation import NEVER, Dims, Op, Relation, Shape, letters, positive
from onnx_prune.errors import Misfit
from onnx_prune.rules import rule

STEPS = "it counts the steps of a loop"


def _alike(op: Op, what: str, zeroed: tuple[int, ...] = ()) -> Relation:
    """The first two operands and the result have the same axes; further operands decide which it is."""
    if op.shape(0) != op.shape(1):
        raise Misfit(what)
    return pattern(op, "a..., a... -> a...", zeroed=zeroed)


@rule("If")
def branches(op: Op) -> Relation:
    """a..., a... -> a...

    The results of the two branches, then the condition.

    >>> print(branches(Op("If", ((2, 3), (2, 3), ()), ((2, 3),))))
    a0 a1, a0 a1, _ -> a0 a1
    """
    return _alike(op, "its branches have results of different shapes")


@rule("Loop.enter", "Scan.enter")
def enter(op: Op) -> Relation:
    """a..., a... -> a...

    What is carried, at first and after a step, as the body sees it: masked where it comes from, so that
    every step begins with zeros in the channels that go.

    >>> print(enter(Op("Loop.enter", ((2, 3), (2, 3)), ((2, 3),))))
    a0 a1, a0 a1 -> a0 a1
    """
    return _alike(op, "what it carries changes its shape from step to step", (0, 1))


@rule("Loop", "Scan")
def carried(op: Op) -> Relation:
    """a..., a... -> a...

    What is carried, at first and after a step, then what stops the loop.

    >>> print(carried(Op("Loop", ((2, 3), (2, 3), (), (), ()), ((2, 3),))))
    a0 a1, a0 a1, _, _, _ -> a0 a1
    """
    return _alike(op, "what it carries changes its shape from step to step")


@rule("Scan.slice")
def sliced(op: Op) -> Relation:
    """*t a... -> a...

    >>> print(sliced(Op("Scan.slice", ((2, 5, 3),), ((2, 3),), {"axis": 1})))
    a *t b -> a b
    """
    inner = letters(op.out())
    return Relation((_with_steps(op, op.shape(), inner),), (inner,))


@rule("Loop.stack", "Scan.stack")
def stacked(op: Op) -> Relation:
    """a... -> *t a...

    What a step gives, then what stops the loop.

    >>> print(stacked(Op("Scan.stack", ((2, 3),), ((2, 3, 5),), {"axis": -1})))
    a b -> a b *t
    """
    inner = letters(op.shape())
    operands: tuple[Dims | None, ...] = (inner, *[None] * (len(op.ins) - 1))
    return Relation(operands, (_with_steps(op, op.out(), inner),))


def _with_steps(op: Op, shape: Shape, inner: tuple[Atom, ...]) -> Dims:
    at = positive(op.integer("axis"), len(shape))
    if shape[:at] + shape[at + 1 :] != tuple(atom.size for atom in inner):
        raise Misfit("what a step gives changes its shape from step to step")
    return (*inner[:at], Atom(shape[at], "t", STEPS), *inner[at:])


@rule("Loop.count")
def counted(op: Op) -> Relation:
    """_ -> *a...

    The limit or the condition; number of the step or condition, as the body sees it.

    >>> print(counted(Op("Loop.count", ((),), ((),))))
    _ -> ()
    """
    held = tuple(Atom(n, "a", STEPS) for n in op.out())
    return Relation((None,), (held,), zero=NEVER)

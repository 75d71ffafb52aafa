"""Operators that make a tensor out of a shape or out of nothing."""

from __future__ import annotations

import numpy as np

from onnx_prune.axes.axis import Atom
from onnx_prune.axes.relation import CARRIED, NEVER, Op, Relation, Restate, letters
from onnx_prune.rules import rule

COUNTS = "its values count positions"
RANDOM = "its values are drawn at random"


@rule("ConstantOfShape")
def constant_of_shape(op: Op) -> Relation:
    """_ -> a b

    Every channel is like every other and may go; masking makes it zero only if it is filled with zero.

    >>> print(constant_of_shape(Op("ConstantOfShape", ((2,),), ((3, 4),))))
    _ -> a b
    """
    result = letters(op.out())
    zero = NEVER if np.any(op.attrs.get("value", 0.0)) else CARRIED
    return Relation((None,), (result,), (Restate(0, "sizes", result),), zero)


def _held(op: Op, why: str) -> Relation:
    return Relation(
        (None,) * len(op.ins),
        tuple(
            None if out is None else tuple(Atom(n, f"x{j}", why) for j, n in enumerate(out))
            for out in op.outs
        ),
        zero=NEVER,
    )


@rule("Range", "EyeLike")
def counting(op: Op) -> Relation:
    """_ -> *x0...

    >>> print(counting(Op("EyeLike", ((3, 4),), ((3, 4),))))
    _ -> *x0 *x1
    """
    return _held(op, COUNTS)


@rule("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli")
def random(op: Op) -> Relation:
    """_ -> *x0...

    >>> print(random(Op("RandomNormal", (), ((3, 4),))))
     -> *x0 *x1
    """
    return _held(op, RANDOM)

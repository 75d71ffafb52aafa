"""Operators whose results are positions, or depend on all values at once: nothing around them is cut."""

from __future__ import annotations

from onnx_prune.axes.axis import Atom
from onnx_prune.axes.relation import NEVER, Dims, Op, Relation, Shape
from onnx_prune.rules import rule

REASONS = {
    "NegativeLogLikelihoodLoss": "a loss is a mean over all labels",
    "NonMaxSuppression": "boxes are selected by their rank and overlap",
    "NonZero": "its values are positions",
    "SoftmaxCrossEntropyLoss": "a loss is a mean over all labels",
    "Unique": "equal values are looked for over all of it",
}


@rule(*REASONS)
def selected(op: Op) -> Relation:
    """*a... -> *x...

    >>> print(selected(Op("NonZero", ((2, 3),), ((2, 5),))))
    *a0 *a1 -> *x0 *x1
    """
    why = REASONS[op.type]

    def whole(shape: Shape | None, name: str) -> Dims | None:
        return None if shape is None else tuple(Atom(n, f"{name}{j}", why) for j, n in enumerate(shape))

    operands = tuple(whole(shape, "abcdefg"[min(k, 6)]) for k, shape in enumerate(op.ins))
    results = tuple(whole(shape, "xyzuvw"[min(k, 5)]) for k, shape in enumerate(op.outs))
    return Relation(operands, results, zero=NEVER)

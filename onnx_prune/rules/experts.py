"""Mixtures of experts in one node: the experts stay, the width of their hidden layers is a group."""

from __future__ import annotations

from onnx_prune.axes.pattern import pattern
from onnx_prune.axes.relation import Op, Relation
from onnx_prune.errors import Misfit
from onnx_prune.rules import rule

CHOSEN = "experts are chosen by the rank of their scores"
# How the gate and the value of a gated unit lie in the first weights, by `swiglu_fusion`.
LAYOUTS = {0: "i", 1: "(i *f)", 2: "(i + i)"}


@rule("MoE", domain="com.microsoft")
def mixture(op: Op) -> Relation:
    """*n... h, *m *e, *e i h, *e i, *e h i, *e h, *e i h, *e i -> *n... h

    With swiglu_fusion the first weights hold a gate and a value: (i *f) interleaved, or (i + i).

    >>> shapes = (7, 8), (7, 4), (4, 16, 8), (4, 16), (4, 8, 16)
    >>> print(mixture(Op("MoE", shapes, ((7, 8),))))
    *n0 h, *m *e, *e i h, *e i, *e h i -> *n0 h
    >>> gated = {"activation_type": "swiglu", "swiglu_fusion": 2}
    >>> print(mixture(Op("MoE", ((7, 8), (7, 4), (4, 32, 8), None, (4, 8, 16)), ((7, 8),), gated)))
    *n0 h, *m *e, *e (i + i) h, _, *e h i -> *n0 h
    """
    layout = op.integer("swiglu_fusion")
    if layout not in LAYOUTS:
        raise Misfit(f"swiglu_fusion {layout} is not understood")
    first = LAYOUTS[layout]
    text = f"*n... h, *m *e, *e {first} h, *e {first}, *e h i, *e h, *e i h, *e i -> *n... h"
    # h is summed over by the first weights as well, which masking makes zero there
    return pattern(op, text, zero=((4,), (5,)), zeroed=(2, 6), why=CHOSEN)

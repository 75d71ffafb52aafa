"""Convolutions: channels go in groups, space is held."""

from __future__ import annotations

from onnx_prune.axes.pattern import pattern
from onnx_prune.axes.relation import Op, Relation
from onnx_prune.rules import rule

SPACE = "space is not a channel axis"
OFFSETS = "channels are sampled in groups, each at offsets of its own"


@rule("Conv")
def conv(op: Op) -> Relation:
    """n (g i) *d..., (g o) i *k..., (g o) -> n (g o) *e...

    >>> print(conv(Op("Conv", ((1, 6, 8, 8), (9, 2, 3, 3)), ((1, 9, 6, 6),), {"group": 3})))
    n (g i) *d0 *d1, (g o) i *k0 *k1 -> n (g o) *e0 *e1
    """
    return pattern(
        op,
        "n (g i) *d..., (g o) i *k..., (g o) -> n (g o) *e...",
        zero=((0, 1), (2,)),
        why=SPACE,
        restate={"group": "g"},
        g=op.integer("group", 1),
    )


@rule("ConvTranspose")
def conv_transpose(op: Op) -> Relation:
    """n (g i) *d..., (g i) o *k..., (g o) -> n (g o) *e...

    >>> print(conv_transpose(Op("ConvTranspose", ((1, 6, 8), (6, 4, 3), (8,)), ((1, 8, 10),), {"group": 2})))
    n (g i) *d0, (g i) o *k0, (g o) -> n (g o) *e0
    """
    return pattern(
        op,
        "n (g i) *d..., (g i) o *k..., (g o) -> n (g o) *e...",
        zero=((0, 1), (2,)),
        why=SPACE,
        restate={"group": "g"},
        g=op.integer("group", 1),
    )


@rule("DeformConv")
def deform_conv(op: Op) -> Relation:
    """n (g i) *d..., (g o) i *k..., n *f *e..., (g o), n *m *e... -> n (g o) *e...

    With more than one group of offsets each has channels of its own: the operand's are held.

    >>> shapes = (1, 6, 8, 8), (9, 6, 3, 3), (1, 18, 6, 6), (9,)
    >>> print(deform_conv(Op("DeformConv", shapes, ((1, 9, 6, 6),))))
    n i *d0 *d1, o i *k0 *k1, n *f *e0 *e1, o -> n o *e0 *e1
    """
    g, i = ("*g", "*i") if op.integer("offset_group") > 1 else ("g", "i")
    return pattern(
        op,
        f"n ({g} {i}) *d..., ({g} o) {i} *k..., n *f *e..., ({g} o), n *m *e... -> n ({g} o) *e...",
        zero=((0, 1), (3,)),
        why=SPACE,
        whys=dict.fromkeys("gi", OFFSETS),
        restate={"group": "g"},
        g=op.integer("group", 1),
    )

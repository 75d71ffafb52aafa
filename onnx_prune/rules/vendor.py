"""com.microsoft's own forms of ONNX's operators: the rule is that of the twin, or nearly."""

from __future__ import annotations

from onnx_prune.axes.pattern import pattern
from onnx_prune.axes.relation import NEVER, Op, Relation, Zero
from onnx_prune.rules import rule
from onnx_prune.rules.conv import SPACE
from onnx_prune.rules.indexing import gather_nd
from onnx_prune.rules.linear import matmul
from onnx_prune.rules.movement import pad
from onnx_prune.rules.pool import grid_sample
from onnx_prune.rules.reshape import flatten
from onnx_prune.rules.shape_sources import counting

MICROSOFT = "com.microsoft"
PACKED = "weights lie in blocks over the ends of rows"

rule("ExpandDims", domain=MICROSOFT)(flatten)
rule("GatherND", domain=MICROSOFT)(gather_nd)
rule("GridSample", domain=MICROSOFT)(grid_sample)
rule("MatMulInteger16", domain=MICROSOFT)(matmul)
rule("Pad", domain=MICROSOFT)(pad)
rule("Range", domain=MICROSOFT)(counting)


@rule("NhwcMaxPool", domain=MICROSOFT)
def nhwc_max_pool(op: Op) -> Relation:
    """n *d... c -> n *e... c

    >>> print(nhwc_max_pool(Op("NhwcMaxPool", ((1, 8, 8, 3),), ((1, 4, 4, 3),))))
    n *d0 *d1 c -> n *e0 *e1 c
    """
    return pattern(op, "n *d... c -> n *e... c", why=SPACE)


@rule("ConvTransposeWithDynamicPads", domain=MICROSOFT)
def conv_transpose(op: Op) -> Relation:
    """n (g i) *d..., (g i) o *k..., *p, (g o) -> n (g o) *e...

    >>> shapes = (1, 6, 8), (6, 4, 3), (2,), (8,)
    >>> print(conv_transpose(Op("ConvTransposeWithDynamicPads", shapes, ((1, 8, 10),), {"group": 2})))
    n (g i) *d0, (g i) o *k0, *p, (g o) -> n (g o) *e0
    """
    return pattern(
        op,
        "n (g i) *d..., (g i) o *k..., *p, (g o) -> n (g o) *e...",
        zero=((0, 1), (3,)),
        why=SPACE,
        restate={"group": "g"},
        g=op.integer("group", 1),
    )


@rule("CropAndResize", domain=MICROSOFT)
def crop_and_resize(op: Op) -> Relation:
    """*n c *h *w, *r *f, *r, *s -> *r c *y *x

    >>> shapes = (1, 3, 8, 8), (5, 4), (5,), (2,)
    >>> print(crop_and_resize(Op("CropAndResize", shapes, ((5, 3, 2, 2),))))
    *n c *h *w, *r *f, *r, *s -> *r c *y *x
    """
    zero: Zero = NEVER if op.attrs.get("extrapolation_value") else ((0,),)
    return pattern(op, "*n c *h *w, *r *f, *r, *s -> *r c *y *x", zero=zero, why=SPACE)


@rule("ScaledSiLU", domain=MICROSOFT)
def scaled_silu(op: Op) -> Relation:
    """a..., *s... -> a...

    >>> print(scaled_silu(Op("ScaledSiLU", ((2, 3),), ((2, 3),))))
    a0 a1 -> a0 a1
    """
    return pattern(op, "a..., *s... -> a...", zero=((0,),))


@rule("GatedAdd", domain=MICROSOFT)
def gated_add(op: Op) -> Relation:
    """a... c, a... c, a... *k, *k *o -> a... c

    >>> print(gated_add(Op("GatedAdd", ((2, 3), (2, 3), (2, 1)), ((2, 3),))))
    a0 c, a0 c, a0 *k -> a0 c
    """
    return pattern(op, "a... c, a... c, a... *k, *k *o -> a... c", zero=((0,), (1,)))


@rule("MatMulBnb4", domain=MICROSOFT)
def matmul_bnb4(op: Op) -> Relation:
    """m... *k, *b, *s -> m... *n

    >>> print(matmul_bnb4(Op("MatMulBnb4", ((5, 64), (1024,), (32,)), ((5, 32),))))
    m0 *k, *b, *s -> m0 *n
    """
    return pattern(op, "m... *k, *b, *s -> m... *n", why=PACKED, zero=((0,),))


@rule("CDist", domain=MICROSOFT)
def distances(op: Op) -> Relation:
    """m *k, n *k -> m n

    >>> print(distances(Op("CDist", ((5, 3), (4, 3)), ((5, 4),))))
    m *k, n *k -> m n
    """
    return pattern(op, "m *k, n *k -> m n", zero=NEVER, why="a distance is taken over it")

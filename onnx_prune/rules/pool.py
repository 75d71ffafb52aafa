"""Pooling and sampling: channels pass through, space is held."""

from __future__ import annotations

from onnx_prune.axes.pattern import pattern
from onnx_prune.axes.relation import Op, Relation
from onnx_prune.rules import rule
from onnx_prune.rules.conv import SPACE

POSITIONS = "its indices count positions over all channels"


@rule("AveragePool", "LpPool")
def pool(op: Op) -> Relation:
    """n c *d... -> n c *e...

    >>> print(pool(Op("AveragePool", ((1, 3, 8, 8),), ((1, 3, 4, 4),))))
    n c *d0 *d1 -> n c *e0 *e1
    """
    return pattern(op, "n c *d... -> n c *e...", why=SPACE)


@rule("MaxPool")
def max_pool(op: Op) -> Relation:
    """n c *d... -> n c *e...

    Where the indices are asked for everything is held: they count over n and c too.

    >>> print(max_pool(Op("MaxPool", ((1, 3, 8),), ((1, 3, 4),))))
    n c *d0 -> n c *e0
    >>> print(max_pool(Op("MaxPool", ((1, 3, 8),), ((1, 3, 4), (1, 3, 4)))))
    *n *c *d0 -> *n *c *e0, *n *c *e0
    """
    if len(op.outs) > 1 and op.outs[1] is not None:
        return pattern(op, "*n *c *d... -> *n *c *e..., *n *c *e...", why=POSITIONS)
    return pool(op)


@rule("GlobalAveragePool", "GlobalLpPool")
def global_pool(op: Op) -> Relation:
    """n c ~d... -> n c *e...

    >>> print(global_pool(Op("GlobalAveragePool", ((1, 3, 8, 8),), ((1, 3, 1, 1),))))
    n c ~d0 ~d1 -> n c *e0 *e1
    """
    return pattern(op, "n c ~d... -> n c *e...", why="a statistic is taken over space")


@rule("GlobalMaxPool")
def global_max_pool(op: Op) -> Relation:
    """n c *d... -> n c *e...

    >>> print(global_max_pool(Op("GlobalMaxPool", ((1, 3, 8, 8),), ((1, 3, 1, 1),))))
    n c *d0 *d1 -> n c *e0 *e1
    """
    return pool(op)


@rule("MaxUnpool")
def max_unpool(op: Op) -> Relation:
    """*n *c *d..., *n *c *d... -> *n *c *e...

    >>> print(max_unpool(Op("MaxUnpool", ((1, 3, 4), (1, 3, 4)), ((1, 3, 8),))))
    *n *c *d0, *n *c *d0 -> *n *c *e0
    """
    return pattern(op, "*n *c *d..., *n *c *d... -> *n *c *e...", why=POSITIONS)


@rule("MaxRoiPool", "RoiAlign")
def roi_pool(op: Op) -> Relation:
    """*n c *h *w, *r *f, *r -> *r c *y *x

    >>> print(roi_pool(Op("RoiAlign", ((1, 3, 8, 8), (5, 4), (5,)), ((5, 3, 2, 2),))))
    *n c *h *w, *r *f, *r -> *r c *y *x
    """
    return pattern(op, "*n c *h *w, *r *f, *r -> *r c *y *x", zero=((0,),), why=SPACE)


@rule("GridSample")
def grid_sample(op: Op) -> Relation:
    """n c *d..., n *e... *f -> n c *e...

    >>> print(grid_sample(Op("GridSample", ((1, 3, 8, 8), (1, 4, 4, 2)), ((1, 3, 4, 4),))))
    n c *d0 *d1, n *e0 *e1 *f -> n c *e0 *e1
    """
    return pattern(op, "n c *d..., n *e... *f -> n c *e...", zero=((0,),), why=SPACE)


@rule("AffineGrid")
def affine_grid(op: Op) -> Relation:
    """*n *i *j, *s -> *n *e... *f

    >>> print(affine_grid(Op("AffineGrid", ((1, 2, 3), (4,)), ((1, 4, 4, 2),))))
    *n *i *j, *s -> *n *e0 *e1 *f
    """
    return pattern(op, "*n *i *j, *s -> *n *e... *f", why=SPACE)

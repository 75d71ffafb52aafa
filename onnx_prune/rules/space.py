"""Operators that resize space or fold it into channels: space and blocks are held."""

from __future__ import annotations

from collections.abc import Sequence

from onnx_prune.axes.axis import Atom, Axis
from onnx_prune.axes.pattern import pattern
from onnx_prune.axes.relation import (
    CARRIED,
    NEVER,
    Dims,
    Op,
    Relation,
    Restate,
    Zero,
    hold,
    letters,
    positive,
)
from onnx_prune.rules import rule

SPACE = "space is not a channel axis"


def _floats(op: Op, k: int) -> list[float] | None:
    """Floats that are operand `k`, None where only a run tells."""
    value = op.value(k)
    return None if value is None else [float(v) for v in value]


def _resized(op: Op, same: Sequence[bool]) -> tuple[Dims, Dims]:
    """Operand and result: the dims that stay the `same` pass, the others are held apart."""
    x = letters(op.shape())
    y = letters(op.out())
    before = tuple(a if kept else hold(a, SPACE) for a, kept in zip(x, same, strict=True))
    after = tuple(
        a if kept else Atom(b.size, f"{b.name}1", SPACE) for a, b, kept in zip(x, y, same, strict=True)
    )
    return before, after


@rule("Resize")
def resize(op: Op) -> Relation:
    """n c *d... -> n c *e...

    A dim passes where its scale is one; every interpolation is linear in the data, so zero stays.

    >>> op = Op("Resize", ((1, 6, 4, 4), None, None, (4,)), ((1, 6, 8, 8),))
    >>> print(resize(op))
    a b *c *d, _, _, _ -> a b *c1 *d1
    """
    shape, out = op.shape(), op.out()
    rank = len(shape)
    axes = [positive(axis, rank) for axis in op.integers("axes") or range(rank)]
    by_size = op.opset >= 11 and op.has(3) and op.shape(3) != (0,)
    scales = _floats(op, 1 if op.opset < 11 else 2)
    same = [n == m for n, m in zip(shape, out, strict=True)]
    if op.probe is not None:
        same = [a and n == m for a, n, m in zip(same, op.probe.shape(), op.probe.out(), strict=True)]
    if not by_size:
        told = dict(zip(axes, scales or [0.0] * len(axes), strict=True))
        same = [a and told.get(j, 1.0) == 1.0 for j, a in enumerate(same)]
    # an aspect ratio taken over several axes would follow a cut of one of them
    if op.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        same = [a and j not in axes for j, a in enumerate(same)]
    cropped = op.text("coordinate_transformation_mode") == "tf_crop_and_resize"
    if cropped:
        roi, n = _floats(op, 1) or [], len(axes)
        ends = zip(axes, roi[:n], roi[n:], strict=True) if roi else ()
        full = {j for j, start, end in ends if (start, end) == (0, 1)}
        same = [a and (j in full or j not in axes) for j, a in enumerate(same)]
    before, after = _resized(op, same)
    entries: tuple[Axis | None, ...] = tuple(after[j] if same[j] else None for j in axes)
    restate = (Restate(3, "sizes", entries),) if by_size else ()
    outside = cropped and float(op.attrs.get("extrapolation_value", 0)) != 0
    zero: Zero = NEVER if outside else CARRIED
    return Relation((before,) + (None,) * (len(op.ins) - 1), (after,), restate, zero)


@rule("Upsample")
def upsample(op: Op) -> Relation:
    """n c *d... -> n c *e...

    >>> op = Op("Upsample", ((1, 6, 4),), ((1, 6, 8),), {"scales": [1.0, 1.0, 2.0]}, opset=7)
    >>> print(upsample(op))
    a b *c -> a b *c1
    """
    scales = op.attrs.get("scales") or _floats(op, 1) or [0.0] * len(op.shape())
    before, after = _resized(op, [scale == 1 for scale in scales])
    return Relation((before,) + (None,) * (len(op.ins) - 1), (after,))


@rule("DepthToSpace")
def depth_to_space(op: Op) -> Relation:
    """n (*p *q c) *h *w -> n c (*h *p) (*w *q); with mode CRD n (c *p *q) *h *w

    >>> op = Op("DepthToSpace", ((1, 12, 2, 3),), ((1, 3, 4, 6),), {"blocksize": 2, "mode": "CRD"})
    >>> print(depth_to_space(op))
    n (c *p *q) *h *w -> n c (*h *p) (*w *q)
    """
    depth = "(c *p *q)" if op.text("mode", "DCR") == "CRD" else "(*p *q c)"
    block = op.integer("blocksize")
    return pattern(op, f"n {depth} *h *w -> n c (*h *p) (*w *q)", why=SPACE, p=block, q=block)


@rule("SpaceToDepth")
def space_to_depth(op: Op) -> Relation:
    """n c (*h *p) (*w *q) -> n (*p *q c) *h *w; with mode CRD n (c *p *q) *h *w

    >>> print(space_to_depth(Op("SpaceToDepth", ((1, 3, 4, 6),), ((1, 12, 2, 3),), {"blocksize": 2})))
    n c (*h *p) (*w *q) -> n (*p *q c) *h *w
    """
    depth = "(c *p *q)" if op.text("mode", "DCR") == "CRD" else "(*p *q c)"
    block = op.integer("blocksize")
    return pattern(op, f"n c (*h *p) (*w *q) -> n {depth} *h *w", why=SPACE, p=block, q=block)


@rule("Col2Im")
def col2im(op: Op) -> Relation:
    """n (c *k) *l -> n c *d...

    >>> print(col2im(Op("Col2Im", ((1, 12, 9), (2,), (2,)), ((1, 3, 4, 4),))))
    n (c *k) *l, _, _ -> n c *d0 *d1
    """
    return pattern(op, "n (c *k) *l -> n c *d...", why=SPACE)


@rule("CenterCropPad")
def center_crop_pad(op: Op) -> Relation:
    """n c *d... -> n c *e...

    >>> print(center_crop_pad(Op("CenterCropPad", ((6, 9), (1,)), ((6, 4),), {"axes": [1]})))
    a *b, _ -> a *b1
    """
    rank = len(op.shape())
    axes = {positive(axis, rank) for axis in op.integers("axes") or range(rank)}
    before, after = _resized(op, [j not in axes for j in range(rank)])
    return Relation((before,) + (None,) * (len(op.ins) - 1), (after,))

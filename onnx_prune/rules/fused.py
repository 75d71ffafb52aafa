"""com.microsoft's convolutions, matrix products and activations with more than one step in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from onnx_prune.axes.pattern import pattern
from onnx_prune.axes.relation import NEVER, Op, Relation, Zero, letters
from onnx_prune.errors import Misfit
from onnx_prune.rules import rule
from onnx_prune.rules.conv import SPACE
from onnx_prune.rules.elementwise import align
from onnx_prune.rules.linear import gemm

MICROSOFT = "com.microsoft"

# Activations that a convolution or product may end in, and whether they leave a zero alone.
AT_ZERO: dict[str, Callable[[Sequence[float]], bool]] = {
    "": lambda _: True,
    "Clip": lambda bounds: len(bounds) > 1 and bounds[0] <= 0 <= bounds[1],
    "HardSigmoid": lambda ab: len(ab) > 1 and ab[1] <= 0,
    "HardSwish": lambda _: True,
    "LeakyRelu": lambda _: True,
    "Relu": lambda _: True,
    "Tanh": lambda _: True,
}


def _activated(op: Op, zero: Zero) -> Zero:
    """`zero`, unless the activation turns it into something else."""
    params = [float(v) for v in op.attrs.get("activation_params", ())]
    leaves = AT_ZERO.get(op.text("activation"))
    return zero if leaves is not None and leaves(params) else NEVER


@rule("FusedConv", domain=MICROSOFT)
def fused_conv(op: Op) -> Relation:
    """n (g i) *d..., (g o) i *k..., (g o), n (g o) *e... -> n (g o) *e...

    >>> shapes = (1, 6, 8, 8), (9, 2, 3, 3), (9,), (1, 9, 6, 6)
    >>> print(fused_conv(Op("FusedConv", shapes, ((1, 9, 6, 6),), {"group": 3})))
    n (g i) *d0 *d1, (g o) i *k0 *k1, (g o), n (g o) *e0 *e1 -> n (g o) *e0 *e1
    """
    return pattern(
        op,
        "n (g i) *d..., (g o) i *k..., (g o), n (g o) *e... -> n (g o) *e...",
        zero=_activated(op, ((0, 1), (2,), (3,))),
        why=SPACE,
        restate={"group": "g"},
        g=op.integer("group", 1),
    )


@rule("NhwcConv", "NhwcFusedConv", domain=MICROSOFT)
def nhwc_conv(op: Op) -> Relation:
    """n *d... (g i), (g o) i *k..., (g o), n *e... (g o) -> n *e... (g o)

    >>> print(nhwc_conv(Op("NhwcConv", ((1, 8, 8, 6), (9, 2, 3, 3)), ((1, 6, 6, 9),), {"group": 3})))
    n *d0 *d1 (g i), (g o) i *k0 *k1 -> n *e0 *e1 (g o)
    """
    return pattern(
        op,
        "n *d... (g i), (g o) i *k..., (g o), n *e... (g o) -> n *e... (g o)",
        zero=_activated(op, ((0, 1), (2,), (3,))),
        why=SPACE,
        restate={"group": "g"},
        g=op.integer("group", 1),
    )


@rule("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)
def fused_matmul(op: Op) -> Relation:
    """... m k, ... k n -> ... m n

    transA and transB swap the last two dims, transBatchA and transBatchB move the first one before them.

    >>> shapes = (2, 3, 5, 4), (2, 3, 5, 6)
    >>> print(fused_matmul(Op("FusedMatMul", shapes, ((2, 3, 4, 6),), {"transA": 1})))
    a b k m, a b k n -> a b m n
    >>> print(fused_matmul(Op("FusedMatMul", ((4, 2, 3, 5), (5, 6)), ((2, 3, 4, 6),), {"transBatchA": 1})))
    m a b k, k n -> a b m n
    """
    left, right = (_rows(op, k, side) for k, side in enumerate("AB"))
    flip_a, flip_b = (
        bool(op.integer(f"trans{side}")) and len(op.shape(k)) > 1 for k, side in enumerate("AB")
    )
    ranks = [len(shape) > 1 for shape in (left, right)]
    inner = {left[-2] if flip_a else left[-1], right[-1] if flip_b else right[-2:][0]}
    if len(inner) > 1:
        raise Misfit(f"inner axes of sizes {' and '.join(map(str, sorted(inner)))} do not fit")
    [k] = letters((inner.pop(),), "k")
    rows, columns = ranks[0], ranks[1]
    result = op.out()
    m = letters(result[len(result) - rows - columns : len(result) - columns], "m")
    n = letters(result[len(result) - columns :], "n") if columns else ()
    batch = letters(result[: len(result) - rows - columns])
    a = (*align(left[:-2], batch), *((k, *m) if flip_a else (*m, k)))
    b = (*align(right[:-2], batch), *((*n, k) if flip_b else (k, *n)))
    if op.integer("transBatchA"):
        a = (a[-2], *a[:-2], a[-1])
    if op.integer("transBatchB"):
        b = (b[-2], *b[:-2], b[-1])
    return Relation((a, b), ((*batch, *m, *n),), zero=((0, 1),))


def _rows(op: Op, k: int, side: str) -> tuple[int, ...]:
    """The shape of an operand with its batch in front."""
    shape = op.shape(k)
    if not op.integer(f"transBatch{side}"):
        return shape
    if len(shape) < 3:
        raise Misfit("a matrix has no batch to transpose")
    return (*shape[1:-1], shape[0], shape[-1])


@rule("FusedGemm", domain=MICROSOFT)
def fused_gemm(op: Op) -> Relation:
    """m k, k n, n -> m n

    >>> print(fused_gemm(Op("FusedGemm", ((2, 3), (4, 3), (4,)), ((2, 4),), {"transB": 1})))
    m k, n k, n -> m n
    """
    relation = gemm(op)
    return replace(relation, zero=_activated(op, relation.zero))


@rule("Gelu", "QuickGelu", domain=MICROSOFT)
def gelu(op: Op) -> Relation:
    """a... -> a...

    >>> print(gelu(Op("QuickGelu", ((2, 3),), ((2, 3),))))
    a0 a1 -> a0 a1
    """
    return pattern(op, "a... -> a...", zero=((0,),))


@rule("BiasGelu", "FastGelu", domain=MICROSOFT)
def bias_gelu(op: Op) -> Relation:
    """a... c, c -> a... c

    >>> print(bias_gelu(Op("BiasGelu", ((2, 3, 4), (4,)), ((2, 3, 4),))))
    a0 a1 c, c -> a0 a1 c
    """
    return pattern(op, "a... c, c -> a... c", zero=((0,), (1,)))


@rule("BiasAdd", domain=MICROSOFT)
def bias_add(op: Op) -> Relation:
    """n s c, c, n s c -> n s c

    >>> print(bias_add(Op("BiasAdd", ((2, 5, 4), (4,), (2, 5, 4)), ((2, 5, 4),))))
    n s c, c, n s c -> n s c
    """
    return pattern(op, "n s c, c, n s c -> n s c", zero=((0,), (1,), (2,)))


@rule("BiasSplitGelu", domain=MICROSOFT)
def bias_split_gelu(op: Op) -> Relation:
    """n s (c + c), (c + c) -> n s c

    >>> print(bias_split_gelu(Op("BiasSplitGelu", ((2, 5, 8), (8,)), ((2, 5, 4),))))
    n s (c + c), (c + c) -> n s c
    """
    return pattern(op, "n s (c + c), (c + c) -> n s c", zero=((0,), (1,)))


@rule("BiasDropout", domain=MICROSOFT)
def bias_dropout(op: Op) -> Relation:
    """a..., a..., a... -> a..., a...

    The bias broadcasts; the second result is the mask, True where nothing is dropped.

    >>> print(bias_dropout(Op("BiasDropout", ((2, 3, 4), (4,), (2, 3, 4)), ((2, 3, 4),))))
    a b c, c, a b c -> a b c
    """
    dims = letters(op.shape())
    parts = tuple(None if shape is None or k > 2 else align(shape, dims) for k, shape in enumerate(op.ins))
    results = tuple(None if shape is None else dims for shape in op.outs)
    return Relation(parts, results, zero=NEVER if len(results) > 1 and results[1] else ((0,), (1,), (2,)))

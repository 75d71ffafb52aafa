"""ONNX's own attention: heads are cut whole, the size of a head where the scale stays what it was."""

from __future__ import annotations

from math import sqrt

from onnx_prune.axes.pattern import pattern
from onnx_prune.axes.relation import CARRIED, NEVER, Op, Relation, Shape, Zero, hold, letters, positive
from onnx_prune.errors import Misfit
from onnx_prune.rules import rule

POSITIONS = "positions are not channels"
TWICE = "the size of a head is summed over, and returned as well"
ROTATED = "the size of a head is rotated by a table"


def heads(shape: Shape | None, count: str, positions: str, width: str) -> str:
    """The text of a tensor with heads: four dims, or three with the heads inside the last.

    >>> heads((2, 3, 5, 8), "h", "*s", "d"), heads((2, 5, 24), "h", "*s", "d")
    ('*b h *s d', '*b *s (h d)')
    """
    split = shape is None or len(shape) == 4
    return f"*b {count} {positions} {width}" if split else f"*b {positions} ({count} {width})"


def spread(shape: Shape | None, *dims: str) -> str:
    """The text of a tensor that broadcasts against dims.

    >>> spread((3, 1, 7), "b", "h", "*s", "*t")
    'h 1 *t'
    """
    near = dims[len(dims) - len(shape) :] if shape else ()
    return " ".join("1" if n == 1 else name for name, n in zip(near, shape or (), strict=True))


def optional(op: Op, k: int) -> Shape | None:
    """Shape of operand `k`, None where it is left out."""
    return op.shape(k) if op.has(k) else None


def wanted(op: Op, k: int) -> bool:
    """Whether result `k` is asked for."""
    return k < len(op.outs) and op.outs[k] is not None


def implied_scale(width: float) -> dict[str, tuple[str, float]]:
    """What a `scale` that is left out means for heads of `width` channels."""
    return {"scale": ("d", 1 / sqrt(max(width, 1)))}


@rule("Attention")
def attention(op: Op) -> Relation:
    """*b (k r) *s d, *b k *t d, *b k *t v, mask, past, past, length -> *b (k r) *s v, cache, cache, scores

    k are key-value heads, r the query heads of each.  With three dims it is *b *s (k r d), and
    q_num_heads and kv_num_heads follow.  The scale that d implied is written down once d is cut.

    >>> print(attention(Op("Attention", ((2, 6, 5, 8), (2, 3, 7, 8), (2, 3, 7, 4)), ((2, 6, 5, 4),))))
    *b (k r) *s d, *b k *t d, *b k *t v -> *b (k r) *s v
    >>> shapes = (2, 5, 48), (2, 7, 24), (2, 7, 12), (5, 7)
    >>> flat = Op("Attention", shapes, ((2, 5, 24),), {"q_num_heads": 6, "kv_num_heads": 3})
    >>> print(attention(flat))
    *b *s (k r d), *b *t (k d), *b *t (k v), *s *m -> *b *s (k r v)
    """
    query, key = op.shape(0), op.shape(1)
    queries = query[1] if len(query) == 4 else op.integer("q_num_heads")
    pairs = key[1] if len(key) == 4 else op.integer("kv_num_heads")
    if not pairs or queries % pairs:
        raise Misfit(f"{pairs} key-value heads do not serve {queries} query heads evenly")
    cached = wanted(op, 1)
    d = "*d" if cached else "d"
    ins = (
        heads(query, "(k r)", "*s", d),
        heads(key, "k", "*t", d),
        heads(op.shape(2), "k", "*t", "v"),
        spread(optional(op, 3), "*b", "(k r)", "*s", "*m"),
        f"*b k *p {d}",
        "*b k *p v",
        "*b",
    )
    outs = (heads(op.out(), "(k r)", "*s", "v"), f"*b k *u {d}", "*b k *u v", "*b (k r) *s *u")
    width = query[-1] if len(query) == 4 else query[-1] / queries
    zero: Zero = ((2,), (5,))
    followers = {"q_num_heads": "(k r)", "kv_num_heads": "k"}
    return pattern(
        op,
        f"{', '.join(ins)} -> {', '.join(outs)}",
        zero=NEVER if wanted(op, 3) else ((1,), (4,), *zero) if cached else zero,
        why=POSITIONS,
        whys={"d": TWICE},
        restate={name: axes for name, axes in followers.items() if name in op.attrs},
        implied={} if "scale" in op.attrs else implied_scale(width),
        k=pairs,
        r=queries // pairs,
    )


@rule("RotaryEmbedding")
def rotary_embedding(op: Op) -> Relation:
    """*b h *s *d, _, _, _ -> *b h *s *d

    With three dims it is *b *s (h d), and num_heads follows.

    >>> tables = (50, 4), (50, 4), (2, 5)
    >>> print(rotary_embedding(Op("RotaryEmbedding", ((2, 3, 5, 8), *tables), ((2, 3, 5, 8),))))
    *b h *s *d, _, _, _ -> *b h *s *d
    >>> print(rotary_embedding(Op("RotaryEmbedding", ((2, 5, 24), *tables), ((2, 5, 24),), {"num_heads": 3})))
    *b *s (h *d), _, _, _ -> *b *s (h *d)
    """
    return rotated(op, op.integer("num_heads"))


def rotated(op: Op, count: int) -> Relation:
    """The relation of a rotation of `count` heads; only tensors without a dim of heads need the number."""
    shape = op.shape()
    if len(shape) == 3 and (not count or shape[-1] % count):
        raise Misfit(f"{shape[-1]} channels are not {count} heads")
    x = heads(shape, "h", "*s", "*d")
    return pattern(
        op,
        f"{x} -> {x}",
        zero=((0,),),
        why=POSITIONS,
        whys={"d": ROTATED},
        restate={"num_heads": "h"} if op.integer("num_heads") else {},
        h=shape[1] if len(shape) == 4 else count,
    )


@rule("TensorScatter")
def tensor_scatter(op: Op) -> Relation:
    """a *s b, a *t b, _ -> a *s b

    The axis that is written along is held.

    >>> print(tensor_scatter(Op("TensorScatter", ((2, 3, 9, 8), (2, 3, 1, 8), (2,)), ((2, 3, 9, 8),))))
    *a b *c d, *a b *c d, _ -> *a b *c d
    """
    shape, axis = op.shape(), positive(op.integer("axis", -2), len(op.shape()))
    dims = [hold(atom, POSITIONS) if j in (0, axis) else atom for j, atom in enumerate(letters(shape))]
    update = list(dims)
    update[axis] = hold(letters(op.shape(1), "abcdefghij")[axis], POSITIONS)
    rest = (None,) * (len(op.ins) - 2)
    return Relation((tuple(dims), tuple(update), *rest), (tuple(dims),), zero=CARRIED)

"""com.microsoft's attention, into which onnxruntime fuses that of transformers."""

from __future__ import annotations

from dataclasses import replace

from onnx_prune.axes.pattern import pattern
from onnx_prune.axes.relation import NEVER, Code, Op, Relation, Zero
from onnx_prune.errors import Misfit
from onnx_prune.rules import rule
from onnx_prune.rules.attention import (
    POSITIONS,
    ROTATED,
    TWICE,
    heads,
    implied_scale,
    optional,
    rotated,
    spread,
    wanted,
)

MICROSOFT = "com.microsoft"
SHARED = "queries, keys and values have one head size"


def _scale(op: Op, width: float) -> dict[str, tuple[str, float]]:
    """The default of `scale`, which 0 stands for, too."""
    return {} if op.attrs.get("scale") else implied_scale(width)


@rule("Attention", domain=MICROSOFT)
def attention(op: Op) -> Relation:
    """*b *s i, i ((h d) + (h d) + (h v)), ((h d) + (h d) + (h v)), _, past, bias -> *b *s (h v), present

    num_heads and qkv_hidden_sizes follow.  The scale that d implied is written down once d is cut; d is
    held where it is rotated, or kept in a cache.

    >>> shapes = (2, 5, 7), (7, 24), (24,)
    >>> print(attention(Op("Attention", shapes, ((2, 5, 8),), {"num_heads": 2})))
    *b *s i, i ((h d) + (h d) + (h v)), ((h d) + (h d) + (h v)) -> *b *s (h v)
    """
    count, packed = op.integer("num_heads"), op.shape(1)[-1]
    sizes = op.integers("qkv_hidden_sizes") or [packed // 3] * 3
    if not count or any(n % count for n in sizes):
        raise Misfit(f"hidden sizes {sizes} are not {count} heads")
    cached, turned = op.has(4) or wanted(op, 1), bool(op.integer("do_rotary"))
    d = "*d" if cached or turned else "d"
    v = d if cached else "v"
    parts = f"((h {d}) + (h {d}) + (h {v}))"
    ins = (
        "*b *s i",
        f"i {parts}",
        parts,
        spread(optional(op, 3), "*w", "*x", "*y", "*z"),
        f"*two *b h *p {d}",
        spread(optional(op, 5), "*b", "h", "*s", "*t"),
    )
    zero: Zero = ((1,), (2,), *(((4,),) if cached else ()))
    return pattern(
        op,
        f"{', '.join(ins)} -> *b *s (h {v}), *two *b h *u {d}",
        zero=zero,
        why=POSITIONS,
        whys={"d": TWICE if cached else ROTATED},
        restate={"num_heads": "h", "qkv_hidden_sizes": f"(h {d}) (h {d}) (h {v})"},
        implied=_scale(op, sizes[0] / count),
        h=count,
        d=sizes[0] // count,
    )


@rule("QAttention", domain=MICROSOFT)
def quantized_attention(op: Op) -> Relation:
    """*b *s i, i ((h *d) + (h *d) + (h *d)), ((h *d) + (h *d) + (h *d)), _, ... -> *b *s (h *d), present

    Queries, keys and values are of one size: heads go whole.  num_heads follows.

    >>> shapes = (2, 5, 7), (7, 24), (24,), (), ()
    >>> print(quantized_attention(Op("QAttention", shapes, ((2, 5, 8),), {"num_heads": 2})))
    *b *s i, i ((h *d) + (h *d) + (h *d)), ((h *d) + (h *d) + (h *d)), (), () -> *b *s (h *d)
    """
    count, packed = op.integer("num_heads"), op.shape(1)[-1]
    if not count or packed % (3 * count):
        raise Misfit(f"{packed} columns are not {count} heads of queries, keys and values")
    parts = "((h *d) + (h *d) + (h *d))"
    columns = {k: parts if op.has(k) and op.shape(k) == (packed,) else "*one..." for k in (4, 7)}
    ins = (
        *("*b *s i", f"i {parts}", parts, "*x...", columns[4]),
        *(spread(optional(op, 5), "*w", "*u", "*y", "*z"), "*x...", columns[7], "*two *b h *p *d"),
    )
    relation = pattern(
        op,
        f"{', '.join(ins)} -> *b *s (h *d), *two *b h *v *d",
        zero=((1,), (2,), (8,)),
        why=POSITIONS,
        whys={"d": SHARED},
        restate={"num_heads": "h"},
        h=count,
        d=packed // 3 // count,
    )
    return replace(relation, reads=(Code(0, 3, 6), Code(1, 4, 7, axis=1)))


@rule("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(op: Op) -> Relation:
    """*b *s (h d), *b *t (h d), *b *t (h v), ((h d) + (h d) + (h v)), ... -> *b *s (h v), present, present

    Also packed (*b *s h 3 *d, or *b *t h 2 *d beside a query), and with keys and values in heads.
    num_heads follows.  The scale that d implied is written down once d is cut; d is held where keys
    and values have to be of one size (packed, in heads, or with a past), or where keys are returned.

    >>> three = Op("MultiHeadAttention", ((2, 5, 6), (2, 7, 6), (2, 7, 8)), ((2, 5, 8),), {"num_heads": 2})
    >>> print(multi_head_attention(three))
    *b *s (h d), *b *t (h d), *b *t (h v) -> *b *s (h v)
    >>> one = Op("MultiHeadAttention", ((2, 5, 2, 3, 4),), ((2, 5, 8),), {"num_heads": 2})
    >>> print(multi_head_attention(one))
    *b *s h *three *d -> *b *s (h *d)
    """
    count, query = op.integer("num_heads"), op.shape()
    key, value = optional(op, 1), optional(op, 2)
    packed = len(query) == 5 or (key is not None and len(key) == 5)
    shared = packed or op.has(6) or (key is not None and len(key) == 4)
    cached = wanted(op, 1)
    d = "*d" if shared or cached else "d"
    v = "*d" if shared else "v"
    bias = f"((h {d}) + (h {d}) + (h {v}))"
    ins = (
        f"*b *s h *three {d}" if len(query) == 5 else f"*b *s (h {d})",
        f"*b *t h *two {d}" if key and len(key) == 5 else heads(key, "h", "*t", d),
        heads(value, "h", "*t", v),
        bias,
        spread(optional(op, 4), "*x", "*y", "*z"),
        spread(optional(op, 5), "*b", "h", "*s", "*u"),
        f"*b h *p {d}",
        f"*b h *p {v}",
    )
    source = 0 if len(query) == 5 else 1 if packed else 2
    zero: Zero = ((source,), (3,), (7,))
    keys: Zero = ((1 if key else 0,), (6,))
    width = query[-1] if len(query) == 5 else query[-1] / max(count, 1)
    return pattern(
        op,
        f"{', '.join(ins)} -> *b *s (h {v}), *b h *u {d}, *b h *u {v}, *b h *s *u",
        zero=NEVER if wanted(op, 3) else zero + keys if cached else zero,
        why=POSITIONS,
        whys={"d": SHARED if shared else TWICE},
        restate={"num_heads": "h"},
        implied=_scale(op, width),
        h=count,
    )


@rule("GroupQueryAttention", domain=MICROSOFT)
def group_query_attention(op: Op) -> Relation:
    """*b *s (k r *d), *b *t (k *d), *b *t (k *v), past, past, ... -> *b *s (k r *v), present, present

    Also packed: *b *s ((k r *d) + (k *d) + (k *v)).  num_heads follows (k r), kv_num_heads k.

    >>> heads = {"num_heads": 6, "kv_num_heads": 3}
    >>> shapes = (2, 5, 48), (2, 5, 24), (2, 5, 24), None, None, (2,), ()
    >>> print(group_query_attention(Op("GroupQueryAttention", shapes, ((2, 5, 48),), heads)))
    *b *s (k r *d), *b *t (k *d), *b *t (k *v), _, _, *b, () -> *b *s (k r *v)
    """
    queries, pairs = op.integer("num_heads"), op.integer("kv_num_heads")
    if not pairs or queries % pairs:
        raise Misfit(f"{pairs} key-value heads do not serve {queries} query heads evenly")
    if op.has(12) or op.has(13):
        raise Misfit("the scales of a quantized cache are not understood")
    packed = not op.has(1)
    ins = (
        "*b *s ((k r *d) + (k *d) + (k *v))" if packed else "*b *s (k r *d)",
        "*b *t (k *d)",
        "*b *t (k *v)",
        "*b k *p *d",
        "*b k *p *v",
        spread(optional(op, 5), "*l", "*b"),
        spread(optional(op, 6), "*one"),
        "*x *y",
        "*x *y",
        spread(optional(op, 9), "*b", "*s"),
        spread(optional(op, 10), "*b", "(k r)", "*s", "*m"),
        "(k r)",
    )
    zero: Zero = NEVER
    if not wanted(op, 3) and not (packed and queries > pairs):  # r is the queries' alone
        zero = ((0,),) if packed else ((2,), (4,), *(((1,), (3,)) if wanted(op, 1) else ()))
    return pattern(
        op,
        f"{', '.join(ins)} -> *b *s (k r *v), *b k *u *d, *b k *u *v, *b (k r) *s *w",
        zero=zero,
        why=POSITIONS,
        whys={"d": SHARED, "v": SHARED},
        restate={"num_heads": "(k r)", "kv_num_heads": "k"},
        k=pairs,
        r=queries // pairs,
    )


@rule("RotaryEmbedding", domain=MICROSOFT)
def rotary_embedding(op: Op) -> Relation:
    """*b h *s *d, _, _, _ -> *b h *s *d

    With three dims it is *b *s (h d); num_heads follows, or is told from the width of the table.

    >>> tables = (2, 5), (50, 4), (50, 4)
    >>> print(rotary_embedding(Op("RotaryEmbedding", ((2, 5, 24), *tables), ((2, 5, 24),))))
    *b *s (h *d), _, _, _ -> *b *s (h *d)
    """
    return rotated(op, op.integer("num_heads") or op.shape()[-1] // (2 * op.shape(2)[-1]))

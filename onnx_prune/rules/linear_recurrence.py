"""Layers that carry a state from step to step without a kernel of their own for it: Mamba, gated DeltaNet."""

from __future__ import annotations

from onnx_prune.axes.pattern import pattern
from onnx_prune.axes.relation import NEVER, Op, Relation, Zero
from onnx_prune.errors import Misfit
from onnx_prune.rules import rule
from onnx_prune.rules.attention import POSITIONS, TWICE, implied_scale, optional, wanted

MICROSOFT = "com.microsoft"


@rule("CausalConvWithState")
@rule("CausalConvWithState", domain=MICROSOFT)
def causal_conv(op: Op) -> Relation:
    """b c *l, c 1 *k, c, b c *s -> b c *l, b c *s

    >>> shapes = (2, 6, 5), (6, 1, 3), (6,), (2, 6, 2)
    >>> print(causal_conv(Op("CausalConvWithState", shapes, ((2, 6, 5), (2, 6, 2)))))
    b c *l, c 1 *k, c, b c *s -> b c *l, b c *s
    """
    if any(op.integer(name) for name in ("channels_last", "state_window", "state_update_capacity")):
        raise Misfit("only channels first and one state are understood")
    # a state is zero if what it remembers is; the kernel makes zeros of the output alone
    zero: Zero = ((0,), (3,), (2,)) if wanted(op, 1) else ((0, 1), (1, 3), (2,))
    return pattern(op, "b c *l, c 1 *k, c, b c *s -> b c *l, b c *s", zero=zero, why=POSITIONS)


@rule("LinearAttention")
@rule("LinearAttention", domain=MICROSOFT)
def linear_attention(op: Op) -> Relation:
    """*b *t (k r d), *b *t (k d), *b *t (k v), *b k d v, *b *t (k d), *b *t k -> *b *t (k r v), *b k d v

    q_num_heads follows (k r), kv_num_heads k.  The decay may be one a head, and the rate one for all.  The
    scale that d implied is written down once d is cut; d is held where the state is returned.

    >>> heads = {"q_num_heads": 6, "kv_num_heads": 3}
    >>> shapes = (2, 5, 24), (2, 5, 12), (2, 5, 15), None, (2, 5, 3)
    >>> print(linear_attention(Op("LinearAttention", shapes, ((2, 5, 30),), heads)))
    *b *t (k r d), *b *t (k d), *b *t (k v), _, *b *t k -> *b *t (k r v)
    """
    queries, pairs = op.integer("q_num_heads"), op.integer("kv_num_heads")
    if not pairs or queries % pairs:
        raise Misfit(f"{pairs} key-value heads do not serve {queries} query heads evenly")
    if op.integer("state_window"):
        raise Misfit("only one state is understood")
    d = "*d" if wanted(op, 1) else "d"
    decay, rate = optional(op, 4), optional(op, 5)
    ins = (
        f"*b *t (k r {d})",
        f"*b *t (k {d})",
        "*b *t (k v)",
        f"*b k {d} v",
        "*b *t k" if decay and decay[-1] == pairs else f"*b *t (k {d})",
        "*b *t k" if rate and rate[-1] == pairs else "*b *t 1",
    )
    return pattern(
        op,
        f"{', '.join(ins)} -> *b *t (k r v), *b k {d} v",
        zero=((2,), (3,)),
        why=POSITIONS,
        whys={"d": TWICE},
        restate={"q_num_heads": "(k r)", "kv_num_heads": "k"},
        implied={} if op.attrs.get("scale") else implied_scale(op.shape()[-1] / queries),
        k=pairs,
        r=queries // pairs,
    )


@rule("LinearAttentionGate", domain=MICROSOFT)
def linear_attention_gate(op: Op) -> Relation:
    """b t h, h, h, b t h -> b t h, b t h

    >>> print(linear_attention_gate(Op("LinearAttentionGate", ((2, 5, 4), (4,), (4,)), ((2, 5, 4),))))
    b t h, h, h -> b t h
    """
    return pattern(op, "b t h, h, h, b t h -> b t h, b t h", zero=NEVER if wanted(op, 1) else ((2,),))

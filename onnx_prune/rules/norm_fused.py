"""com.microsoft's normalisations, with a residual sum, an embedding or an activation in them."""

from __future__ import annotations

from dataclasses import replace

from onnx_prune.axes.axis import Atom
from onnx_prune.axes.pattern import pattern
from onnx_prune.axes.relation import Code, Op, Relation, Zero, letters, mix
from onnx_prune.rules import rule
from onnx_prune.rules.attention import wanted
from onnx_prune.rules.elementwise import align
from onnx_prune.rules.norm import AFFINE, STATISTIC, rms_norm

MICROSOFT = "com.microsoft"
LOOKED_UP = "it is looked up in a table by position"


@rule("SimplifiedLayerNormalization")
def simplified_layer_norm(op: Op) -> Relation:
    """a... ~c..., ~c... -> a... ~c..., a... 1...

    Onnxruntime's own, in ONNX's domain.

    >>> shapes = (2, 3, 4), (4,)
    >>> print(simplified_layer_norm(Op("SimplifiedLayerNormalization", shapes, ((2, 3, 4), (2, 3, 1)))))
    a b ~c, ~c -> a b ~c, a b 1
    """
    return rms_norm(op)


def _skip(op: Op, vectors: int, zero: Zero, total: Zero) -> Relation:
    """A sum of operands 0, 1 and the bias, normalised; `total` is when the sum itself is zero."""
    shape = op.shape()
    *outer, last = letters(shape)
    c = mix(last, STATISTIC)
    dims = (*outer, c)
    one = tuple(Atom(1, "1") for _ in shape[-1:])
    operands = (dims, align(op.shape(1), dims), *((c,) if op.has(k) else None for k in range(2, vectors)))
    results = tuple(
        None if have is None else (*outer, *one) if k in (1, 2) and len(have) == len(shape) else dims
        for k, have in enumerate(op.outs)
    )
    rest = (None,) * (len(op.ins) - len(operands))
    return Relation(
        (*operands, *rest)[: len(op.ins)],
        results,
        zero=zero + total if wanted(op, 3) else zero,
    )


@rule("SkipLayerNormalization", domain=MICROSOFT)
def skip_layer_norm(op: Op) -> Relation:
    """a... ~c, a... ~c, ~c, ~c, ~c -> a... ~c, a... 1, a... 1, a... ~c

    >>> shapes = (2, 3, 4), (2, 3, 4), (4,), (4,), (4,)
    >>> print(skip_layer_norm(Op("SkipLayerNormalization", shapes, ((2, 3, 4), None, None, (2, 3, 4)))))
    a b ~c, a b ~c, ~c, ~c, ~c -> a b ~c, _, _, a b ~c
    """
    return _skip(op, 5, ((2,), (3,)), ((0,), (1,), (4,)))


@rule("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_simplified_layer_norm(op: Op) -> Relation:
    """a... ~c, a... ~c, ~c, ~c -> a... ~c, a... 1, a... 1, a... ~c

    >>> shapes = (2, 3, 4), (2, 3, 4), (4,)
    >>> print(skip_simplified_layer_norm(Op("SkipSimplifiedLayerNormalization", shapes, ((2, 3, 4),))))
    a b ~c, a b ~c, ~c -> a b ~c
    """
    return _skip(op, 4, ((2,),), ((0,), (1,), (3,)))


@rule("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_norm(op: Op) -> Relation:
    """*b *s, *b *s, *v ~c, *p ~c, *g ~c, ~c, ~c, *b *s -> *b *s ~c, *b, *b *s ~c

    >>> shapes = (2, 5), (2, 5), (99, 4), (16, 4), (2, 4), (4,), (4,), (2, 5)
    >>> print(embed_layer_norm(Op("EmbedLayerNormalization", shapes, ((2, 5, 4), (2,)))))
    *b *s, *b *s, *v ~c, *p ~c, *g ~c, ~c, ~c, *b *s -> *b *s ~c, *b
    """
    affine: Zero = ((5,), (6,))
    return pattern(
        op,
        "*b *s, *b *s, *v ~c, *p ~c, *g ~c, ~c, ~c, *b *s -> *b *s ~c, *b, *b *s ~c",
        zero=(*affine, (2,), (3,), (4,)) if wanted(op, 2) else affine,
        why=STATISTIC,
        whys=dict.fromkeys("bsvpg", LOOKED_UP),
    )


def _nhwc(op: Op, text: str, zero: Zero) -> Relation:
    """Normalised by group; `text` says x for a whole tensor."""
    whole = "n ~d... (g ~c)" if op.attrs.get("channels_last", True) else "n (g ~c) ~d..."
    return pattern(
        op,
        text.replace("x", whole),
        zero=zero,
        why=STATISTIC,
        restate={"groups": "g"},
        g=op.integer("groups"),
    )


@rule("GroupNorm", domain=MICROSOFT)
def group_norm(op: Op) -> Relation:
    """n ~d... (g ~c), (g ~c), (g ~c) -> n ~d... (g ~c)

    Channels come second unless channels_last.  The attribute groups follows g.

    >>> print(group_norm(Op("GroupNorm", ((2, 4, 4, 6), (6,), (6,)), ((2, 4, 4, 6),), {"groups": 3})))
    n ~d0 ~d1 (g ~c), (g ~c), (g ~c) -> n ~d0 ~d1 (g ~c)
    """
    return _nhwc(op, "x, (g ~c), (g ~c) -> x", AFFINE)


@rule("SkipGroupNorm", domain=MICROSOFT)
def skip_group_norm(op: Op) -> Relation:
    """n ~d... (g ~c), (g ~c), (g ~c), n ~d... (g ~c), (g ~c) -> n ~d... (g ~c), n ~d... (g ~c)

    What is added may be one vector a sample.

    >>> shapes = (2, 4, 4, 6), (6,), (6,), (2, 6), (6,)
    >>> print(skip_group_norm(Op("SkipGroupNorm", shapes, ((2, 4, 4, 6), (2, 4, 4, 6)), {"groups": 3})))
    n ~d0 ~d1 (g ~c), (g ~c), (g ~c), n (g ~c), (g ~c) -> n ~d0 ~d1 (g ~c), n ~d0 ~d1 (g ~c)
    """
    added = op.shape(3)
    skip = "x" if added == op.shape() else " ".join(["n", *["1"] * (len(added) - 2), "(g ~c)"])
    both: Zero = (*AFFINE, (0,), (3,), (4,))
    return _nhwc(op, f"x, (g ~c), (g ~c), {skip}, (g ~c) -> x, x", both if wanted(op, 1) else AFFINE)


@rule("GatedRMSNorm", domain=MICROSOFT)
def gated_rms_norm(op: Op) -> Relation:
    """a... (h ~c), ~c, a... (h ~c) -> a... (h ~c)

    >>> print(gated_rms_norm(Op("GatedRMSNorm", ((2, 3, 8), (4,), (2, 3, 8)), ((2, 3, 8),))))
    a0 a1 (h ~c), ~c, a0 a1 (h ~c) -> a0 a1 (h ~c)
    """
    gated = op.text("activation", "silu") in ("silu", "swish")
    return pattern(
        op,
        "a... (h ~c), ~c, a... (h ~c) -> a... (h ~c)",
        zero=((0, 1, 2),) if gated else ((0, 1),),
        why=STATISTIC,
    )


@rule("QEmbedLayerNormalization", domain=MICROSOFT)
def quantized_embed_layer_norm(op: Op) -> Relation:
    """*b *s, *b *s, *v ~c, *p ~c, *g ~c, ~c, ~c, *b *s, _, ... -> *b *s ~c, *b

    >>> shapes = (2, 5), None, (99, 8), (16, 8), None, (8,), (8,), None, *[()] * 10
    >>> print(quantized_embed_layer_norm(Op("QEmbedLayerNormalization", shapes[:8], ((2, 5, 8), (2,)))))
    *b *s, _, *v ~c, *p ~c, _, ~c, ~c, _ -> *b *s ~c, *b
    """
    scalars = ", ".join(["*x..."] * 10)
    relation = pattern(
        op,
        f"*b *s, *b *s, *v ~c, *p ~c, *g ~c, ~c, ~c, *b *s, {scalars} -> *b *s ~c, *b",
        zero=((5,), (6,)),
        why=STATISTIC,
        whys=dict.fromkeys("bsvpg", LOOKED_UP),
    )
    return replace(relation, reads=tuple(Code(k, 6 + k, 11 + k) for k in range(2, 7)))

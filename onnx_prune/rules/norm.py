"""Normalisations: dims that a statistic is taken over are mixed, the others pass through."""

from __future__ import annotations

from onnx_prune.axes.axis import Atom
from onnx_prune.axes.pattern import pattern
from onnx_prune.axes.relation import CARRIED, NEVER, Op, Relation, Zero, letters, mix, positive
from onnx_prune.rules import rule
from onnx_prune.rules.elementwise import align

STATISTIC = "a statistic is taken over it"
AFFINE: Zero = ((1,), (2,))  # scale and bias are both zero


def _has_more(op: Op) -> bool:
    """Whether the node has results after the first."""
    return any(shape is not None for shape in op.outs[1:])


@rule("BatchNormalization")
def batch_norm(op: Op) -> Relation:
    """n c d..., c, c, c, c -> n c d..., c, c, c, c

    In training mode the statistics are taken at run time over n and d, which are then mixed.

    >>> print(batch_norm(Op("BatchNormalization", ((2, 3, 4), (3,), (3,), (3,), (3,)), ((2, 3, 4),))))
    n c d0, c, c, c, c -> n c d0
    """
    training = op.integer("training_mode") or _has_more(op)
    x = "~n c ~d..." if training else "n c d..."
    return pattern(
        op,
        f"{x}, c, c, c, c -> {x}, c, c, c, c",
        zero=NEVER if _has_more(op) else AFFINE,
        why=STATISTIC,
    )


@rule("InstanceNormalization")
def instance_norm(op: Op) -> Relation:
    """n c ~d..., c, c -> n c ~d...

    >>> print(instance_norm(Op("InstanceNormalization", ((2, 3, 4), (3,), (3,)), ((2, 3, 4),))))
    n c ~d0, c, c -> n c ~d0
    """
    return pattern(op, "n c ~d..., c, c -> n c ~d...", zero=AFFINE, why=STATISTIC)


@rule("GroupNormalization")
def group_norm(op: Op) -> Relation:
    """n (g ~c) ~d..., (g ~c), (g ~c) -> n (g ~c) ~d...

    The attribute num_groups follows g.  Before opset 21 scale and bias are one a group.

    >>> six = Op("GroupNormalization", ((2, 6, 4), (6,), (6,)), ((2, 6, 4),), {"num_groups": 3})
    >>> print(group_norm(six))
    n (g ~c) ~d0, (g ~c), (g ~c) -> n (g ~c) ~d0
    """
    affine = "g, g" if op.opset < 21 else "(g ~c), (g ~c)"
    return pattern(
        op,
        f"n (g ~c) ~d..., {affine} -> n (g ~c) ~d...",
        zero=AFFINE,
        why=STATISTIC,
        restate={"num_groups": "g"},
        g=op.integer("num_groups"),
    )


def _trailing(op: Op, zero: Zero) -> Relation:
    """Normalised from `axis` on; the scale and the bias broadcast against those dims."""
    shape = op.shape()
    axis = positive(op.integer("axis", -1), len(shape))
    outer = letters(shape[:axis])
    inner = tuple(mix(atom, STATISTIC) for atom in letters(shape, "abcdefghij")[axis:])
    affine = tuple(None if s is None else align(s, inner) for s in op.ins[1:])
    statistics = tuple(None if s is None else (*outer, *(Atom(1, "1") for _ in inner)) for s in op.outs[1:])
    dims = (*outer, *inner)
    return Relation((dims, *affine), (dims, *statistics), zero=zero)


@rule("LayerNormalization")
def layer_norm(op: Op) -> Relation:
    """a... ~c..., ~c..., ~c... -> a... ~c..., a... 1..., a... 1...

    >>> print(layer_norm(Op("LayerNormalization", ((2, 3, 4), (4,), (4,)), ((2, 3, 4), (2, 3, 1)))))
    a b ~c, ~c, ~c -> a b ~c, a b 1
    """
    return _trailing(op, AFFINE)


@rule("RMSNormalization")
def rms_norm(op: Op) -> Relation:
    """a... ~c..., ~c... -> a... ~c...

    >>> print(rms_norm(Op("RMSNormalization", ((2, 3, 4), (4,)), ((2, 3, 4),))))
    a b ~c, ~c -> a b ~c
    """
    return _trailing(op, ((0, 1),))


@rule("LpNormalization")
def lp_norm(op: Op) -> Relation:
    """a... ~c b... -> a... ~c b...

    >>> print(lp_norm(Op("LpNormalization", ((2, 3, 4),), ((2, 3, 4),), {"axis": 1})))
    a ~b c -> a ~b c
    """
    return _over(op, {positive(op.integer("axis", -1), len(op.shape()))}, CARRIED)


@rule("MeanVarianceNormalization")
def mean_variance_norm(op: Op) -> Relation:
    """~n c ~d... -> ~n c ~d...

    Mixed are the dims in `axes`, which are all but the channels where it is left out.

    >>> print(mean_variance_norm(Op("MeanVarianceNormalization", ((2, 3, 4, 5),), ((2, 3, 4, 5),))))
    ~a b ~c ~d -> ~a b ~c ~d
    """
    rank = len(op.shape())
    axes = op.integers("axes") or [0, 2, 3]
    return _over(op, {positive(axis, rank) for axis in axes}, NEVER)


def _over(op: Op, axes: set[int], zero: Zero) -> Relation:
    """One tensor, with a statistic over the dims `axes`."""
    dims = tuple(mix(a, STATISTIC) if j in axes else a for j, a in enumerate(letters(op.shape())))
    return Relation((dims,), (dims,), zero=zero)


@rule("LRN")
def local_response_norm(op: Op) -> Relation:
    """n *c d... -> n *c d...

    >>> print(local_response_norm(Op("LRN", ((2, 3, 4, 4),), ((2, 3, 4, 4),), {"size": 3})))
    n *c d0 d1 -> n *c d0 d1
    """
    return pattern(op, "n *c d... -> n *c d...", why="a window slides over the channels")

"""Row-major views: one refinement serves Reshape, Flatten, Squeeze and Unsqueeze."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod as product

from onnx_prune.axes.axis import Atom, Axis, prod
from onnx_prune.axes.relation import Dims, Op, Relation, Restate, Shape, hold, letters
from onnx_prune.errors import Misfit
from onnx_prune.rules import rule

EMPTY = "a tensor with no elements is not refined"
DYNAMIC = "its size changes from run to run"
UNSTABLE = "how it is regrouped changes with the dynamic sizes"
SQUEEZED = "cut to one channel it would be squeezed out"
LITERAL = "a number, not a channel"


@dataclass(frozen=True, slots=True)
class _Segment:
    """Dims of both views between two cut points that both have, size-1 dims left out.

    Attributes:
        dims: for each view, the indices of its dims.
        counts: for each view, how many factors each of those dims has.
        factors: sizes of the common factors from the outermost to the innermost; none where the
            cut points do not form a divisibility chain.
    """

    dims: tuple[tuple[int, ...], tuple[int, ...]]
    counts: tuple[tuple[int, ...], tuple[int, ...]]
    factors: tuple[int, ...]

    def alike(self, other: _Segment) -> bool:
        """Whether both have one structure: only factors that are a whole dim may differ in size."""
        whole: set[int] = set()
        for counts in self.counts:
            ends = accumulate(counts)
            whole |= {end - 1 for end, count in zip(ends, counts, strict=True) if count == 1}
        if (self.dims, self.counts, len(self.factors)) != (other.dims, other.counts, len(other.factors)):
            return False
        pairs = zip(self.factors, other.factors, strict=True)
        return all(a == b or j in whole for j, (a, b) in enumerate(pairs))


def _segments(views: tuple[Shape, Shape]) -> list[_Segment]:
    real = tuple([j for j, n in enumerate(view) if n != 1] for view in views)
    # strides[v][k] is the product of all dims of view v from its k-th real dim on
    strides = [
        [product(view[j] for j in dims[k:]) for k in range(len(dims) + 1)]
        for view, dims in zip(views, real, strict=True)
    ]
    common = sorted(set(strides[0]) & set(strides[1]), reverse=True)
    segments: list[_Segment] = []
    for outer, inner in pairwise(common):
        spans = [(mine.index(outer), mine.index(inner)) for mine in strides]
        cuts = [mine[a : b + 1] for mine, (a, b) in zip(strides, spans, strict=True)]
        chain = sorted({*cuts[0], *cuts[1]})
        lines_up = all(big % small == 0 for small, big in pairwise(chain))
        dims = tuple(tuple(mine[a:b]) for mine, (a, b) in zip(real, spans, strict=True))
        counts = tuple(
            tuple(bisect_left(chain, big) - bisect_left(chain, small) for big, small in pairwise(cut))
            for cut in cuts
        )
        factors = tuple(big // small for small, big in pairwise(chain))[::-1] if lines_up else ()
        segments.append(_Segment((dims[0], dims[1]), (counts[0], counts[1]), factors))
    return segments


def refine(shape_in: Shape, shape_out: Shape, probe: tuple[Shape, Shape] | None = None) -> tuple[Dims, Dims]:
    """Two row-major views of the same elements in their coarsest common factors.

    Args:
        shape_in: one shape.
        shape_out: another with as many elements.
        probe: both at the second assignment of the dynamic sizes; what is grouped otherwise there
            is held, and so is each factor whose size differs.

    Returns:
        The dims of both over the same atoms.

    >>> for dims in refine((7, 12, 5), (7, 1, 6, 10)):
    ...     print(*dims)
    a (b c) d
    a 1 b (c d)
    >>> for dims in refine((2, 3, 7), (3, 2, 7)):
    ...     print(*dims)
    *x0 *x1 a
    *x0 *x1 a
    >>> for dims in refine((7, 3, 8), (21, 2, 4), probe=((11, 3, 8), (33, 2, 4))):
    ...     print(*dims)
    *a b (c d)
    (*a b) c d
    """
    views = (shape_in, shape_out)
    if product(shape_in) != product(shape_out):
        raise Misfit(f"shapes {shape_in} and {shape_out} have different numbers of elements")
    if not product(shape_in):
        empty_in, empty_out = (tuple(Atom(n, f"x{j}", EMPTY) for j, n in enumerate(view)) for view in views)
        return empty_in, empty_out
    again = None if probe is None else {segment.dims: segment for segment in _segments(probe)}
    found: tuple[dict[int, Axis], dict[int, Axis]] = ({}, {})
    names = iter("abcdefghijklmnopqrstuvwxyz")
    for segment in _segments(views):
        other = segment if again is None else again.get(segment.dims)
        why = None
        if other is None or not segment.alike(other):
            why = UNSTABLE
        elif not segment.factors:
            groupings = [
                " ".join(str(view[j]) for j in dims) for view, dims in zip(views, segment.dims, strict=True)
            ]
            why = f"groupings ({groupings[0]}) and ({groupings[1]}) do not line up"
        if why or other is None:
            for into, view, dims in zip(found, views, segment.dims, strict=True):
                into.update({j: Atom(view[j], f"x{j}", why) for j in dims})
            continue
        factors = [
            Atom(a, next(names, "z"), None if a == b else DYNAMIC)
            for a, b in zip(segment.factors, other.factors, strict=True)
        ]
        for into, dims, counts in zip(found, segment.dims, segment.counts, strict=True):
            for j, end, count in zip(dims, accumulate(counts), counts, strict=True):
                into[j] = prod(*factors[end - count : end])
    one, two = (
        tuple(axes[j] if j in axes else Atom(1, "1") for j in range(len(view)))
        for axes, view in zip(found, views, strict=True)
    )
    return one, two


def _view(op: Op) -> tuple[Dims, Dims]:
    probe = None if op.probe is None else (op.probe.shape(), op.probe.out())
    return refine(op.shape(), op.out(), probe)


@rule("Reshape")
def reshape(op: Op) -> Relation:
    """(a b) c -> a (b c)

    >>> print(reshape(Op("Reshape", ((12, 5), (2,)), ((6, 10),))))
    (a b) c, _ -> a (b c)
    """
    before, after = _view(op)
    return Relation((before, None), (after,), (Restate(1, "shape", after),))


@rule("Flatten", "Unsqueeze")
def flatten(op: Op) -> Relation:
    """a b c -> a (b c)

    >>> print(flatten(Op("Flatten", ((7, 3, 4),), ((7, 12),))))
    a b c -> a (b c)
    >>> print(flatten(Op("Unsqueeze", ((7, 3), (1,)), ((7, 1, 3),))))
    a b, _ -> a 1 b
    """
    before, after = _view(op)
    return Relation((before,) + (None,) * (len(op.ins) - 1), (after,))


@rule("Squeeze")
def squeeze(op: Op) -> Relation:
    """a 1 b -> a b

    >>> print(squeeze(Op("Squeeze", ((7, 1, 3), (1,)), ((7, 3),))))
    a 1 b, _ -> a b

    Without axes it would also drop a dim that was cut down to one channel; then they are added, each
    the size of a held run:

    >>> [follower] = squeeze(Op("Squeeze", ((7, 1, 3),), ((7, 3),))).restate
    >>> follower.target, [axis.size for axis in follower.axes]
    (1, [1])
    """
    before, after = _view(op)
    rest = (None,) * (len(op.ins) - 1)
    if "axes" in op.attrs or op.has(1):
        return Relation((before, *rest), (after,))
    axes = tuple(Atom(j, str(j), LITERAL) for j, n in enumerate(op.shape()) if n == 1)
    if not axes:  # empty axes would again mean all dims of size one
        x = tuple(hold(axis, SQUEEZED) for axis in letters(op.shape()))
        return Relation((x, *rest), (x,))
    target: int | str = 1 if op.opset >= 13 else "axes"
    return Relation((before, *rest), (after,), (Restate(target, "ones", axes),))

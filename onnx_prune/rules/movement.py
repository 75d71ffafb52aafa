"""Operators that move, repeat, join and take apart whole runs of channels."""

from __future__ import annotations

from math import ceil

from onnx_prune.axes.axis import Atom, Axis, cat, prod
from onnx_prune.axes.relation import CARRIED, NEVER, Dims, Op, Relation, Restate, hold, letters, positive
from onnx_prune.rules import rule

PADDING = "padding is not a channel"
RUN_TIME = "where it is cut is known at run time only"
REORDERED = "its channels are reordered or repeated"


def run(x: Atom, start: int, stop: int) -> tuple[Axis, Atom]:
    """`x` as what lies before, inside and after positions `start` to `stop`, and the inside.

    >>> axis, inside = run(Atom(10, "c"), 2, 6)
    >>> print(axis, inside, inside.size)
    (c0 + c1 + c2) c1 4
    """
    if (start, stop) == (0, x.size):
        return x, x
    before, inside, after = (
        Atom(n, f"{x.name}{j}") for j, n in enumerate((start, stop - start, x.size - stop))
    )
    return cat(before, inside, after), inside


@rule("Transpose")
def transpose(op: Op) -> Relation:
    """a b c -> c b a

    >>> print(transpose(Op("Transpose", ((2, 3, 4),), ((3, 2, 4),), {"perm": [1, 0, 2]})))
    a b c -> b a c
    """
    x = letters(op.shape())
    perm = op.integers("perm")
    order = range(len(x))[::-1] if perm is None else perm
    return Relation((x,), (tuple(x[j] for j in order),))


@rule("Expand")
def expand(op: Op) -> Relation:
    """a 1 -> a b

    A widened dim of size one is a fresh run that may be cut: the shape says how often it repeats.

    >>> print(expand(Op("Expand", ((3, 1), (3,)), ((2, 3, 4),))))
    b 1, _ -> a b c
    """
    inside, out = op.shape(), op.out()
    result = letters(out)
    skip = len(out) - len(inside)
    operand = tuple(Atom(1, "1") if n == 1 else result[skip + j] for j, n in enumerate(inside))
    length = op.shape(1)[0]
    said = op.const(1) or list(out[len(out) - length :])
    # an entry of 1 against a wider dim asks for nothing and goes on doing so
    entries = tuple(
        None if entry == 1 else axis for entry, axis in zip(said, result[len(out) - length :], strict=True)
    )
    return Relation((operand, None), (result,), (Restate(1, "sizes", entries),), zero=((0,),))


@rule("Tile")
def tile(op: Op) -> Relation:
    """a b -> (r a) (s b)

    >>> print(tile(Op("Tile", ((2, 3), (2,)), ((2, 12),))))
    a b, _ -> a (r1 b)
    """
    x = letters(op.shape())
    times = [
        Atom(m // n if n else 1, f"r{j}") for j, (n, m) in enumerate(zip(op.shape(), op.out(), strict=True))
    ]
    result = tuple(prod(r, axis) for r, axis in zip(times, x, strict=True))
    entries = tuple(None if r.size == 1 else r for r in times)
    return Relation((x, None), (result,), (Restate(1, "sizes", entries),), zero=((0,),))


@rule("Concat")
def concat(op: Op) -> Relation:
    """n a d, n b d -> n (a + b) d

    >>> print(concat(Op("Concat", ((2, 3, 5), (2, 4, 5)), ((2, 7, 5),), {"axis": 1})))
    a b0 c, a b1 c -> a (b0 + b1) c
    """
    x = letters(op.out())
    axis = positive(op.integer("axis", 1), len(x))
    parts = [Atom(op.shape(k)[axis], f"{x[axis].name}{k}") for k in range(len(op.ins))]
    operands = tuple((*x[:axis], part, *x[axis + 1 :]) for part in parts)
    return Relation(operands, ((*x[:axis], cat(*parts), *x[axis + 1 :]),))


@rule("Split")
def split(op: Op) -> Relation:
    """n (a + b) d -> n a d, n b d

    Lengths are restated, and added where the node has none and splits evenly.

    >>> import numpy as np
    >>> print(split(Op("Split", ((2, 7), (2,)), ((2, 3), (2, 4)), {"axis": 1}, (None, np.array([3, 4])))))
    a (b0 + b1), _ -> a b0, a b1
    """
    shape, count = op.shape(), len(op.outs)
    x = letters(shape)
    axis = positive(op.integer("axis"), len(x))
    known = op.constant("split", 1)
    width = ceil(shape[axis] / count)
    even = [max(0, min(width, shape[axis] - k * width)) for k in range(count)]
    lengths = even if known is None else known
    parts = [Atom(n, f"{x[axis].name}{k}") for k, n in enumerate(lengths)]
    whole = cat(*parts)
    restate: tuple[Restate, ...] = (Restate(1 if op.opset >= 13 else "split", "sizes", tuple(parts)),)
    if known is None and op.has(1):
        whole = hold(x[axis], RUN_TIME)
        parts = [
            Atom(0 if out is None else out[axis], part.name, RUN_TIME)
            for out, part in zip(op.outs, parts, strict=True)
        ]
        restate = ()
    results = tuple(
        None if out is None else (*x[:axis], part, *x[axis + 1 :])
        for out, part in zip(op.outs, parts, strict=True)
    )
    operand: Dims = (*x[:axis], whole, *x[axis + 1 :])
    return Relation((operand,) + (None,) * (len(op.ins) - 1), results, restate)


@rule("Pad")
def pad(op: Op) -> Relation:
    """a b -> a (*p + b + *q)

    Only a constant border is apart from the channels; other modes and cropping hold the dim.

    >>> print(pad(Op("Pad", ((2, 3),), ((2, 6),), {"pads": [0, 1, 0, 2]}, opset=10)))
    a b -> a (*p1 + b + *q1)
    """
    shape, out = op.shape(), op.out()
    pads = op.constant("pads", 1)
    axes = op.const(3) if op.has(3) else list(range(len(shape)))
    constant = op.text("mode", "constant") == "constant"
    amounts: dict[int, tuple[int, int] | None] = dict.fromkeys(range(len(shape)), None)
    if axes is not None:
        dims = [positive(axis, len(shape)) for axis in axes]
        amounts = {j: None if j in dims else (0, 0) for j in range(len(shape))}
        if pads is not None:
            amounts |= dict(zip(dims, zip(pads[: len(dims)], pads[len(dims) :], strict=True), strict=True))
    operand: list[Axis] = []
    result: list[Axis] = []
    for j, x in enumerate(letters(shape)):
        amount = amounts[j]
        if amount == (0, 0):
            operand.append(x)
            result.append(x)
        elif amount is not None and constant and min(amount) >= 0:
            before, after = amount
            operand.append(x)
            result.append(cat(Atom(before, f"p{j}", PADDING), x, Atom(after, f"q{j}", PADDING)))
        else:
            why = RUN_TIME if amount is None else PADDING
            operand.append(hold(x, why))
            result.append(Atom(out[j], f"{x.name}1", why))
    bordered = constant and any(amount != (0, 0) for amount in amounts.values())
    zero = NEVER if bordered and _fill(op) != 0 else CARRIED
    return Relation((tuple(operand),) + (None,) * (len(op.ins) - 1), (tuple(result),), zero=zero)


def _fill(op: Op) -> float | None:
    """What Pad writes, None where only a run tells."""
    if not op.has(2):
        return float(op.attrs.get("value", 0))
    value = op.value(2)
    return None if value is None else float(value.ravel()[0])


@rule("Slice")
def slice_(op: Op) -> Relation:
    """a (p + b + q) -> a b; with a step that divides it (m *k) -> m

    >>> import numpy as np
    >>> bounds = [np.array(v) for v in ([2, 1], [6, 8], [1, 2], [1, 2])]
    >>> op = Op("Slice", ((3, 7, 8), *((2,),) * 4), ((3, 4, 4),), values=(None, *bounds))
    >>> print(slice_(op))
    a (b0 + b1 + b2) (c0 *c1), _, _, _, _ -> a b1 c0
    """
    shape, out = op.shape(), op.out()
    starts, ends = op.constant("starts", 1), op.constant("ends", 2)
    count = len(starts) if starts is not None else op.shape(1)[0]
    axes = op.constant("axes", 3) if op.has(3) or "axes" in op.attrs else list(range(count))
    steps = op.const(4) if op.has(4) else [1] * count
    whole: list[Axis] = list(letters(shape))
    taken: list[Axis] = list(whole)
    at_start: list[Axis | None] = [None] * count
    at_end: list[Axis | None] = [None] * count
    touched = range(len(shape)) if axes is None else [positive(axis, len(shape)) for axis in axes]
    for j, d in enumerate(touched):
        x = Atom(shape[d], str(whole[d]))
        if axes is None or starts is None or ends is None or steps is None:
            whole[d], taken[d] = hold(x, RUN_TIME), Atom(out[d], f"{x.name}1", RUN_TIME)
            continue
        first, last, _ = slice(starts[j], ends[j], steps[j]).indices(shape[d])
        if steps[j] == 1:
            whole[d], taken[d] = run(x, first, max(first, last))
            at_start[j] = at_end[j] = whole[d]
        elif _strided(starts[j], steps[j], shape[d], out[d]):
            m, k = Atom(out[d], f"{x.name}0"), Atom(steps[j], f"{x.name}1", REORDERED)
            whole[d], taken[d] = prod(m, k), m
            at_end[j] = whole[d]
        else:
            whole[d], taken[d] = hold(x, REORDERED), Atom(out[d], f"{x.name}1", REORDERED)
    targets: tuple[int | str, int | str] = (1, 2) if op.opset >= 10 else ("starts", "ends")
    restate = tuple(
        Restate(target, "positions", tuple(entries))
        for target, entries in zip(targets, (at_start, at_end), strict=True)
        if any(entry is not None for entry in entries)
    )
    return Relation((tuple(whole),) + (None,) * (len(op.ins) - 1), (tuple(taken),), restate)


def _strided(start: int, step: int, n: int, out: int) -> bool:
    """Whether a slice takes the same one channel out of every `step`."""
    return step > 1 and n > 0 and 0 <= start < step and n == out * step

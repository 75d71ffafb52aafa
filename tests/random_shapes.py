"""Moves of a random model that bend what is there: other layouts, parts, joins."""

from __future__ import annotations

from tests.random_graphs import Builder, Size, Value, at


def reshape(b: Builder, x: Value, shape: list[Size]) -> Value:
    """Reshape; dynamic sizes as 0, -1 or computed from Shape."""
    said: list[int] | None = []
    for j, n in enumerate(shape):
        if isinstance(n, int):
            said.append(n)
        elif j < x.rank and x.shape[j] == n:
            said.append(0)
        elif -1 not in said:
            said.append(-1)
        else:
            said = None
            break
    if said is not None and -1 not in said and b.chance(4):
        j = b.pick(range(len(said)))
        said[j] = -1
    if said is not None and not b.chance(5):
        return b.one("Reshape", [x, b.constant(said)], result=tuple(shape))
    sizes = b.one("Shape", [x])
    pieces = []
    for n in shape:
        if isinstance(n, str) or (n in x.shape and b.chance(2)):
            b.need(n in x.shape)
            pieces.append(b.one("Gather", [sizes, b.constant([x.shape.index(n)])], axis=0).name)
        else:
            pieces.append(b.constant([n]))
    return b.one("Reshape", [x, b.one("Concat", pieces, axis=0)], result=tuple(shape))


def slice_(b: Builder, x: Value, dim: int, start: int, stop: int, step: int = 1) -> Value:
    """Slice on one dim."""
    given = {"starts": [start], "ends": [stop], "axes": [dim]} | ({"steps": [step]} if step != 1 else {})
    b.need(step == 1 or b.opset >= 10)
    return at(b.one("Slice", [x], **given), x.channel)


def gated(b: Builder, x: Value) -> Value:
    """Split in two, one half gates the other."""
    half = x.width // 2
    b.need(x.width % 2 == 0 and half > 1)
    left, right = b.put("Split", [x], 2, axis=x.channel, split=[half, half])
    gate = b.one(b.pick(["Sigmoid", "Tanh", "Relu"]), [right])
    return at(b.one("Mul", [left, gate]), x.channel)


def shuffle(b: Builder, x: Value) -> Value:
    """Channel shuffle, or any other order of two factors."""
    groups, c = b.divisor(x.width), x.channel
    inside = [*x.shape[:c], groups, x.width // groups, *x.shape[c + 1 :]]
    perm = list(range(x.rank + 1))
    perm[c], perm[c + 1] = perm[c + 1], perm[c]
    y = b.one("Transpose", [reshape(b, x, inside)], perm=perm)
    return at(reshape(b, y, list(x.shape)), c)


def part(b: Builder, x: Value) -> Value:
    """Part of the channels, now and then every other one, or backwards."""
    n = x.width
    kind = b.pick(["slice", "step", "flip", "gather", "split"])
    if kind == "slice":
        start = b.pick(range(n - 1))
        return slice_(b, x, x.channel, start, b.pick(range(start + 2, n + 1)))
    if kind == "step":
        return slice_(b, x, x.channel, b.pick([0, 1]), 2**31, 2)
    if kind == "flip":
        return slice_(b, x, x.channel, -1, -(2**31), -1)
    if kind == "gather":
        index = b.constant(b.order(n)[: b.pick([n, n // 2])])
        return at(b.one("Gather", [x, index], axis=x.channel), x.channel)
    first = b.pick(range(1, n))
    parts = b.put("Split", [x], 2, axis=x.channel, split=[first, n - first])
    return at(b.one("Concat", parts[::-1], axis=x.channel), x.channel)


def layout(b: Builder, x: Value) -> Value:
    """The same elements in another layout; channels go to another dim."""
    kind = b.pick(["last", "first", "tokens", "flat", "merge", "squeeze", "any"])
    if kind == "last":
        b.need(x.rank >= 3 and x.channel == 1)
        return at(b.one("Transpose", [x], perm=[0, *range(2, x.rank), 1]), -1)
    if kind == "first":
        b.need(x.rank >= 3 and x.channel == x.rank - 1)
        return at(b.one("Transpose", [x], perm=[0, x.rank - 1, *range(1, x.rank - 1)]), 1)
    if kind == "tokens":
        b.need(x.rank == 4 and x.channel == 1)
        y = reshape(b, x, [*x.shape[:2], x.fixed(2) * x.fixed(3)])
        return at(b.one("Transpose", [y], perm=[0, 2, 1]), 2)
    if kind == "flat":
        b.need(x.rank >= 3)
        [x.fixed(j) for j in range(1, x.rank)]
        return at(b.one("Flatten", [x], axis=1), 1)
    if kind == "merge":
        b.need(x.rank >= 3 and x.channel == x.rank - 1)
        return at(reshape(b, x, [*x.shape[:-2], x.fixed(-2) * x.width]), -1)
    if kind == "squeeze":
        y = b.one("Unsqueeze", [x], axes=[b.pick(range(x.rank + 1))])
        y = b.one(b.pick(["Relu", "Tanh"]), [y])
        return at(b.one("Squeeze", [y], axes=[y.shape.index(1)]), x.channel)
    perm = b.order(x.rank)
    return at(b.one("Transpose", [x], perm=perm), perm.index(x.channel))


def widen(b: Builder, x: Value) -> Value:
    """Pad, Tile, or a dim of size one expanded."""
    kind = b.pick(["Pad", "Tile", "Concat"])
    if kind == "Pad":
        pads = [0] * 2 * x.rank
        pads[b.pick(range(1, 2 * x.rank))] = 1
        b.need(pads[0] == pads[x.rank] == 0)
        return (
            b.one("Pad", [x], pads=pads) if b.opset >= 11 else b.one("Pad", [x], pads=pads, mode="constant")
        )
    if kind == "Tile":
        repeats = [1] * x.rank
        repeats[b.pick(range(1, x.rank))] = 2
        return b.one("Tile", [x, b.constant(repeats)])
    return at(b.one("Concat", [x, b.one("Relu", [x])], axis=x.channel), x.channel)


def join(b: Builder, x: Value, y: Value) -> Value:
    """Two branches into one."""
    if x.shape == y.shape and x.channel == y.channel:
        op = b.pick(["Add", "Mul", "Sub", "Max", "Min", "Sum", "Concat"])
        return at(b.one(op, [x, y], **({"axis": x.channel} if op == "Concat" else {})), x.channel)
    b.need(x.rank == y.rank and x.channel == y.channel)
    others = [j for j in range(x.rank) if x.shape[j] != y.shape[j]]
    if others == [x.channel]:
        return at(b.one("Concat", [x, y], axis=x.channel), x.channel)
    b.need(x.rank >= 2 and x.channel == x.rank - 1 and x.shape[-1] == y.shape[-1])
    turned = b.one("Transpose", [y], perm=[*range(x.rank - 2), x.rank - 1, x.rank - 2])
    return at(b.one("MatMul", [x, turned]), -1)

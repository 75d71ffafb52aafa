"""What an operator says about axes, as data: a `Relation`, mostly written as a line of text.

    n (g i) *d..., (g o) i *k..., (g o) -> n (g o) *e...

A letter in operands and results passes *through*; in operands only it is *contracted* (summed over,
so that removing a channel is the same as zeroing it); `*d` is *held*, it may not be cut; `~c` is
*mixed*, cutting it changes a statistic.  `(g i)` is a row-major product, `(a + b)` parts end to end,
`d...` any number of dims, `1` a dim of size one.  Sizes are solved from the shapes of the node, as
einops does.  The idea of a rule as data over shared factors is Shardy's `OpShardingRule`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

from onnx_prune.axis import Atom, Axis, Cat, Prod, atoms, cat, prod, size
from onnx_prune.errors import Misfit

Shape = tuple[int, ...]
Dims = tuple[Axis, ...]
Zero = tuple[tuple[int, ...], ...]
CARRIED: Zero = ()
NEVER: Zero = ((),)
WHOLE = "the operator needs it whole"


@dataclass(frozen=True, slots=True)
class Restate:
    """An operand or attribute that repeats sizes or positions, and must follow the cut.

    Attributes:
        target: operand index, or the name of an attribute.
        form: "sizes": entry j is the number of channels kept on `axes[j]`;
            "positions": entry j is a position on `axes[j]`, and becomes the number of kept
            channels before it; "indices": every entry is a position on `axes[0]` that stays, and
            becomes its rank among the kept.
        axes: one axis an entry; None leaves the entry alone.
    """

    target: int | str
    form: Literal["sizes", "positions", "indices"]
    axes: tuple[Axis | None, ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """The axes of a node's operands and results over the node's own atoms.

    Attributes:
        operands: an axis per dimension for each operand; None where the rule says nothing (such
            an operand is held).
        results: the same for the results.
        restate: operands and attributes that follow the cut.
        zero: when a masked channel of a result is zero: in every clause one of the named operands
            carries the channel and is zero there, or is left out.  No clause (`CARRIED`): every
            operand that carries the channel is zero there.  An empty clause (`NEVER`) can't be
            met: f(0) is not 0.
        divisors: operands for which `zero` is void where they are themselves zero (0 / 0).
        why: the reason given for letters that the rule holds.
    """

    operands: tuple[Dims | None, ...]
    results: tuple[Dims | None, ...]
    restate: tuple[Restate, ...] = ()
    zero: Zero = ()
    divisors: tuple[int, ...] = ()
    why: str = WHOLE

    def __str__(self) -> str:
        def side(values: Sequence[Dims | None]) -> str:
            return ", ".join("_" if v is None else " ".join(map(str, v)) or "()" for v in values)

        return f"{side(self.operands)} -> {side(self.results)}"

    def contracted(self) -> set[Atom]:
        """Atoms that stand in operands and not in results."""
        inside = {a for dims in self.operands if dims for axis in dims for a in atoms(axis)}
        return inside - {a for dims in self.results if dims for axis in dims for a in atoms(axis)}


@dataclass(frozen=True)
class Op:
    """All that a rule may look at: one node with the shapes and the small constants around it.

    Attributes:
        type: operator type, "Conv".
        opset: version of the operator's domain that the model imports.
        ins: operand shapes, None for an operand left out.
        outs: result shapes, None for a result left out.
        attrs: attributes by name.
        values: operand values where they are small constants, else None.
        probe: the same node at the second assignment of the dynamic axes, for the rules that
            read structure from sizes; None when nothing is dynamic.
    """

    type: str
    ins: tuple[Shape | None, ...]
    outs: tuple[Shape | None, ...]
    attrs: Mapping[str, object] = field(default_factory=dict)
    values: tuple[object, ...] = ()
    opset: int = 21
    probe: Op | None = None

    def int(self, name: str, default: int = 0) -> int:
        """An integer attribute."""
        return int(self.attrs.get(name, default))  # type: ignore[call-overload, no-any-return]  # attributes are untyped in onnx

    def ints(self, name: str) -> list[int] | None:
        """A list-of-integers attribute, None where it is left out."""
        got = self.attrs.get(name)
        return None if got is None else [int(v) for v in got]  # type: ignore[attr-defined]  # attributes are untyped in onnx

    def text(self, name: str, default: str = "") -> str:
        """A string attribute."""
        got = self.attrs.get(name, default)
        return got.decode() if isinstance(got, bytes) else str(got)

    def has(self, k: int) -> bool:
        """Whether operand `k` is there."""
        return k < len(self.ins) and self.ins[k] is not None

    def shape(self, k: int = 0) -> Shape:
        """Shape of operand `k`; raises Misfit when it is left out."""
        if not self.has(k):
            raise Misfit(f"{self.type} has no operand {k}")
        shape = self.ins[k]
        assert shape is not None
        return shape

    def out(self, k: int = 0) -> Shape:
        """Shape of result `k`; raises Misfit when it is left out."""
        shape = self.outs[k] if k < len(self.outs) else None
        if shape is None:
            raise Misfit(f"{self.type} has no result {k}")
        return shape

    def const(self, k: int) -> list[int] | None:
        """Operand `k` as a flat list of integers, where it is a known constant."""
        if k >= len(self.values) or self.values[k] is None:
            return None
        return [int(v) for v in self.values[k].ravel()]  # type: ignore[attr-defined]  # values are arrays; this module does not import numpy

    def constant(self, name: str, k: int) -> list[int] | None:
        """Integers that were an attribute in old opsets and are operand `k` in new ones."""
        return self.ints(name) if name in self.attrs else self.const(k)


def positive(axis: int, rank: int) -> int:
    """A dimension counted from the front."""
    return axis + rank if axis < 0 else axis


def letters(shape: Shape, names: str = "abcdefghijklmnopqrstuvwxyz") -> tuple[Atom, ...]:
    """A fresh atom for each dimension.

    >>> print(*letters((2, 3, 4)))
    a b c
    """
    return tuple(Atom(n, names[j] if j < len(names) else f"x{j}") for j, n in enumerate(shape))


def hold(atom: Atom, why: str = WHOLE) -> Atom:
    """A fresh held atom of the same size and letter."""
    return replace(atom, held=why)


_TOKEN = re.compile(r"\s*(?:([*~]?)([a-z]\w*)(\.\.\.)?|(1)|([()+]))")


@lru_cache(maxsize=None)
def _parse(side: str) -> tuple[tuple[object, ...], ...]:
    """One side of a pattern as nested tuples: ("*", "d", True) is a letter, ["prod", ...] a group."""
    values: list[tuple[object, ...]] = []
    for text in side.split(","):
        stack: list[list[object]] = [[]]
        at = 0
        text = text.rstrip()
        while at < len(text):
            token = _TOKEN.match(text, at)
            if token is None:
                raise ValueError(f"pattern {side!r}: cannot read {text[at:]!r}")
            at = token.end()
            mark, name, dots, one, punct = token.groups()
            if name:
                stack[-1].append((mark, name, bool(dots)))
            elif one:
                stack[-1].append(("", "1", False))
            elif punct == "(":
                stack.append([])
            elif punct == "+":
                stack[-1].append("+")
            else:
                group = stack.pop()
                kind = "cat" if "+" in group else "prod"
                stack[-1].append((kind, tuple(g for g in group if g != "+")))
        values.append(tuple(stack[0]))
    return tuple(values)


def _spread(dims: tuple[object, ...], rank: int, ranks: dict[str, int]) -> Iterator[object]:
    """Write `d...` out as d0 d1 ... so that there is one entry a dimension."""
    dotted = [d for d in dims if isinstance(d, tuple) and len(d) == 3 and d[2]]
    for d in dotted:
        ranks.setdefault(str(d[1]), rank - len(dims) + 1)
    if len(dims) - len(dotted) + sum(ranks[str(d[1])] for d in dotted) != rank:
        raise Misfit(f"a tensor of rank {rank} does not fit the pattern")
    for d in dims:
        if d in dotted:
            assert isinstance(d, tuple)
            yield from ((d[0], f"{d[1]}{j}", False) for j in range(ranks[str(d[1])]))
        else:
            yield d


def _letters(tree: object) -> Iterator[tuple[str, str]]:
    assert isinstance(tree, tuple)
    if len(tree) == 3:
        yield str(tree[0]), str(tree[1])
    else:
        for part in tree[1]:
            yield from _letters(part)


def _measure(tree: object, n: int, sizes: dict[str, int]) -> bool:
    """Learn the size of the one unknown letter of a dim of size `n`; False if there are more."""
    assert isinstance(tree, tuple)
    unknown = [name for _, name in _letters(tree) if name not in sizes]
    if not unknown:
        return True
    if len(tree) == 3:
        sizes[unknown[0]] = n
        return True
    kind, parts = tree
    open_parts = [p for p in parts if any(name not in sizes for _, name in _letters(p))]
    if len(open_parts) > 1 or len(unknown) > 1 and len(set(unknown)) > 1:
        return False
    known = [_size(p, sizes) for p in parts if p not in open_parts]
    if kind == "cat":
        return _measure(open_parts[0], n - sum(known), sizes)
    rest = 1
    for width in known:
        rest *= width
    if rest == 0 or n % rest:
        raise Misfit(f"{n} is not a multiple of {rest}")
    return _measure(open_parts[0], n // rest, sizes)


def _size(tree: object, sizes: Mapping[str, int]) -> int:
    assert isinstance(tree, tuple)
    if len(tree) == 3:
        return sizes[str(tree[1])]
    total = 0 if tree[0] == "cat" else 1
    for part in tree[1]:
        total = total + _size(part, sizes) if tree[0] == "cat" else total * _size(part, sizes)
    return total


def pattern(
    op: Op,
    text: str,
    *,
    zero: Zero = CARRIED,
    why: str = WHOLE,
    restate: Mapping[int | str, str] | None = None,
    **sizes: int,
) -> Relation:
    """The relation that `text` says for the shapes of `op`.

    Args:
        op: the node; operands and results that it leaves out are skipped.
        text: operands and results, see the module's first lines.
        zero: see `Relation`.
        why: the reason for letters marked with `*`.
        restate: operands or attributes that hold the size of a letter, `{"group": "g"}`.
        **sizes: sizes of letters that shapes alone do not give.

    Raises:
        Misfit: the shapes do not fit the text.

    >>> op = Op("Conv", ((1, 6, 8, 8), (9, 2, 3, 3)), ((1, 9, 6, 6),))
    >>> print(pattern(op, "n (g i) *d..., (g o) i *k..., (g o) -> n (g o) *e...", g=3))
    n (g i) *d0 *d1, (g o) i *k0 *k1 -> n (g o) *e0 *e1
    """
    left, right = text.split("->")
    ranks: dict[str, int] = {}
    known = dict(sizes) | {"1": 1}
    sides: list[list[tuple[object, ...] | None]] = []
    todo: list[tuple[object, int]] = []
    for side, shapes in ((left, op.ins), (right, op.outs)):
        rows: list[tuple[object, ...] | None] = []
        trees = _parse(side.strip())
        for k, shape in enumerate(shapes):
            if shape is None or k >= len(trees):
                rows.append(None)
                continue
            row = tuple(_spread(trees[k], len(shape), ranks))
            rows.append(row)
            todo += zip(row, shape, strict=True)
        sides.append(rows)
    while todo:
        rest = [(tree, n) for tree, n in todo if not _measure(tree, n, known)]
        if len(rest) == len(todo):
            raise Misfit(f"the sizes in {text!r} can't be told from the shapes")
        todo = rest

    held = {name for rows in sides for row in rows if row for t in row for m, name in _letters(t) if m == "*"}
    mixed = {
        name for rows in sides for row in rows if row for t in row for m, name in _letters(t) if m == "~"
    }
    made = {
        name: Atom(n, name, why if name in held else None, why if name in mixed else None)
        for name, n in known.items()
    }

    def build(tree: object, n: int | None = None) -> Axis:
        assert isinstance(tree, tuple)
        axis: Axis
        if len(tree) == 3:
            axis = Atom(1, "1") if tree[1] == "1" else made[str(tree[1])]
        else:
            axis = (cat if tree[0] == "cat" else prod)(*(build(part) for part in tree[1]))
        if n is not None and size(axis) != n:
            raise Misfit(f"{op.type}: a dim of size {n} does not fit {axis} of size {size(axis)}")
        return axis

    operands, results = (
        tuple(
            None if row is None or shape is None else tuple(map(build, row, shape))
            for row, shape in zip(rows, shapes, strict=True)
        )
        for rows, shapes in zip(sides, (op.ins, op.outs), strict=True)
    )
    followers = tuple(Restate(target, "sizes", (made[letter],)) for target, letter in (restate or {}).items())
    return Relation(operands, results, followers, zero, why=why)

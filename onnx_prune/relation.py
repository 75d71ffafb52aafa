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
from functools import cache
from math import prod as product
from typing import Any, Literal

from numpy.typing import NDArray

from onnx_prune.axis import Atom, Axis, atoms, cat, prod, size
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

    One that the node leaves out is as if it said the sizes of `axes` (a held atom may stand for a
    number).  An operand whose own axes are cut is cut first, and never masked: it says where, not what.

    Attributes:
        target: operand index, or the name of an attribute.
        form: "sizes": entry j is the number of channels kept on `axes[j]`;
            "shape": the same as Reshape reads it, where 0 and -1 stay;
            "positions": entry j is a position on `axes[j]`, and becomes the number of kept
            channels before it; "indices": every entry is a position on `axes[0]` that stays, and
            becomes its rank among the kept; "implied": an attribute left out, which meant `value`,
            and has to say so once any of `axes` is cut.
        axes: one axis an entry; None leaves the entry alone.
        value: what an attribute that is left out meant before the cut.
    """

    target: int | str
    form: Literal["sizes", "shape", "positions", "indices", "implied"]
    axes: tuple[Axis | None, ...]
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Code:
    """How the integers of an operand or a result stand for numbers: (q - zero point) * scale.

    The zero of such a tensor is its zero point: that is what masking fills in.  Scales and zero
    points are cut like any operand, but never masked: they say how to read, not what.

    Attributes:
        at: index of the operand or result.
        scale: the operand that holds the scales, None where the node does not know them.
        zero: the operand that holds the zero points (`~k` for result k), None for zero itself.
        axis: the dim that a vector of scales lies along; None where they broadcast as they stand.
        block: how many positions of that dim share a scale.
        bits: width of values packed into bytes along the last dim (MatMulNBits), else 0.  Bytes
            have no zero to fill in: masking acts on the scales.
    """

    at: int
    scale: int | None
    zero: int | None
    axis: int | None = None
    block: int = 1
    bits: int = 0


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
        divisors: operands that must not be zero: where they are, a result is infinite or undefined
            (0 / 0, log 0), and so is all that is multiplied with it.
        zeroed: operands that the node needs zero where they are masked, though the channels pass
            through: a range that includes zero is taken over them, or a recurrence sums over them.
        reads: the operands that stand for numbers in integers.
        writes: the results that do.
        why: the reason given for letters that the rule holds.
    """

    operands: tuple[Dims | None, ...]
    results: tuple[Dims | None, ...]
    restate: tuple[Restate, ...] = ()
    zero: Zero = ()
    divisors: tuple[int, ...] = ()
    zeroed: tuple[int, ...] = ()
    reads: tuple[Code, ...] = ()
    writes: tuple[Code, ...] = ()
    why: str = WHOLE

    def __str__(self) -> str:
        def side(values: Sequence[Dims | None]) -> str:
            return ", ".join("_" if v is None else " ".join(map(str, v)) or "()" for v in values)

        return f"{side(self.operands)} -> {side(self.results)}"

    @property
    def unmasked(self) -> set[int]:
        """Operands that say where or how to read, not what: they are cut but never masked."""
        said: set[int | None] = {r.target for r in self.restate if isinstance(r.target, int)}
        said |= {code.zero for code in (*self.reads, *self.writes)}
        said |= {code.scale for code in (*self.reads, *self.writes) if not code.bits}
        return {k for k in said if k is not None and k >= 0}

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
    attrs: Mapping[str, Any] = field(default_factory=dict)
    values: tuple[NDArray[Any] | None, ...] = ()
    opset: int = 21
    probe: Op | None = None

    def integer(self, name: str, default: int = 0) -> int:
        """An integer attribute."""
        return int(self.attrs.get(name, default))

    def integers(self, name: str) -> list[int] | None:
        """A list-of-integers attribute, None where it is left out."""
        got = self.attrs.get(name)
        return None if got is None else [int(v) for v in got]

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
        value = self.values[k] if k < len(self.values) else None
        return None if value is None else [int(v) for v in value.ravel()]

    def constant(self, name: str, k: int) -> list[int] | None:
        """Integers that were an attribute in old opsets and are operand `k` in new ones."""
        return self.integers(name) if name in self.attrs else self.const(k)


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


def mix(atom: Atom, why: str) -> Atom:
    """A fresh mixed atom of the same size and letter."""
    return replace(atom, mixed=why)


@dataclass(frozen=True, slots=True)
class _Letter:
    mark: str
    name: str
    dots: bool = False


@dataclass(frozen=True, slots=True)
class _Group:
    plus: bool
    parts: tuple[_Tree, ...]


_Tree = _Letter | _Group
_TOKEN = re.compile(r"\s*(?:([*~]?)([a-z]\w*)(\.\.\.)?|(1)|([()+]))")


@cache
def _parse(side: str) -> tuple[tuple[_Tree, ...], ...]:
    """One side of a pattern: for each tensor a tree for each dim."""
    return tuple(map(_parse_tensor, side.split(",")))


def _parse_tensor(text: str) -> tuple[_Tree, ...]:
    stack: list[list[_Tree]] = [[]]
    plus: list[bool] = [False]
    text = text.rstrip()
    at = 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            raise ValueError(f"pattern {text!r}: cannot read {text[at:]!r}")
        at = token.end()
        mark, name, dots, one, punctuation = token.groups()
        if name or one:
            stack[-1].append(_Letter(mark or "", name or one, bool(dots)))
        elif punctuation == "(":
            stack.append([])
            plus.append(False)
        elif punctuation == "+":
            plus[-1] = True
        else:
            group = _Group(plus.pop(), tuple(stack.pop()))
            stack[-1].append(group)
    return tuple(stack[0])


def _spread(dims: tuple[_Tree, ...], rank: int, ranks: dict[str, int]) -> tuple[_Tree, ...]:
    """Write `d...` out as d0 d1 ... so that there is one entry a dim."""
    dotted = [d for d in dims if isinstance(d, _Letter) and d.dots]
    for d in dotted:
        ranks.setdefault(d.name, max(0, rank - len(dims) + 1))
    if len(dims) - len(dotted) + sum(ranks[d.name] for d in dotted) != rank:
        raise Misfit(f"a tensor of rank {rank} does not fit the pattern")
    spread: list[_Tree] = []
    for tree in dims:
        if isinstance(tree, _Letter) and tree.dots:
            spread += [_Letter(tree.mark, f"{tree.name}{j}") for j in range(ranks[tree.name])]
        else:
            spread.append(tree)
    return tuple(spread)


def _letters(tree: _Tree) -> Iterator[_Letter]:
    if isinstance(tree, _Letter):
        yield tree
    else:
        for part in tree.parts:
            yield from _letters(part)


def _unknown(tree: _Tree, sizes: Mapping[str, int]) -> list[str]:
    return [letter.name for letter in _letters(tree) if letter.name not in sizes]


def _learn(tree: _Tree, n: int, sizes: dict[str, int]) -> bool:
    """Learn the one unknown letter of a dim of size `n`; False if there is more than one."""
    unknown = _unknown(tree, sizes)
    if len(unknown) > 1:
        return False
    if not unknown:
        return True
    if isinstance(tree, _Letter):
        sizes[tree.name] = n
        return True
    known = [_size(part, sizes) for part in tree.parts if not _unknown(part, sizes)]
    [open_part] = [part for part in tree.parts if _unknown(part, sizes)]
    if tree.plus:
        return _learn(open_part, n - sum(known), sizes)
    rest, remainder = divmod(n, product(known)) if product(known) else (0, n)
    if remainder:
        raise Misfit(f"{n} is not a multiple of {product(known)}")
    return _learn(open_part, rest, sizes)


def _size(tree: _Tree, sizes: Mapping[str, int]) -> int:
    if isinstance(tree, _Letter):
        return sizes[tree.name]
    widths = [_size(part, sizes) for part in tree.parts]
    return sum(widths) if tree.plus else product(widths)


def pattern(
    op: Op,
    text: str,
    *,
    zero: Zero = CARRIED,
    why: str = WHOLE,
    whys: Mapping[str, str] | None = None,
    restate: Mapping[int | str, str] | None = None,
    zeroed: tuple[int, ...] = (),
    implied: Mapping[str, tuple[str, float]] | None = None,
    **sizes: int,
) -> Relation:
    """The relation that `text` says for the shapes of `op`.

    Args:
        op: the node; operands and results that it leaves out are skipped.
        text: operands and results, see the module's first lines.
        zero: see `Relation`.
        why: the reason for letters marked with `*`.
        whys: the reasons for single letters, where `why` is not the right one.
        restate: operands or attributes that hold sizes, an axis each: `{"group": "g"}`.
        zeroed: see `Relation`.
        implied: attributes left out whose default depends on an axis, with that default.
        **sizes: sizes of letters that shapes alone do not give.

    Raises:
        Misfit: the shapes do not fit the text.

    >>> op = Op("Conv", ((1, 6, 8, 8), (9, 2, 3, 3)), ((1, 9, 6, 6),))
    >>> print(pattern(op, "n (g i) *d..., (g o) i *k..., (g o) -> n (g o) *e...", g=3))
    n (g i) *d0 *d1, (g o) i *k0 *k1 -> n (g o) *e0 *e1
    """
    ranks: dict[str, int] = {}
    known = {"1": 1} | sizes
    sides: list[list[tuple[_Tree, ...] | None]] = []
    todo: list[tuple[_Tree, int]] = []
    for side, shapes in zip(text.split("->"), (op.ins, op.outs), strict=True):
        rows: list[tuple[_Tree, ...] | None] = []
        trees = _parse(side.strip())
        for k, shape in enumerate(shapes):
            if shape is None or k >= len(trees):
                rows.append(None)
                continue
            row = _spread(trees[k], len(shape), ranks)
            rows.append(row)
            todo += zip(row, shape, strict=True)
        sides.append(rows)
    while todo:
        rest = [(tree, n) for tree, n in todo if not _learn(tree, n, known)]
        if len(rest) == len(todo):
            raise Misfit(f"the sizes in {text!r} can't be told from the shapes")
        todo = rest

    used = [letter for rows in sides for row in rows if row for tree in row for letter in _letters(tree)]
    marks = {(letter.mark, letter.name) for letter in used}
    made = {
        name: Atom(n, name, *((whys or {}).get(name, why) if (m, name) in marks else None for m in "*~"))
        for name, n in known.items()
    }

    def build(tree: _Tree) -> Axis:
        if isinstance(tree, _Letter):
            return Atom(1, "1") if tree.name == "1" else made[tree.name]
        return (cat if tree.plus else prod)(*map(build, tree.parts))

    def dim(tree: _Tree, n: int) -> Axis:
        axis = build(tree)
        if size(axis) != n:
            raise Misfit(f"a dim of size {n} does not fit {axis} of size {size(axis)}")
        return axis

    operands, results = (
        tuple(
            None if row is None or shape is None else tuple(map(dim, row, shape))
            for row, shape in zip(rows, shapes, strict=True)
        )
        for rows, shapes in zip(sides, (op.ins, op.outs), strict=True)
    )
    said = {target: tuple(map(build, _parse_tensor(axes))) for target, axes in (restate or {}).items()}
    followers = tuple(
        Restate(target, "sizes", axes)
        for target, axes in said.items()
        if any(size(axis) > 1 for axis in axes)  # a lone group cannot be cut, its attribute may be left out
    )
    followers += tuple(
        Restate(target, "implied", tuple(map(build, _parse_tensor(axes))), value)
        for target, (axes, value) in (implied or {}).items()
    )
    return Relation(operands, results, followers, zero, zeroed=zeroed, why=why)

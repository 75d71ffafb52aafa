"""Relations written as a line of text, see `onnx_prune.axes.relation`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from math import prod as product

from onnx_prune.axes.axis import Atom, Axis, cat, prod, size
from onnx_prune.axes.relation import CARRIED, WHOLE, Op, Relation, Restate, Zero
from onnx_prune.errors import Misfit


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
    return Relation(operands, results, followers, zero, zeroed=zeroed)

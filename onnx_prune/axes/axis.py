"""What one dimension of a tensor is made of.

An axis is an `Atom` (an indivisible run of channels), a `Prod` (a row-major product, the last part
varies fastest) or a `Cat` (parts end to end).  Nearly everything that the pruner knows about tensors is
said in these three words, and masking is one function over them: `keep`.

Two more say what a channel shuffle does where its parts need not lose the same channels, only as many
(`onnx_prune.loosen`): a `Weave` deals its parts out in turn, and a `Bundle` has them side by side along
another dimension.  Where a weave is cut its channels come to lie in another order: `order`.

    >>> h, d = Atom(2, "h"), Atom(3, "d")
    >>> print(prod(h, d), size(prod(h, d)))
    (h d) 6
    >>> keep(prod(h, d), {h: np.array([True, False])}).astype(int)
    array([1, 1, 1, 0, 0, 0])
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod as product

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Places = NDArray[np.intp]


@dataclass(frozen=True, eq=False, slots=True)
class Atom:
    """An indivisible run of channels; two atoms are the same only if they are the same object.

    Attributes:
        size: number of channels, at least 0.
        name: a letter for people; it carries no meaning.
        held: why this run cannot be cut, or None.
        mixed: why cutting it changes a statistic (a mean or a norm over it), or None.
    """

    size: int
    name: str = "x"
    held: str | None = None
    mixed: str | None = None

    def __str__(self) -> str:
        return f"{'*' if self.held else ''}{'~' if self.mixed else ''}{self.name}"


@dataclass(frozen=True, slots=True)
class Prod:
    """A row-major product of at least two parts: heads times head size is `(h d)`."""

    parts: tuple[Axis, ...]

    def __str__(self) -> str:
        return f"({' '.join(map(str, self.parts))})"


@dataclass(frozen=True, slots=True)
class Cat:
    """At least two parts end to end: what Concat makes and Split undoes is `(a + b)`."""

    parts: tuple[Axis, ...]

    def __str__(self) -> str:
        return f"({' + '.join(map(str, self.parts))})"


@dataclass(frozen=True, slots=True)
class Weave:
    """Parts dealt out in turn, the first of each, the second of each, and so on; or a run of such a row.

    Any channels of a part may go, as long as those that stay can be dealt out anew to the same runs
    (`onnx_prune.axes.deals`).

    Attributes:
        parts: what of each part lies in this run.
        before: what of each lies before it; it does not stand here, but says whose turn it is.
    """

    parts: tuple[Axis, ...]
    before: tuple[Axis, ...] = ()

    def __str__(self) -> str:
        return f"({'... ' if self.before else ''}{' , '.join(map(str, self.parts))})"


@dataclass(frozen=True, slots=True)
class Bundle:
    """Parts of one size side by side: which of them it is depends on the position on another dimension.

    It stands on tensors that a shuffle makes on its way and nothing else reads; all parts keep as many.
    """

    parts: tuple[Axis, ...]

    def __str__(self) -> str:
        return f"({' | '.join(map(str, self.parts))})"


Axis = Atom | Prod | Cat | Weave | Bundle


def prod(*parts: Axis) -> Axis:
    """The product of `parts`; products inside are flattened and factors of size 1 dropped.

    >>> a, b, one = Atom(2, "a"), Atom(3, "b"), Atom(1, "1")
    >>> print(prod(a, one, prod(b, a)))
    (a b a)
    """
    flat: list[Axis] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, Prod) else (part,))
    real = [part for part in flat if size(part) != 1] or flat[:1]
    return real[0] if len(real) == 1 else Prod(tuple(real))


def cat(*parts: Axis) -> Axis:
    """`parts` end to end; concatenations inside are flattened and empty parts dropped."""
    flat: list[Axis] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, Cat) else (part,))
    real = [part for part in flat if size(part)] or flat[:1]
    return real[0] if len(real) == 1 else Cat(tuple(real))


def weave(parts: Iterable[Axis], before: Iterable[Axis] = ()) -> Axis:
    """`parts` dealt out in turn after `before`; a lone part is itself.

    >>> a, b, none = Atom(2, "a"), Atom(2, "b"), Atom(0)
    >>> print(weave([a, b]), weave([a, none], [b, b]))
    (a , b) a
    """
    parts, before = tuple(parts), tuple(before)
    real = [part for part in parts if size(part)] or parts[:1]
    return real[0] if len(real) == 1 else Weave(parts, before if any(map(size, before)) else ())


def size(axis: Axis) -> int:
    """Number of positions on the axis."""
    match axis:
        case Atom():
            return axis.size
        case Bundle():
            return size(axis.parts[0])
        case Prod():
            return product(size(part) for part in axis.parts)
        case Cat() | Weave():
            return sum(size(part) for part in axis.parts)


def atoms(axis: Axis) -> Iterator[Atom]:
    """The atoms of the axis from left to right; one that stands twice is given twice."""
    match axis:
        case Atom():
            yield axis
        case _:
            for part in axis.parts:
                yield from atoms(part)


def bearing(axis: Axis) -> Iterator[Atom]:
    """The atoms whose cut moves channels of the axis: its own, and those dealt out before them."""
    match axis:
        case Atom():
            yield axis
        case _:
            for part in (*axis.parts, *(axis.before if isinstance(axis, Weave) else ())):
                yield from bearing(part)


def keep(axis: Axis, plan: Mapping[Atom, Mask]) -> Mask:
    """Which positions of `axis` stay under `plan`: the meaning of pruning.

    Args:
        axis: any axis.
        plan: for each atom that is cut, a boolean array of its size; other atoms stay whole.

    Returns:
        Boolean array, shape (size(axis),).  What of a bundle stays can't be said without the other
        dimension: no position of it goes for all.
    """
    match axis:
        case Atom():
            mask = plan.get(axis)
            return np.ones(axis.size, np.bool_) if mask is None else mask
        case Bundle():
            return np.ones(size(axis), np.bool_)
        case Weave():
            mask = np.empty(size(axis), np.bool_)
            for places, part in zip(_turns(axis, size), axis.parts, strict=True):
                mask[places] = keep(part, plan)
            return mask
        case Cat():
            return np.concatenate([keep(part, plan) for part in axis.parts])
        case Prod():
            mask = np.ones(1, np.bool_)
            for part in axis.parts:
                mask = np.logical_and.outer(mask, keep(part, plan)).ravel()
            return mask


def order(axis: Axis, plan: Mapping[Atom, Mask]) -> Places:
    """The positions that stay, in the order in which the cut model has them.

    That is their own order, but for a weave, whose parts may keep different channels.  Of a bundle only
    their number is right.

    >>> a, b = Atom(3, "a"), Atom(3, "b")
    >>> plan = {a: np.array([True, True, False]), b: np.array([False, True, True])}
    >>> np.flatnonzero(keep(weave([a, b]), plan)), order(weave([a, b]), plan)
    (array([0, 2, 3, 5]), array([0, 3, 2, 5]))
    """
    match axis:
        case Atom():
            return np.flatnonzero(keep(axis, plan))
        case Bundle():
            return np.arange(int(keep(axis.parts[0], plan).sum()))
        case Weave():
            kept = [order(part, plan) for part in axis.parts]
            turns = _turns(axis, lambda part: int(keep(part, plan).sum()))
            found = np.empty(sum(map(len, kept)), np.intp)
            for now, then, stays in zip(turns, _turns(axis, size), kept, strict=True):
                found[now] = then[stays]
            return found
        case Cat():
            found, start = np.empty(0, np.intp), 0
            for part in axis.parts:
                found, start = np.concatenate([found, order(part, plan) + start]), start + size(part)
            return found
        case Prod():
            found = np.zeros(1, np.intp)
            for part in axis.parts:
                found = np.add.outer(found * size(part), order(part, plan)).ravel()
            return found


def _turns(axis: Weave, width: Callable[[Axis], int]) -> list[Places]:
    """For each part the positions that its channels are dealt to, parts being so wide."""
    before = map(width, axis.before) if axis.before else [0] * len(axis.parts)
    ranks = [start + np.arange(width(part)) for start, part in zip(before, axis.parts, strict=True)]
    turns = np.concatenate([rank * len(ranks) + j for j, rank in enumerate(ranks)])
    places = np.empty(turns.size, np.intp)
    places[np.argsort(turns)] = np.arange(turns.size)
    return np.split(places, np.cumsum([rank.size for rank in ranks])[:-1])


def firsts(axis: Weave, at: int) -> list[int]:
    """How many channels of each part lie before position `at`."""
    return [int((places < at).sum()) for places in _turns(axis, size)]


def count(axis: Axis, counts: Mapping[Atom, int]) -> int:
    """How many positions stay when `counts` channels of the atoms named there do.

    >>> a, b = Atom(4, "a"), Atom(3, "b")
    >>> count(prod(a, cat(b, b)), {a: 2}), count(cat(a, b), {b: 1})
    (12, 5)
    """
    match axis:
        case Atom():
            return counts.get(axis, axis.size)
        case Bundle():
            return count(axis.parts[0], counts)
        case Cat() | Weave():
            return sum(count(part, counts) for part in axis.parts)
        case Prod():
            return product(count(part, counts) for part in axis.parts)


def owner(axis: Axis, atom: Atom) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Which positions of `axis` belong to which channel of `atom`.

    An atom may stand on an axis more than once (a flattened Gram matrix is `(a a)`), so a
    position can belong to two channels: the answer is pairs.

    Returns:
        (positions, channels), two integer arrays of equal length.

    >>> a, b = Atom(2, "a"), Atom(3, "b")
    >>> [x.tolist() for x in owner(prod(a, b), a)]
    [[0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 1, 1]]
    >>> [x.tolist() for x in owner(cat(b, a), a)]
    [[3, 4], [0, 1]]
    """
    none = np.empty(0, np.intp)
    match axis:
        case Atom():
            return (np.arange(atom.size), np.arange(atom.size)) if axis is atom else (none, none)
        case Bundle():
            return owner(axis.parts[0], atom)
        case Weave():
            found = [owner(part, atom) for part in axis.parts]
            moved = [places[at] for places, (at, _) in zip(_turns(axis, size), found, strict=True)]
            return np.concatenate(moved), np.concatenate([of for _, of in found])
        case Cat():
            positions, channels, start = [none], [none], 0
            for part in axis.parts:
                at, of = owner(part, atom)
                positions.append(at + start)
                channels.append(of)
                start += size(part)
            return np.concatenate(positions), np.concatenate(channels)
        case Prod():
            positions, channels = [none], [none]
            outer, inner = 1, size(axis)
            for part in axis.parts:
                width = size(part)
                inner //= max(width, 1)
                at, of = owner(part, atom)
                if at.size:
                    grid = (
                        np.arange(outer)[:, None, None] * (width * inner)
                        + at[None, :, None] * inner
                        + np.arange(inner)[None, None, :]
                    )
                    positions.append(grid.ravel())
                    channels.append(np.broadcast_to(of[None, :, None], grid.shape).ravel())
                outer *= width
            return np.concatenate(positions), np.concatenate(channels)

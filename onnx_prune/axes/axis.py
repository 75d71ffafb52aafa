"""What one dimension of a tensor is made of.

An axis is an `Atom` (an indivisible run of channels), a `Prod` (a row-major product, the last part
varies fastest) or a `Cat` (parts end to end).  Everything that the pruner knows about tensors is
said in these three words, and masking is one function over them: `keep`.

    >>> h, d = Atom(2, "h"), Atom(3, "d")
    >>> print(prod(h, d), size(prod(h, d)))
    (h d) 6
    >>> keep(prod(h, d), {h: np.array([True, False])}).astype(int)
    array([1, 1, 1, 0, 0, 0])
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod as product

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


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


Axis = Atom | Prod | Cat


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


def size(axis: Axis) -> int:
    """Number of positions on the axis."""
    match axis:
        case Atom():
            return axis.size
        case Prod():
            return product(size(part) for part in axis.parts)
        case Cat():
            return sum(size(part) for part in axis.parts)


def atoms(axis: Axis) -> Iterator[Atom]:
    """The atoms of the axis from left to right; one that stands twice is given twice."""
    match axis:
        case Atom():
            yield axis
        case _:
            for part in axis.parts:
                yield from atoms(part)


def keep(axis: Axis, plan: Mapping[Atom, Mask]) -> Mask:
    """Which positions of `axis` stay under `plan`: the meaning of pruning.

    Args:
        axis: any axis.
        plan: for each atom that is cut, a boolean array of its size; other atoms stay whole.

    Returns:
        Boolean array, shape (size(axis),).
    """
    match axis:
        case Atom():
            mask = plan.get(axis)
            return np.ones(axis.size, np.bool_) if mask is None else mask
        case Cat():
            return np.concatenate([keep(part, plan) for part in axis.parts])
        case Prod():
            mask = np.ones(1, np.bool_)
            for part in axis.parts:
                mask = np.logical_and.outer(mask, keep(part, plan)).ravel()
            return mask


def count(axis: Axis, counts: Mapping[Atom, int]) -> int:
    """How many positions stay when `counts` channels of the atoms named there do.

    >>> a, b = Atom(4, "a"), Atom(3, "b")
    >>> count(prod(a, cat(b, b)), {a: 2}), count(cat(a, b), {b: 1})
    (12, 5)
    """
    match axis:
        case Atom():
            return counts.get(axis, axis.size)
        case Cat():
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

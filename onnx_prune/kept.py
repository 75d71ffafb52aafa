"""What of every tensor stays under a plan."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from math import prod as product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_prune.axes.axis import (
    Atom,
    Axis,
    Bundle,
    Cat,
    Mask,
    Places,
    Prod,
    atoms,
    bearing,
    count,
    order,
    size,
)
from onnx_prune.coupling import Coupling
from onnx_prune.model import pieces, threads

Array = NDArray[Any]
Plan = Mapping[Atom, Mask]
Shape = tuple[int, ...]


def masks(coupling: Coupling, key: str, plan: Plan, shape: Shape | None = None) -> list[Mask | None]:
    """For each dim of a tensor which positions stay, None where all do.

    Args:
        coupling: the analysed model.
        key: the tensor's name, or that of a private copy.
        plan: which channels stay.
        shape: the tensor's shape, where that may not be the analysed one.
    """
    found: list[Mask | None] = []
    for axis, n, taken in _stays(coupling, key, plan, shape):
        if taken is None or taken.size == n or isinstance(axis, Bundle):
            found.append(None)
        else:
            found.append(mask := np.zeros(n, np.bool_))
            mask[taken] = True
    return found


def stays(coupling: Coupling, key: str, plan: Plan, shape: Shape | None = None) -> list[Places | None]:
    """As `masks`, but the positions themselves, in the order in which the cut model has them."""
    return [
        None if taken is None or np.array_equal(taken, np.arange(n)) else taken
        for _, n, taken in _stays(coupling, key, plan, shape)
    ]


def _stays(
    coupling: Coupling, key: str, plan: Plan, shape: Shape | None
) -> Iterator[tuple[Axis, int, Places | None]]:
    free = {group.atom for group in coupling.groups} if shape is not None else set()
    for j, axis in enumerate(coupling.axes.get(key, ())):
        n = size(axis) if shape is None else shape[j]
        yield axis, n, _order(axis, n, plan, free) if any(a in plan for a in bearing(axis)) else None


def _order(axis: Axis, n: int, plan: Plan, free: set[Atom]) -> Places:
    """Which positions of an axis of size `n` stay, in order; see `size_kept`."""
    if n == size(axis):
        return order(axis, plan)
    if not isinstance(axis, Prod | Cat):
        return np.arange(n)
    varying = _varying(axis, free, plan)
    others = [size(part) for j, part in enumerate(axis.parts) if j != varying]
    rest = n // product(others) if isinstance(axis, Prod) else n - sum(others)
    found, before = np.zeros(int(isinstance(axis, Prod)), np.intp), 0
    for j, part in enumerate(axis.parts):
        width = rest if j == varying else size(part)
        inner = _order(part, width, plan, free)
        if isinstance(axis, Prod):
            found = np.add.outer(found * width, inner).ravel()
        else:
            found, before = np.concatenate([found, inner + before]), before + width
    return found


def _varying(axis: Prod | Cat, free: set[Atom], cut: Collection[Atom]) -> int:
    """The part whose size changes from run to run: one held in part, and cut in part if one is."""
    held = [j for j, part in enumerate(axis.parts) if not free.issuperset(atoms(part))]
    return next((j for j in held if any(a in cut for a in atoms(axis.parts[j]))), held[0])


def shapes_after(coupling: Coupling, plan: Plan, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The shape of every tensor once the plan is carried out, at any assignment of the dynamic axes."""
    counts = {atom: int(mask.sum()) for atom, mask in plan.items()}
    free = {group.atom for group in coupling.groups}
    after = dict(shapes)
    for name, dims in coupling.axes.items():
        if name in after:
            after[name] = tuple(
                size_kept(axis, n, counts, free) if any(a in plan for a in atoms(axis)) else n
                for n, axis in zip(shapes[name], dims, strict=True)
            )
    return after


def size_kept(axis: Axis, n: int, counts: Mapping[Atom, int], free: set[Atom]) -> int:
    """How much of an axis of size `n` stays; where that is not the analysed size, a held part varies.

    Args:
        axis: the axis.
        n: its size at some assignment of the dynamic axes.
        counts: channels kept of the atoms that are cut.
        free: atoms whose size never varies.
    """
    if n == size(axis):
        return count(axis, counts)
    if not isinstance(axis, Prod | Cat):
        return n
    cut = [part for part in axis.parts if any(a in counts for a in atoms(part))]
    if free.issuperset(a for part in cut for a in atoms(part)):  # of the others several may vary
        sizes, left = map(size, cut), (count(part, counts) for part in cut)
        return n // product(sizes) * product(left) if isinstance(axis, Prod) else n - sum(sizes) + sum(left)
    varying = _varying(axis, free, counts)
    part = axis.parts[varying]
    others = [other for j, other in enumerate(axis.parts) if j != varying]
    if isinstance(axis, Prod):
        inner = size_kept(part, n // product(map(size, others)), counts, free)
        return inner * product(count(other, counts) for other in others)
    inner = size_kept(part, n - sum(map(size, others)), counts, free)
    return inner + sum(count(other, counts) for other in others)


def slicer(found: list[Places | None]) -> Callable[[Array], Array]:
    """A function that takes what stays along every dim."""

    def take(array: Array) -> Array:
        for dim, places in enumerate(found):
            if places is not None:
                array = array.take(places, axis=dim)
        return array

    return take


def in_pieces(found: list[Places | None]) -> Callable[[Array], Iterator[Array]]:
    """The same a piece at a time, in row-major order, for what is not to be whole in memory.

    >>> [piece.tolist() for piece in in_pieces([None, np.array([0])])(np.array([[1, 2], [3, 4]]))]
    [[[1], [3]]]
    """

    def take(array: Array) -> Iterator[Array]:
        row, rows = product(array.shape[1:]), found[0] if found else None
        if row > pieces.PIECE:
            for j in range(len(array)) if rows is None else rows:
                yield from in_pieces(found[1:])(array[j])
            return
        if not array.ndim or not row or (rows is not None and not np.array_equal(rows, np.sort(rows))):
            yield slicer(found)(array)  # what a shuffle orders anew is not large
            return
        runs, step = pieces.Runs(array), max(1, pieces.length(array.size) // row)
        *others, (last, final) = [
            (dim, places) for dim, places in enumerate(found) if places is not None
        ] or [(0, np.arange(len(array)))]
        buffers = pieces.Buffers(array.dtype, step * row)

        def part(first: int) -> Array:
            end = min(first + step, len(array))
            block, at = runs[first * row : end * row].reshape(end - first, *array.shape[1:]), final
            for dim, places in others:
                block = block.take(_between(places, first, end) if dim == 0 else places, axis=dim)
            if last == 0:
                at = _between(final, first, end)
            shape = (*block.shape[:last], len(at), *block.shape[last + 1 :])
            # half of the time that a large model takes: a copy of all that stays
            return block.take(at, axis=last, out=buffers.take(shape), mode="clip")

        for made in threads.in_order(part, range(0, len(array), step)):
            yield made
            buffers.give(made)

    return take


def _between(places: Places, first: int, end: int) -> Places:
    """Those of some ascending positions that lie in a piece, counted from its begin."""
    return places[slice(*np.searchsorted(places, (first, end)))] - first

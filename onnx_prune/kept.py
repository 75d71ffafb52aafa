"""What of every tensor stays under a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from math import prod as product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_prune.axes.axis import Atom, Axis, Cat, Mask, Prod, atoms, count, keep, size
from onnx_prune.coupling import Coupling
from onnx_prune.model import pieces

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
    free = {group.atom for group in coupling.groups} if shape is not None else set()
    found: list[Mask | None] = []
    for j, axis in enumerate(coupling.axes.get(key, ())):
        n = size(axis) if shape is None else shape[j]
        mask = _mask(axis, n, plan, free) if any(a in plan for a in atoms(axis)) else None
        found.append(None if mask is None or mask.all() else mask)
    return found


def _mask(axis: Axis, n: int, plan: Plan, free: set[Atom]) -> Mask:
    """Which positions of an axis of size `n` stay; see `size_kept`."""
    if n == size(axis):
        return keep(axis, plan)
    if isinstance(axis, Atom):
        return np.ones(n, np.bool_)
    varying = _varying(axis, free)
    others = [size(part) for j, part in enumerate(axis.parts) if j != varying]
    rest = n // product(others) if isinstance(axis, Prod) else n - sum(others)
    parts = [
        _mask(part, rest, plan, free) if j == varying else keep(part, plan)
        for j, part in enumerate(axis.parts)
    ]
    if isinstance(axis, Prod):
        return reduce(lambda outer, inner: np.logical_and.outer(outer, inner).ravel(), parts)
    return np.concatenate(parts)


def _varying(axis: Prod | Cat, free: set[Atom]) -> int:
    """The part whose size changes from run to run: one that is held, at least in part."""
    return next(j for j, part in enumerate(axis.parts) if any(a not in free for a in atoms(part)))


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
    if isinstance(axis, Atom):
        return n
    varying = _varying(axis, free)
    part = axis.parts[varying]
    others = [other for j, other in enumerate(axis.parts) if j != varying]
    if isinstance(axis, Prod):
        inner = size_kept(part, n // product(map(size, others)), counts, free)
        return inner * product(count(other, counts) for other in others)
    inner = size_kept(part, n - sum(map(size, others)), counts, free)
    return inner + sum(count(other, counts) for other in others)


def slicer(found: list[Mask | None]) -> Callable[[Array], Array]:
    """A function that takes what stays along every dim."""

    def take(array: Array) -> Array:
        for dim, mask in enumerate(found):
            if mask is not None:
                array = array.compress(mask, axis=dim)
        return array

    return take


def in_pieces(found: list[Mask | None]) -> Callable[[Array], Iterator[Array]]:
    """The same a piece at a time, in row-major order, for what is not to be whole in memory.

    >>> [piece.tolist() for piece in in_pieces([None, np.array([True, False])])(np.array([[1, 2], [3, 4]]))]
    [[[1], [3]]]
    """

    def take(array: Array) -> Iterator[Array]:
        row, mask = product(array.shape[1:]), found[0] if found else None
        if array.ndim > 1 and row > pieces.PIECE:
            for j in range(len(array)) if mask is None else np.flatnonzero(mask):
                yield from in_pieces(found[1:])(array[j])
            return
        if not array.ndim or not row:
            yield slicer(found)(array)
            return
        runs, step = pieces.Runs(array), max(1, pieces.length(array.size) // row)
        *others, (last, final) = [(dim, kept) for dim, kept in enumerate(found) if kept is not None] or [
            (0, np.ones(len(array), np.bool_))
        ]
        places = np.flatnonzero(final)
        buffers = pieces.Buffers(array.dtype, step * row)

        def part(first: int) -> Array:
            end = min(first + step, len(array))
            block, at = runs[first * row : end * row].reshape(end - first, *array.shape[1:]), places
            for dim, kept in others:
                block = block.compress(kept[first:end] if dim == 0 else kept, axis=dim)
            if last == 0:
                at = places[slice(*np.searchsorted(places, (first, end)))] - first
            shape = (*block.shape[:last], len(at), *block.shape[last + 1 :])
            # half of the time that a large model takes: a copy of all that stays
            return block.take(at, axis=last, out=buffers.take(shape), mode="clip")

        for made in pieces.in_order(part, range(0, len(array), step)):
            yield made
            buffers.give(made)

    return take

"""What of every tensor stays under a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
    varying = _varying(axis, free)
    others = [size(part) for j, part in enumerate(axis.parts) if j != varying]
    rest = n // product(others) if isinstance(axis, Prod) else n - sum(others)
    found, before = np.zeros(int(isinstance(axis, Prod)), np.intp), 0
    for j, part in enumerate(axis.parts):
        width = rest if j == varying else size(part)
        inner = _order(part, width, plan, free) if j == varying else order(part, plan)
        if isinstance(axis, Prod):
            found = np.add.outer(found * width, inner).ravel()
        else:
            found, before = np.concatenate([found, inner + before]), before + width
    return found


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
    if not isinstance(axis, Prod | Cat):
        return n
    varying = _varying(axis, free)
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

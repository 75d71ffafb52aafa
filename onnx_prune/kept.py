"""What of every tensor stays under a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod as product
from typing import Any

from numpy.typing import NDArray

from onnx_prune.axis import Atom, Axis, Mask, Prod, atoms, count, keep, size
from onnx_prune.coupling import Coupling

Array = NDArray[Any]
Plan = Mapping[Atom, Mask]
Shape = tuple[int, ...]


def masks(coupling: Coupling, key: str, plan: Plan) -> list[Mask | None]:
    """For each dim of a tensor which positions stay, None where all do."""
    found: list[Mask | None] = []
    for axis in coupling.axes.get(key, ()):
        mask = keep(axis, plan) if any(a in plan for a in atoms(axis)) else None
        found.append(None if mask is None or mask.all() else mask)
    return found


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
    varying = next(j for j, part in enumerate(axis.parts) if any(a not in free for a in atoms(part)))
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

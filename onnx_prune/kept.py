"""What of every tensor stays under a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from onnx_prune.axis import Atom, Mask, atoms, count, keep
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
    """The shape of every tensor once the plan is carried out."""
    counts = {atom: int(mask.sum()) for atom, mask in plan.items()}
    after = dict(shapes)
    for name, dims in coupling.axes.items():
        if name in after:
            after[name] = tuple(
                count(axis, counts) if any(a in plan for a in atoms(axis)) else n
                for n, axis in zip(shapes[name], dims, strict=True)
            )
    return after


def slicer(found: list[Mask | None]) -> Callable[[Array], Array]:
    """A function that takes what stays along every dim."""

    def take(array: Array) -> Array:
        for dim, mask in enumerate(found):
            if mask is not None:
                array = array.compress(mask, axis=dim)
        return array

    return take

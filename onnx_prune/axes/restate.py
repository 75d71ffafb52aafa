"""Operands and attributes that repeat sizes or positions, rewritten for a cut: see `Restate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_prune.axes.axis import Atom, Axis, Mask, order, size
from onnx_prune.axes.relation import Form


def restated(
    value: NDArray[Any],
    form: Form,
    axes: Sequence[Axis | None],
    plan: Mapping[Atom, Mask],
) -> NDArray[Any]:
    """`value` as it has to read once its axes are cut; entries whose axis stays whole stay as they are.

    Args:
        value: the constant, of any integer type and shape; for an operand that is itself cut, what
            the cut left of it.
        form: what the entries mean.
        axes: one axis an entry, None for entries to leave alone; for "indices" one axis for all.
        plan: which channels stay.

    Returns:
        A new array of the same type and shape.

    >>> c, d = Atom(4, "c"), Atom(2, "d")
    >>> plan = {c: np.array([True, False, True, True])}
    >>> restated(np.array([-1, 4, 2, 7]), "sizes", (None, c, d, None), plan)
    array([-1,  3,  2,  7])

    A position becomes the number of channels kept before it.  One that counts from the end is
    counted from the start, and one that lies beyond the axis (INT_MAX) still does:

    >>> restated(np.array([2, -1, 4, 2**63 - 1]), "positions", (c, c, c, c), plan).tolist()
    [1, 2, 3, 9223372036854775807]

    An index must be one of a channel that stays, and becomes its rank among the kept:

    >>> restated(np.array([[2], [-1]]), "indices", (c,), plan)
    array([[1],
           [2]])
    """
    flat = value.ravel().copy()
    if form == "indices":
        [axis] = axes
        stays = np.arange(0) if axis is None else order(axis, plan)
        if axis is not None and not np.array_equal(stays, np.arange(size(axis))):
            rank = np.zeros(size(axis), np.intp)
            rank[stays] = np.arange(stays.size)
            flat[:] = rank[flat]
        return flat.reshape(value.shape)
    for j, (entry, axis) in enumerate(zip(flat.tolist(), axes, strict=True)):
        if axis is None or (stays := order(axis, plan)).size == (whole := size(axis)):
            continue
        if form == "shape" and entry in (0, -1):
            continue
        if form in ("sizes", "shape", "ones"):
            flat[j] = stays.size
        elif -whole <= entry <= whole:
            flat[j] = (stays < (entry % whole if entry < 0 else entry)).sum()
    return flat.reshape(value.shape)

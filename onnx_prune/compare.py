"""How far two arrays are apart, and whether an array says anything at all."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def difference(got: Array, want: Array) -> float:
    """Largest absolute difference relative to the largest absolute value; infinite if shapes differ."""
    if got.shape != want.shape:
        return float("inf")
    if got.size == 0 or got.dtype == object:
        return 0.0 if np.array_equal(got, want) else float("inf")
    a, b = got.astype(np.float64), want.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0
    with np.errstate(invalid="ignore"):
        gap = np.abs(a - b)[~same].max()
    scale = np.abs(b[np.isfinite(b)]).max(initial=0.0)
    return float(gap / scale) if np.isfinite(gap) and scale else float("inf")


def varies(value: Array) -> bool:
    """Whether a float tensor has finite values that are not all the same; others need only be there."""
    if value.dtype.kind not in "fV":
        return value.size > 0
    finite = value[np.isfinite(value)]
    return finite.size > 0 and (value.size == 1 or bool((finite != finite.flat[0]).any()))

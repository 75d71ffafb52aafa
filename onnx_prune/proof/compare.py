"""How far two arrays are apart, and whether an array says anything at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def difference(got: Any, want: Any) -> float:
    """Largest absolute difference relative to the largest absolute value; infinite if shapes differ.

    Of sequences and maps the worst item counts; what is no number is equal or infinitely far off.

    >>> difference([np.array([1.0]), {"a": 2.0}], [np.array([1.0]), {"a": 4.0}])
    0.5
    """
    if isinstance(want, np.ndarray):
        return _difference(np.asarray(got), want)
    a, b = list(_arrays(got)), list(_arrays(want))
    if len(a) != len(b):
        return float("inf")
    return max(map(_difference, a, b), default=0.0)


def _difference(got: Array, want: Array) -> float:
    if got.shape != want.shape:
        return float("inf")
    if got.size == 0 or not {got.dtype.kind, want.dtype.kind} <= {*"fViub"}:
        return 0.0 if np.array_equal(got, want) else float("inf")
    a, b = got.astype(np.float64), want.astype(np.float64)
    same = (got == want) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0
    with np.errstate(invalid="ignore"):
        gap = np.abs(a - b)[~same].max()
    scale = np.abs(b[np.isfinite(b)]).max(initial=0.0)
    return float(gap / scale) if np.isfinite(gap) and scale else float("inf")


def exact(value: Any) -> bool:
    """Whether all of it are integers, booleans or text, which rounding does not move."""
    return all(array.dtype.kind not in "fV" for array in _arrays(value))


def _arrays(value: Any) -> Iterator[Array]:
    """The arrays in a tensor, sequence, map or optional."""
    if isinstance(value, list):
        for item in value:
            yield from _arrays(item)
    elif isinstance(value, dict):
        yield np.array(list(value))
        yield from _arrays(list(value.values()))
    elif value is not None:
        yield np.asarray(value)


def varies(value: Any) -> bool:
    """Whether a tensor has finite values that are not all the same; integers need only be there."""
    return any(map(_varies, _arrays(value)))


def differ(one: Any, other: Any) -> bool:
    """Whether two answers of one shape have finite values that are not the same."""
    pairs = zip(_arrays(one), _arrays(other), strict=False)
    return any(
        a.shape == b.shape and bool((np.isfinite(a) & np.isfinite(b) & (a != b)).any())
        for a, b in pairs
        if a.dtype.kind in "fiu"
    )


def _varies(value: Array) -> bool:
    if value.dtype.kind not in "fV":
        return value.size > 0
    finite = value[np.isfinite(value)]
    return finite.size > 0 and (value.size == 1 or bool((finite != finite.flat[0]).any()))

"""Sizes of layers after a cut, from what stays of their parameters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def stays(mask: Mask, dim: int) -> Mask:
    """What stays along one dim.

    Example:
        >>> stays(np.array([[True, False], [False, False]]), 0).tolist()
        [True, False]
    """
    return np.asarray(mask.any(tuple(j for j in range(mask.ndim) if j != dim % mask.ndim)))


def groups(rows: Mask, count: int) -> tuple[int, int]:
    """How many groups of channels stay, and how much of each.

    Raises:
        ValueError: not as much of each.

    Example:
        >>> groups(np.array([True, False, False, False, True, False]), 3)
        (2, 1)
    """
    each = rows.reshape(count, -1).sum(1)
    left = each[each > 0]
    if not left.size or (left != left[0]).any():
        raise ValueError(f"its {count} groups or heads keep unequal numbers of channels, {each.tolist()}")
    return left.size, int(left[0])

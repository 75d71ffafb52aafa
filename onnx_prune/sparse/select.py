"""Exactly so many of the lowest scores, in one tensor or over many, ties always decided the same way.

Of equal scores the later one goes first: later in its tensor, and in a later tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import floor
from math import prod as product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_prune.model import pieces
from onnx_prune.sparse.edges import Measured, Scores, edges

Array = NDArray[Any]
Bool = NDArray[np.bool_]
_EPSILON = 1e-9  # 0.3 * 10 is 2.9999999999999996, and means 3


def portion(ratio: float, count: int) -> int:
    """How many of `count` a ratio is: rounded down.

    Example:
        >>> portion(0.3, 10), portion(0.5, 5)
        (3, 2)
    """
    return floor(ratio * count + _EPSILON)


def lowest(scores: Scores, count: int) -> Bool:
    """Which scores are the `count` lowest; a score that is not a number is the highest.

    Example:
        >>> lowest(np.array([2.0, 1, 3, 1, 1]), 2).astype(int)
        array([0, 0, 0, 1, 1])
    """
    if count <= 0:
        return np.zeros(scores.shape, np.bool_)
    (edge,) = edges(lambda: [scores], count, scores.size)
    flat = scores if isinstance(scores, Measured) else scores.reshape(-1)
    gone = np.empty(scores.size, np.bool_)

    def look(part: slice) -> None:
        gone[part] = edge.goes(flat[part], part.start)

    for _ in pieces.each(scores.size, look):
        pass
    return gone.reshape(scores.shape)


def erdos_renyi_kernel(shapes: Sequence[tuple[int, ...]], ratio: float) -> list[int]:
    """How much of each tensor goes: the fewer dims a tensor spans for its size, the more.

    The density of a tensor is in proportion to (sum of its dims) / (product of its dims), and 1 where
    that would be more; the tensors together lose `ratio`, to the element.

    Evci et al. 2020, "Rigging the Lottery", section 3, "Erdos-Renyi-Kernel".

    Args:
        shapes: of the tensors.
        ratio: the fraction of all elements that goes.

    Example:
        >>> erdos_renyi_kernel([(10, 10), (100, 100)], 0.9)
        [8, 9082]
        >>> erdos_renyi_kernel([(20, 20), (40, 40)], 0.5)
        [67, 933]
    """
    sizes = np.array([product(shape) for shape in shapes], np.int64)
    raw = np.array([sum(shape) / product(shape) for shape in shapes])
    gone = portion(ratio, int(sizes.sum()))
    left = float(sizes.sum() - gone)
    dense = np.zeros(len(shapes), np.bool_)
    while True:
        rest = left - float(sizes[dense].sum())
        scale = rest / float((raw * sizes)[~dense].sum()) if not dense.all() else 0.0
        over = ~dense & (raw * scale > 1)
        if not over.any():
            break
        dense |= over
    exact = np.where(dense, 0.0, sizes * (1 - np.minimum(raw * scale, 1)))
    counts = np.floor(exact + _EPSILON).astype(np.int64)
    for j in np.argsort(-(exact - counts), kind="stable")[: gone - int(counts.sum())]:
        counts[j] += 1
    return [int(n) for n in counts]

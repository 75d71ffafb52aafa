"""SparseGPT: zero the weights of a layer one column after the other, the rest making up for each.

Frantar and Alistarh 2023, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_prune.sparse import select
from onnx_prune.sparse.granularity import n_of_m

Array = NDArray[Any]
Bool = NDArray[np.bool_]
BLOCK, DAMPING = 128, 0.01


@dataclass(frozen=True, slots=True)
class Solved:
    """A layer after it was pruned.

    Attributes:
        values: the weights, zero where `keep` is False; shape (outputs, inputs).
        keep: which weights stay.
    """

    values: Array
    keep: Bool


@dataclass(frozen=True, slots=True)
class Runs:
    """Columns of which N of each M stay.

    Attributes:
        n: how many stay.
        m: of how many in a row.
        length: after so many columns a new run begins, as at the next position of a kernel.
    """

    n: int
    m: int
    length: int

    def starts(self, width: int) -> list[int]:
        """Where the runs of a matrix begin.

        Example:
            >>> Runs(2, 4, 6).starts(12)
            [0, 4, 6, 10]
        """
        return [first + j for first in range(0, width, self.length) for j in range(0, self.length, self.m)]


def solve(
    values: Array, moments: Array, count: int = 0, runs: Runs | None = None, forced: Bool | None = None
) -> Solved:
    """Prune the rows of a matrix so that its products with the inputs change little.

    In each block of columns the weights with the least w^2 / [U]_jj^2 go, U being the upper Cholesky factor
    of the inverse of the damped moments; what a zeroed weight contributed is spread over the columns to
    its right.

    Args:
        values: shape (outputs, inputs).
        moments: second moments of the inputs, X X^T up to a factor, shape (inputs, inputs).
        count: how many weights go; what is zero already goes first and counts.
        runs: what stays of the columns, instead of a count.
        forced: weights that go in any case, beside those that are zero.

    Example:
        >>> solved = solve(np.array([[0.5, 1.0]]), np.array([[1.0, 0.5], [0.5, 1.0]]), 1)
        >>> solved.values.round(3).tolist()
        [[0.0, 1.248]]
    """
    weight = values.astype(np.float64)
    width = weight.shape[1]
    upper = _upper(moments)
    scale = np.diag(upper)
    gone = weight == 0 if forced is None else forced | (weight == 0)
    starts = runs.starts(width) if runs else []
    ends = dict(zip(starts, [*starts[1:], width], strict=False))
    blocks = _blocks(starts or range(width), width)
    quota = _quota(gone, count, blocks)
    keep = np.ones(weight.shape, np.bool_)
    for (start, stop), least in zip(blocks, quota, strict=True):
        errors = np.zeros((len(weight), stop - start))
        if runs is None:
            scores = np.where(gone[:, start:stop], -np.inf, (weight[:, start:stop] / scale[start:stop]) ** 2)
            keep[:, start:stop] = ~select.lowest(scores, least)
        for j in range(start, stop):
            if runs is not None and j in ends:
                run = slice(j, ends[j])
                scores = np.where(gone[:, run], -np.inf, (weight[:, run] / scale[run]) ** 2)
                keep[:, run] = n_of_m(scores, runs.n, runs.m) & ~gone[:, run]
            error = np.where(keep[:, j], 0.0, weight[:, j]) / scale[j]
            weight[:, j:stop] -= np.outer(error, upper[j, j:stop])
            errors[:, j - start] = error
        weight[:, stop:] -= errors @ upper[start:stop, stop:]
    return Solved(np.where(keep, weight, 0.0), keep)


def _blocks(starts: Sequence[int], width: int) -> list[tuple[int, int]]:
    """Columns that are ranked together, about `BLOCK` of them; a run is not parted."""
    found = [0]
    for start, stop in zip(starts, [*starts[1:], width], strict=True):
        if stop - found[-1] > BLOCK and start > found[-1]:
            found.append(start)
    return list(zip(found, [*found[1:], width], strict=True))


def refit(values: Array, moments: Array, products: Array) -> Array:
    """The weights that make of what a layer reads now what it made before, by damped least squares.

    Layers before it were pruned, and read on otherwise: without this their errors add up.  Where inputs
    are as they were the weights stay.

    Args:
        values: the weights, shape (outputs, inputs).
        moments: second moments of the inputs as they are now.
        products: of these inputs and the outputs before, shape (inputs, outputs).
    """
    damped = _damped(moments)
    damping = damped - moments
    return np.asarray(np.linalg.solve(damped, products + damping @ values.T).T)


def _damped(moments: Array) -> Array:
    damped = moments.astype(np.float64)
    diagonal = np.diag(damped).copy()
    diagonal[diagonal <= 0] = 1.0
    np.fill_diagonal(damped, diagonal + DAMPING * diagonal.mean())
    return damped


def _upper(moments: Array) -> Array:
    """The upper Cholesky factor of the inverse of the damped moments; inputs that are always 0 are free."""
    lower = np.linalg.cholesky(np.linalg.inv(_damped(moments)))
    # U with U^T U = inverse: numpy's factor is lower with L L^T, so that U = L^T
    return np.asarray(lower.T)


def _quota(gone: Bool, count: int, blocks: Sequence[tuple[int, int]]) -> list[int]:
    """How many weights of each block go: those that must, and an even share of the others."""
    parts = [gone[:, start:stop] for start, stop in blocks]
    must = [int(part.sum()) for part in parts]
    free = np.cumsum([part.size - n for part, n in zip(parts, must, strict=True)])
    more = max(0, count - sum(must))
    reached = [more * int(n) // max(int(free[-1]), 1) for n in free]
    return [n + after - before for n, after, before in zip(must, reached, [0, *reached[:-1]], strict=True)]

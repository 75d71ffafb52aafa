"""Greedy block-OBS: which channel does least harm, when the layers that read it may make up for it.

Removing the columns J of a weight W whose inputs have covariance H, and correcting the others as well as
can be, adds tr(W_J (H^-1_JJ)^-1 W_J') to the mean squared error of the layer's result (Hassibi and Stork
1993, "Optimal Brain Surgeon"; for whole blocks Kurtic, Frantar, Alistarh 2023, "ZipLM", equation 2).
Channels go one after another, the least harmful first, and the weights are corrected in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnx_prune.calibration.gram import Gram

Array = NDArray[Any]
Errors = NDArray[np.float64]
Blocks = NDArray[np.intp]
_DAMP = 1e-3
_ONE_BY_ONE = 1024  # width up to which channels go one at a time; above, in steps of a 32nd
_STEP = 32
_SHRINK = 0.7


class Part(Protocol):
    """One layer that reads the channels."""

    def costs(self, alive: Blocks) -> Errors:
        """What removing each of the living channels would add to the layer's relative error."""

    def remove(self, gone: Blocks) -> float:
        """Remove channels and correct the rest; what that adds to the relative error."""


def part(gram: Gram, matrix: Array, blocks: Blocks) -> Part:
    """A layer, from the statistics of its inputs, its matrices and the columns of each channel."""
    return Uncorrelated(gram, matrix, blocks) if gram.diagonal else Correlated(gram, matrix, blocks)


class Uncorrelated:
    """A layer whose inputs are taken as uncorrelated: nothing makes up for a channel but the bias.

    Args:
        gram: statistics of the layer's inputs.
        matrix: its weight, shape (groups, results, width).
        blocks: the columns of each channel, shape (channels, columns).
    """

    def __init__(self, gram: Gram, matrix: Array, blocks: Blocks) -> None:
        energy = gram.variance * np.square(matrix, dtype=np.float64).sum(1)
        self._costs = energy.sum(0)[blocks].sum(1) / (float(energy.sum()) or np.inf)

    def costs(self, alive: Blocks) -> Errors:
        """See `Part`."""
        return np.asarray(self._costs[alive])

    def remove(self, gone: Blocks) -> float:
        """See `Part`."""
        return float(self._costs[gone].sum())


class Correlated:
    """A layer that makes up for lost channels by those that are left and by its bias.

    Args:
        gram: statistics of the layer's inputs.
        matrix: its weight, shape (groups, results, width).
        blocks: the columns of each channel, shape (channels, columns).
    """

    def __init__(self, gram: Gram, matrix: Array, blocks: Blocks) -> None:
        found = gram.covariance
        h = shrunk(found, gram.count)
        self._weight = matrix.astype(np.float64)
        total = float(np.einsum("god,god->", self._weight @ h, self._weight))
        self._total = total if total > 0 else np.inf
        diagonal = np.einsum("gdd->gd", h)
        damp = _DAMP * diagonal.mean(1) + np.finfo(float).eps * diagonal.max(1)
        diagonal += np.where(damp > 0, damp, 1.0)[:, None]
        self._inverse = np.asarray(np.linalg.inv(h), np.float64)
        self._total /= optimism(found, self._inverse, gram.count)
        self._blocks = blocks.copy()
        self._left = np.ones(h.shape[1], np.bool_)

    def costs(self, alive: Blocks) -> Errors:
        """See `Part`."""
        columns = self._blocks[alive]
        inner = np.linalg.inv(self._inverse[:, columns[:, :, None], columns[:, None, :]])
        mine = self._weight[:, :, columns].transpose(0, 2, 3, 1)
        return np.asarray(np.einsum("gckl,gckl->c", inner, mine @ mine.swapaxes(-1, -2)) / self._total)

    def remove(self, gone: Blocks) -> float:
        """See `Part`."""
        columns = self._blocks[gone].ravel()
        rows = self._inverse[:, columns]
        solved = np.linalg.solve(rows[:, :, columns], rows)  # (groups, columns, width)
        lost = self._weight[:, :, columns]
        inner = np.linalg.solve(rows[:, :, columns], lost.swapaxes(1, 2))
        cost = float(np.einsum("gok,gko->", lost, inner)) / self._total
        self._weight -= lost @ solved
        self._inverse -= rows.swapaxes(1, 2) @ solved
        self._weight[:, :, columns] = 0.0
        self._blocks[gone] = -1
        self._left[columns] = False
        if self._left.mean() < _SHRINK:
            self._shrink()
        return max(cost, 0.0)

    def _shrink(self) -> None:
        """Forget the columns that are gone."""
        left = np.flatnonzero(self._left)
        place = np.full(self._left.size, -1)
        place[left] = np.arange(left.size)
        self._inverse = self._inverse[:, left[:, None], left]
        self._weight = self._weight[:, :, left]
        self._blocks = np.where(self._blocks < 0, -1, place[self._blocks])
        self._left = self._left[left]


def shrunk(h: Errors, rows: int) -> Errors:
    """Covariances with their off-diagonals shrunk by as much as few rows overstate them.

    Where a layer reads more numbers than there are samples, as behind a flattened image, any of them can be
    had from the others, on these samples.  Chen, Wiesel, Eldar, Hero 2010, "Shrinkage Algorithms for MMSE
    Covariance Estimation", equation 23 (OAS), on correlations.

    Example:
        >>> h = np.array([[[4.0, 2.0], [2.0, 1.0]]])
        >>> shrunk(h, 9).tolist(), shrunk(h, 10**9).round(6).tolist()
        ([[[4.0, 1.5555555555555556], [1.5555555555555556, 1.0]]], [[[4.0, 2.0], [2.0, 1.0]]])
    """
    found = h * (1 - shrinkage(h, rows)[:, None, None])
    np.einsum("gdd->gd", found)[...] = np.einsum("gdd->gd", h)
    return np.asarray(found)


def shrinkage(h: Errors, rows: int) -> Errors:
    """By which part the correlations are shrunk, shape (groups,); see `shrunk`."""
    width = h.shape[1]
    diagonal = np.einsum("gdd->gd", h)
    spread = np.sqrt(np.maximum(diagonal, np.finfo(float).tiny))
    squares = np.square(h / (spread[:, :, None] * spread[:, None, :])).sum((1, 2))
    excess = (rows + 1 - 2 / width) * (squares - width)
    due = (1 - 2 / width) * squares + width**2
    return np.asarray(np.divide(due, excess, out=np.ones_like(due), where=excess > due))


def optimism(h: Errors, inverse: Errors, rows: int) -> float:
    """How much larger the error of a fit is on new data than on those it was fitted to.

    Channels look easy to make up for where a layer reads few rows of many numbers.  Akaike 1969, "Fitting
    Autoregressive Models for Prediction", final prediction error: (n + d) / (n - d) for n rows, with the
    effective degrees of freedom of a ridge regression for d (Hastie, Tibshirani, Friedman 2009, "The Elements
    of Statistical Learning", equation 3.50), the mean over the groups.  It is taken once for the whole layer,
    with all of its inputs.

    Args:
        h: covariances of the inputs as found, shape (groups, width, width).
        inverse: of the shrunk ones that are fitted with.
        rows: that they were found from.

    Example:
        >>> h = np.array([[[1.0, 1.0], [1.0, 1.0]]])  # with shrinkage s, d is 2 (1 - s) / (2 - s)
        >>> shrinkage(h, 6).round(3).tolist(), round(optimism(h, np.linalg.inv(shrunk(h, 6)), 6), 3)
        ([0.333], 1.308)
    """
    fitted = np.einsum("gij,gji->g", h, inverse) * (1 - shrinkage(h, rows))
    freedom = float(fitted.mean())
    return (rows + freedom) / max(rows - freedom, 1.0)


def eliminate(
    parts: Sequence[Part], channels: int, width: int, weights: Sequence[float] | None = None
) -> Errors:
    """Remove channel after channel.

    What goes next is what all layers together lose least by, whatever their weights.

    Args:
        parts: the layers that read the channels, one or more.
        channels: how many there are.
        width: inputs of the widest layer.
        weights: what the error of each layer counts; all alike by default.

    Returns:
        For each channel the error, relative to the variance of the result and summed over the layers, once it
        and all that went before it are gone; shape (channels,).  Sorted, it is the cost of removing 1, 2, ...

    Example:
        >>> gram = Gram()
        >>> rows = [[1.0, 1.0, 0.0], [-1.0, -1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]
        >>> gram.add(np.array([rows * 1000]))
        >>> one = part(gram, np.array([[[1.0, 1.0, 1.0]]]), np.arange(3)[:, None])
        >>> eliminate([one], 3, 3).round(2)  # the first two say the same
        array([0. , 1. , 0.2])
    """
    alive = np.arange(channels)
    errors, error = np.zeros(channels), 0.0
    counting = [1.0] * len(parts) if weights is None else weights
    while alive.size:
        costs = np.sum([p.costs(alive) for p in parts], axis=0)
        step = 1 if width <= _ONE_BY_ONE else max(1, alive.size // _STEP)
        order = np.argsort(costs, kind="stable")[:step]
        gone = alive[order]
        added = sum(weight * p.remove(gone) for p, weight in zip(parts, counting, strict=True))
        shares = np.cumsum(np.maximum(costs[order], 0.0))
        errors[gone] = error + added * (shares / shares[-1] if shares[-1] > 0 else 1.0)
        error += added
        alive = np.delete(alive, order)
    return errors

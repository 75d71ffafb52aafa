"""Sums over rows that stream by: what selection and least squares need to know of a layer's inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Sums = NDArray[np.float64]


class Gram:
    """Means, covariances and cross-covariances of rows, in float64 and in one pass.

    Rows are shifted by the mean of the first that come, so that nothing cancels where a mean is large
    (Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance").  Two Grams add up.

    Args:
        diagonal: sum squares only, which costs O(width) memory instead of O(width squared).

    Attributes:
        count: rows so far.

    Example:
        >>> gram = Gram()
        >>> gram.add(np.array([[[1.0, 0.0], [3.0, 0.0]]]))
        >>> gram.add(np.array([[[5.0, 3.0]]]))
        >>> gram.count, gram.mean.tolist(), gram.covariance.round(3).tolist()
        (3, [[3.0, 1.0]], [[[2.667, 2.0], [2.0, 2.0]]])
    """

    def __init__(self, *, diagonal: bool = False) -> None:
        self.diagonal = diagonal
        self.count = 0
        self._shift: Sums | None = None
        self._total = self._products = np.zeros(0)
        self._target_shift: Sums | None = None
        self._target_total = self._target_squares = self._cross = np.zeros(0)

    def add(self, rows: Array, targets: Array | None = None) -> None:
        """Take in some rows.

        Args:
            rows: inputs, shape (groups, rows, width).
            targets: what each row is to be mapped to, shape (groups, rows, results); in every call or none.
        """
        x = rows.astype(np.float64)
        if self._shift is None:
            self._shift = x.mean(1) if x.shape[1] else np.zeros((x.shape[0], x.shape[2]))
            self._total = np.zeros_like(self._shift)
            square = self._shift.shape if self.diagonal else (*self._shift.shape, x.shape[2])
            self._products = np.zeros(square)
        x -= self._shift[:, None]
        self.count += x.shape[1]
        self._total += x.sum(1)
        self._products += np.einsum("grd,grd->gd", x, x) if self.diagonal else _times(x, x)
        if targets is None:
            return
        y = targets.astype(np.float64)
        if self._target_shift is None:
            self._target_shift = y.mean(1) if y.shape[1] else np.zeros((y.shape[0], y.shape[2]))
            self._target_total = np.zeros_like(self._target_shift)
            self._target_squares = np.zeros_like(self._target_shift)
            self._cross = np.zeros((*self._shift.shape, y.shape[2]))
        y -= self._target_shift[:, None]
        self._target_total += y.sum(1)
        self._target_squares += np.einsum("gro,gro->go", y, y)
        if not self.diagonal:
            self._cross += _times(x, y)

    def __add__(self, other: Gram) -> Gram:
        """The sums over the rows of both, whatever each was shifted by."""
        if other._shift is None or self._shift is None:
            return self if other._shift is None else other
        both = Gram(diagonal=self.diagonal)
        both.count = self.count + other.count
        both._shift = self._shift
        step = other._shift - self._shift
        moved = other._total + other.count * step
        both._total = self._total + moved
        if self.diagonal:
            both._products = self._products + other._products + step * (other._total + moved)
        else:
            shifted = other._total[..., None] * step[:, None, :]
            both._products = self._products + other._products + shifted + step[..., None] * moved[:, None, :]
        if self._target_shift is not None and other._target_shift is not None:
            both._target_shift = self._target_shift
            leap = other._target_shift - self._target_shift
            landed = other._target_total + other.count * leap
            both._target_total = self._target_total + landed
            both._target_squares = self._target_squares + other._target_squares
            both._target_squares += leap * (other._target_total + landed)
            if not self.diagonal:
                shifted = other._total[..., None] * leap[:, None, :]
                both._cross = self._cross + other._cross + shifted + step[..., None] * landed[:, None, :]
        return both

    @property
    def _mean(self) -> Sums:
        return self._total / self.count

    @property
    def mean(self) -> Sums:
        """Mean of each input, shape (groups, width)."""
        assert self._shift is not None
        return self._shift + self._mean

    @property
    def covariance(self) -> Sums:
        """Covariance of the inputs, divided by the count, shape (groups, width, width)."""
        m = self._mean
        return self._products / self.count - m[..., None] * m[:, None, :]

    @property
    def variance(self) -> Sums:
        """Variance of each input, shape (groups, width)."""
        squares = self._products if self.diagonal else np.einsum("gdd->gd", self._products)
        return np.asarray(np.maximum(squares / self.count - self._mean**2, 0.0))

    @property
    def energy(self) -> Sums:
        """Mean square of each input, shape (groups, width)."""
        return self.variance + self.mean**2

    @property
    def cross(self) -> Sums:
        """Covariance of inputs and targets, shape (groups, width, results)."""
        target = self._target_total / self.count
        return self._cross / self.count - self._mean[..., None] * target[:, None, :]

    @property
    def target_mean(self) -> Sums:
        """Mean of each target, shape (groups, results)."""
        assert self._target_shift is not None
        return self._target_shift + self._target_total / self.count

    @property
    def target_variance(self) -> Sums:
        """Variance of each target, shape (groups, results)."""
        mean = self._target_total / self.count
        return np.asarray(np.maximum(self._target_squares / self.count - mean**2, 0.0))


def _times(x: Sums, y: Sums) -> Sums:
    """The product of x transposed with y for each group."""
    if len(x) == 1:
        return np.asarray(x[0].T @ y[0])[None]  # a plain product of a matrix with itself takes half the time
    return np.asarray(np.matmul(x.transpose(0, 2, 1), y))

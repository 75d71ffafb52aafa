"""Least squares for one layer: weights that map what it reads now to what it said before.

    min  E |y - W x - b|^2  +  lam |(W - W0) D|^2,    D = diag(std(x))

Affine ridge towards the weights at hand, in units of correlation, so that one `lam` suits every layer.
`lam` is chosen on samples that were held out, and a fit that does no better there than a new bias is refused.

He, Zhang, Sun 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", section 3.1, as ridge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnx_prune.calibration.gram import Gram

Array = NDArray[Any]
Sums = NDArray[np.float64]
Kind = Literal["refitted", "bias", "unchanged"]
LAMBDAS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_MOST_GROWTH = 10.0
_FLOOR = 1e-6


class Rows:
    """Rows as they are, for layers with more inputs than there are rows: the same sums as `Gram` has.

    Attributes:
        count: rows so far.
    """

    def __init__(self) -> None:
        self._rows: list[Sums] = []
        self._targets: list[Sums] = []

    def add(self, rows: Array, targets: Array) -> None:
        """Take in rows and targets, shape (groups, rows, width) and (groups, rows, results)."""
        self._rows.append(rows.astype(np.float64))
        self._targets.append(targets.astype(np.float64))

    def __add__(self, other: Rows) -> Rows:
        both = Rows()
        both._rows, both._targets = self._rows + other._rows, self._targets + other._targets
        return both

    @property
    def count(self) -> int:
        """Number of rows."""
        return sum(rows.shape[1] for rows in self._rows)

    @property
    def rows(self) -> Sums:
        """All rows, shape (groups, count, width)."""
        return np.concatenate(self._rows, 1)

    @property
    def targets(self) -> Sums:
        """All targets, shape (groups, count, results)."""
        return np.concatenate(self._targets, 1)

    @property
    def mean(self) -> Sums:
        """See `Gram`."""
        return np.asarray(self.rows.mean(1))

    @property
    def variance(self) -> Sums:
        """See `Gram`."""
        return np.asarray(self.rows.var(1))

    @property
    def target_mean(self) -> Sums:
        """See `Gram`."""
        return np.asarray(self.targets.mean(1))

    @property
    def target_variance(self) -> Sums:
        """See `Gram`."""
        return np.asarray(self.targets.var(1))


@dataclass(frozen=True, slots=True)
class Fit:
    """New weights for one layer, and what they are worth.

    Attributes:
        kind: what was changed: "refitted" all, "bias" the bias alone, "unchanged" nothing.
        matrix: shape (groups, results, width).
        bias: shape (groups, results).
        lam: the ridge parameter that was chosen.
        before: mean squared error on the held-out samples of the layer as it was, relative to the variance of
            the targets.
        after: the same with the new weights.
    """

    kind: Kind
    matrix: Sums
    bias: Sums
    lam: float
    before: float
    after: float


def fit(
    train: Gram | Rows, held: Gram | Rows, matrix: Array, bias: Array, lambdas: Sequence[float] = LAMBDAS
) -> Fit:
    """Fit a layer.

    Args:
        train: sums over rows and targets of most samples; of a diagonal Gram only the bias is fitted.
        held: the same over samples held out.
        matrix: the weights at hand, shape (groups, results, width).
        bias: the bias at hand, shape (groups, results).
        lambdas: ridge parameters to try.

    Returns:
        The best on the samples held out, fitted again to all samples.
    """
    w0, b0 = matrix.astype(np.float64), bias.astype(np.float64)
    whole = train + held  # type: ignore[operator]
    as_it_is = error(held, w0, b0)
    best = error(held, w0, _bias(train, w0))
    kind: Kind = "bias" if best < as_it_is else "unchanged"
    best = min(best, as_it_is)
    tried = []
    if not (isinstance(train, Gram) and train.diagonal):
        for candidate in lambdas:
            found = solve(train, w0, candidate)
            tried.append((error(held, found, _bias(train, found)), candidate, found))
    for off, lam, found in sorted(tried, key=lambda one: one[:2]):
        if off < best and _sound(found, w0) and _sound(found := solve(whole, w0, lam), w0):
            return Fit("refitted", found, _bias(whole, found), lam, as_it_is, off)
    if kind == "bias":
        return Fit(kind, w0, _bias(whole, w0), 0.0, as_it_is, best)
    return Fit(kind, w0, b0, 0.0, as_it_is, as_it_is)


def _sound(found: Sums, w0: Sums) -> bool:
    """Whether weights are finite and did not explode, as they do where a fit hangs on noise."""
    return bool(np.isfinite(found).all()) and np.abs(found).max() <= _MOST_GROWTH * max(
        np.abs(w0).max(), 1e-30
    )


def _bias(sums: Gram | Rows, w: Sums) -> Sums:
    """The best bias for given weights: what is left of the means."""
    return np.asarray(sums.target_mean - (w @ sums.mean[..., None])[..., 0])


def solve(sums: Gram | Rows, w0: Sums, lam: float) -> Sums:
    """The weights that minimise the ridge problem, shape (groups, results, width).

    With more inputs than rows the problem is solved in the space of the rows, which is the same.

    Example:
        >>> x = np.array([[[1.0], [2.0], [3.0]]])
        >>> gram, rows = Gram(), Rows()
        >>> gram.add(x, 2 * x + 5), rows.add(x, 2 * x + 5)
        (None, None)
        >>> zero = np.zeros((1, 1, 1))
        >>> [round(solve(s, zero, lam).item(), 6) for s, lam in ((gram, 1.0), (rows, 1.0), (gram, 0.0))]
        [1.0, 1.0, 2.0]
    """
    spread = np.sqrt(sums.variance)
    spread = np.maximum(spread, _FLOOR * spread.max())
    spread[spread == 0] = 1.0
    if isinstance(sums, Gram):
        covariance = sums.covariance
        missing = sums.cross - covariance @ w0.swapaxes(1, 2)
        a = covariance / (spread[:, :, None] * spread[:, None, :])
        np.einsum("gdd->gd", a)[...] += lam
        step = np.linalg.solve(a, missing / spread[..., None])
        return np.asarray(w0 + (step / spread[..., None]).swapaxes(1, 2))
    x = (sums.rows - sums.mean[:, None]) / spread[:, None]
    y = sums.targets - sums.target_mean[:, None] - (x * spread[:, None]) @ w0.swapaxes(1, 2)
    k = x @ x.swapaxes(1, 2) / sums.count
    np.einsum("grr->gr", k)[...] += lam
    step = x.swapaxes(1, 2) @ np.linalg.solve(k, y) / sums.count
    return np.asarray(w0 + (step / spread[..., None]).swapaxes(1, 2))


def error(sums: Gram | Rows, w: Sums, b: Sums) -> float:
    """Mean squared error of weights, relative to the variance of the targets.

    Of a diagonal Gram only the part that the bias can mend is known.
    """
    off = float(np.square(sums.target_mean - (w @ sums.mean[..., None])[..., 0] - b).sum())
    if isinstance(sums, Rows):
        gap = sums.targets - sums.target_mean[:, None]
        gap = gap - (sums.rows - sums.mean[:, None]) @ w.swapaxes(1, 2)
        off += float(np.square(gap).sum()) / sums.count
    elif not sums.diagonal:
        explained = np.einsum("god,god->", w @ sums.covariance - 2 * sums.cross.swapaxes(1, 2), w)
        off += max(float(explained) + float(sums.target_variance.sum()), 0.0)
    return off / max(float(sums.target_variance.sum()), float(np.finfo(np.float64).tiny))

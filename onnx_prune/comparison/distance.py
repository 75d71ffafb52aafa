"""How far the answers of two models are apart: sums over batches, one output at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Distance:
    """How far one output of a model is from that of another.

    Attributes:
        relative_error: mean absolute difference over mean absolute value of the first model's; infinite where
            that is finite and the other is not.
        cosine: cosine similarity of all values together.
        kl: mean Kullback-Leibler divergence of the second model's class probabilities from the first's, in
            nats a sample; None where the output has no score for each class.
        top1: fraction of the samples with the same highest score; None likewise.
        samples: number of rows of scores, or of the first dim.
    """

    relative_error: float
    cosine: float
    kl: float | None
    top1: float | None
    samples: int


@dataclass
class Tally:
    """Sums over all batches of one output.

    Example:
        >>> tally = Tally()
        >>> tally.add(np.array([[1.0, 3.0]]), np.array([[3.0, 1.0]]))
        >>> found = tally.distance()
        >>> found.relative_error, round(found.cosine, 3), round(found.kl, 3), found.top1
        (1.0, 0.6, 1.523, 0.0)
    """

    gap: float = 0.0
    size: float = 0.0
    dot: float = 0.0
    squares: list[float] = field(default_factory=lambda: [0.0, 0.0])
    divergence: float = 0.0
    same: int = 0
    rows: int = 0
    samples: int = 0

    def add(self, want: Array, got: Array) -> None:
        """Count one batch; both arrays have one shape, and hold numbers."""
        a, b = want.astype(np.float64), got.astype(np.float64)
        finite, other = np.isfinite(a), np.isfinite(b)
        if (finite & ~other).any():
            self.gap = float("inf")
        both = finite & other
        x, y = a[both], b[both]
        self.gap += float(np.abs(x - y).sum())
        self.size += float(np.abs(x).sum())
        self.dot += float((x * y).sum())
        self.squares[0] += float((x * x).sum())
        self.squares[1] += float((y * y).sum())
        self.samples += len(a) if a.ndim else 1
        if are_scores(want) and both.all():
            a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
            self.divergence += float(divergence(a, b).sum())
            self.same += int((a.argmax(1) == b.argmax(1)).sum())
            self.rows += len(a)

    def distance(self) -> Distance:
        """What the sums come to."""
        error = self.gap / self.size if self.size else float("inf") if self.gap else 0.0
        norms = sqrt(self.squares[0]) * sqrt(self.squares[1])
        cosine = self.dot / norms if norms else float(self.squares[0] == self.squares[1])
        rows = self.rows if self.rows == self.samples else 0  # all batches, or none
        return Distance(
            error,
            cosine,
            self.divergence / rows if rows else None,
            self.same / rows if rows else None,
            self.samples,
        )


def are_scores(value: Array) -> bool:
    """Whether an output has a float for each class of each sample, and no other dims but some of size 1.

    Example:
        >>> [are_scores(np.zeros((8, *dims))) for dims in ((10,), (10, 1, 1), (10, 5))]
        [True, True, False]
    """
    return value.dtype.kind == "f" and value.ndim >= 2 and sum(n > 1 for n in value.shape[1:]) == 1


def divergence(want: Array, got: Array) -> NDArray[np.float64]:
    """Kullback-Leibler divergence of `got` from `want`, in nats; shape (rows,).

    Args:
        want: logits, or probabilities (rows that are not negative and add up to one); shape (rows, classes).
        got: the same of the other model.

    Example:
        >>> divergence(np.array([[0.0, 0.0]]), np.array([[0.0, np.log(3)]])).round(4)
        array([0.1438])
        >>> divergence(np.array([[0.5, 0.5]]), np.array([[0.25, 0.75]])).round(4)
        array([0.1438])
    """
    probable = all(bool((x >= 0).all() and np.allclose(x.sum(1), 1, atol=1e-3)) for x in (want, got))
    p, q = (np.log(np.maximum(x, _TINY)) if probable else _log_softmax(x) for x in (want, got))
    return np.asarray((np.exp(p) * (p - q)).sum(1))


def _log_softmax(x: Array) -> NDArray[np.float64]:
    x = x - x.max(1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(1, keepdims=True)))

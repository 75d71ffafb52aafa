"""Where the lowest scores of tensors end: read a piece at a time, in a sample and a single pass over them.

Of equal scores the later one goes first: later in its tensor, and in a later tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod as product
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnx_prune.model import pieces
from onnx_prune.model.pieces import Runs

Array = NDArray[Any]
Bool = NDArray[np.bool_]
Measure = Callable[[Array, Array | None], Array]
T = TypeVar("T")
_SAMPLE = 1 << 16  # scores at least, eight times as many at most
_COLLECT = 1 << 19  # scores that are simply sorted
_MOST_INSIDE = 1 << 23  # scores around the border that are held


class Measured:
    """Scores that are made from values as they are read, some at a time: they are never all in memory.

    Args:
        shape: of a tensor.
        read: gives its values, when the first scores are asked for.
        measure: from some of them to a score each, put into a second array where one is given, which may be
            the first one: as few places of memory as can be, for they fit into the processor's cache.

    Example:
        >>> scores = Measured((2, 2), lambda: np.array([[1, -2], [3, -4]]), np.abs)
        >>> scores[1:3].tolist()
        [2, 3]
    """

    def __init__(self, shape: tuple[int, ...], read: Callable[[], Array | Runs], measure: Measure) -> None:
        self.shape, self.size, self.measure = shape, product(shape), measure
        self._read = read

    @cached_property
    def _runs(self) -> Runs:
        values = self._read()
        return values if isinstance(values, Runs) else Runs(values)

    def __getitem__(self, part: slice) -> Array:
        """Some of the scores, in row-major order, in memory that those asked for next may take."""
        values = self._runs[part]
        return self.measure(values, values if self._runs.copies else None)

    def sample(self, count: int) -> Array:
        """About so many of them."""
        values = self._runs.sample(count)
        return self.measure(values, values)


Scores = Array | Measured
Passes = Callable[[], Iterable[Scores]]  # the scores of one tensor after the other, the same on every call


@dataclass(frozen=True, slots=True)
class Edge:
    """Where the lowest scores of one tensor end.

    Attributes:
        score: what is lower goes, what is higher stays; not-a-number is the highest.
        cut: of those that are equal the ones from this place on go, in row-major order.

    Example:
        >>> Edge(2.0, 1).goes(np.array([2.0, 1, 2, 3])).tolist()
        [False, True, True, False]
    """

    score: float
    cut: int

    def goes(self, scores: Array, first: int = 0, out: Bool | None = None) -> Bool:
        """Which of some flat scores lie below, the first of them being at place `first`."""
        if self.score != self.score:
            missing = np.isnan(scores)
            gone = np.logical_not(missing, out=out)
            gone[max(0, self.cut - first) :] = True
            return gone
        scores, own = _own(scores, self.score)
        if self.cut <= first:
            return np.asarray(np.less_equal(scores, own, out=out))
        gone = np.asarray(np.less(scores, own, out=out))
        if self.cut < first + scores.size:
            gone[self.cut - first :] |= scores[self.cut - first :] == own
        return gone


def edges(passes: Passes, count: int, total: int) -> list[Edge]:
    """For each tensor where its scores end that are among the `count` lowest of all.

    Args:
        passes: gives the scores of one tensor after the other.
        count: how many are to go, at least 1 and at most all.
        total: how many there are.
    """
    found = _all_at_once(passes, count) if total <= _COLLECT else _by_sample(passes, count, total)
    border = found or _by_digits(passes, count)
    ends: list[Edge] = []
    stays = border.stays
    for scores, equal in zip(passes(), border.equal, strict=True):
        ends.append(Edge(border.score, _place(scores, border.score, equal, stays)))
        stays = max(0, stays - sum(equal))
        del scores  # before the next ones are made
    return ends


@dataclass(frozen=True, slots=True)
class _Border:
    """Where the lowest scores of all tensors end.

    Attributes:
        score: of the last one that goes.
        stays: how many of the first ones with this score stay.
        equal: for each piece of each tensor how many have it.
    """

    score: float
    stays: int
    equal: list[list[int]]


def _all_at_once(passes: Passes, count: int) -> _Border:
    found = [np.array(_flat(scores)[0 : scores.size]) for scores in passes()]
    together = np.concatenate(found)
    score = float(np.partition(together, count - 1)[count - 1])
    lower, same = (int(np.count_nonzero(a)) for a in _compare(together, score))
    return _Border(score, same - (count - lower), [_equal(a, score) for a in found])


@dataclass(frozen=True, slots=True)
class _Tally:
    """Of some scores how many lie below, at and at the other end of a range, and those inside it."""

    below: int
    low: int
    inside: Array
    high: int


def _by_sample(passes: Passes, count: int, total: int) -> _Border | None:
    """The border, in one pass after a sample, or two; None where the sample does not say where it is.

    Floyd and Rivest 1975, "Expected time bounds for selection".
    """
    share = min(max(total >> 6, _SAMPLE), 8 * _SAMPLE) / total
    sources = (a if isinstance(a, Measured) else Runs(a) for a in passes())
    found = [a.sample(int(share * a.size) + 1) for a in sources]
    sample = found[0] if len(found) == 1 else np.concatenate(found)
    ranked, middle = sample.copy(), int(count / total * (sample.size - 1))
    error = _error(sample, _nth(ranked, middle))
    for deviations in (3, 48):
        reach = int(deviations * error) + 8
        ends = [min(max(0, middle + j), sample.size - 1) for j in (-reach, reach)]
        if deviations > 3 and (ends[1] - ends[0]) / sample.size * total > _MOST_INSIDE:
            break
        low, high = (_nth(ranked, j) for j in ends)
        border = _between(passes, count, low, high)
        if border is not None:
            return border
    return None


def _nth(scores: Array, n: int) -> float:
    """The n-th lowest score, counted from 0; the scores are put into another order."""
    scores.partition(n)
    return float(scores[n])


def _error(sample: Array, score: float) -> float:
    """The standard error of how many of a sample lie below a score.

    Scores that lie next to each other are alike, so runs of the sample are counted, each against the next:
    Wolter 1984, "An investigation of some estimators of variance for systematic sampling", the estimator by
    overlapping differences.
    """
    below, runs = _compare(sample, score)[0], sample.size // pieces.SHORT
    counts = np.count_nonzero(below[: runs * pieces.SHORT].reshape(runs, pieces.SHORT), axis=1)
    return float((runs * (np.diff(counts) ** 2).mean() / 2) ** 0.5) if runs > 1 else 0.0


def _between(passes: Passes, count: int, low: float, high: float) -> _Border | None:
    """The border where it lies from one score to another, in a single pass."""
    if low != low or high != high:
        return None
    tallies: list[list[_Tally]] = []
    for scores in passes():
        tallies.append(_tallies(scores, low, high))
        del scores  # before the next ones are made
    every = [tally for tensor in tallies for tally in tensor]
    left = count - sum(tally.below for tally in every)
    ends = [(low, sum(t.low for t in every)), (high, sum(t.high for t in every))]
    inside = np.concatenate([tally.inside for tally in every])
    if not 0 < left <= ends[0][1] + inside.size + ends[1][1]:
        return None
    if left <= ends[0][1]:
        return _Border(low, ends[0][1] - left, [[t.low for t in tensor] for tensor in tallies])
    left -= ends[0][1]
    if left > inside.size:
        left -= inside.size
        return _Border(high, ends[1][1] - left, [[t.high for t in tensor] for tensor in tallies])
    inside.partition(left - 1)
    score = inside[left - 1]
    equal = [[int(np.count_nonzero(t.inside == score)) for t in tensor] for tensor in tallies]
    among = sum(map(sum, equal))
    return _Border(float(score), among - (left - int(np.count_nonzero(inside < score))), equal)


def _tallies(scores: Scores, low: float, high: float) -> list[_Tally]:
    def look(some: Array) -> _Tally:
        below, upto = (pieces.scratch(f"range {j}", some.size, np.bool_) for j in range(2))
        np.less(*_own(some, low), out=below)
        np.less_equal(*_own(some, high), out=upto)
        under = int(np.count_nonzero(below))
        found = some.take(np.flatnonzero(np.not_equal(below, upto, out=upto)))
        low_ones, high_ones = (int(np.count_nonzero(np.equal(*_own(found, end)))) for end in (low, high))
        if low_ones or high_ones:
            found = found[np.greater(*_own(found, low)) & np.less(*_own(found, high))]
        return _Tally(under, low_ones, found, high_ones if low < high else 0)

    return _each(scores, look)


def _each(scores: Scores, work: Callable[[Array], T]) -> list[T]:
    """What `work` gives for each piece of a tensor's scores."""
    flat = _flat(scores)
    return pieces.every(scores.size, lambda part: work(flat[part]))


def _by_digits(passes: Passes, count: int) -> _Border:
    """The border: each pass counts the scores by 16 more bits of their keys, until few enough are left."""
    prefix, left = 0, count
    key = np.uint64(0)
    for shift in (48, 32, 16, 0):
        counts = np.zeros(1 << 16, np.int64)
        for found in _inside(passes, prefix, shift + 16):
            digits = ((found >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.int64)
            counts += np.bincount(digits, minlength=1 << 16)
        upto = np.cumsum(counts)
        digit = int(np.searchsorted(upto, left))
        left -= int(upto[digit] - counts[digit])
        prefix = prefix << 16 | digit
        key = np.uint64(prefix)
        if shift and counts[digit] <= _COLLECT:
            inside = np.sort(np.concatenate(list(_inside(passes, prefix, shift))))
            key = inside[left - 1]
            left -= int(np.searchsorted(inside, key))
            break
    top = np.uint64(1 << 63)
    score = float(np.array(key ^ top if key & top else ~key).view(np.float64))
    equal = [_equal(scores, score) for scores in passes()]
    return _Border(score, sum(map(sum, equal)) - left, equal)


def keys(scores: Array) -> NDArray[np.uint64]:
    """Unsigned integers in the order of the scores, not-a-number last, -0 as 0.

    Example:
        >>> found = keys(np.array([-np.inf, -1, -0.0, 0, 1, np.inf, np.nan]))
        >>> bool((np.diff(found.astype(float)) >= 0).all()), bool(found[2] == found[3])
        (True, True)
    """
    plain = scores.astype(np.float64) + 0.0
    plain[np.isnan(plain)] = np.nan  # of one sign
    bits = plain.view(np.uint64)
    top = np.uint64(1 << 63)
    return np.where(bits & top, ~bits, bits | top)


def _compare(scores: Array, score: float) -> tuple[Bool, Bool]:
    """Which scores are lower than one, and which are equal to it."""
    if score != score:
        missing = np.isnan(scores)
        return ~missing, missing
    scores, own = _own(scores, score)
    return scores < own, scores == own


def _own(scores: Array, score: float) -> tuple[Array, Any]:
    """Scores and another one as numbers of one type that has both: the scores' own type if it does."""
    own = _as(scores.dtype, score)
    return (scores.astype(np.float64), np.float64(score)) if own is None else (scores, own)


@lru_cache(64)
def _as(dtype: np.dtype[Any], score: float) -> Any:
    """A score as a number of a type, None where this has no such number."""
    with np.errstate(over="ignore"):
        own = dtype.type(score)
    return own if float(own) == score else None


def _equal(scores: Scores, score: float) -> list[int]:
    """For each piece of a tensor how many have a score."""
    return _each(scores, lambda some: int(np.count_nonzero(_compare(some, score)[1])))


def _place(scores: Scores, score: float, equal: list[int], number: int) -> int:
    """Where, counted from 0, the score is found that has `number` equal ones before it; else the end."""
    for piece, count in enumerate(equal):
        if number < count:
            part = slice(piece * pieces.PIECE, min((piece + 1) * pieces.PIECE, scores.size))
            return part.start + int(np.flatnonzero(_compare(_flat(scores)[part], score)[1])[number])
        number -= count
    return scores.size


def _flat(scores: Scores) -> Scores:
    return scores if isinstance(scores, Measured) else scores.reshape(-1)


def _inside(passes: Passes, prefix: int, shift: int) -> Iterator[NDArray[np.uint64]]:
    """The keys that begin with `prefix`, `shift` bits being left."""

    def look(some: Array) -> NDArray[np.uint64]:
        found = keys(some)
        return found if shift == 64 else found[found >> np.uint64(shift) == np.uint64(prefix)]

    for scores in passes():
        flat = _flat(scores)
        yield from pieces.each(scores.size, lambda part, flat=flat: look(flat[part]))  # type: ignore[misc]
        del scores, flat  # before the next ones are made

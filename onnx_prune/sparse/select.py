"""Exactly so many of the lowest scores, in one tensor or over many, ties always decided the same way.

Of equal scores the later one goes first: later in its tensor, and in a later tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import floor
from math import prod as product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Bool = NDArray[np.bool_]
_EPSILON = 1e-9  # 0.3 * 10 is 2.9999999999999996, and means 3
_CHUNK = 1 << 20
_SAMPLE = 1 << 16
_COLLECT = 1 << 19  # scores that are simply sorted


def portion(ratio: float, count: int) -> int:
    """How many of `count` a ratio is: rounded down.

    Example:
        >>> portion(0.3, 10), portion(0.5, 5)
        (3, 2)
    """
    return floor(ratio * count + _EPSILON)


def lowest(scores: Array, count: int) -> Bool:
    """Which scores are the `count` lowest; a score that is not a number is the highest.

    Example:
        >>> lowest(np.array([2.0, 1, 3, 1, 1]), 2).astype(int)
        array([0, 0, 0, 1, 1])
    """
    flat = scores.reshape(-1)
    if count <= 0:
        return np.zeros(scores.shape, np.bool_)
    if count >= flat.size:
        return np.ones(scores.shape, np.bool_)
    edge = _nth(flat, count)
    below = flat < edge if edge == edge else ~np.isnan(flat)
    equal = np.flatnonzero(flat == edge) if edge == edge else np.flatnonzero(np.isnan(flat))
    below[equal[equal.size - (count - np.count_nonzero(below)) :]] = True
    return np.asarray(below.reshape(scores.shape))


def _nth(flat: Array, n: int) -> Any:
    """The n-th lowest score, counted from 1.

    A sample of a large array says about where it is; the few scores around are looked through.  Floyd and
    Rivest 1975, "Expected time bounds for selection", in one pass and without a copy.
    """
    if flat.size > _SAMPLE * 16:
        sample = np.sort(flat[:: flat.size // _SAMPLE])
        at, slack = int(n / flat.size * sample.size), 4 * int(sample.size**0.5)
        low, high = sample[max(0, at - slack)], sample[min(sample.size - 1, at + slack)]
        before = np.count_nonzero(flat < low)
        inside = flat[(flat >= low) & (flat <= high)]
        if before < n <= before + inside.size:
            return np.partition(inside, n - before - 1)[n - before - 1]
    return np.partition(flat, n - 1)[n - 1]


@dataclass(frozen=True, slots=True)
class Border:
    """Where the lowest of many scores end.

    Attributes:
        key: the highest key (see `keys`) that goes.
        stays: how many of the first scores with this key stay.
    """

    key: np.uint64
    stays: int


def border(passes: Callable[[], Iterable[Array]], count: int) -> Border:
    """The border below which exactly `count` scores lie, without holding them all.

    Each pass counts the scores by 16 more bits of their keys, until few enough are left to be sorted.

    Args:
        passes: gives the scores of one tensor after the other, the same on every call.
        count: how many are to go, at least 1 and at most all.
    """
    prefix, left = 0, count
    for shift in (48, 32, 16, 0):
        counts = np.zeros(1 << 16, np.int64)
        for found in _inside(passes, prefix, shift + 16):
            digits = ((found >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.int64)
            counts += np.bincount(digits, minlength=1 << 16)
        total = np.cumsum(counts)
        digit = int(np.searchsorted(total, left))
        left -= int(total[digit] - counts[digit])
        prefix = prefix << 16 | digit
        if shift and counts[digit] <= _COLLECT:
            inside = np.sort(np.concatenate(list(_inside(passes, prefix, shift))))
            key = inside[left - 1]
            before = int(np.searchsorted(inside, key))
            equal = int(np.searchsorted(inside, key, "right")) - before
            return Border(key, equal - (left - before))
    return Border(np.uint64(prefix), int(counts[digit]) - left)


def below(passes: Iterable[Array], border: Border) -> Iterable[Bool]:
    """For one tensor after the other which scores lie below the border."""
    stays = border.stays
    for scores in passes:
        gone = np.empty(scores.size, np.bool_)
        for start, found in _chunks(scores):
            gone[start : start + found.size] = found < border.key
            equal = np.flatnonzero(found == border.key)
            gone[start + equal[min(stays, equal.size) :]] = True
            stays -= min(stays, equal.size)
        shape = scores.shape
        del scores  # before the next ones are made
        yield gone.reshape(shape)


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


def _chunks(scores: Array) -> Iterable[tuple[int, NDArray[np.uint64]]]:
    flat = scores.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        yield start, keys(flat[start : start + _CHUNK])


def _inside(passes: Callable[[], Iterable[Array]], prefix: int, shift: int) -> Iterable[NDArray[np.uint64]]:
    """The keys that begin with `prefix`, `shift` bits being left."""
    for scores in passes():
        for _, found in _chunks(scores):
            yield found if shift == 64 else found[found >> np.uint64(shift) == np.uint64(prefix)]
        del scores  # before the next ones are made


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

"""How the weights are spread before and after, as Han et al. 2015 show it: as counts and as text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
BINS, REACH = 41, 4.0  # an odd number of bins, so that one has its middle at zero
_SAMPLE = 1 << 20  # weights of a tensor that are looked at
_BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of the weights that are not zero, each divided by its tensor's standard deviation.

    Attributes:
        reach: the first and last bins end there, and hold what lies beyond.
        before: counts.
        after: counts.
    """

    reach: float
    before: tuple[int, ...]
    after: tuple[int, ...]


def histogram(pairs: Iterable[tuple[Array, Array]]) -> Histogram:
    """Count over the tensors of a model; of a large tensor every so many-th weight.

    Args:
        pairs: for each tensor its values before and after.
    """
    before, after = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
    edges = np.linspace(-REACH, REACH, BINS + 1)
    for old, new in pairs:
        step = -(-old.size // _SAMPLE)
        one, other = (a.reshape(-1)[::step].astype(np.float64) for a in (old, new))
        scale = float(one[np.isfinite(one)].std()) if np.isfinite(one).any() else 0.0
        for counts, values in ((before, one), (after, other)):
            found = values[np.isfinite(values) & (values != 0)] / (scale or 1.0)
            counts += np.histogram(np.clip(found, -REACH, REACH), edges)[0]
    return Histogram(REACH, tuple(map(int, before)), tuple(map(int, after)))


def sparkline(counts: Iterable[int], most: int) -> str:
    """Counts as bars, a character each.

    Example:
        >>> sparkline([0, 1, 4, 8], 8)
        ' ▁▄█'
    """
    top = len(_BARS) - 1
    return "".join(_BARS[min(top, -(-count * top // max(most, 1)))] for count in counts)

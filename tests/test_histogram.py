"""How weights are spread: counts by hand."""

from __future__ import annotations

import numpy as np

from onnx_prune.sparse.histogram import BINS, histogram

# Deviation 2: -1, 1 and 3 of it, with zeros that do not count; bins are 8 / 41 wide, the middle one is 20.
OLD = np.array([-2.0, 2, -2, 2], np.float32)
NEW = np.array([0.0, 6, 0, 100], np.float32)


def test_counts_by_hand() -> None:
    found = histogram([(OLD, NEW)])
    assert {j: n for j, n in enumerate(found.before) if n} == {15: 2, 25: 2}
    assert {j: n for j, n in enumerate(found.after) if n} == {35: 1, BINS - 1: 1}


def test_what_is_not_finite_or_zero_does_not_count() -> None:
    found = histogram([(np.array([np.nan, np.inf, 0.0, 0.0]), np.zeros(4))])
    assert sum(found.before) == sum(found.after) == 0

"""Streamed sums against what NumPy says of all rows at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_prune.calibration.gram import Gram


def drawn(seed: int, groups: int = 2, rows: int = 30, width: int = 4, results: int = 3):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    x = 100 + rng.standard_normal((groups, rows, width)) @ rng.standard_normal((width, width))
    return x, x @ rng.standard_normal((width, results)) - 7


@given(seed=st.integers(0, 100), cuts=st.lists(st.integers(1, 29), min_size=1, max_size=3, unique=True))
def test_whatever_the_pieces(seed: int, cuts: list[int]) -> None:
    x, y = drawn(seed)
    gram = Gram()
    for a, b in zip(np.split(x, sorted(cuts), 1), np.split(y, sorted(cuts), 1), strict=True):
        gram.add(a, b)
    for g in range(len(x)):
        both = np.cov(x[g].T, y[g].T, bias=True)
        np.testing.assert_allclose(gram.covariance[g], both[:4, :4], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(gram.cross[g], both[:4, 4:], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(gram.target_variance[g], np.diag(both)[4:], rtol=1e-9)
    np.testing.assert_allclose(gram.mean, x.mean(1))
    np.testing.assert_allclose(gram.target_mean, y.mean(1))
    np.testing.assert_allclose(gram.energy, (x**2).mean(1))


@pytest.mark.parametrize("diagonal", [False, True])
def test_two_that_were_shifted_differently_add_up(diagonal: bool) -> None:
    x, y = drawn(1)
    first, second, whole = (Gram(diagonal=diagonal) for _ in range(3))
    first.add(x[:, :11], y[:, :11])
    second.add(x[:, 11:], y[:, 11:])
    whole.add(x, y)
    both = first + second
    assert both.count == 30
    for name in ("mean", "variance", "target_mean", "target_variance"):
        np.testing.assert_allclose(getattr(both, name), getattr(whole, name), rtol=1e-9)
    if not diagonal:
        np.testing.assert_allclose(both.covariance, whole.covariance, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(both.cross, whole.cross, rtol=1e-9, atol=1e-9)


def test_nothing_cancels_where_the_mean_is_large() -> None:
    rows = 1e6 + np.random.default_rng(0).standard_normal((1, 1000, 2)).astype(np.float64)
    gram = Gram()
    for part in np.split(rows, 10, 1):
        gram.add(part)
    np.testing.assert_allclose(gram.covariance[0], np.cov(rows[0].T, bias=True), rtol=1e-6, atol=1e-8)


def test_an_empty_one_adds_nothing() -> None:
    gram = Gram()
    gram.add(drawn(0)[0])
    assert (gram + Gram()).count == (Gram() + gram).count == 30

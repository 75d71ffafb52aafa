"""One layer's least squares: what is taken where the best fit is not to be had."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_prune.calibration import refit
from onnx_prune.calibration.gram import Gram
from tests.graphs import noise


def sums(rows: int, seed: int) -> Gram:
    """Of a layer whose weights are to be found from rows with noise."""
    x = noise(1, rows, 6, seed=seed).astype(np.float64)
    gram = Gram()
    gram.add(x, x @ noise(6, 3) + 0.3 * noise(1, rows, 3, seed=seed + 1))
    return gram


def test_a_fit_that_explodes_on_all_samples_gives_way_to_the_next_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train, held = sums(40, 1), sums(20, 3)
    matrix, bias = noise(1, 3, 6), np.zeros((1, 3))
    first = refit.fit(train, held, matrix, bias)
    assert first.kind == "refitted"

    solve = refit.solve

    def exploding(gram: Gram, w0: refit.Sums, lam: float) -> refit.Sums:
        return solve(gram, w0, lam) * (1e6 if gram.count == 60 and lam == first.lam else 1)

    monkeypatch.setattr(refit, "solve", exploding)
    second = refit.fit(train, held, matrix, bias)
    assert second.kind == "refitted"
    assert second.lam != first.lam
    assert second.after >= first.after
    np.testing.assert_allclose(second.matrix, solve(train + held, matrix.astype(float), second.lam))

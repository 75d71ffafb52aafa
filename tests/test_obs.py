"""Block-OBS against least squares worked out anew after every removal."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_prune.calibration.gram import Gram
from onnx_prune.calibration.obs import Correlated, Part, Uncorrelated, eliminate, part, shrinkage, shrunk
from tests.graphs import Array


def drawn(width: int, results: int, groups: int = 1, rows: int = 400, seed: int = 0) -> tuple[Gram, Array]:
    rng = np.random.default_rng(seed)
    gram = Gram()
    mixing = np.eye(width) + rng.standard_normal((width, width)) / width
    gram.add(rng.standard_normal((groups, rows, width)) @ mixing)
    return gram, rng.standard_normal((groups, results, width))


def left_over(gram: Gram, matrix: Array, gone: Array) -> float:
    """Relative error, on new data, of the best affine map from the other columns, all groups together."""
    kept = np.setdiff1d(np.arange(matrix.shape[2]), gone)
    error = total = 0.0
    fitted = np.linalg.solve(shrunk(gram.covariance, gram.count), gram.covariance)
    fitted *= 1 - shrinkage(gram.covariance, gram.count)[:, None, None]
    freedom = np.trace(fitted, axis1=1, axis2=2).mean()
    for h, w in zip(shrunk(gram.covariance, gram.count), matrix, strict=True):
        total += np.trace(w @ h @ w.T)
        a, b, c = h[np.ix_(kept, kept)], h[np.ix_(kept, gone)], h[np.ix_(gone, gone)]
        lost = c - b.T @ np.linalg.pinv(a) @ b if kept.size else c
        error += np.trace(w[:, gone] @ lost @ w[:, gone].T)
    return error / total * (gram.count + freedom) / (gram.count - freedom)


@pytest.mark.parametrize(("groups", "wide"), [(1, 1), (1, 3), (2, 2)])
def test_errors_are_those_of_refitting(groups: int, wide: int) -> None:
    gram, matrix = drawn(6 * wide, 5, groups)
    blocks = np.arange(6 * wide).reshape(6, wide)
    errors = eliminate([Correlated(gram, matrix, blocks)], 6, 6 * wide)
    order = np.argsort(errors)
    for j in range(1, 7):
        gone = blocks[order[:j]].ravel()
        assert errors[order[j - 1]] == pytest.approx(left_over(gram, matrix, gone), rel=0.02, abs=2e-3)


def test_the_first_to_go_is_the_one_that_costs_least() -> None:
    gram, matrix = drawn(8, 3)
    blocks = np.arange(8)[:, None]
    costs = [left_over(gram, matrix, np.array([j])) for j in range(8)]
    np.testing.assert_allclose(Correlated(gram, matrix, blocks).costs(np.arange(8)), costs, rtol=0.02)
    assert np.argmin(eliminate([part(gram, matrix, blocks)], 8, 8)) == np.argmin(costs)


def test_layers_add_up() -> None:
    parts: list[Part] = []
    for seed in (1, 2):
        gram, matrix = drawn(4, 2, seed=seed)
        parts.append(part(gram, matrix, np.arange(4)[:, None]))
    both = sum(p.costs(np.arange(4)) for p in parts)
    np.testing.assert_allclose(eliminate(parts, 4, 4).min(), both.min())


def test_columns_of_nobody_stay_and_help() -> None:
    """The layer reads another group's channels too: they make up for those that go."""
    gram = Gram()
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 500, 2))
    gram.add(np.concatenate([x, x], 2))
    errors = eliminate([Correlated(gram, np.ones((1, 1, 4)), np.array([[0], [1]]))], 2, 4)
    assert errors.max() < 1e-2


def test_wide_layers_lose_channels_in_steps() -> None:
    gram, matrix = drawn(1100, 4, rows=1500)
    blocks = np.arange(1100).reshape(100, 11)
    errors = eliminate([Correlated(gram, matrix, blocks)], 100, 1100)
    assert np.unique(errors).size == 100
    order = np.argsort(errors)
    gone = blocks[order[:50]].ravel()
    assert errors[order[49]] == pytest.approx(left_over(gram, matrix, gone), rel=0.1)


def test_without_correlations_each_channel_counts_for_itself() -> None:
    gram = Gram(diagonal=True)
    gram.add(np.array([[[1.0, 2.0, 5.0], [-1.0, -2.0, 5.0]]]))
    found = part(gram, np.array([[[1.0, 1.0, 1.0]]]), np.arange(3)[:, None])
    assert isinstance(found, Uncorrelated)
    # variances 1, 4 and 0 of 5 together
    np.testing.assert_allclose(found.costs(np.arange(3)), [0.2, 0.8, 0.0])
    np.testing.assert_allclose(eliminate([found], 3, 3), [0.2, 1.0, 0.0])


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_inputs_cost_nothing(value: float) -> None:
    gram = Gram()
    gram.add(np.full((1, 10, 4), value))
    assert eliminate([part(gram, np.ones((1, 2, 4)), np.arange(4)[:, None])], 4, 4).tolist() == [0.0] * 4


def test_few_rows_do_not_make_a_channel_look_needless() -> None:
    """With fewer rows than columns every column can be had from the others, on these rows alone."""
    width, rows = 60, 40
    (few, matrix), (many, _) = drawn(width, 4, rows=rows), drawn(width, 4, rows=100_000)
    blocks = np.arange(width)[:, None]
    guessed, true = (np.sort(eliminate([Correlated(g, matrix, blocks)], width, width)) for g in (few, many))
    assert 0.5 < guessed[width // 2] / true[width // 2] < 2

"""Wanda, RIA and SparseGPT against straightforward implementations: patches by loops, dense inverses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_prune.errors import InputError
from onnx_prune.sparse import sparsegpt
from onnx_prune.sparse.sparsegpt import Runs
from onnx_prune.sparse.sparsify import SparseResult, sparsify
from onnx_prune.sparse.sparsity import Sparsity
from tests.graphs import Array, build, initializers, node, noise

SAMPLES = 12


def patches(x: Array, kernel: int, stride: int, pad: int) -> Array:
    """Rows of a convolution's input, shape (rows, channels, kernel, kernel), one loop a dim."""
    padded = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    last = padded.shape[2] - kernel + 1
    return np.array(
        [
            sample[:, i : i + kernel, j : j + kernel]
            for sample in padded
            for i in range(0, last, stride)
            for j in range(0, last, stride)
        ]
    )


def damped(moments: Array) -> Array:
    return np.asarray(moments + 0.01 * np.mean(np.diag(moments)) * np.eye(len(moments)))


def straightforward(
    weight: Array, moments: Array, count: int, runs: tuple[int, int, int] | None = None
) -> Array:
    """SparseGPT without blocks and without a Cholesky factor: an inverse for each column."""
    weight, full = weight.astype(float).copy(), damped(moments)
    inverses = [np.linalg.inv(full[j:, j:]) for j in range(len(full))]
    loss = np.array([inverse[0, 0] for inverse in inverses])
    gone = np.zeros(weight.shape, bool)
    if runs is None:
        order = np.argsort((weight**2 / loss).ravel(), kind="stable")
        gone.ravel()[order[:count]] = True
    for j, inverse in enumerate(inverses):
        if runs is not None:
            n, m, length = runs
            at = j % length
            if at % m == 0:
                width = min(m, length - at)
                scores = weight[:, j : j + width] ** 2 / loss[j : j + width]
                for row, own in zip(gone, scores, strict=True):
                    row[j : j + width][np.argsort(own, kind="stable")[: max(0, width - n)]] = True
        step = np.where(gone[:, j], weight[:, j], 0) / inverse[0, 0]
        weight[:, j:] -= np.outer(step, inverse[0])
    return np.where(gone, 0, weight)


def problem(outputs: int, inputs: int, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((300, inputs)) @ rng.standard_normal((inputs, inputs))
    return rng.standard_normal((outputs, inputs)), x.T @ x / 300


@pytest.mark.parametrize("count", [0, 7, 48, 95])
def test_sparsegpt_by_dense_inverses(count: int) -> None:
    weight, moments = problem(6, 16)
    solved = sparsegpt.solve(weight, moments, count)
    np.testing.assert_allclose(solved.values, straightforward(weight, moments, count), atol=1e-5)
    assert (solved.values == 0).sum() == count


@pytest.mark.parametrize(("n", "m", "length"), [(2, 4, 16), (1, 4, 8), (2, 4, 6)])
def test_sparsegpt_in_runs_by_dense_inverses(n: int, m: int, length: int) -> None:
    weight, moments = problem(5, 3 * length)
    solved = sparsegpt.solve(weight, moments, runs=Runs(n, m, length))
    expected = straightforward(weight, moments, 0, (n, m, length))
    np.testing.assert_allclose(solved.values, expected, atol=1e-5)


def test_blocks_lose_their_shares_exactly() -> None:
    weight, moments = problem(3, 300)
    for count in (1, 450, 899):
        solved = sparsegpt.solve(weight, moments, count)
        assert (~solved.keep).sum() == count
        blocks = [int((~solved.keep[:, j : j + 128]).sum()) for j in (0, 128, 256)]
        assert all(abs(b / n - count / 900) < 0.01 for b, n in zip(blocks, (384, 384, 132), strict=True))


def test_what_is_zero_stays_so_and_counts() -> None:
    weight, moments = problem(4, 260)
    weight[:, 200:] = 0
    solved = sparsegpt.solve(weight, moments, 520)
    assert not solved.values[:, 200:].any()
    assert (solved.values == 0).sum() == 520
    forced = np.zeros(weight.shape, bool)
    forced[0] = True
    assert not sparsegpt.solve(weight, moments, 520, forced=forced).values[0].any()


def test_the_error_is_less_than_that_of_the_mask_alone() -> None:
    weight, moments = problem(8, 32)

    def error(values: Array) -> float:
        return float(np.trace((values - weight) @ moments @ (values - weight).T))

    solved = sparsegpt.solve(weight, moments, 128)
    assert error(solved.values) < error(np.where(solved.keep, weight, 0))


def test_a_refit_by_hand() -> None:
    # x now is half of what it was, so that the weight has to double: up to a hundredth of damping,
    # (2 * 0.25 + 0.0025) / (0.25 + 0.0025)
    found = sparsegpt.refit(np.array([[1.0]]), np.array([[0.25]]), np.array([[0.5]]))
    np.testing.assert_allclose(found, [[0.5025 / 0.2525]])
    same = sparsegpt.refit(np.array([[3.0, 4]]), np.diag([1.0, 2]), np.array([[3.0], [8]]))
    np.testing.assert_allclose(same, [[3, 4]])


def run(model: onnx.ModelProto, x: Array, tmp_path: Path, **asked: Any) -> SparseResult:
    np.savez(tmp_path / "x.npz", x=x)
    return sparsify(model, asked=Sparsity(data=tmp_path / "x.npz", **asked))


def rows_of(kind: str) -> tuple[onnx.ModelProto, Array, Array, Array, tuple[int, ...]]:
    """A model of one layer, its inputs, the rows it reads, its matrix, and the axes to the stored order."""
    rng = np.random.default_rng(0)
    if kind == "conv":
        x = rng.standard_normal((SAMPLES, 6, 5, 5)).astype(np.float32)
        weight = noise(8, 6, 3, 3)
        layer = node("y = Conv(x, w, b)", strides=[2, 2], pads=[1, 1, 1, 1])
        model = build([layer], {"w": weight, "b": noise(8)}, {"x": ("n", 6, 5, 5)}, {"y": ("n", 8, 3, 3)})
        # position by position, inputs side by side
        rows = patches(x, 3, 2, 1).transpose(0, 2, 3, 1).reshape(-1, 54)
        return model, x, rows, weight.transpose(0, 2, 3, 1).reshape(8, 54), (0, 3, 1, 2)
    x = rng.standard_normal((SAMPLES, 18)).astype(np.float32)
    turned = kind == "gemm-t"
    weight = noise(8, 18) if turned else noise(18, 8)
    layer = node("y = MatMul(x, w)") if kind == "matmul" else node("y = Gemm(x, w, b)", transB=int(turned))
    model = build([layer], {"w": weight, "b": noise(8)}, {"x": ("n", 18)}, {"y": ("n", 8)})
    return model, x, x, weight if turned else weight.T, (0, 1) if turned else (1, 0)


def stored(kind: str, matrix: Array, axes: tuple[int, ...]) -> Array:
    return matrix.reshape(8, 3, 3, 6).transpose(axes) if kind == "conv" else matrix.transpose(axes)


KINDS = ["conv", "gemm", "gemm-t", "matmul"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_sparsegpt_of_a_layer(kind: str, pattern: str, tmp_path: Path) -> None:
    model, x, rows, matrix, axes = rows_of(kind)
    moments = rows.astype(float).T @ rows / len(rows)
    ratio = {} if pattern == "2:4" else {"ratio": 0.6}
    result = run(model, x, tmp_path, criterion="sparsegpt", pattern=pattern, **ratio)
    runs = (2, 4, 6 if kind == "conv" else 18) if pattern == "2:4" else None
    expected = stored(kind, straightforward(matrix, moments, int(0.6 * matrix.size), runs), axes)
    assert result.model is not None
    np.testing.assert_allclose(initializers(result.model)["w"], expected, atol=1e-5)
    assert result.report.zeros == result.report.asked


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("criterion", ["wanda", "ria"])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_wanda_and_ria_of_a_layer(kind: str, criterion: str, pattern: str, tmp_path: Path) -> None:
    model, x, rows, matrix, axes = rows_of(kind)
    norms = np.sqrt((rows.astype(float) ** 2).sum(0))
    size = np.abs(matrix)
    if criterion == "wanda":
        scores = size * norms
    else:
        scores = (size / size.sum(0) + size / size.sum(1, keepdims=True)) * np.sqrt(norms)
    keep = np.ones(matrix.shape, bool)
    length = 6 if kind == "conv" else 18
    for row, own in zip(keep, scores, strict=True):
        if pattern == "unstructured":
            row[np.argsort(own)[: matrix.shape[1] // 2]] = False
            continue
        for first in range(0, matrix.shape[1], length):
            for j in range(first, first + length, 4):
                run_ = slice(j, min(j + 4, first + length))
                row[run_][np.argsort(own[run_])[: max(0, run_.stop - j - 2)]] = False
    result = run(model, x, tmp_path, criterion=criterion, pattern=pattern)
    assert np.array_equal(result.mask.bits["w"].keep(), stored(kind, keep, axes))


def test_a_grouped_convolution_has_moments_of_its_own_for_each_group(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((SAMPLES, 4, 4, 4)).astype(np.float32)
    weight = noise(6, 2, 1, 1)
    layer = node("y = Conv(x, w)", group=2)
    model = build([layer], {"w": weight}, {"x": ("n", 4, 4, 4)}, {"y": ("n", 6, 4, 4)})
    result = run(model, x, tmp_path, criterion="sparsegpt", ratio=0.5)
    assert result.model is not None
    got = initializers(result.model)["w"].reshape(6, 2)
    for half in (slice(0, 3), slice(3, 6)):
        inputs = slice(2 * (half.start // 3), 2 * (half.start // 3) + 2)
        rows = x[:, inputs].transpose(0, 2, 3, 1).reshape(-1, 2).astype(float)
        expected = straightforward(weight[half].reshape(3, 2), rows.T @ rows / len(rows), 3)
        np.testing.assert_allclose(got[half], expected, atol=1e-5)


def test_later_layers_make_up_for_earlier_ones(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    x = (rng.standard_normal((200, 16)) @ rng.standard_normal((16, 16))).astype(np.float32)
    weights = {"w1": noise(16, 16), "w2": noise(16, 8)}
    nodes = ["h = MatMul(x, w1)", "r = Relu(h)", "y = MatMul(r, w2)"]
    model = build(nodes, weights, {"x": ("n", 16)}, {"y": ("n", 8)})

    def outputs(stored: dict[str, Array]) -> Array:
        return np.maximum(x @ stored["w1"], 0) @ stored["w2"]

    errors = {}
    for criterion in ("magnitude", "wanda", "sparsegpt"):
        result = run(model, x, tmp_path, criterion=criterion, ratio=0.5)
        assert result.model is not None
        errors[criterion] = np.abs(outputs(initializers(result.model)) - outputs(weights)).mean()
    assert errors["sparsegpt"] < min(errors["wanda"], errors["magnitude"])


def test_a_layer_that_is_no_plain_product_goes_by_magnitude(tmp_path: Path) -> None:
    nodes = [node("t = Transpose(v)", perm=[1, 0]), "h = MatMul(x, w)", "y = MatMul(h, t)"]
    model = build(nodes, {"w": noise(6, 6), "v": noise(4, 6)}, {"x": ("n", 6)}, {"y": ("n", 4)})
    result = run(model, noise(8, 6), tmp_path, criterion="wanda")
    [note] = [note for note in result.report.notes if "magnitude" in note]
    assert note == "by magnitude, for what is read is not a plain product: 1 weight, such as v"
    assert [layer.zeros for layer in result.report.layers] == [18, 12]


def test_data_that_do_not_fit(tmp_path: Path) -> None:
    model = build(["y = MatMul(x, w)"], {"w": noise(6, 6)}, {"x": ("n", 6)}, {"y": ("n", 6)})
    with pytest.raises(InputError, match="input x is"):
        run(model, noise(8, 5), tmp_path, criterion="wanda")

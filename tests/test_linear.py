"""A node's rows times its matrices are what onnxruntime says of the node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_prune.calibration.linear import Linear, linear
from onnx_prune.model.graph import Graph
from onnx_prune.runtime import Session
from tests.graphs import Array, build, node, noise

Case = tuple[str, dict[str, Any], tuple[int, ...], dict[str, Array]]

# text of the node, attributes, shape of x, weights
CASES: dict[str, Case] = {
    "1x1": ("y = Conv(x, w)", {}, (2, 3, 5, 4), {"w": noise(6, 3, 1, 1)}),
    "bias": ("y = Conv(x, w, b)", {}, (2, 3, 5, 5), {"w": noise(6, 3, 3, 3), "b": noise(6)}),
    "stride 2": (
        "y = Conv(x, w)",
        {"strides": [2, 2], "pads": [1] * 4},
        (2, 3, 8, 7),
        {"w": noise(6, 3, 3, 3)},
    ),
    "1x1 stride 2": ("y = Conv(x, w)", {"strides": [2, 2]}, (2, 3, 8, 7), {"w": noise(6, 3, 1, 1)}),
    "dilation 2, groups": (
        "y = Conv(x, w, b)",
        {"dilations": [2, 2], "group": 2, "pads": [2, 1, 0, 3]},
        (2, 4, 8, 9),
        {"w": noise(6, 2, 3, 3), "b": noise(6)},
    ),
    "depthwise": ("y = Conv(x, w)", {"group": 4, "pads": [1] * 4}, (2, 4, 6, 6), {"w": noise(4, 1, 3, 3)}),
    "multiplier": ("y = Conv(x, w)", {"group": 4}, (2, 4, 6, 6), {"w": noise(8, 1, 3, 3)}),
    "SAME_UPPER": (
        "y = Conv(x, w)",
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        (2, 3, 8, 7),
        {"w": noise(4, 3, 5, 5)},
    ),
    "SAME_LOWER": (
        "y = Conv(x, w)",
        {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
        (2, 3, 8, 7),
        {"w": noise(4, 3, 4, 4)},
    ),
    "VALID": ("y = Conv(x, w)", {"auto_pad": "VALID"}, (2, 3, 8, 7), {"w": noise(4, 3, 4, 4)}),
    "1-D": ("y = Conv(x, w)", {"strides": [2], "pads": [1, 0]}, (2, 3, 9), {"w": noise(4, 3, 3)}),
    "3-D": ("y = Conv(x, w)", {"strides": [1, 2, 1]}, (2, 2, 4, 5, 4), {"w": noise(4, 2, 2, 3, 2)}),
    "Gemm": ("y = Gemm(x, w, b)", {}, (5, 4), {"w": noise(4, 6), "b": noise(6)}),
    "Gemm transB": ("y = Gemm(x, w, b)", {"transB": 1}, (5, 4), {"w": noise(6, 4), "b": noise(6)}),
    "Gemm transA": ("y = Gemm(x, w)", {"transA": 1}, (4, 5), {"w": noise(4, 6)}),
    "Gemm alpha, beta": (
        "y = Gemm(x, w, b)",
        {"alpha": 0.5, "beta": 3.0, "transA": 1, "transB": 1},
        (4, 5),
        {"w": noise(6, 4), "b": noise(6)},
    ),
    "Gemm, constant left": ("y = Gemm(w, x)", {}, (4, 5), {"w": noise(6, 4)}),
    "Gemm, constant left, both turned": (
        "y = Gemm(w, x, b)",
        {"transA": 1, "transB": 1},
        (5, 4),
        {"w": noise(4, 6), "b": noise(6, 1)},
    ),
    "MatMul": ("y = MatMul(x, w)", {}, (2, 3, 4), {"w": noise(4, 6)}),
    "MatMul, stacked constant": ("y = MatMul(x, w)", {}, (2, 3, 4), {"w": noise(1, 1, 4, 6)}),
    "MatMul, constant left": ("y = MatMul(w, x)", {}, (2, 4, 3), {"w": noise(6, 4)}),
}


def made(case: Case) -> tuple[onnx.ModelProto, Linear]:
    text, attrs, shape, weights = case
    model = build([node(text, **attrs)], weights, {"x": shape}, {"y": []})
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    graph = Graph(model)
    found = linear(graph, graph.nodes[0])
    assert found is not None
    return model, found


def flat(bias: Array | None, groups: int) -> Array:
    return np.zeros((groups, 1, 1)) if bias is None else bias.reshape(groups, 1, -1)


@pytest.mark.parametrize("name", CASES)
def test_rows_times_matrix_is_the_result(name: str) -> None:
    model, found = made(CASES[name])
    shape, weights = CASES[name][2:]
    x = noise(*shape, seed=3)
    y = Session(model).run({"x": x})[0]
    rows, matrix = found.rows(x), found.matrix(weights["w"])
    assert rows.shape[1] == found.count(x.shape)
    got = rows.astype(np.float64) @ matrix.transpose(0, 2, 1) + found.scale * flat(
        weights.get("b"), found.groups
    )
    np.testing.assert_allclose(got, found.results(y), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.fold(matrix, weights["w"].shape), weights["w"], rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_some_of_the_rows(name: str) -> None:
    model, found = made(CASES[name])
    x = noise(*CASES[name][2], seed=3)
    y = Session(model).run({"x": x})[0]
    pick = np.arange(0, found.count(x.shape), 2)
    np.testing.assert_array_equal(found.rows(x, pick), found.rows(x)[:, pick])
    np.testing.assert_array_equal(found.results(y, pick), found.results(y)[:, pick])


@pytest.mark.parametrize("name", CASES)
def test_a_bias_goes_where_it_is_added(name: str) -> None:
    model, found = made(CASES[name])
    y = Session(model).run({"x": noise(*CASES[name][2])})[0]
    bias = np.arange(found.groups * found.results(y).shape[2], dtype=np.float32)
    if found.bias is None:
        changed = y + found.spread(bias)
    else:
        whole = bias.reshape(1, -1, *[1] * (y.ndim - 2)) if "Conv" in CASES[name][0] else found.spread(bias)
        changed = y + whole
    before = Session(model).run({"x": noise(*CASES[name][2])})[0]
    moved = found.results(changed) - found.results(before)
    np.testing.assert_allclose(moved, np.broadcast_to(flat(bias, found.groups), moved.shape), atol=1e-5)


@pytest.mark.parametrize(
    ("text", "weights", "inputs"),
    [
        ("y = MatMul(x, z)", {}, ("x", "z")),
        ("y = MatMul(a, b)", {"a": noise(3, 3), "b": noise(3, 3)}, ()),
        ("y = MatMul(x, w)", {"w": noise(2, 3, 3)}, ("x",)),
        ("y = MatMul(v, x)", {"v": noise(3)}, ("x",)),
        ("y = MatMul(x, v)", {"v": noise(3)}, ("x",)),
        ("y = Conv(x, x)", {}, ("x",)),
        ("y = Relu(x)", {}, ("x",)),
    ],
)
def test_no_single_product(text: str, weights: dict[str, Array], inputs: Sequence[str]) -> None:
    graph = Graph(build([text], weights, {name: [2, 3, 3] for name in inputs}, {"y": [2, 3, 3]}))
    assert linear(graph, graph.nodes[0]) is None


@pytest.mark.parametrize(
    ("dim", "want"), [(1, [0, 0, 0, 0, 1, 1, 1, 1]), (2, [0, 0, 1, 1] * 2), (3, [0, 1] * 4)]
)
def test_columns_of_a_kernel(dim: int, want: list[int]) -> None:
    case: Case = ("y = Conv(x, w)", {}, (1, 2, 4, 4), {"w": noise(3, 2, 2, 2)})
    assert made(case)[1].columns(dim, (3, 2, 2, 2)).tolist() == want


@pytest.mark.parametrize(
    ("text", "attrs", "stored", "shape"),
    [
        ("y = MatMul(x, t)", {}, noise(6, 4), (2, 3, 4)),
        ("y = MatMul(t, x)", {}, noise(4, 6), (2, 4, 3)),
        ("y = Gemm(x, t)", {"transB": 1, "alpha": 2.0}, noise(4, 6), (5, 4)),
    ],
)
def test_a_matrix_behind_a_transpose(
    text: str, attrs: dict[str, Any], stored: Array, shape: tuple[int, ...]
) -> None:
    model = build(
        ["t = Transpose(w)", node(text, **attrs)], {"w": stored}, {"x": shape}, {"y": [None] * len(shape)}
    )
    graph = Graph(model)
    layer = linear(graph, graph.nodes[1], behind=True)
    assert layer is not None
    assert layer.stored == "w"
    assert linear(graph, graph.nodes[1]) is None
    x = noise(*shape)
    [y] = Session(model).run({"x": x})
    matrix = layer.matrix(stored)
    np.testing.assert_allclose(layer.rows(x) @ matrix.swapaxes(1, 2), layer.results(y), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(layer.fold(matrix, stored.shape), stored)
    assert layer.inner_operand(stored.shape) == 1 - layer.inner(stored.shape)


@pytest.mark.parametrize(
    "before",
    [
        [node("t = Transpose(w)", perm=[0, 1])],
        ["t = Transpose(w)", "z = Relu(t)"],
    ],
    ids=["turns nothing", "has other readers"],
)
def test_not_every_transpose_is_looked_behind(before: Sequence[Any]) -> None:
    model = build([*before, "y = MatMul(x, t)"], {"w": noise(4, 4)}, {"x": [2, 4]}, {"y": [2, 4]})
    graph = Graph(model)
    assert linear(graph, graph.nodes[-1], behind=True) is None

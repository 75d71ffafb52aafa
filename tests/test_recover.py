"""Refitted weights against dense least squares in float64 that knows nothing of patches.

The reference runs each layer in onnxruntime with one weight at a time set to 1: what comes out is a column of
the design matrix, whatever the operator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnx_prune.axes.axis import Atom, Mask
from onnx_prune.calibration import taps
from onnx_prune.calibration.data import Calibration, load
from onnx_prune.calibration.recover import Method, Recovery, Refit, recover
from onnx_prune.coupling import Coupling
from onnx_prune.cut import cut
from onnx_prune.runtime import Session
from tests.graphs import Array, analyse, build, initializers, node, noise

SHAPE = (2, 3, 9, 8)
FIRST = [node("a = Conv(x, w1, b1)", pads=[1] * 4), "r = Relu(a)"]
IMAGE = {"w1": noise(8, 3, 3, 3), "b1": noise(8)}
ROWS = {"w1": noise(5, 8), "b1": noise(8)}


def images(*nodes: Any, **weights: Array) -> onnx.ModelProto:
    """A convolution of 8 filters, and what reads it."""
    return build([*FIRST, *nodes], IMAGE | weights, {"x": ["n", 3, 9, 8]}, {"y": ["n", "c", "h", "w"]})


def rows(*nodes: Any, **weights: Array) -> onnx.ModelProto:
    """A layer of 8 neurons, and what reads it."""
    first = ["h = Gemm(x, w1, b1)", "r = Relu(h)"]
    return build([*first, *nodes], ROWS | weights, {"x": ["n", 5]}, {"y": ["n", "c"]})


def left() -> onnx.ModelProto:
    """Constants on the left: columns are the vectors."""
    weights = {"w1": noise(8, 5), "w": noise(4, 8)}
    nodes = ["h = MatMul(w1, x)", "r = Relu(h)", "y = MatMul(w, r)"]
    return build(nodes, weights, {"x": ["n", 5, 6]}, {"y": ["n", "c", 6]})


DEPTHWISE = ["c = Conv(r, w2)", "d = Relu(c)", node("e = Conv(d, w)", group=8, pads=[1] * 4), "f = Relu(e)"]

# The model, the shape of its input, and where results stand in the weight and in the layer's result.
CASES: dict[str, tuple[onnx.ModelProto, tuple[int, ...], int, int]] = {
    "stride 2": (
        images(node("y = Conv(r, w, b)", strides=[2, 2], pads=[1] * 4), w=noise(5, 8, 3, 3), b=noise(5)),
        SHAPE,
        0,
        1,
    ),
    "dilation 2 with groups": (
        images(node("y = Conv(r, w)", dilations=[2, 2], group=2, pads=[2, 1, 0, 2]), w=noise(6, 4, 3, 3)),
        SHAPE,
        0,
        1,
    ),
    "depthwise": (
        images(
            *DEPTHWISE, "y = Conv(f, w3)", w2=noise(8, 8, 1, 1), w=noise(8, 1, 3, 3), w3=noise(4, 8, 1, 1)
        ),
        SHAPE,
        0,
        1,
    ),
    "SAME_UPPER": (
        images(node("y = Conv(r, w)", auto_pad="SAME_UPPER", strides=[2, 2]), w=noise(4, 8, 4, 4)),
        SHAPE,
        0,
        1,
    ),
    "1x1": (images("y = Conv(r, w)", w=noise(4, 8, 1, 1)), SHAPE, 0, 1),
    "Gemm transB": (rows(node("y = Gemm(r, w, b)", transB=1), w=noise(3, 8), b=noise(3)), (30, 5), 0, 1),
    "Gemm alpha, beta": (
        rows(node("y = Gemm(r, w, b)", alpha=0.5, beta=2.0), w=noise(8, 3), b=noise(3)),
        (30, 5),
        1,
        1,
    ),
    "MatMul": (rows("y = MatMul(r, w)", w=noise(8, 3)), (30, 5), 1, 1),
    "MatMul, Add": (rows("m = MatMul(r, w)", "y = Add(b, m)", w=noise(8, 3), b=noise(3)), (30, 5), 1, 1),
    "MatMul constant left": (left(), (4, 5, 6), 0, 1),
    "more inputs than rows": (rows("y = MatMul(r, w)", w=noise(8, 3)), (1, 5), 1, 1),
}


def halved(model: onnx.ModelProto) -> tuple[Coupling, dict[Atom, Mask], onnx.ModelProto]:
    coupling = analyse(model)
    plan = {group.atom: np.arange(group.size) % 2 == 0 for group in coupling.groups}
    return coupling, plan, cut(coupling, plan).whole()


def calibration(coupling: Coupling, shape: tuple[int, ...], kind: type = np.float32) -> Calibration:
    # the input's own covariance makes neighbours alike, so that the channels left can stand in for others
    sets = [{"x": np.cumsum(noise(*shape, seed=j), -1).astype(kind)} for j in range(6)]
    return load(sets, coupling.graph, {})


def recovered(
    model: onnx.ModelProto, shape: tuple[int, ...], method: Method = "lstsq"
) -> tuple[onnx.ModelProto, Recovery, Calibration]:
    coupling, plan, small = halved(model)
    found = calibration(coupling, shape)
    report = recover(coupling, plan, small, found, method)
    onnx.checker.check_model(small)
    return small, report, found


def values(model: onnx.ModelProto, name: str, found: Calibration) -> Array:
    return np.concatenate([v[name] for v in taps.stream(model, [name], found.feeds)]).astype(np.float64)


def reference(
    small: onnx.ModelProto, want: Array, found: Calibration, start: Array, lam: float, out: int, at: int
) -> Array:
    """The weight of the layer that reads "w", by dense least squares of each of its results."""
    [layer] = [n for n in small.graph.node if "w" in n.input]
    source = next(name for name in layer.input if name not in initializers(small))
    x = values(small, source, found).astype(np.float32)
    lone = onnx.NodeProto()
    lone.CopyFrom(layer)
    lone.output[0] = "result"
    one = build([lone], initializers(small), {source: x.shape}, {"result": [None] * x.ndim})
    weights = np.moveaxis(start, out, 0)
    columns = np.prod(weights.shape[1:], dtype=int)

    def said(weight: Array) -> Array:
        for tensor in one.graph.initializer:
            new = np.zeros(tensor.dims, np.float32)
            if tensor.name == "w":
                new = np.ascontiguousarray(np.moveaxis(weight, 0, out)).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(new, tensor.name))
        y = Session(one).run({source: x})[0].astype(np.float64)
        return np.moveaxis(y, at, 0).reshape(y.shape[at], -1)

    basis = np.eye(columns).reshape(columns, 1, *weights.shape[1:])
    design = np.stack(
        [said(np.broadcast_to(b, weights.shape)) for b in basis], -1
    )  # (results, rows, columns)
    target = np.moveaxis(want, at, 0).reshape(len(weights), -1)
    new = np.empty((len(weights), columns))
    for o, (a, y) in enumerate(zip(design, target, strict=True)):
        centred, w0 = a - a.mean(0), weights[o].reshape(-1).astype(np.float64)
        ridge = np.diag(np.sqrt(lam * len(a)) * np.maximum(a.std(0), 1e-6 * a.std(0).max()))
        whole, right = np.vstack([centred, ridge]), np.append(y - y.mean(), ridge @ w0)
        new[o] = np.linalg.lstsq(whole, right, rcond=None)[0]
    return np.moveaxis(new.reshape(weights.shape), 0, out)


def of_layer(report: Recovery, name: str = "w") -> Refit:
    [found] = [layer for layer in report.layers if layer.layer == name]
    return found


@pytest.mark.parametrize("name", CASES)
def test_weights_are_those_of_dense_least_squares(name: str) -> None:
    model, shape, out, at = CASES[name]
    coupling, plan, small = halved(model)
    start = initializers(small)["w"]
    found = calibration(coupling, shape)
    report = of_layer(recover(coupling, plan, small, found))
    assert report.kind == "refitted"
    assert report.after is not None
    assert report.before is not None
    assert report.after < report.before
    [layer] = [n for n in model.graph.node if "w" in n.input]
    want = values(model, layer.output[0], found)
    if name == "depthwise":
        want = want[:, ::2]
    expected = reference(small, want, found, start, report.lam, out, at)
    got = initializers(small)["w"]
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", CASES)
def test_the_mean_is_right_whether_there_was_a_bias_or_not(name: str) -> None:
    model, shape, _, at = CASES[name]
    small, _, found = recovered(model, shape)
    want, got = (np.moveaxis(values(m, "y", found), at, 0) for m in (model, small))
    spread = want.std()
    gap = got.reshape(len(got), -1).mean(1) - want.reshape(len(want), -1).mean(1)
    assert np.abs(gap).max() <= 1e-5 * spread


def test_a_bias_is_added_once_and_only_where_there_is_none() -> None:
    for name, nodes in (("MatMul", 4), ("MatMul, Add", 4), ("1x1", 3)):
        small, _, _ = recovered(*CASES[name][:2])
        assert len(small.graph.node) == nodes, name


RESIDUAL = [
    node("s = Conv(r, w2)"),
    node("c = Conv(r, w, b)", pads=[1] * 4),
    "t = Add(c, s)",
    "u = Relu(t)",
    "y = Conv(u, w3)",
]


def test_a_sum_makes_up_for_its_other_branch() -> None:
    weights = {"w2": noise(6, 8, 1, 1), "w": noise(6, 8, 3, 3), "b": noise(6), "w3": noise(2, 6, 1, 1)}
    model = images(*RESIDUAL, **weights)
    coupling, plan, small = halved(model)
    start, found = initializers(small)["w"], calibration(coupling, SHAPE)
    report = of_layer(recover(coupling, plan, small, found))
    want = values(model, "t", found)[:, ::2] - values(small, "s", found)
    expected = reference(small, want, found, start, report.lam, 0, 1)
    assert np.abs(initializers(small)["w"] - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_sum_is_looked_for_behind_batch_normalization() -> None:
    weights = {"w2": noise(6, 8, 1, 1), "w": noise(6, 8, 3, 3), "b": noise(6), "w3": noise(2, 6, 1, 1)}
    norm = {
        "g": noise(6, seed=1),
        "e": noise(6, seed=2),
        "m": noise(6, seed=3),
        "v": 1 + noise(6, seed=4) ** 2,
    }
    nodes = [*RESIDUAL[:2], "q = BatchNormalization(c, g, e, m, v)", "t = Add(q, s)", *RESIDUAL[3:]]
    model = images(*nodes, **weights, **norm)
    small, _, found = recovered(model, SHAPE)
    want, got = values(model, "t", found)[:, ::2], values(small, "t", found)
    np.testing.assert_allclose(got.mean((0, 2, 3)), want.mean((0, 2, 3)), atol=1e-4)


def test_half_precision_is_solved_in_double() -> None:
    model = rows(node("y = Gemm(r, w, b)", transB=1), w=noise(3, 8), b=noise(3))
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    coupling, plan, small = halved(model)
    found = calibration(coupling, (30, 5), np.float16)
    start = initializers(small)["w"].astype(np.float32)
    report = of_layer(recover(coupling, plan, small, found))
    assert report.kind == "refitted"
    got = initializers(small)["w"]
    assert got.dtype == np.float16
    x, want = values(small, "r", found), values(model, "y", found)
    centred, spread = x - x.mean(0), x.std(0)
    covariance = centred.T @ centred / len(x)
    ridge = report.lam * np.diag(spread**2)
    right = centred.T @ (want - want.mean(0)) / len(x) + ridge @ start.T
    expected = np.linalg.solve(covariance + ridge, right).T
    np.testing.assert_allclose(got, expected, rtol=2e-3, atol=2e-3)


def test_layers_before_the_first_cut_are_left_alone() -> None:
    """Filters that stay say what they said; only what sums over fewer of them is fitted."""
    small, report, _ = recovered(*CASES["1x1"][:2])
    assert [layer.layer for layer in report.layers] == ["w"]
    np.testing.assert_array_equal(initializers(small)["w1"], IMAGE["w1"][::2])


def test_a_weight_of_two_layers_is_left_alone() -> None:
    nodes = ["m = MatMul(r, w)", "s = Relu(m)", "t = MatMul(s, w)", "y = MatMul(t, v)"]
    model = rows(*nodes, w=noise(8, 8), v=noise(8, 3))
    small, report, _ = recovered(model, (30, 5))
    assert [layer.kind for layer in report.layers] == ["unchanged", "unchanged", "refitted"]
    assert of_layer(report, "v").why == ""
    assert {layer.why for layer in report.layers[:2]} == {"its weight has other users"}
    np.testing.assert_array_equal(initializers(small)["w"], noise(8, 8)[::2, ::2])


def test_a_bias_of_two_layers_becomes_two() -> None:
    nodes = ["p = Conv(r, w, b)", "q = Conv(r, w2, b)", "y = Concat(p, q)"]
    nodes[2] = node("y = Concat(p, q)", axis=1)
    model = images(*nodes, w=noise(4, 8, 1, 1), w2=noise(4, 8, 3, 3)[:, :, 1:2, 1:2], b=noise(4))
    small, _, _ = recovered(model, SHAPE)
    [first, second] = [n.input[2] for n in small.graph.node if n.op_type == "Conv"][1:]
    assert first != second


def test_what_is_computed_from_constants_alone_is_left_alone() -> None:
    nodes = ["m = MatMul(r, w)", "k = MatMul(l, v)", "s = Mul(m, k)", "y = MatMul(s, u)"]
    start = ["i = Identity(c)", "l = MatMul(i, w2)"]
    more = {"c": noise(1, 5), "w2": noise(5, 8), "v": noise(8, 6), "u": noise(6, 3)}
    _, report, _ = recovered(rows(*start, *nodes, w=noise(8, 6), **more), (30, 5))
    assert [layer.layer for layer in report.layers] == ["w", "u"]


def test_operators_that_can_not_be_fitted_are_told_of() -> None:
    nodes = [node("y = ConvTranspose(r, w)")]
    _, report, _ = recovered(images(*nodes, w=noise(8, 4, 2, 2)), SHAPE)
    assert of_layer(report) == Refit("w", "unchanged", "ConvTranspose can't be fitted")


@pytest.mark.parametrize(
    ("bias", "why"),
    [
        (["c = Gemm(x, v)", "y = Gemm(r, w, c)"], "its bias is computed at run time"),
        (["y = Gemm(r, w, e)"], "its bias is no vector"),
    ],
)
def test_a_bias_that_can_not_be_written(bias: list[str], why: str) -> None:
    weights = ROWS | {"w": noise(8, 3), "v": noise(5, 3), "e": noise(4, 3)}
    nodes = ["h = Gemm(x, w1, b1)", "r = Relu(h)", *bias]
    model = build(nodes, weights, {"x": [4, 5]}, {"y": [4, 3]})
    _, report, _ = recovered(model, (4, 5))
    assert of_layer(report) == Refit("w", "unchanged", why)


def test_a_computed_weight_is_told_of() -> None:
    nodes = ["v = Neg(w)", "m = MatMul(r, v)", "y = Gemm(m, u, b)"]
    _, report, _ = recovered(rows(*nodes, w=noise(8, 6), u=noise(6, 3), b=noise(3)), (30, 5))
    assert report.layers[0] == Refit("v", "unchanged", "its weight is computed")
    assert of_layer(report, "u").kind == "refitted"


def test_biases_alone() -> None:
    model, shape = CASES["stride 2"][:2]
    small, report, found = recovered(model, shape, "bias")
    assert report.number("bias") == 1
    np.testing.assert_array_equal(initializers(small)["w"], initializers(model)["w"][:, ::2])
    gap = values(small, "y", found).mean((0, 2, 3)) - values(model, "y", found).mean((0, 2, 3))
    assert np.abs(gap).max() < 1e-4


def test_statistics_of_batch_normalization() -> None:
    norm = {"g": noise(5), "e": noise(5), "m": noise(5), "v": 1 + noise(5) ** 2}
    nodes = [node("c = Conv(r, w, b)"), "y = BatchNormalization(c, g, e, m, v)"]
    model = images(*nodes, w=noise(5, 8, 3, 3), b=noise(5), **norm)
    small, report, found = recovered(model, SHAPE, "bn")
    assert [(layer.layer, layer.kind) for layer in report.layers] == [("g", "refitted")]
    c = values(small, "c", found)
    np.testing.assert_allclose(initializers(small)["m"], c.mean((0, 2, 3)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(initializers(small)["v"], c.var((0, 2, 3)), rtol=1e-4)


def test_statistics_of_two_layers_are_left_alone() -> None:
    norm = {"g": noise(5), "e": noise(5), "m": noise(5)}
    nodes = [node("c = Conv(r, w)"), "y = BatchNormalization(c, g, e, m, m)"]
    _, report, _ = recovered(images(*nodes, w=noise(5, 8, 3, 3), **norm), SHAPE, "bn")
    assert report.layers[0].why == "its statistics have other users"


def test_noise_is_not_fitted() -> None:
    """Where inputs and targets have nothing to do with each other, the weights stay as they are."""
    nodes = ["m = MatMul(r, w)", "y = Mul(m, z)"]
    model = rows(*nodes, w=np.zeros((8, 3), np.float32), z=noise(3))
    _, report, _ = recovered(model, (30, 5))
    assert of_layer(report).kind == "unchanged"
    assert of_layer(report).why == "no better than before on held-out samples"


def outputs(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> Array:
    return Session(model).run(feeds)[0]


def test_little_memory_gives_the_same_weights() -> None:
    model, shape = CASES["depthwise"][:2]
    results = []
    for memory in (1 << 40, 1):
        coupling, plan, small = halved(model)
        recover(coupling, plan, small, calibration(coupling, shape), memory=memory)
        results.append(small.SerializeToString())
    assert results[0] == results[1]


def test_weights_in_constant_nodes() -> None:
    model = rows("m = MatMul(r, w)", "s = Relu(m)", "y = MatMul(s, v)", w=noise(8, 6), v=noise(6, 2))
    plain, expected, _ = recovered(model, (30, 5))
    graph = model.graph
    moved = [t for t in graph.initializer if t.name in ("w", "v")]
    for tensor in moved:
        graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
        graph.initializer.remove(tensor)
    other, report, found = recovered(model, (30, 5))
    assert [layer.kind for layer in report.layers] == [layer.kind for layer in expected.layers]
    assert report.number("refitted") > 0
    np.testing.assert_allclose(outputs(plain, found.feeds[0]), outputs(other, found.feeds[0]), rtol=1e-4)


def test_weights_behind_a_transpose_are_fitted_where_they_are_stored() -> None:
    w, v = noise(8, 6), noise(6, 2)
    plain, _, _ = recovered(rows("m = MatMul(r, w)", "s = Relu(m)", "y = MatMul(s, v)", w=w, v=v), (30, 5))
    nodes = ["t = Transpose(w)", "m = MatMul(r, t)", "s = Relu(m)", "u = Transpose(v)", "y = MatMul(s, u)"]
    other, report, found = recovered(rows(*nodes, w=w.T.copy(), v=v.T.copy()), (30, 5))
    assert [layer.layer for layer in report.layers] == ["w", "v"]
    assert report.number("refitted") > 0
    np.testing.assert_allclose(outputs(plain, found.feeds[0]), outputs(other, found.feeds[0]), rtol=1e-4)

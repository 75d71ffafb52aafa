"""Which weights take part, and how they lie, for every way to store a layer."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_prune.sparse.weights import EMBEDDING, SCALE, Weights, find
from tests import zoo
from tests.graphs import Array, Dims, analyse, build, node, noise


def found(
    nodes: list[onnx.NodeProto | str], weights: dict[str, Array], x: Dims, y: Dims, **options: int
) -> Weights:
    return find(analyse(build(nodes, weights, {"x": x}, {"y": y}, **options)))


def lying(weights: Weights) -> dict[str, str]:
    return {weight.name: str(weight.layout) for weight in weights.taking}


@pytest.mark.parametrize(
    ("layer", "shape", "x", "y", "layout"),
    [
        (node("y = Conv(x, w)"), (4, 3, 2, 2), (1, 3, 5, 5), (1, 4, 4, 4), "out sum position position"),
        (node("y = Conv(x, w)", group=2), (4, 3, 2), (1, 6, 5), (1, 4, 4), "(out out) sum position"),
        (node("y = Conv(x, w)", group=4), (4, 1, 2), (1, 4, 5), (1, 4, 4), "out sum position"),
        (node("y = ConvTranspose(x, w)"), (3, 4, 2), (1, 3, 5), (1, 4, 6), "sum out position"),
        (
            node("y = ConvTranspose(x, w)", group=3),
            (6, 4, 2),
            (1, 6, 5),
            (1, 12, 6),
            "(out sum) out position",
        ),
        (node("y = Gemm(x, w, b)"), (3, 4), (2, 3), (2, 4), "sum out"),
        (node("y = Gemm(x, w)", transB=1), (4, 3), (2, 3), (2, 4), "out sum"),
        (node("y = Gemm(w, x)"), (4, 3), (3, 2), (4, 2), "out sum"),
        (node("y = MatMul(x, w)"), (3, 4), (5, 2, 3), (5, 2, 4), "sum out"),
        (node("y = MatMul(w, x)"), (4, 3), (5, 3, 2), (5, 4, 2), "out sum"),
        (node("y = MatMul(x, w)"), (5, 3, 4), (5, 2, 3), (5, 2, 4), "out sum out"),
        (node("y = Einsum(x, w)", equation="bi,oi->bo"), (4, 3), (2, 3), (2, 4), "out sum"),
    ],
)
def test_layers(layer: onnx.NodeProto, shape: tuple[int, ...], x: Dims, y: Dims, layout: str) -> None:
    weights = found([layer], {"w": noise(*shape), "b": noise(1, 4)}, x, y)
    assert lying(weights) == {"w": layout}
    assert weights.taking[0].shape == shape
    assert weights.taking[0].end == "both"


def test_recurrent_matrices_sum_over_inputs_and_over_themselves() -> None:
    layer = node("r, h = LSTM(x, w, r0, b)", hidden_size=4)
    weights = {"w": noise(1, 16, 3), "r0": noise(1, 16, 4), "b": noise(1, 32)}
    taking = found([layer, "y = Squeeze(r)"], weights, (5, 2, 3), ("a", "b", "c"), opset=13)
    assert lying(taking) == {"w": "out (position out) sum", "r0": "out (position out) sum"}


def test_weights_are_found_where_they_are_stored() -> None:
    nodes = [
        node("t = Transpose(w)", perm=[3, 2, 0, 1]),
        "c = Conv(x, t)",
        node("k = Constant()", value=onnx.numpy_helper.from_array(noise(4, 6))),
        node("f = Flatten(c)"),
        "g = Gemm(f, k)",
        "s = Shape(g)",
        "r = Reshape(m, sh)",
        "y = MatMul(g, r)",
    ]
    weights = {"w": noise(2, 2, 3, 4), "m": noise(3, 2, 5), "sh": np.array([6, 5])}
    assert lying(found(nodes, weights, (1, 3, 2, 2), (1, 5))) == {
        "w": "position position sum out",
        "k": "sum out",
        "m": "sum sum out",
    }


def test_what_is_spared() -> None:
    nodes = [
        node("i = Cast(x)", to=onnx.TensorProto.INT64),
        "e = Gather(table, i)",
        "n = Mul(e, gain)",
        node("h = Gemm(n, w, b)", transB=1),
        node("t = Transpose(table)", perm=[1, 0]),
        "l = MatMul(h, t)",
        node("s = ReduceSum(l)", axes=[1], keepdims=1),
        "y = MatMul(s, k)",
    ]
    weights = {
        "table": noise(7, 3),
        "gain": noise(3),
        "w": noise(3, 3),
        "b": noise(3),
        "k": noise(1, 4),
    }
    weights_found = found(nodes, weights, (2,), (2, 4), opset=11)
    assert lying(weights_found) == {"w": "out sum"}
    assert {s.name: s.why for s in weights_found.spared} == {"table": EMBEDDING, "k": SCALE}


def test_first_and_last() -> None:
    nodes = [
        "a = MatMul(x, w1)",
        "b = MatMul(a, w2)",
        "c = MatMul(b, w3)",
        "d = MatMul(x, w4)",
        "y = Add(c, d)",
    ]
    weights = {f"w{j}": noise(3, 3) for j in range(1, 5)}
    taking = found(nodes, weights, (2, 3), (2, 3)).taking
    assert {w.name: w.end for w in taking} == {"w1": "first", "w2": "", "w3": "last", "w4": "both"}


def test_a_shared_weight_is_one() -> None:
    nodes = [node("a = MatMul(x, w)", "one"), node("y = MatMul(a, w)", "two")]
    [weight] = found(nodes, {"w": noise(3, 3)}, (2, 3), (2, 3)).taking
    assert set(weight.labels) == {"MatMul one", "MatMul two"}
    assert set(weight.readers) == {(0, 1), (1, 1)}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("a_mobilenet_v2-ts11-raw", 53),
        ("c_deberta_v2-ts17", 13),
        ("d_onnx_if_outer_weights-opset17", 4),
        ("d_weightnorm_unfolded-ts17", 2),
        ("e_unet-tf2onnx17-db", 7),
        ("f_resnet_groupnorm-jax2onnx21", 6),
    ],
)
def test_shipped_models(name: str, count: int) -> None:
    coupling = analyse(zoo.load(name))
    taking = find(coupling).taking
    share = sum(weight.size for weight in taking) / coupling.graph.params()
    assert len(taking) == count
    assert 0.88 < share <= 1
    for weight in taking:
        assert weight.shape == coupling.graph.dims(weight.name)

"""Weights that are used twice, transposed, tied, filled at run time or fed: one weight is one weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.checker import check_model

from tests.graphs import (
    Array,
    analyse,
    build,
    group_of,
    groups_of,
    halved,
    initializers,
    node,
    noise,
    places,
    why,
)


def language_model(head: Sequence[onnx.NodeProto | str]) -> onnx.ModelProto:
    """Tokens, a table of 20 rows of 8, a hidden layer of 12, and `head` over the table again."""
    nodes = [
        node("i = Cast(x)", to=TensorProto.INT64),
        "e = Gather(table, i)",
        "a = MatMul(e, w1)",
        "b = Relu(a)",
        "o = MatMul(b, w2)",
        *head,
    ]
    weights = {"table": noise(20, 8), "w1": noise(8, 12), "w2": noise(12, 8), "gamma": noise(8)}
    return build(nodes, weights, {"x": (2, 4)}, {"y": (2, 4, 20)})


TRANSPOSED = ["t = Transpose(table)", "y = MatMul(o, t)"]
NORMALISED = ["n = LayerNormalization(o, gamma)", "t = Transpose(table)", "y = MatMul(n, t)"]


def test_a_tied_embedding_is_one_weight() -> None:
    """Its width is cut on both sides at once, its rows are the model's answers."""
    model = language_model(TRANSPOSED)
    coupling = analyse(model)
    width = places(("table", 1), ("w1", 0), ("w2", 1))
    assert groups_of(coupling) == {(8, width), (12, places(("w1", 1), ("w2", 0)))}
    _, error, small = halved(model)
    assert error <= 1e-6
    assert initializers(small)["table"].shape == (20, 4)
    assert why(coupling, "table", 0) == {"Gather e: its positions are looked up by index"}


def test_the_width_of_a_tied_embedding_is_mixed_behind_a_norm() -> None:
    coupling = analyse(language_model(NORMALISED))
    assert group_of(coupling, "table", 1).mixed == "LayerNormalization n takes a statistic over it"
    assert group_of(coupling, "table", 1) is group_of(coupling, "gamma", 0)
    assert group_of(coupling, "w1", 1).mixed is None


def test_a_weight_used_plain_and_transposed() -> None:
    """An autoencoder with one matrix: it is cut once for both of its uses."""
    nodes = ["a = MatMul(x, w1)", "h = MatMul(a, w)", "r = Relu(h)", "t = Transpose(w)"]
    nodes += ["o = MatMul(r, t)", "y = MatMul(o, w2)"]
    model = build(
        nodes, {"w1": noise(4, 6), "w": noise(6, 8), "w2": noise(6, 3)}, {"x": (2, 4)}, {"y": (2, 3)}
    )
    coupling = analyse(model)
    assert groups_of(coupling) == {(6, places(("w1", 1), ("w", 0), ("w2", 0))), (8, places(("w", 1)))}
    _, error, small = halved(model)
    assert error <= 1e-6
    assert initializers(small)["w"].shape == (3, 4)


def test_a_square_weight_used_plain_and_transposed_has_one_width() -> None:
    nodes = ["a = MatMul(x, w1)", "h = MatMul(a, w)", "t = Transpose(w)", "o = MatMul(a, t)", "s = Mul(h, o)"]
    weights = {"w1": noise(4, 8), "w": noise(8, 8), "w2": noise(8, 3)}
    model = build([*nodes, "y = MatMul(s, w2)"], weights, {"x": (2, 4)}, {"y": (2, 3)})
    assert groups_of(analyse(model)) == {(8, places(("w1", 1), ("w", 0), ("w", 1), ("w2", 0)))}
    assert halved(model)[1] <= 1e-6


def test_twins_share_a_weight() -> None:
    nodes = ["a = MatMul(x, w1)", "b = MatMul(z, w1)", "d = Sub(a, b)", "q = Mul(d, d)", "y = MatMul(q, w2)"]
    weights = {"w1": noise(4, 8), "w2": noise(8, 3)}
    model = build(nodes, weights, {"x": (2, 4), "z": (2, 4)}, {"y": (2, 3)})
    assert groups_of(analyse(model)) == {(8, places(("w1", 1), ("w2", 0)))}
    assert halved(model)[1] <= 1e-6


@pytest.mark.parametrize("value", [0.0, 0.5])
@pytest.mark.parametrize("width", [8, 80])
def test_a_weight_that_is_filled_at_run_time(width: int, value: float) -> None:
    """However small; its size is restated, and what it makes of zero is not zero where it holds none."""
    fill = numpy_helper.from_array(np.array([value], np.float32))
    nodes = [
        node("ones = ConstantOfShape(size)", value=fill),
        "a = Conv(x, w1)",
        "b = BatchNormalization(a, ones, bias, mean, spread)",
        "c = Sigmoid(b)",
        "y = Conv(c, w2)",
    ]
    vectors = {"bias": noise(width), "mean": noise(width), "spread": np.abs(noise(width))}
    weights = {"w1": noise(width, 3, 1, 1), "w2": noise(5, width, 1, 1), "size": np.array([width]), **vectors}
    model = build(nodes, weights, {"x": (2, 3, 4, 4)}, {"y": (2, 5, 4, 4)})
    [(size, members)] = groups_of(analyse(model))
    assert size == width
    assert members == places(("w1", 0), ("bias", 0), ("mean", 0), ("spread", 0), ("w2", 1))
    _, error, small = halved(model)
    check_model(small, full_check=True)
    assert error <= 1e-6


def fed(nodes: Sequence[str], weights: Mapping[str, Array], *names: str) -> onnx.ModelProto:
    """A model whose initializers are inputs too, and may be fed."""
    inputs = {"x": (2, 4), **{name: weights[name].shape for name in names}}
    return build(nodes, weights, inputs, {"y": (2, 3)})


def test_initializers_that_are_inputs_too() -> None:
    """They are cut, and what the inputs declare follows."""
    model = fed(
        ["a = MatMul(x, w1)", "y = MatMul(a, w2)"], {"w1": noise(4, 8), "w2": noise(8, 3)}, "w1", "w2"
    )
    assert groups_of(analyse(model)) == {(8, places(("w1", 1), ("w2", 0)))}
    _, error, small = halved(model)
    check_model(small, full_check=True)
    assert error <= 1e-6
    declared = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in small.graph.input}
    assert declared == {"x": [2, 4], "w1": [4, 4], "w2": [4, 3]}
    assert {name: array.shape for name, array in initializers(small).items()} == {"w1": (4, 4), "w2": (4, 3)}


def test_a_vector_that_is_an_input_too_is_not_copied() -> None:
    """Whoever feeds it feeds one vector; without that, each user would have a copy of its own."""
    nodes = [
        "a = MatMul(x, w1)",
        "b = Add(a, bias)",
        "c = MatMul(b, w2)",
        "d = Add(c, bias)",
        "y = MatMul(d, w3)",
    ]
    weights = {"w1": noise(4, 8), "w2": noise(8, 8), "w3": noise(8, 3), "bias": noise(8)}
    assert len(analyse(fed(nodes, weights)).groups) == 2
    coupling = analyse(fed(nodes, weights, "bias"))
    assert len(coupling.groups) == 1
    assert why(coupling, "w1", 0) == {"x is a graph input"}
    assert halved(fed(nodes, weights, "bias"))[1] <= 1e-6

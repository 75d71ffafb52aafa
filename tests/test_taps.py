"""Values inside a model as they stream by."""

from __future__ import annotations

import numpy as np
import onnx

from onnx_prune.calibration import taps
from tests.graphs import build, noise
from tests.models import small_cnn


def test_inner_values_and_inputs() -> None:
    model = build(
        ["a = MatMul(x, w)", "b = Relu(a)", "y = MatMul(b, v)"],
        {"w": noise(3, 4), "v": noise(4, 2)},
        {"x": ["n", 3]},
        {"y": ["n", 2]},
    )
    feeds = [{"x": noise(n, 3)} for n in (2, 5)]
    found = list(taps.stream(model, ["b", "x"], feeds))
    assert [sorted(values) for values in found] == [["b", "x"]] * 2
    for feed, values in zip(feeds, found, strict=True):
        np.testing.assert_allclose(values["b"], np.maximum(feed["x"] @ noise(3, 4), 0), rtol=1e-6)
        np.testing.assert_array_equal(values["x"], feed["x"])


def test_only_what_is_needed_is_taken_along() -> None:
    model = small_cnn()
    before = model.SerializeToString()
    part = taps.part(model, model.graph.input, ["b"])
    assert [n.op_type for n in part.graph.node] == ["Conv", "Relu"]
    assert [t.name for t in part.graph.initializer] == ["conv1.weight", "conv1.bias"]
    assert model.SerializeToString() == before


def test_a_part_starts_where_values_are_given() -> None:
    model = small_cnn()
    values = {"b": noise(1, 8, 8, 8), "c": noise(1, 16, 8, 8)}
    part = taps.part(model, taps.described(values, values), ["d"])
    assert [n.op_type for n in part.graph.node] == ["Relu"]
    assert [v.name for v in part.graph.input] == ["c"]
    [got] = list(taps.stream(part, ["d"], [values]))
    np.testing.assert_array_equal(got["d"], np.maximum(values["c"], 0))


def test_what_a_branch_reads_comes_along() -> None:
    inner = onnx.helper.make_graph(
        [onnx.helper.make_node("Mul", ["a", "w"], ["r"])],
        "then",
        [],
        [onnx.helper.make_tensor_value_info("r", 1, None)],
    )
    branch = onnx.helper.make_node("If", ["c"], ["b"], then_branch=inner, else_branch=inner)
    model = build(
        ["a = Relu(x)", branch, "y = Neg(b)"],
        {"w": noise(3), "c": np.array(True)},
        {"x": [3]},
        {"y": [3]},
    )
    [got] = list(taps.stream(model, ["b"], [{"x": noise(3)}]))
    np.testing.assert_allclose(got["b"], np.maximum(noise(3), 0) * noise(3))

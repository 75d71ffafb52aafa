"""Inputs and types that analysis and proof must not stumble over."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnx_prune.runtime import RunError, random_feeds
from tests.graphs import analyse, build, noise


def tensor(*dims: int) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(TensorProto.FLOAT, dims)


def values(*types: onnx.TypeProto) -> list[onnx.ValueInfoProto]:
    return [helper.make_value_info(f"x{j}", kind) for j, kind in enumerate(types)]


def test_a_scalar_is_fed_as_an_array() -> None:
    whole = helper.make_tensor_value_info("n", TensorProto.INT64, ())
    feeds = random_feeds([*values(tensor()), whole], {"x0": (), "n": ()})
    assert {k: (type(v), v.shape, v.dtype) for k, v in feeds.items()} == {
        "x0": (np.ndarray, (), np.dtype(np.float32)),
        "n": (np.ndarray, (), np.dtype(np.int64)),
    }


def test_a_sequence_is_a_list_and_an_optional_is_there() -> None:
    several = helper.make_sequence_type_proto(tensor(2))
    feeds = random_feeds(
        values(several, helper.make_optional_type_proto(several)), {"x0": (2,), "x1": (2,)}, fill=0
    )
    assert [[v.shape for v in feeds[name]] for name in ("x0", "x1")] == [[(2,)], [(2,)]]


def test_a_map_has_no_random_value() -> None:
    table = helper.make_map_type_proto(TensorProto.INT64, tensor())
    with pytest.raises(RunError, match="no random value"):
        random_feeds(values(table), {"x0": ()})


def test_integers_and_booleans_can_be_filled() -> None:
    whole = helper.make_tensor_value_info("n", TensorProto.INT64, (3,))
    truth = helper.make_tensor_value_info("b", TensorProto.BOOL, (2,))
    feeds = random_feeds([whole, truth], {"n": (3,), "b": (2,)}, fill=1)
    assert feeds["n"].tolist() == [1, 1, 1]
    assert feeds["b"].tolist() == [True, True]


def test_weights_behind_a_sequence_are_analysed() -> None:
    model = build(
        ["e = SequenceAt(s, zero)", "h = MatMul(e, w)", "r = Relu(h)", "y = MatMul(r, v)"],
        {"zero": np.array(0), "w": noise(4, 6), "v": noise(6, 3)},
        {},
        {"y": [2, 3]},
    )
    model.graph.input.append(helper.make_value_info("s", helper.make_sequence_type_proto(tensor(2, 4))))
    assert [group.size for group in analyse(model).groups] == [6]


def test_shape_arithmetic_in_bfloat16_is_left_to_the_run() -> None:
    """Onnxruntime gives Python no bfloat16: such a scale is not folded, and nothing else is lost."""
    model = build(
        [
            "h = MatMul(x, w)",
            "n = Size(h)",
            helper.make_node("Cast", ["n"], ["b"], to=TensorProto.BFLOAT16),
            helper.make_node("Cast", ["b"], ["f"], to=TensorProto.FLOAT),
            "r = Relu(h)",
            "m = MatMul(r, v)",
            "y = Mul(m, f)",
        ],
        {"w": noise(4, 6), "v": noise(6, 3)},
        {"x": [2, 4]},
        {"y": [2, 3]},
    )
    assert [group.size for group in analyse(model).groups] == [6]


def test_a_computed_weight_without_a_kernel_is_no_crash() -> None:
    """Onnxruntime multiplies no bfloat16 on a CPU; the weight's chain holds what it must."""
    cast = {
        "b": helper.make_node("Cast", ["w"], ["b"], to=TensorProto.BFLOAT16),
        "f": helper.make_node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
    }
    model = build(
        [cast["b"], "s = CumSum(b, zero)", cast["f"], "h = MatMul(x, f)", "y = MatMul(h, v)"],
        {"zero": np.array(0), "w": noise(12, 16), "v": noise(16, 3)},
        {"x": [2, 12]},
        {"y": [2, 3]},
    )
    assert [group.size for group in analyse(model).groups] == [16]

"""Models parted at seams, and widened to single precision, wherever their halves are."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_prune import prune
from onnx_prune.model.graph import Graph
from onnx_prune.proof import seams
from onnx_prune.proof.prove import prove
from onnx_prune.runtime import Session
from tests.graphs import build, node, noise
from tools.faults import PLANTERS, Cut, caught, pruned

HALF = TensorProto.FLOAT16
X = noise(2, 4)


def in_half(kind: type[np.generic] = np.float16) -> onnx.ModelProto:
    """Two matrices in half precision between two casts."""
    code = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    nodes: list[onnx.NodeProto | str] = [
        node("h = Cast(x)", to=code),
        "a = MatMul(h, w1)",
        "b = MatMul(a, w2)",
        node("y = Cast(b)", to=TensorProto.FLOAT),
    ]
    weights = {"w1": noise(4, 6).astype(kind), "w2": noise(6, 3).astype(kind)}
    return build(nodes, weights, {"x": (2, 4)}, {"y": (2, 3)})


def test_pieces_read_what_they_are_fed() -> None:
    model = build(
        ["a = MatMul(x, w1)", "y = MatMul(a, w2)"],
        {"w1": noise(4, 6), "w2": noise(6, 3)},
        {"x": (2, 4)},
        {"y": (2, 3)},
    )
    seams.opened(model, {"a": TensorProto.FLOAT})
    model.graph.output.append(onnx.ValueInfoProto(name=seams.own("a", {"a"})))
    other = noise(2, 6, seed=1)
    y, a = Session(model).run({"x": X, "a": other})
    np.testing.assert_allclose(a, X @ noise(4, 6), rtol=1e-5)
    np.testing.assert_allclose(y, other @ noise(6, 3), rtol=1e-5)


def test_an_output_may_be_a_seam() -> None:
    model = build(["y = MatMul(x, w)", "z = Floor(y)"], {"w": noise(4, 6)}, {"x": (2, 4)}, {"y": (2, 6)})
    seams.opened(model, {"y": TensorProto.FLOAT})
    assert [value.name for value in model.graph.output] == [seams.own("y", {"y"})]
    assert seams.own("z", {"y"}) == "z"
    Session(model).run({"x": X, "y": noise(2, 6)})


def test_halves_are_widened_in_bodies_types_and_attributes() -> None:
    constant = node("k = Constant()", value=numpy_helper.from_array(np.float16([1.5]), "k"))
    result = helper.make_tensor_value_info("r", HALF, None)
    body = helper.make_graph([constant, node("r = Add(h, k)")], "body", [], [result])
    nodes = [
        node("h = Cast(x)", to=HALF),
        node("f = ConstantOfShape(one)", value=numpy_helper.from_array(np.float16([2]), "v")),
        node("b = If(yes)", then_branch=body, else_branch=body),
        node("y = Mul(b, f)"),
    ]
    model = build(nodes, {"one": np.array([1]), "yes": np.array(True)}, {"x": (2, 4)}, {"y": (2, 4)})
    model.graph.output[0].type.tensor_type.elem_type = HALF
    [half] = Session(model).run({"x": X})
    seams.widened(model, None)
    [single] = Session(model).run({"x": X})
    assert (half.dtype, single.dtype) == (np.float16, np.float32)
    np.testing.assert_array_equal(single, (X + np.float32(1.5)) * 2)


def test_inputs_are_widened_too() -> None:
    feeds = {
        "a": np.float16([1]),
        "b": [np.ones(1, ml_dtypes.bfloat16)],
        "c": np.array([1]),
        "d": np.array(["x"]),
    }
    wide = seams.single(feeds)
    assert [wide["a"].dtype, wide["b"][0].dtype, wide["c"].dtype] == [np.float32, np.float32, np.int64]
    assert wide["d"] is feeds["d"]


def test_what_onnxruntime_has_no_kernels_for_is_proved_in_single_precision() -> None:
    result = prune(in_half(ml_dtypes.bfloat16), round_to=1)
    assert result.report.proof is not None
    assert result.report.proof.single
    assert result.report.notes[0].startswith("proved in single precision")
    right = pruned(Graph(in_half(ml_dtypes.bfloat16)))
    assert right is not None
    assert all(caught(right, make()) for _, make in PLANTERS["rolled"](right))
    assert not prune(in_half(), round_to=1).report.proof.single  # type: ignore[union-attr]


def test_what_a_body_captures_is_a_seam() -> None:
    """An order inside of a branch: a near-tie is one of the cut model's, too, once both read the same."""
    body = helper.make_graph(
        [node("i = ArgMax(s)", axis=1), node("r = Cast(i)", to=TensorProto.FLOAT)],
        "body",
        [],
        [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)],
    )
    nodes: list[onnx.NodeProto | str] = [
        "a = MatMul(x, w1)",
        "b = MatMul(a, w2)",
        "s = Add(b, tie)",
        node("y = If(yes)", then_branch=body, else_branch=body),
    ]
    twice = np.repeat(noise(6, 3), 2, axis=1)  # each score has a twin
    weights = {"w1": noise(4, 6), "w2": twice, "tie": np.zeros(6, np.float32), "yes": np.array(True)}
    right = pruned(Graph(build(nodes, weights, {"x": (9, 4)}, {"y": (9, 1)})))
    assert right is not None
    assert prove(right.coupling, right.plan, right.small).pieces is None
    nudged = right.changed("tie", np.float32([0, 1, 0, 1, 0, 1]) * np.float32(1e-5))
    proof = prove(right.coupling, right.plan, nudged)
    assert (proof.pieces, proof.error <= 1e-4) == (1, True)
    wrong = Cut(right.coupling, right.plan, nudged)
    assert all(caught(wrong, make()) for _, make in PLANTERS["rolled"](wrong))


def test_constants_computed_in_half_stay_rounded() -> None:
    nodes: list[onnx.NodeProto | str] = [
        node("h = Cast(x)", to=HALF),
        "r = Sqrt(c)",
        "m = Mul(h, r)",
        node("y = Cast(m)", to=TensorProto.FLOAT),
    ]
    model = build(nodes, {"c": np.float16(3)}, {"x": (2, 4)}, {"y": (2, 4)})
    root = np.sqrt(np.float16(3))
    seams.widened(model, None)
    seams.settled(model, {"r": np.asarray(root)})
    [y] = Session(model).run({"x": X})
    np.testing.assert_array_equal(y, X * np.float32(root))
    assert np.float32(root) != np.sqrt(np.float32(3))

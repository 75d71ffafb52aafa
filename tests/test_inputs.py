"""Inputs and types that analysis and proof must not stumble over."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from ml_dtypes import bfloat16
from onnx import TensorProto, helper

from onnx_prune.errors import NothingToPrune
from onnx_prune.model.graph import Graph
from onnx_prune.pipeline import prune
from onnx_prune.runtime import RunError, random_feeds
from onnx_prune.settings import Budget, Settings
from onnx_prune.shape.shapes import infer
from tests.graphs import analyse, build, node, noise


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


def test_a_signal_is_longer_than_the_window() -> None:
    """Shape inference says -2 where the window is longer than the signal: a longer one is tried."""
    model = build(
        ["a = Conv(x, w)", "b = Relu(a)", "y = Conv(b, v)"],
        {"w": noise(6, 1, 512), "v": noise(3, 6, 1)},
        {"x": ["batch", 1, "samples"]},
        {"y": ["batch", 3, "frames"]},
    )
    coupling = analyse(model)
    assert coupling.probe is not None
    for shapes in (coupling.shapes, coupling.probe):
        assert 512 < shapes.known["x"][2] == shapes.known["a"][2] + 511
    assert [group.size for group in coupling.groups] == [6]


@pytest.mark.parametrize(("batch", "kept"), [(2, 1), ("batch", 2)])
def test_a_squeeze_without_axes_may_not_take_the_last_channel(batch: int | str, kept: int) -> None:
    """It is given axes; where a batch of one is squeezed out, too, axes would say something else."""
    model = build(
        ["a = Conv(x, w)", "s = Squeeze(a)", "y = MatMul(s, v)"],
        {"w": noise(4, 3, 1, 1), "v": noise(4, 5)},
        {"x": [batch, 3, 1, 1]},
        {"y": [batch, 5]},
    )
    result = prune(model, settings=Settings(budget=Budget(ratio=0.5, round_to=1)))
    assert "axes" not in str(result.model.graph.node[1])
    assert len(result.model.graph.node[1].input) == 1
    settings = Settings(budget=Budget(ratio=0.9, round_to=1))
    if isinstance(batch, str):
        with pytest.raises(NothingToPrune):
            prune(model, settings=settings)
        return
    result = prune(model, settings=settings)
    assert result.report.groups[0].kept == kept
    assert len(result.model.graph.node[1].input) == 2


def test_a_constant_that_a_body_reads_too_is_known() -> None:
    """The bounds of a Slice, one of which the branches of an If read as well."""

    def branch(name: str) -> onnx.GraphProto:
        result = helper.make_tensor_value_info(name, TensorProto.INT64, (1,))
        return helper.make_graph([helper.make_node("Neg", ["two"], [name])], name, [], [result])

    choice = helper.make_node("If", ["yes"], ["n"], then_branch=branch("t"), else_branch=branch("e"))
    bounds = {name: np.array([n], np.int64) for name, n in (("zero", 0), ("one", 1), ("two", 2))}
    model = build(
        [choice, "h = MatMul(x, w)", "s = Slice(h, zero, two, one)", "y = MatMul(s, v)"],
        {**bounds, "yes": np.array(True), "w": noise(4, 6), "v": noise(2, 3)},
        {"x": [5, 4]},
        {"y": [5, 3]},
    )
    model.graph.output.append(helper.make_tensor_value_info("n", TensorProto.INT64, [1]))
    assert sorted(group.size for group in analyse(model).groups) == [2, 4]


def test_a_state_for_one_fixes_the_batch() -> None:
    """The batch is declared dynamic, the initial state is for a batch of one: that is what runs."""
    h, attrs = 24, {"hidden_size": 24}
    weights = {"w": noise(1, 3 * h, 4), "r": noise(1, 3 * h, h), "v": noise(h, 5), "flat": np.array([-1, h])}
    turn = helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2])
    layer = helper.make_node("GRU", ["t", "w", "r", "", "", "state"], ["", "last"], **attrs)
    model = build(
        [turn, layer, "z = Reshape(last, flat)", "y = MatMul(z, v)"],
        weights,
        {"x": ["batch", 7, 4], "state": [1, 1, h]},
        {"y": ["batch", 5]},
    )
    coupling = analyse(model)
    assert coupling.probe is None
    assert coupling.shapes.known["x"] == (1, 7, 4)
    assert coupling.shapes.known["last"] == (1, 1, h)


def test_what_nothing_runs_keeps_two_batches() -> None:
    """A kernel is missing, not an agreement: what inference found at two batches counts."""
    model = build(
        ["h = MatMul(x, w)", "s = Mul(h, scale)", "y = MatMul(s, v)"],
        {"w": noise(4, 6).astype(bfloat16), "v": noise(6, 3).astype(bfloat16)},
        {"x": ["batch", 4], "scale": [2, 1, 6]},
        {"y": [2, "batch", 3]},
    )
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    coupling = analyse(model)
    assert coupling.probe is not None
    assert (coupling.shapes.known["x"], coupling.probe.known["x"]) == ((2, 4), (3, 4))


def test_a_sequence_has_no_shape_and_is_not_asked_for_one() -> None:
    """The graph is run for the shapes behind an operator that inference does not know."""
    attrs = {"imputed_value_floats": [0.0], "replaced_value_float": float("nan")}
    filled = helper.make_node("Imputer", ["x"], ["f"], domain="ai.onnx.ml", **attrs)
    nodes = [filled, "s = SequenceConstruct(f)", "h = MatMul(f, w)", "r = Relu(h)", "y = MatMul(r, v)"]
    weights = {"w": noise(4, 6), "v": noise(6, 3)}
    model = build(nodes, weights, {"x": ["n", 4]}, {"y": ["n", 3]}, domains=["ai.onnx.ml"])
    model.graph.output.append(helper.make_value_info("s", helper.make_sequence_type_proto(tensor())))
    assert [group.size for group in analyse(model).groups] == [6]


def test_a_shape_that_is_known_at_one_assignment_alone() -> None:
    """Found: it was folded as if it were known at both, which was a KeyError; nothing is known of it."""
    nodes = [
        *("n = Shape(x)", "m = Gather(n, zero)", node("t = Concat(m, rest)", axis=0), "r = Reshape(z, t)"),
        *("k = Shape(r)", node("f = Cast(k)", to=TensorProto.FLOAT), node("q = ReduceSum(f)", keepdims=0)),
        *("h = MatMul(x, w)", "j = Add(h, q)", "y = MatMul(j, v)"),
    ]
    weights = {"zero": np.array([0]), "rest": np.array([-1]), "w": noise(4, 8), "v": noise(8, 4)}
    model = build(nodes, weights, {"x": ("a", 4), "z": ("b", "s")}, {"y": ("a", 4)})
    shapes, probe = infer(Graph(model))
    assert probe is not None
    assert shapes.known.keys() == probe.known.keys()
    assert "r" not in shapes.known
    assert len(analyse(model).groups) == 1

"""Loop and Scan: what they carry, slice and stack is one with what is around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.checker import check_model

from tests.bodies import body, looping, recurrent, scanning, stepping
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

FLOAT = TensorProto.FLOAT


def test_a_loop_carries_its_state() -> None:
    model = recurrent()
    coupling = analyse(model)
    state = places(("h0", 1), ("wi", 1), ("rnn/body/wh", 0), ("rnn/body/wh", 1), ("w", 0))
    assert groups_of(coupling) == {(8, state)}
    _, error, small = halved(model)
    check_model(small, full_check=True)
    assert error <= 1e-6
    assert {name: array.shape for name, array in initializers(small).items()} == {
        "five": (),
        "yes": (),
        "w": (4, 3),
        "wi": (4, 4),
        "h0": (2, 4),
    }


@pytest.mark.parametrize("activation", ["Sigmoid", "Cos", "Exp"])
def test_a_state_that_is_not_zero_by_itself_is_masked_at_every_step(activation: str) -> None:
    model = looping(
        ["a = MatMul(now, wi)", "b = MatMul(h, wh)", "c = Sub(a, b)", f"next = {activation}(c)"],
        {"wi": noise(4, 8), "wh": noise(8, 8, seed=1) / 8, "h0": np.ones((2, 8), np.float32)},
    )
    _, error, _ = halved(model)
    assert error <= 1e-6


def test_a_state_that_comes_from_a_graph_input_is_held() -> None:
    model = looping(
        ["a = MatMul(now, wi)", "next = Add(a, h)"], {"wi": noise(4, 8)}, before=["h1 = Relu(h0)"], first="h1"
    )
    model.graph.input.append(helper.make_tensor_value_info("h0", FLOAT, (2, 8)))
    assert why(analyse(model), "wi", 1) == {"h0 is a graph input"}


def test_what_a_loop_never_changes_is_a_weight_inside() -> None:
    """Keras hands its weights through every step."""
    step = stepping(
        ["a = MatMul(now, k)", "b = Add(a, v)", "next = Add(b, h)"],
        {"h": (2, 8), "k": (4, 8), "v": (8,)},
        {"next": (2, 8), "k": (4, 8), "v": (8,)},
    )
    nodes = [node("last, k1, v1 = Loop(five, yes, h0, wi, bias)", "rnn", body=step), "y = MatMul(last, w)"]
    weights = {"wi": noise(4, 8), "bias": noise(8), "h0": np.zeros((2, 8), np.float32), "w": noise(8, 3)}
    weights |= {"five": np.array(5), "yes": np.array(True)}
    model = build(nodes, weights, {"x": (5, 2, 4)}, {"y": (2, 3)})
    coupling = analyse(model)
    assert groups_of(coupling) == {(8, places(("wi", 1), ("bias", 0), ("h0", 1), ("w", 0)))}
    assert "producer" in {m.role for m in group_of(coupling, "wi", 1).members}
    _, error, small = halved(model)
    check_model(small, full_check=True)
    assert error <= 1e-6


def test_a_state_that_grows_is_held() -> None:
    """Sizes inside are other ones at every step."""
    step = stepping(["a = MatMul(now, wi)", node("next = Concat(h, a)", axis=0)], {"h": ()}, {"next": ()})
    for value in (step.input[2], step.output[1]):
        value.type.tensor_type.ClearField("shape")
    nodes = [node("last = Loop(five, yes, h0)", "rnn", body=step), "s = MatMul(last, w)"]
    nodes.append(node("y = ReduceSum(s, first)", keepdims=0))
    weights = {"five": np.array(5), "yes": np.array(True), "first": np.array([0]), "wi": noise(4, 8)}
    weights |= {"h0": np.zeros((2, 8), np.float32), "w": noise(8, 3)}
    coupling = analyse(build(nodes, weights, {"x": (5, 2, 4)}, {"y": (3,)}))
    assert coupling.groups == ()
    assert why(coupling, "wi", 1) == {"Loop rnn: what it carries changes its shape from step to step"}


def test_a_list_that_a_loop_appends_to_is_held() -> None:
    """What is beside it is not: sizes are found out around sequences."""
    step = stepping(["a = MatMul(now, wi)", "more = SequenceInsert(list, a)"], {}, {})
    step.input.append(helper.make_tensor_sequence_value_info("list", FLOAT, None))
    step.output.append(helper.make_tensor_sequence_value_info("more", FLOAT, None))
    nodes = [
        "empty = SequenceEmpty()",
        node("last = Loop(five, yes, empty)", "rnn", body=step),
        node("all = ConcatFromSequence(last)", axis=0, new_axis=1),
        "b = MatMul(all, w)",
        "c = Reshape(b, rows)",
        "d = MatMul(c, v)",
        "y = Reshape(d, back)",
    ]
    weights = {
        "five": np.array(5),
        "yes": np.array(True),
        "wi": noise(4, 8),
        "w": noise(8, 6),
        "v": noise(6, 3),
    }
    weights |= {"rows": np.array([-1, 6]), "back": np.array([5, 2, 3])}
    model = build(nodes, weights, {"x": (5, 2, 4)}, {"y": (5, 2, 3)})
    coupling = analyse(model)
    assert groups_of(coupling) == {(6, places(("w", 1), ("v", 0)))}
    assert why(coupling, "wi", 1) == {"Loop rnn works on a sequence, which is not looked into"}
    assert why(coupling, "w", 0) == {"no rule for ConcatFromSequence (ConcatFromSequence all)"}
    assert halved(model)[1] <= 1e-6


def test_sizes_that_count_steps_are_held() -> None:
    """At the first step (steps channels) look like channels alone."""
    model = looping(
        [
            "p = MatMul(x, wi)",
            "more = Add(i, one)",
            "seen = Slice(p, none, more)",
            node("turned = Transpose(seen)", perm=[1, 0, 2]),
            "flat = Reshape(turned, rows)",
            "gates = Sigmoid(flat)",
            node("total = ReduceSum(gates, one)", keepdims=1),
            "next = Add(total, h)",
        ],
        {"wi": noise(4, 8), "h0": np.zeros((2, 8), np.float32)},
        inner={"one": np.array([1]), "none": np.array([0]), "rows": np.array([2, -1])},
    )
    coupling = analyse(model)
    assert {m.weight for group in coupling.groups for m in group.members} == {"h0", "w"}
    reason = "Reshape rnn/body/flat: how it is regrouped changes with the dynamic sizes"
    assert why(coupling, "wi", 1) == {reason}
    assert halved(model)[1] <= 1e-6


def test_a_loop_of_one_step() -> None:
    """There is no second step to look at."""
    model = looping(
        ["a = MatMul(now, wi)", "b = Reshape(a, rows)", "next = Add(b, h)"],
        {"wi": noise(4, 8), "h0": np.zeros((2, 8), np.float32), "five": np.array(1)},
        inner={"rows": np.array([-1, 8])},
    )
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    coupling = analyse(model)
    assert groups_of(coupling) == {(8, places(("wi", 1), ("h0", 1), ("w", 0)))}
    assert halved(model)[1] <= 1e-6


BATCHED = [  # zeros of (batch 8), the batch read off x
    "s = Shape(x)",
    "n = Gather(s, one)",
    node("hs = Concat(n, eight)", axis=0),
    node("h0 = ConstantOfShape(hs)", value=numpy_helper.from_array(np.zeros(1, np.float32))),
]
SIZES = {"one": np.array([1]), "eight": np.array([8]), "wi": noise(4, 8)}
HEADS = [
    "a = MatMul(now, wi)",
    "sa = Shape(a)",
    "ba = Gather(sa, first)",
    node("split = Concat(ba, heads)", axis=0),
    "b = Reshape(a, split)",
    "c = Relu(b)",
    "d = Reshape(c, flat)",
    "next = Add(d, h)",
]


@pytest.mark.parametrize(
    ("step", "inner"),
    [
        pytest.param(
            HEADS, {"first": np.array([0]), "heads": np.array([2, 4]), "flat": np.array([0, 8])}, id="heads"
        ),
        pytest.param(
            ["a = MatMul(now, wi)", "f = Expand(zero, hs)", "b = Add(a, f)", "next = Add(b, h)"],
            {"zero": np.float32(0)},
            id="zeros as wide as the state",
        ),
        pytest.param(
            ["a = MatMul(now, wi)", "f = Expand(two, hs)", "b = Add(a, f)", "next = Sigmoid(b)"],
            {"two": np.float32(2)},
            id="twos as wide as the state",
        ),
        pytest.param(
            ["a = MatMul(now, wi)", "b = LayerNormalization(a, gamma)", "next = Add(b, h)"],
            {"gamma": noise(8)},
            id="a statistic over the kept",
        ),
    ],
)
def test_sizes_in_a_body_follow_at_any_batch(
    step: Sequence[onnx.NodeProto | str], inner: Mapping[str, Array]
) -> None:
    model = looping(step, SIZES, before=BATCHED, inner=inner, batch="n")
    coupling = analyse(model)
    assert coupling.probe is not None
    assert coupling.groups
    _, error, small = halved(model)
    check_model(small, full_check=True)
    assert error <= 1e-6


def test_states_that_change_places() -> None:
    step = stepping(
        ["a = MatMul(now, wi)", "next = Add(a, h)"], {"h": (2, 8), "c": (2, 8)}, {"c": (2, 8), "next": (2, 8)}
    )
    nodes = [
        node("last, other = Loop(five, yes, h0, c0)", body=step),
        "s = Sub(last, other)",
        "y = MatMul(s, w)",
    ]
    weights = {"five": np.array(5), "yes": np.array(True), "wi": noise(4, 8), "w": noise(8, 3)}
    weights |= {"h0": noise(2, 8), "c0": noise(2, 8, seed=1)}
    model = build(nodes, weights, {"x": (5, 2, 4)}, {"y": (2, 3)})
    assert groups_of(analyse(model)) == {(8, places(("h0", 1), ("c0", 1), ("wi", 1), ("w", 0)))}
    assert halved(model)[1] <= 1e-6


def test_results_of_a_loop_that_nobody_reads() -> None:
    """They tie nothing and hold nothing."""
    step = stepping(
        ["a = MatMul(now, wi)", "next = Add(a, h)", "b = MatMul(now, wb)", "spare = Relu(b)"],
        {"h": (2, 8)},
        {"next": (2, 8), "spare": (2, 6)},
    )
    nodes = [node("last, spares = Loop(five, yes, h0)", "rnn", body=step), "y = MatMul(last, w)"]
    weights = {"five": np.array(5), "yes": np.array(True), "wi": noise(4, 8), "wb": noise(4, 6)}
    weights |= {"h0": np.zeros((2, 8), np.float32), "w": noise(8, 3)}
    model = build(nodes, weights, {"x": (5, 2, 4)}, {"y": (2, 3)})
    state = places(("wi", 1), ("h0", 1), ("w", 0))
    assert groups_of(analyse(model)) == {(8, state), (6, places(("wb", 1)))}
    assert halved(model)[1] <= 1e-6


@pytest.mark.parametrize(("slices", "stacks"), [(0, 0), (1, 2), (-2, -1)])
def test_a_scan_slices_and_stacks_along_any_axis(slices: int, stacks: int) -> None:
    model = scanning(slices, stacks)
    coupling = analyse(model)
    state = places(("h0", 1), ("wi", 1), ("wh", 0), ("wh", 1), ("w", 0))
    assert groups_of(coupling) == {(6, places(("w0", 1), ("wi", 0))), (8, state)}
    _, error, _ = halved(model)
    assert error <= 1e-6


def test_the_body_of_an_old_scan_is_not_looked_into() -> None:
    """At opset 8 its tensors had a batch axis in front and a lengths operand."""
    step = body("step", ["c = MatMul(now, wi)", "next = Add(c, h)"], {"h": (8,), "now": (4,)}, {"next": (8,)})
    scan = node("last = Scan(, h0, x)", "rnn", body=step, num_scan_inputs=1)
    weights = {"wi": noise(4, 8), "h0": np.zeros((2, 8), np.float32), "w": noise(8, 3)}
    nodes = [scan, "y = MatMul(last, w)"]
    coupling = analyse(build(nodes, weights, {"x": (2, 5, 4)}, {"y": (2, 3)}, opset=8))
    assert coupling.groups == ()
    assert why(coupling, "wi", 1) == {"wi is read inside the body of Scan rnn"}


def test_dropout_inside_a_body_is_held() -> None:
    model = looping(
        ["a = MatMul(now, wi)", "d = Dropout(a, half, yes)", "next = Add(d, h)"],
        {"wi": noise(4, 8), "half": np.float32(0.5), "h0": np.zeros((2, 8), np.float32)},
    )
    [reason] = why(analyse(model), "wi", 1)
    assert reason.endswith("draws at random inside a body, which is not repeated")

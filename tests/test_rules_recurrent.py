"""Recurrent layers: every form that the operators know, and small networks around them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_prune.analyse import couple
from onnx_prune.axes.relation import NEVER, Op
from onnx_prune.model.graph import Graph
from onnx_prune.rules import relate
from tests.commute import Array, Case, RefusedError, check, zeros_claimed
from tests.graphs import halved
from tests.node_cases import node_cases

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
HIDDEN = 4


def floats(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng((*shape, seed)).uniform(-0.8, 0.8, shape).astype(np.float32)


def layer(op: str, directions: int = 1, *, states: bool = True, layout: int = 0, **attrs: Any) -> Case:
    """A layer of 3 inputs and 4 hidden channels over 5 steps of a batch of 2, with everything it can have."""
    g, d, h = GATES[op], directions, HIDDEN
    arrays: list[Array | None] = [floats(5, 2, 3), floats(d, g * h, 3), floats(d, g * h, h)]
    if states:
        arrays += [floats(d, 2 * g * h), np.array([5, 3], np.int32), floats(d, 2, h)]
        if op == "LSTM":
            arrays += [floats(d, 2, h, seed=1), floats(d, 3 * h)]
    if layout:
        turned = {k: a.swapaxes(0, 1) for k in (0, 5, 6) if k < len(arrays) and (a := arrays[k]) is not None}
        arrays = [turned.get(k, a) for k, a in enumerate(arrays)]
    attrs |= {"layout": 1} if layout else {}
    attrs |= {"direction": "bidirectional"} if d == 2 else {}
    outputs = 3 if op == "LSTM" else 2
    return Case(op, arrays, {"hidden_size": h, **attrs}, 7 if not layout else 14, outputs)


def forms() -> Iterator[Case]:
    for op in GATES:
        for directions in (1, 2):
            yield layer(op, directions)
            yield layer(op, directions, states=False)
            yield layer(op, directions, layout=1)
        yield layer(op, direction="reverse", clip=0.3)
    yield layer("LSTM", input_forget=1)
    yield layer("LSTM", activations=["Sigmoid", "Sigmoid", "Softsign"])
    yield layer("LSTM", activations=["HardSigmoid", "Relu", "Elu"])
    yield layer("GRU", linear_before_reset=1)
    yield layer("GRU", activations=["Sigmoid", "Sigmoid"])
    yield layer("GRU", 2, activations=["Sigmoid", "Tanh", "Sigmoid", "Softplus"])
    yield layer("RNN", activations=["Sigmoid"])
    yield layer("RNN", activations=["LeakyRelu"], activation_alpha=[0.1])
    yield layer("RNN", activations=["Affine"], activation_alpha=[0.5], activation_beta=[0.5])


@pytest.mark.parametrize("case", list(forms()), ids=str)
def test_cutting_commutes_with_running(case: Case) -> None:
    assert check(case) >= 2  # inputs and hidden channels


@pytest.mark.parametrize("op", GATES)
def test_cutting_commutes_on_the_cases_of_onnx(op: str) -> None:
    ran = 0
    for case in node_cases()[op]:
        try:
            check(case)
        except RefusedError:
            continue
        ran += 1
    assert ran


@pytest.mark.parametrize(
    ("case", "zero"),
    [
        (layer("LSTM"), True),
        (layer("LSTM", activations=["Sigmoid", "Sigmoid", "Tanh"]), False),
        (layer("LSTM", activations=["Softplus", "Relu", "ScaledTanh"]), True),
        (layer("GRU"), True),
        (layer("GRU", activations=["Sigmoid", "Sigmoid"]), False),
        (layer("GRU", 2, activations=["Sigmoid", "Tanh", "Sigmoid", "Affine"]), False),
        (layer("RNN"), True),
        (layer("RNN", activations=["Sigmoid"]), False),
    ],
    ids=lambda v: str(v)[:12],
)
def test_hidden_channels_are_zero_where_their_activations_are(case: Case, zero: bool) -> None:
    ins = tuple(None if a is None else a.shape for a in case.arrays)
    outs = ((5, ins[1][0], 2, HIDDEN),) + ((ins[1][0], 2, HIDDEN),) * (case.outputs - 1)  # type: ignore[index]
    relation = relate(Op(case.op, ins, outs, case.attrs))
    assert relation is not None
    [hidden] = list((relation.results[0] or ())[3:])
    assert bool(zeros_claimed(relation, case.arrays, hidden)) == zero  # type: ignore[arg-type]
    assert (relation.zero == NEVER) != zero


def network(nodes: list[onnx.NodeProto], weights: dict[str, Array], inputs: list[Any]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        inputs,
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def test_stacked_bidirectional_layers_with_initial_states_and_lengths() -> None:
    h, f = 8, floats
    sequence = helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 2, 3])
    lengths = helper.make_tensor_value_info("n", TensorProto.INT32, [2])
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r", "b", "n", "h0", "c0"], ["s"], **settings(h)),
        helper.make_node("Transpose", ["s"], ["t"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["t", "flat"], ["u"]),
        helper.make_node("GRU", ["u", "w2", "r2", "b2"], ["", "last"], **settings(h)),
        helper.make_node("Transpose", ["last"], ["v"], perm=[1, 0, 2]),
        helper.make_node("Reshape", ["v", "wide"], ["z"]),
        helper.make_node("MatMul", ["z", "out"], ["y"]),
    ]
    weights = {
        "w": f(2, 4 * h, 3),
        "r": f(2, 4 * h, h),
        "b": f(2, 8 * h),
        "h0": f(2, 2, h),
        "c0": f(2, 2, h),
        "w2": f(2, 3 * h, 2 * h),
        "r2": f(2, 3 * h, h),
        "b2": f(2, 6 * h),
        "out": f(2 * h, 3),
        "flat": np.array([5, 2, 2 * h]),
        "wide": np.array([2, -1]),
    }
    groups, error, small = halved(network(nodes, weights, [sequence, lengths]))
    assert sorted(groups.values()) == [8, 8]
    assert error <= 1e-5
    sizes = [a.i for n in small.graph.node for a in n.attribute if a.name == "hidden_size"]
    assert sizes == [4, 4]


def settings(h: int) -> dict[str, Any]:
    return {"hidden_size": h, "direction": "bidirectional"}


def test_a_state_that_is_a_graph_output_holds_the_channels() -> None:
    sequence = helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 2, 3])
    node = helper.make_node("RNN", ["x", "w", "r"], ["", "y"], hidden_size=4)
    coupling = couple(Graph(network([node], {"w": floats(1, 4, 3), "r": floats(1, 4, 4)}, [sequence])))
    assert not coupling.groups
    assert any("y is a graph output" in held.why for held in coupling.held)


def test_recurrent_weights_that_masking_leaves_nonzero_are_masked_where_they_are_read() -> None:
    sequence = helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 2, 3])
    nodes = [
        helper.make_node("Sigmoid", ["r"], ["hot"]),
        helper.make_node("RNN", ["x", "w", "hot"], ["s"], hidden_size=4),
        helper.make_node("MatMul", ["s", "out"], ["y"]),
    ]
    weights: dict[str, Array] = {"w": floats(1, 4, 3), "r": floats(1, 4, 4), "out": floats(4, 3)}
    groups, error, _ = halved(network(nodes, weights, [sequence]))
    assert list(groups.values()) == [4]
    assert error <= 1e-5

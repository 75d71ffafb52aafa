"""Bodies of If, Loop and Scan, and local functions: analysed through their borders, cut and proved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.checker import check_model

from onnx_prune.cut import cut
from onnx_prune.errors import ProofFailed
from onnx_prune.prove import prove
from tests import zoo
from tests.graphs import Array, analyse, build, group_of, groups_of, halved, initializers, node, noise, why

FLOAT = TensorProto.FLOAT


def body(
    name: str,
    nodes: Sequence[onnx.NodeProto | str],
    inputs: Mapping[str, Sequence[int]],
    outputs: Mapping[str, Sequence[int]],
    weights: Mapping[str, Array] | None = None,
    kinds: Mapping[str, int] | None = None,
) -> onnx.GraphProto:
    """The graph inside a node; floats but for those in `kinds`."""

    def values(named: Mapping[str, Sequence[int]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(n, (kinds or {}).get(n, FLOAT), d) for n, d in named.items()]

    made = [numpy_helper.from_array(array, key) for key, array in (weights or {}).items()]
    own = [node(n) if isinstance(n, str) else n for n in nodes]
    return helper.make_graph(own, name, values(inputs), values(outputs), made)


def places(*pairs: tuple[str, int]) -> frozenset[tuple[str, int]]:
    return frozenset(pairs)


# If


def branching(
    then: Sequence[onnx.NodeProto | str],
    other: Sequence[onnx.NodeProto | str],
    weights: Mapping[str, Array],
    inner: tuple[Mapping[str, Array], Mapping[str, Array]] = ({}, {}),
) -> onnx.ModelProto:
    """`t` or `e` of 8 channels, whichever the sum of x says, then a matrix."""
    bodies = {
        "then_branch": body("then", then, {}, {"t": (2, 8)}, inner[0]),
        "else_branch": body("else", other, {}, {"e": (2, 8)}, inner[1]),
    }
    nodes = [
        node("s = ReduceSum(x)", keepdims=0),
        "c = Greater(s, zero)",
        node("f = If(c)", "pick", **bodies),
        "y = MatMul(f, w)",
    ]
    every = {"zero": np.float32(0), "w": noise(8, 3), **weights}
    return build(nodes, every, {"x": (2, 4)}, {"y": (2, 3)})


def test_branches_read_outer_weights() -> None:
    model = branching(["t = MatMul(x, w1)"], ["e = MatMul(x, w2)"], {"w1": noise(4, 8), "w2": noise(4, 8, seed=1)})
    coupling = analyse(model)
    assert groups_of(coupling) == {(8, places(("w1", 1), ("w2", 1), ("w", 0)))}
    assert {m.role for m in group_of(coupling, "w1", 1).members} == {"producer", "consumer"}
    _, error, small = halved(model)
    assert error <= 1e-6
    assert initializers(small)["w2"].shape == (4, 4)


def test_weights_inside_branches_have_a_path() -> None:
    inner = {"v": noise(8, 8)}
    stored = node("k = Constant()", value=numpy_helper.from_array(noise(4, 8, seed=2), "k"))
    model = branching(
        ["a = MatMul(x, u)", "b = Relu(a)", "t = MatMul(b, v)"],
        [stored, "e = MatMul(x, k)"],
        {"u": noise(4, 8)},
        (inner, {}),
    )
    coupling = analyse(model)
    assert groups_of(coupling) == {
        (8, places(("u", 1), ("pick/then_branch/v", 0))),
        (8, places(("pick/then_branch/v", 1), ("pick/else_branch/k", 1), ("w", 0))),
    }
    _, error, small = halved(model)
    check_model(small, full_check=True)
    assert error <= 1e-6
    then, other = (next(a.g for a in small.graph.node[2].attribute if a.name == n) for n in BRANCHES)
    assert list(then.initializer[0].dims) == [4, 4]
    assert [d.dim_value for d in then.output[0].type.tensor_type.shape.dim] == [2, 4]
    assert list(other.node[0].attribute[0].t.dims) == [4, 4]
    assert coupling.graph.params() == 4 * 8 + 8 * 8 + 4 * 8 + 8 * 3 + 1


BRANCHES = ("then_branch", "else_branch")


def test_branches_of_different_shapes_are_held() -> None:
    bodies = [
        body("then", ["t = MatMul(x, w1)"], {}, {"t": (2, 8)}),
        body("else", ["a = MatMul(x, w1)", "e = ReduceSum(a)"], {}, {"e": (1, 1)}),
    ]
    nodes = [
        node("f = If(c)", "pick", then_branch=bodies[0], else_branch=bodies[1]),
        node("y = ReduceSum(f)", keepdims=1),
    ]
    weights = {"c": np.array(True), "w1": noise(4, 8)}
    coupling = analyse(build(nodes, weights, {"x": (2, 4)}, {"y": (1, 1)}))
    assert why(coupling, "w1", 1) == {"If pick: its branches have results of different shapes"}
    assert coupling.groups == ()


def test_a_shared_vector_is_parted_between_branches() -> None:
    """One bias serves both branches, each with channels of its own in front."""
    bias = noise(8)
    model = branching(
        ["a = MatMul(x, w1)", "b = Add(a, bias)", "t = MatMul(b, v1)"],
        ["a2 = MatMul(x, w2)", "b2 = Add(a2, bias)", "e = MatMul(b2, v2)"],
        {
            "w1": noise(4, 8),
            "w2": noise(4, 8, seed=1),
            "v1": noise(8, 8, seed=2),
            "v2": noise(8, 8, seed=3),
            "bias": bias,
        },
    )
    coupling = analyse(model)
    assert len(coupling.groups) == 3
    _, error, small = halved(model)
    assert error <= 1e-6
    assert len([name for name in initializers(small) if name.startswith("bias")]) == 2


def test_what_nobody_reads_in_a_body_goes() -> None:
    """A restated constant leaves the old one dead, in a body as elsewhere."""
    shape = numpy_helper.from_array(np.array([2, 2, 4]), "shape")
    model = branching(
        [
            node("shape = Constant()", value=shape),
            "a = MatMul(x, w1)",
            "b = Reshape(a, shape)",
            "c2 = Relu(b)",
            "t = Reshape(c2, flat)",
        ],
        ["e = MatMul(x, w2)"],
        {"w1": noise(4, 8), "w2": noise(4, 8, seed=1)},
        ({"flat": np.array([0, -1])}, {}),
    )
    _, error, small = halved(model)
    assert error <= 1e-6
    [then] = [a.g for a in small.graph.node[2].attribute if a.name == "then_branch"]
    assert [n.op_type for n in then.node] == ["MatMul", "Reshape", "Relu", "Reshape"]


# Loop and Scan


def looping(
    step: Sequence[onnx.NodeProto | str],
    weights: Mapping[str, Array],
    *,
    first: str = "h0",
    before: Sequence[onnx.NodeProto | str] = (),
    inner: Mapping[str, Array] | None = None,
    carried: Sequence[int] = (2, 8),
) -> onnx.ModelProto:
    """Five steps over x (time batch channels): `next` from `h` and `now`, which is given out as `out` too."""
    counts = {"i": TensorProto.INT64, "go": TensorProto.BOOL, "on": TensorProto.BOOL}
    loop = body(
        "step",
        ["on = Identity(go)", "now = Gather(x, i)", *step, "out = Identity(next)"],
        {"i": (), "go": (), "h": carried},
        {"on": (), "next": carried, "out": carried},
        inner,
        counts,
    )
    nodes = [*before, node(f"last, all = Loop(five, yes, {first})", "rnn", body=loop), "y = MatMul(all, w)"]
    every = {"five": np.array(5), "yes": np.array(True), "w": noise(8, 3), **weights}
    return build(nodes, every, {"x": (5, 2, 4)}, {"y": (5, 2, 3)})


def test_a_loop_carries_its_state() -> None:
    model = looping(
        ["a = MatMul(now, wi)", "b = MatMul(h, wh)", "c = Add(a, b)", "next = Tanh(c)"],
        {"wi": noise(4, 8), "h0": np.zeros((2, 8), np.float32)},
        inner={"wh": noise(8, 8, seed=1) / 4},
    )
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
    counts = {"i": TensorProto.INT64, "go": TensorProto.BOOL, "on": TensorProto.BOOL}
    step = body(
        "step",
        ["on = Identity(go)", "now = Gather(x, i)", "a = MatMul(now, k)", "b = Add(a, v)", "next = Add(b, h)"],
        {"i": (), "go": (), "h": (2, 8), "k": (4, 8), "v": (8,)},
        {"on": (), "next": (2, 8), "k": (4, 8), "v": (8,)},
        kinds=counts,
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
    counts = {"i": TensorProto.INT64, "go": TensorProto.BOOL, "on": TensorProto.BOOL}
    step = body(
        "step",
        ["on = Identity(go)", "now = Gather(x, i)", "a = MatMul(now, wi)", node("next = Concat(h, a)", axis=0)],
        {"i": (), "go": (), "h": ()},
        {"on": (), "next": ()},
        kinds=counts,
    )
    for value in (step.input[2], step.output[1]):
        value.type.tensor_type.ClearField("shape")
    nodes = [node("last = Loop(five, yes, h0)", "rnn", body=step), "s = MatMul(last, w)"]
    nodes.append(node("y = ReduceSum(s, first)", keepdims=0))
    weights = {"five": np.array(5), "yes": np.array(True), "first": np.array([0]), "wi": noise(4, 8)}
    weights |= {"h0": np.zeros((2, 8), np.float32), "w": noise(8, 3)}
    coupling = analyse(build(nodes, weights, {"x": (5, 2, 4)}, {"y": (3,)}))
    assert coupling.groups == ()
    assert why(coupling, "wi", 1) == {"Loop rnn: what it carries changes its shape from step to step"}


def test_a_body_in_a_body() -> None:
    """An If inside a Loop, whose branches read the state and weights of both outer graphs."""
    choice = {
        "then_branch": body("then", ["t = MatMul(h, wh)"], {}, {"t": (2, 8)}),
        "else_branch": body("else", ["e = MatMul(h, v)"], {}, {"e": (2, 8)}, {"v": noise(8, 8, seed=3) / 4}),
    }
    model = looping(
        [
            "even = Equal(i, two)",
            node("b = If(even)", "pick", **choice),
            "a = MatMul(now, wi)",
            "c = Add(a, b)",
            "next = Tanh(c)",
        ],
        {"wi": noise(4, 8), "h0": np.zeros((2, 8), np.float32)},
        inner={"wh": noise(8, 8, seed=1) / 4, "two": np.array(2)},
    )
    coupling = analyse(model)
    [group] = coupling.groups
    inside = {("rnn/body/wh", j) for j in (0, 1)} | {("rnn/body/pick/else_branch/v", j) for j in (0, 1)}
    assert {(m.weight, m.dim) for m in group.members} == inside | {("wi", 1), ("h0", 1), ("w", 0)}
    _, error, small = halved(model)
    check_model(small, full_check=True)
    assert error <= 1e-6


@pytest.mark.parametrize(("slices", "stacks"), [(0, 0), (1, 2), (-2, -1)])
def test_a_scan_slices_and_stacks_along_any_axis(slices: int, stacks: int) -> None:
    step = body(
        "step",
        ["a = MatMul(now, wi)", "b = MatMul(h, wh)", "c = Add(a, b)", "next = Tanh(c)", "out = Relu(next)"],
        {"h": (2, 8), "now": (2, 6)},
        {"next": (2, 8), "out": (2, 8)},
    )
    scan = node(
        "last, all = Scan(h0, m)",
        "rnn",
        body=step,
        num_scan_inputs=1,
        scan_input_axes=[slices],
        scan_output_axes=[stacks],
        scan_input_directions=[1],
    )
    order = [0, 1, 2]
    order.insert(2 if stacks == -1 else stacks, order.pop(0))  # (time batch channels) to what Scan gives
    before = [node("x1 = Transpose(x)", perm=[1, 0, 2])] if slices else ["x1 = Identity(x)"]
    nodes = [*before, "m = MatMul(x1, w0)", scan, node("z = Transpose(all)", perm=np.argsort(order).tolist())]
    weights = {"w0": noise(4, 6), "wi": noise(6, 8), "wh": noise(8, 8, seed=1) / 4, "w": noise(8, 3)}
    weights["h0"] = np.zeros((2, 8), np.float32)
    model = build([*nodes, "y = MatMul(z, w)"], weights, {"x": (5, 2, 4)}, {"y": (5, 2, 3)})
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


def test_a_fault_inside_a_body_is_caught() -> None:
    model = zoo.load("d_loop_over_time_linear-script17")
    coupling = analyse(model)
    [group] = coupling.groups
    plan = {group.atom: np.arange(group.size) % 2 == 0}
    small = cut(coupling, plan).whole()
    assert prove(coupling, plan, small).error <= 1e-6
    [loop] = [n for n in small.graph.node if n.op_type == "Loop"]
    [step] = [a.g for a in loop.attribute if a.name == "body"]
    [act] = [n for n in step.node if n.op_type == "Tanh"]
    act.op_type = "Softsign"
    with pytest.raises(ProofFailed, match="differs from the masked original"):
        prove(coupling, plan, small)


@pytest.mark.parametrize("shift", [1, 2])
def test_other_channels_inside_a_body_are_caught(shift: int) -> None:
    """The slices of a weight in a body are those of the plan, not their neighbours."""
    model = looping(
        ["a = MatMul(now, wi)", "b = MatMul(h, wh)", "c = Add(a, b)", "next = Tanh(c)"],
        {"wi": noise(4, 8), "h0": np.zeros((2, 8), np.float32)},
        inner={"wh": noise(8, 8, seed=1) / 4},
    )
    coupling = analyse(model)
    [group] = coupling.groups
    plan = {group.atom: np.arange(8) < 4}
    small = cut(coupling, plan).whole()
    [tensor] = [a.g for a in small.graph.node[0].attribute if a.name == "body"][0].initializer
    tensor.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(tensor), shift, 0), tensor.name))
    with pytest.raises(ProofFailed, match="differs from the masked original"):
        prove(coupling, plan, small)


# Local functions


def test_local_functions_are_written_out() -> None:
    layer = helper.make_function(
        "mine",
        "Layer",
        ["a", "k"],
        ["c"],
        [node("b = MatMul(a, k)"), node("c = Relu(b)")],
        [helper.make_opsetid("", 17)],
    )
    nodes = [node("h = mine.Layer(x, w1)"), node("y = mine.Layer(h, w2)")]
    model = build(nodes, {"w1": noise(4, 8), "w2": noise(8, 3)}, {"x": (2, 4)}, {"y": (2, 3)}, domains=["mine"])
    model.functions.append(layer)
    coupling = analyse(model)
    assert groups_of(coupling) == {(8, places(("w1", 1), ("w2", 0)))}
    assert len(model.functions) == 1
    _, error, small = halved(model)
    check_model(small, full_check=True)
    assert error <= 1e-6
    assert [n.op_type for n in small.graph.node] == ["MatMul", "Relu"] * 2
    assert small.opset_import == model.opset_import
    assert not small.functions


def test_a_function_of_another_opset_stays_a_call() -> None:
    layer = helper.make_function(
        "mine", "Layer", ["a", "k"], ["c"], [node("c = MatMul(a, k)")], [helper.make_opsetid("", 11)]
    )
    nodes = [node("h = mine.Layer(x, w1)"), "y = MatMul(h, w2)"]
    model = build(nodes, {"w1": noise(4, 8), "w2": noise(8, 3)}, {"x": (2, 4)}, {"y": (2, 3)}, domains=["mine"])
    model.functions.append(layer)
    assert why(analyse(model), "w1", 1) == {"no rule for mine.Layer (mine.Layer h)"}

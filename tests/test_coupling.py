"""What goes together in small graphs, and what is said of that which stays whole."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_prune.analyse import SINGLE, UNREAD, couple
from onnx_prune.axes.relation import Op, Relation, letters
from onnx_prune.coupling import Coupling
from onnx_prune.model.graph import Graph
from onnx_prune.rules import RULES
from tests import zoo
from tests.graphs import (
    Dims,
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

IMAGE: Dims = (1, 2, 8, 8)
OUT: Dims = (1, 2, 8, 8)


def conv(out: int, into: int) -> np.ndarray:
    return noise(out, into, 1, 1)


def image_net(
    nodes: list[onnx.NodeProto | str], weights: dict[str, np.ndarray], out: Dims = OUT, **rest: object
) -> Coupling:
    """A graph from an image x to y."""
    return analyse(build(nodes, weights, {"x": IMAGE}, {"y": out}, **rest))  # type: ignore[arg-type]


def test_a_chain() -> None:
    weights = {"w1": conv(6, 2), "b1": noise(6), "w2": conv(2, 6), "b2": noise(2)}
    coupling = image_net(["a = Conv(x, w1, b1)", "r = Relu(a)", "y = Conv(r, w2, b2)"], weights)
    assert groups_of(coupling) == {(6, places(("w1", 0), ("b1", 0), ("w2", 1)))}
    assert why(coupling, "w1", 1) == {"x is a graph input"}
    assert why(coupling, "w2", 0) == why(coupling, "b2", 0) == {"y is a graph output"}
    [group] = coupling.groups
    assert group.name == "w1:0"
    assert [(m.weight, m.role) for m in group.members] == [
        ("w1", "producer"),
        ("b1", "other"),
        ("w2", "consumer"),
    ]


def test_a_residual_couples_both_ends() -> None:
    weights = {"w1": conv(6, 2), "w2": conv(4, 6), "w3": conv(6, 4), "w4": conv(2, 6)}
    nodes = [
        "a = Conv(x, w1)",
        "b = Conv(a, w2)",
        "r = Relu(b)",
        "c = Conv(r, w3)",
        "s = Add(a, c)",
        "y = Conv(s, w4)",
    ]
    assert groups_of(image_net(nodes, weights)) == {
        (6, places(("w1", 0), ("w2", 1), ("w3", 0), ("w4", 1))),
        (4, places(("w2", 0), ("w3", 1))),
    }


def test_a_residual_that_ends_in_the_output_is_held() -> None:
    weights = {"w1": conv(2, 2), "w2": conv(4, 2), "w3": conv(2, 4)}
    nodes = ["a = Conv(x, w1)", "b = Conv(a, w2)", "c = Conv(b, w3)", "y = Add(a, c)"]
    coupling = image_net(nodes, weights)
    assert groups_of(coupling) == {(4, places(("w2", 0), ("w3", 1)))}
    assert why(coupling, "w1", 0) == why(coupling, "w3", 0) == {"y is a graph output"}


def test_concat_puts_parts_end_to_end() -> None:
    weights = {"w1": conv(3, 2), "w2": conv(5, 2), "w3": conv(2, 8)}
    nodes = ["a = Conv(x, w1)", "b = Conv(x, w2)", node("c = Concat(a, b)", axis=1), "y = Conv(c, w3)"]
    coupling = image_net(nodes, weights)
    assert groups_of(coupling) == {
        (3, places(("w1", 0), ("w3", 1))),
        (5, places(("w2", 0), ("w3", 1))),
    }
    assert str(coupling.axes["w3"][1]) == "(c + c)"


def test_split_parts_a_weight() -> None:
    weights = {"w1": conv(8, 2), "lengths": np.array([3, 5]), "w2": conv(2, 3), "w3": conv(2, 5)}
    nodes: list[onnx.NodeProto | str] = [
        "a = Conv(x, w1)",
        node("p, q = Split(a, lengths)", axis=1),
        "u = Conv(p, w2)",
        "v = Conv(q, w3)",
        "y = Add(u, v)",
    ]
    assert groups_of(image_net(nodes, weights)) == {
        (3, places(("w1", 0), ("w2", 1))),
        (5, places(("w1", 0), ("w3", 1))),
    }


def test_halves_that_are_multiplied_are_one_group() -> None:
    """A gated unit: the same channel of both halves goes, so that each stands twice on the weight."""
    weights = {"w1": conv(8, 2), "w2": conv(2, 4)}
    nodes: list[onnx.NodeProto | str] = [
        "a = Conv(x, w1)",
        node("p, q = Split(a)", axis=1),
        "g = Sigmoid(q)",
        "m = Mul(p, g)",
        "y = Conv(m, w2)",
    ]
    coupling = image_net(nodes, weights)
    assert groups_of(coupling) == {(4, places(("w1", 0), ("w2", 1)))}
    assert str(coupling.axes["w1"][0]) == "(c + c)"


def test_grouped_convolution_is_a_product() -> None:
    weights = {"w1": conv(12, 2), "w2": noise(6, 4, 1, 1), "w3": conv(2, 6)}
    nodes = ["a = Conv(x, w1)", node("b = Conv(a, w2)", group=3), "y = Conv(b, w3)"]
    coupling = image_net(nodes, weights)
    assert groups_of(coupling) == {
        (3, places(("w1", 0), ("w2", 0), ("w3", 1))),  # whole groups
        (4, places(("w1", 0), ("w2", 1))),  # inputs of each
        (2, places(("w2", 0), ("w3", 1))),  # outputs of each
    }


def test_depthwise_convolution_passes_channels() -> None:
    weights = {"w1": conv(6, 2), "w2": noise(6, 1, 3, 3), "w3": conv(2, 6)}
    nodes = ["a = Conv(x, w1)", node("b = Conv(a, w2)", group=6, pads=[1] * 4), "y = Conv(b, w3)"]
    coupling = image_net(nodes, weights)
    assert groups_of(coupling) == {(6, places(("w1", 0), ("w2", 0), ("w3", 1)))}
    assert group_of(coupling, "w2", 0).members[1].role == "other"


def test_flatten_to_linear() -> None:
    weights = {"w1": conv(3, 2), "w2": noise(5, 192), "b2": noise(5), "w3": noise(4, 5)}
    nodes: list[onnx.NodeProto | str] = [
        "a = Conv(x, w1)",
        "f = Flatten(a)",
        node("h = Gemm(f, w2, b2)", transB=1),
        node("y = Gemm(h, w3)", transB=1),
    ]
    coupling = image_net(nodes, weights, (1, 4))
    assert groups_of(coupling) == {
        (3, places(("w1", 0), ("w2", 1))),
        (5, places(("w2", 0), ("b2", 0), ("w3", 1))),
    }
    # rows and columns of the image, 64 positions a channel
    assert why(coupling, "w2", 1) == {"Conv a: space is not a channel axis"}


def test_a_shared_vector_is_an_accident() -> None:
    """Exporters merge equal vectors: two layers with one bias are not coupled by it."""
    weights = {"w1": conv(4, 2), "w2": conv(4, 4), "w3": conv(2, 4), "b": noise(4)}
    nodes = ["a = Conv(x, w1, b)", "r = Relu(a)", "c = Conv(r, w2, b)", "y = Conv(c, w3)"]
    coupling = image_net(nodes, weights)
    assert groups_of(coupling) == {
        (4, places(("w1", 0), ("b", 0), ("w2", 1))),
        (4, places(("w2", 0), ("b", 0), ("w3", 1))),
    }
    keys = {m.key for group in coupling.groups for m in group.members if m.weight == "b"}
    assert len(keys) == 2


def test_a_shared_matrix_is_one_weight_on_purpose() -> None:
    weights = {"w1": conv(4, 2), "w": conv(4, 4), "w2": conv(2, 4)}
    nodes = ["a = Conv(x, w1)", "b = Conv(a, w)", "r = Relu(b)", "c = Conv(r, w)", "y = Conv(c, w2)"]
    assert groups_of(image_net(nodes, weights)) == {(4, places(("w1", 0), ("w", 0), ("w", 1), ("w2", 1)))}


# What is held, and why.


def test_an_unknown_operator_holds_all_around_it() -> None:
    weights = {"w1": conv(6, 2), "w2": conv(2, 6)}
    nodes = ["a = Conv(x, w1)", node("b = com.acme.Foo(a)", name="foo"), "y = Conv(b, w2)"]
    coupling = image_net(nodes, weights, domains=["com.acme"])
    assert coupling.groups == ()
    assert why(coupling, "w1", 0) == {"no rule for com.acme.Foo (com.acme.Foo foo)"}


def test_a_rule_that_gives_another_shape_than_the_runtime_holds_all_around_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def flat(op: Op) -> Relation:
        dims = letters(op.shape())
        return Relation((dims,), (dims[:2],))

    monkeypatch.setitem(RULES, ("", "Relu"), flat)
    weights = {"w1": conv(6, 2), "w2": conv(2, 6)}
    coupling = image_net(["a = Conv(x, w1)", node("b = Relu(a)", name="r"), "y = Conv(b, w2)"], weights)
    assert coupling.groups == ()
    (reason,) = why(coupling, "w1", 0)
    assert reason.startswith("Relu r: b has the shape [")
    assert reason.endswith("], not that of its rule")


def test_a_domain_of_its_own_is_not_onnx() -> None:
    """com.acme.Relu is not Relu."""
    weights = {"w1": conv(6, 2), "w2": conv(2, 6)}
    nodes = ["a = Conv(x, w1)", "b = com.acme.Relu(a)", "y = Conv(b, w2)"]
    assert image_net(nodes, weights, domains=["com.acme"]).groups == ()


def test_an_operator_of_onnx_without_a_rule_is_named() -> None:
    weights = {"w1": noise(4, 3), "w2": noise(3, 3), "zero": np.array(0)}
    nodes = ["a = MatMul(x, w1)", "s = SequenceConstruct(a)", "b = SequenceAt(s, zero)", "y = MatMul(b, w2)"]
    coupling = analyse(build(nodes, weights, {"x": (3, 4)}, {"y": (3, 3)}))
    assert coupling.groups == ()
    assert why(coupling, "w1", 1) == {"no rule for SequenceConstruct (SequenceConstruct s)"}


def test_dynamic_axes_are_held() -> None:
    """A width that comes from the input's size at run time is no width of a layer."""
    weights = {"w1": noise(4, 6), "w2": noise(6, 3)}
    nodes = ["a = MatMul(x, w1)", "y = MatMul(a, w2)"]
    coupling = analyse(build(nodes, weights, {"x": ("n", 4)}, {"y": ("n", 3)}))
    assert groups_of(coupling) == {(6, places(("w1", 1), ("w2", 0)))}
    assert coupling.probe is not None
    assert coupling.shapes.known["a"] != coupling.probe.known["a"]


@pytest.mark.parametrize(
    ("function", "held"), [("Relu", False), ("Tanh", False), ("Sigmoid", True), ("Exp", True)]
)
def test_a_sum_over_values_that_masking_does_not_make_zero_is_held(function: str, held: bool) -> None:
    weights = {"w1": conv(6, 2), "axes": np.array([1])}
    nodes = ["a = Conv(x, w1)", f"f = {function}(a)", "y = ReduceSum(f, axes)"]
    coupling = image_net(nodes, weights, (1, 1, 8, 8))
    assert bool(coupling.groups) is not held
    if held:
        assert why(coupling, "w1", 0) == {"ReduceSum y sums over values that masking does not make zero"}


def test_a_sum_with_a_weight_in_it_is_cut() -> None:
    """Sigmoid makes a half of 0, but the next filter's weight for it goes too."""
    weights = {"w1": conv(6, 2), "w2": conv(2, 6)}
    coupling = image_net(["a = Conv(x, w1)", "f = Sigmoid(a)", "y = Conv(f, w2)"], weights)
    assert groups_of(coupling) == {(6, places(("w1", 0), ("w2", 1)))}
    [reader] = [bound for bound in coupling.bound if "y" in bound.node.outputs]
    assert reader.exposed == (0,)


def test_a_softmax_over_channels_is_held() -> None:
    weights = {"w1": conv(6, 2), "w2": conv(2, 6)}
    nodes = ["a = Conv(x, w1)", node("f = Softmax(a)", axis=1), "y = Conv(f, w2)"]
    coupling = image_net(nodes, weights)
    assert coupling.groups == ()
    assert all(reason.startswith("Softmax f: ") for reason in why(coupling, "w1", 0))


def test_channels_rolled_onto_themselves_are_held() -> None:
    """A + roll(a) asks every channel to be its neighbour."""
    weights = {"w1": conv(6, 2), "w2": conv(2, 6), "lengths": np.array([5, 1])}
    split, join = node("p, q = Split(a, lengths)", axis=1), node("r = Concat(q, p)", axis=1)
    coupling = image_net(["a = Conv(x, w1)", split, join, "s = Add(a, r)", "y = Conv(s, w2)"], weights)
    assert coupling.groups == ()
    assert why(coupling, "w1", 0) <= {"its axis meets a rearrangement of itself", SINGLE}


def test_flipped_channels_are_held() -> None:
    coupling = analyse(zoo.load("d_channel_roll_flip-ts17"))
    reason = "Slice /Slice_2: its channels are reordered or repeated"
    assert why(coupling, "onnx::Conv_49", 0) == {reason}


def test_channels_shuffled_apart_say_so() -> None:
    model = zoo.load("a_shufflenet_v2_x1_0-ts17")
    assert why(couple(Graph(model), loose=False), "onnx::Conv_1241", 0) == {SINGLE}
    assert why(couple(Graph(model)), "onnx::Conv_1241", 0) == set()


def test_a_statistic_makes_a_group_mixed() -> None:
    weights = {"w1": noise(4, 8), "gamma": noise(8), "w2": noise(8, 3)}
    nodes = ["a = MatMul(x, w1)", "n = LayerNormalization(a, gamma)", "y = MatMul(n, w2)"]
    coupling = analyse(build(nodes, weights, {"x": (2, 4)}, {"y": (2, 3)}))
    [group] = coupling.groups
    assert group.mixed == "LayerNormalization n takes a statistic over it"


# Weights that are computed from weights.


def test_a_transposed_weight_is_cut_where_it_is_stored() -> None:
    weights = {"w1": noise(8, 4), "w2": noise(3, 8)}
    nodes = [
        "t1 = Transpose(w1)",
        "a = MatMul(x, t1)",
        "t2 = Transpose(w2)",
        "y = MatMul(a, t2)",
    ]
    coupling = analyse(build(nodes, weights, {"x": (2, 4)}, {"y": (2, 3)}))
    assert groups_of(coupling) == {(8, places(("w1", 0), ("w2", 1)))}
    assert [m.role for m in group_of(coupling, "w1", 0).members] == ["producer", "consumer"]
    assert coupling.graph.frozen == set()


def test_rows_that_are_never_read_are_no_channels() -> None:
    """A table of 9 positions for a sequence of 5; exporters that fold the slice store no more."""
    weights = {"table": noise(9, 8), "v": noise(8, 3)} | {
        name: np.array([n], np.int64) for name, n in (("start", 0), ("stop", 5))
    }
    nodes = ["p = Slice(table, start, stop, start)", "a = Add(x, p)", "y = MatMul(a, v)"]
    coupling = analyse(build(nodes, weights, {"x": (2, 5, 8)}, {"y": (2, 5, 3)}))
    assert coupling.groups == ()
    assert why(coupling, "table", 0) == {"x is a graph input", UNREAD}


def test_a_normalised_weight_is_frozen() -> None:
    """Weight norm takes a norm over an axis: what comes out is cut, and what goes in stays."""
    coupling = analyse(zoo.load("d_weightnorm_unfolded-ts17"))
    assert coupling.graph.frozen
    [group] = coupling.groups
    assert {m.weight for m in group.members} & coupling.graph.frozen
    reasons = {held.why for held in coupling.held}
    assert any("computes a weight from it, which is cut instead" in reason for reason in reasons)


def test_a_table_made_of_little_is_not_frozen() -> None:
    """The outer product of two vectors, under a maximum that holds it: half of it is larger than both."""
    weights = {"u": noise(32, 1), "v": noise(1, 32), "out": noise(32, 3)}
    nodes = ["t = Mul(u, v)", "s = Softmax(t)", "a = MatMul(x, s)", "y = MatMul(a, out)"]
    coupling = analyse(build(nodes, weights, {"x": (2, 32)}, {"y": (2, 3)}))
    assert coupling.graph.frozen == set()
    assert any("Softmax" in reason for reason in why(coupling, "out", 0))


def test_an_initial_state_of_zeros_is_no_size() -> None:
    """Few numbers made by shape arithmetic are scales; more are a state, which is cut with its layer."""
    hidden = 24
    gates = {"w": noise(1, 4 * hidden, 3), "r": noise(1, 4 * hidden, hidden), "v": noise(hidden, 5)}
    sizes = {"one": np.array([1], np.int64), "width": np.array([hidden], np.int64), "at": np.array([1])}
    nodes = [
        *("s = Shape(x)", "b = Gather(s, at)", node("d = Concat(one, b, width)", axis=0)),
        *("h = ConstantOfShape(d)", node("a = LSTM(x, w, r, , , h, h)", hidden_size=hidden)),
        "y = MatMul(a, v)",
    ]
    shapes = {"x": (6, 1, 3)}, {"y": (6, 1, 1, 5)}
    coupling = analyse(build(nodes, gates | sizes, *shapes))
    assert [group.size for group in coupling.groups] == [hidden]


@pytest.mark.parametrize("name", zoo.NAMES)
def test_every_axis_of_every_weight_is_cut_or_has_a_reason(name: str) -> None:
    """Nothing is left out in silence but sizes, and axes of one channel."""
    coupling = analyse(zoo.load(name))
    said = {(h.weight, h.dim) for h in coupling.held}
    said |= {(m.weight, m.dim) for group in coupling.groups for m in group.members}
    for group in coupling.groups:
        assert group.size > 1 or any(group.atom in web.atoms for web in coupling.webs)
        assert group.members
    for held in coupling.held:
        assert held.why
        assert held.size > 1
    for bound in coupling.bound:
        if bound.node.op in ("Conv", "Gemm") and bound.node.inputs[1] in coupling.graph.weights:
            weight = bound.node.inputs[1]
            for dim, n in enumerate(coupling.graph.dims(weight)[:2]):
                assert n == 1 or (weight, dim) in said


def test_only_the_type_is_taken_of_what_is_cast_like() -> None:
    """Exporters write constants in the type of the tensor that they meet."""
    weights = {"w1": noise(4, 6), "w2": noise(6, 3), "half": np.array(0.5, np.float64)}
    nodes = ["a = MatMul(x, w1)", "s = CastLike(half, a)", "b = Mul(a, s)", "y = MatMul(b, w2)"]
    coupling = analyse(build(nodes, weights, {"x": (5, 4)}, {"y": (5, 3)}))
    assert groups_of(coupling) == {(6, places(("w1", 1), ("w2", 0)))}


def test_a_weight_that_is_made_from_a_shape_is_a_weight() -> None:
    """Filled with anything but zero it is masked where it is read, and its shape follows."""
    weights = {"s": np.array([6, 8], np.int64), "w1": noise(4, 6), "b": noise(8), "w2": noise(8, 3)}
    fill = np.array([0.5], np.float32)
    nodes = [
        *(
            "a = MatMul(x, w1)",
            "e = Exp(a)",
            node("f = ConstantOfShape(s)", value=numpy_helper.from_array(fill)),
        ),
        *("c = MatMul(e, f)", "d = Add(c, b)", "y = MatMul(d, w2)"),
    ]
    sizes, error, small = halved(build(nodes, weights, {"x": (5, 4)}, {"y": (5, 3)}))
    assert sorted(sizes.values()) == [6, 8]
    assert error <= 1e-5
    assert [3, 4] in [tensor.tolist() for tensor in initializers(small).values() if tensor.dtype == np.int64]

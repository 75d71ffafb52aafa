"""If: its branches are analysed with what is around them, cut and proved; and local functions."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper
from onnx.checker import check_model

from onnx_prune.errors import InputError
from tests.bodies import body, branching
from tests.graphs import (
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

BRANCHES = ("then_branch", "else_branch")


def test_branches_read_outer_weights() -> None:
    model = branching(
        ["t = MatMul(x, w1)"], ["e = MatMul(x, w2)"], {"w1": noise(4, 8), "w2": noise(4, 8, seed=1)}
    )
    coupling = analyse(model)
    assert groups_of(coupling) == {(8, places(("w1", 1), ("w2", 1), ("w", 0)))}
    assert {m.role for m in group_of(coupling, "w1", 1).members} == {"producer", "consumer"}
    _, error, small = halved(model)
    assert error <= 1e-6
    assert initializers(small)["w2"].shape == (4, 4)


def test_a_shared_bias_that_only_branches_read() -> None:
    """Found: the masked original had lost it, since no node of the main graph reads it."""
    then = ["h = MatMul(x, w1)", "a = Add(h, b)", node("m = ReduceMax(b)", keepdims=0), "t = Add(a, m)"]
    weights = {"w1": noise(4, 8), "w2": noise(4, 8, seed=1), "b": noise(8)}
    _, error, _ = halved(branching(then, ["e = MatMul(x, w2)"], weights))
    assert error <= 1e-6


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
    assert coupling.graph.params() == 4 * 8 + 8 * 8 + 4 * 8 + 8 * 3


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


def test_a_branch_that_does_not_run_on_its_own() -> None:
    """The branch that is not taken indexes beyond its table; its sizes are told without running it."""
    model = branching(
        ["t = MatMul(x, w1)"],
        ["g = Gather(w2, far)", "n = NonZero(x)", "a = Reshape(g, rows)", "e = MatMul(x, a)"],
        {
            "w1": noise(4, 8),
            "w2": noise(4, 8, seed=1),
            "far": np.array([0, 1, 2, 9]),
            "rows": np.array([4, -1]),
        },
    )
    coupling = analyse(model)
    assert groups_of(coupling) == {(8, places(("w1", 1), ("w2", 1), ("w", 0)))}


def test_a_layer_with_an_attribute_of_size_in_a_branch() -> None:
    r = noise(1, 24, 8) / 4
    model = branching(
        ["u = Unsqueeze(x, first)", node("g = GRU(u, k, r)", hidden_size=8), "t = Squeeze(g, both)"],
        ["e = MatMul(x, w2)"],
        {"k": noise(1, 24, 4), "w2": noise(4, 8), "first": np.array([0]), "both": np.array([0, 1])},
        ({"r": r}, {}),
    )
    sizes, error, small = halved(model)
    assert sizes == {"pick/then_branch/r:2": 8}
    assert error <= 1e-6
    [then] = [a.g for a in small.graph.node[2].attribute if a.name == "then_branch"]
    assert [a.i for a in then.node[1].attribute] == [4]


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
    model = build(
        nodes, {"w1": noise(4, 8), "w2": noise(8, 3)}, {"x": (2, 4)}, {"y": (2, 3)}, domains=["mine"]
    )
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


def test_functions_in_functions_and_in_bodies() -> None:
    inner = helper.make_function(
        "mine", "Inner", ["a", "k"], ["b"], [node("b = MatMul(a, k)")], [helper.make_opsetid("", 17)]
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    outer = helper.make_function("mine", "Outer", ["c", "k"], ["d"], [node("d = mine.Inner(c, k)")], imports)
    model = branching(
        [node("t = mine.Outer(x, w1)")],
        ["e = MatMul(x, w2)"],
        {"w1": noise(4, 8), "w2": noise(4, 8, seed=1)},
    )
    model.opset_import.append(imports[1])
    model.functions.extend([inner, outer])
    assert groups_of(analyse(model)) == {(8, places(("w1", 1), ("w2", 1), ("w", 0)))}
    assert halved(model)[1] <= 1e-6


def test_a_function_of_another_opset_stays_a_call() -> None:
    layer = helper.make_function(
        "mine", "Layer", ["a", "k"], ["c"], [node("c = MatMul(a, k)")], [helper.make_opsetid("", 11)]
    )
    nodes = [node("h = mine.Layer(x, w1)"), "y = MatMul(h, w2)"]
    model = build(
        nodes, {"w1": noise(4, 8), "w2": noise(8, 3)}, {"x": (2, 4)}, {"y": (2, 3)}, domains=["mine"]
    )
    model.functions.append(layer)
    assert why(analyse(model), "w1", 1) == {"no rule for mine.Layer (mine.Layer h)"}


def test_a_function_that_calls_itself() -> None:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    layer = helper.make_function("mine", "Layer", ["a"], ["b"], [node("b = mine.Layer(a)")], imports)
    nodes = [node("h = mine.Layer(x)"), "y = MatMul(h, w)"]
    model = build(nodes, {"w": noise(4, 3)}, {"x": (2, 4)}, {"y": (2, 3)}, domains=["mine"])
    model.functions.append(layer)
    with pytest.raises(InputError, match=r"local functions can't be inlined: Cycle .*; re-export the model$"):
        analyse(model)

"""Surgery: what is cut is numpy.take of what stays, and nothing else changes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.checker import check_model

from onnx_prune import criteria, kept, plan
from onnx_prune.axes.axis import Atom, Axis, Mask, atoms, cat, prod
from onnx_prune.choose import candidates, choose
from onnx_prune.coupling import Coupling
from onnx_prune.cut import cut
from onnx_prune.proof.prove import prove
from onnx_prune.runtime import Session, random_feeds
from onnx_prune.settings import Budget
from tests import zoo
from tests.graphs import Array, analyse, build, group_of, initializers, keeping, node, noise
from tests.models import small_cnn

IMAGE, OUT = (1, 2, 8, 8), (1, 2, 8, 8)


def conv(out: int, into: int) -> Array:
    return noise(out, into, 1, 1)


def half(coupling: Coupling, **budget: Any) -> dict[Atom, Mask]:
    """A plan for half of everything."""
    asked = Budget(round_to=1, **budget)
    groups = candidates(coupling, asked)
    return choose(coupling, {g.atom: criteria.l1(coupling, g) for g in groups}, asked, groups).plan


def taken(array: Array, keep: dict[str, list[int]]) -> Array:
    """The contract of the plan file."""
    for dim, stays in keep.items():
        array = np.take(array, stays, int(dim))
    return array


def two_convs(nodes: list[Any] | None = None, **weights: Array) -> onnx.ModelProto:
    own = {"w1": conv(6, 2), "b1": noise(6), "w2": conv(2, 6)} | weights
    return build(nodes or ["a = Conv(x, w1, b1)", "y = Conv(a, w2)"], own, {"x": IMAGE}, {"y": OUT})


@pytest.mark.parametrize("name", zoo.NAMES)
def test_a_cut_is_what_the_plan_file_says(name: str) -> None:
    model = zoo.load(name)
    before = model.SerializeToString()
    coupling = analyse(model)
    chosen = half(coupling)
    draft = cut(coupling, chosen)
    assert draft.content.keys() <= {tensor.name for tensor in draft.model.graph.initializer}
    small = draft.whole()
    written = plan.make(coupling, chosen, sha256="", criterion="l1", ratio=0.5)
    assert model.SerializeToString() == before
    old, new = initializers(model), initializers(small)
    constants = {n.output[0]: numpy_helper.to_array(n.attribute[0].t) for n in model.graph.node if _stores(n)}
    after = {n.output[0]: numpy_helper.to_array(n.attribute[0].t) for n in small.graph.node if _stores(n)}
    for weight, row in written.initializers.items():
        if row.get("computed"):
            continue
        source = row.get("copy_of", weight)
        array = old[source] if source in old else constants[source]
        assert list(array.shape) == row["shape"]
        np.testing.assert_array_equal((new | after)[weight], taken(array, row["keep"]))
    for weight, array in old.items():
        if weight in new and weight not in written.initializers:
            np.testing.assert_array_equal(new[weight], array)


def _stores(n: onnx.NodeProto) -> bool:
    return n.op_type == "Constant" and n.attribute[0].name == "value"


def test_only_the_weights_and_declared_shapes_change() -> None:
    """All that the record may hold comes out as it went in."""
    model = small_cnn(batch="n")
    model.producer_name, model.producer_version, model.domain, model.model_version = "p", "1.2", "d", 7
    model.doc_string = "of the model"
    model.metadata_props.add(key="author", value="me")
    graph = model.graph
    graph.doc_string = "of the graph"
    graph.node[0].doc_string = "of a node"
    graph.node[0].metadata_props.add(key="k", value="v")
    graph.initializer[0].doc_string = "of a weight"
    graph.input[0].doc_string = "of an input"
    graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, ("n", 8, 8, 8)))
    graph.value_info[0].doc_string = "of a value"
    note = graph.quantization_annotation.add(tensor_name="conv1.weight")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="conv1.bias")
    model.training_info.add().algorithm.name = "training"
    model.functions.add(name="f", domain="d")

    coupling = analyse(model)
    small = cut(coupling, keeping(group_of(coupling, "conv1.weight", 0), 0, 2, 5)).whole()

    expected = onnx.ModelProto.FromString(model.SerializeToString())
    by_name = {tensor.name: tensor for tensor in expected.graph.initializer}
    for name, dim in (("conv1.weight", 0), ("conv1.bias", 0), ("conv2.weight", 1)):
        stays = np.take(numpy_helper.to_array(by_name[name]), [0, 2, 5], dim)
        by_name[name].dims[dim] = 3
        by_name[name].raw_data = stays.tobytes()
    expected.graph.value_info[0].type.tensor_type.shape.dim[1].dim_value = 3
    assert small == expected


def test_what_is_declared_and_is_not_so_goes() -> None:
    """Found: a cut gave another tensor the shape of the lie, and onnxruntime one place in memory for both."""
    model = small_cnn(batch="n")
    made = [node.output[0] for node in model.graph.node]
    truths = {made[2]: ("m", "c", 8, 8), made[3]: None}
    for name, dims in {made[0]: ("n", 4, 8, 8), **truths, made[1]: ("n", 8)}.items():
        model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
    coupling = analyse(model)
    small = cut(coupling, keeping(group_of(coupling, "conv1.weight", 0), 0, 2, 5)).whole()
    assert [value.name for value in small.graph.value_info] == list(truths)
    assert all(value in model.graph.value_info for value in small.graph.value_info)


def test_an_empty_plan_changes_nothing() -> None:
    for name in (
        "a_mobilenet_v2-ts11-raw",
        "d_weightnorm_unfolded-ts17",
        "d_bias_shared_and_scale_shared-ts17",
    ):
        model = zoo.load(name)
        assert cut(analyse(model), {}).whole() == model


def test_the_group_attribute_follows() -> None:
    weights = {"w1": conv(12, 2), "w2": noise(6, 4, 1, 1), "w3": conv(2, 6)}
    nodes = ["a = Conv(x, w1)", node("b = Conv(a, w2)", group=3), "y = Conv(b, w3)"]
    coupling = analyse(build(nodes, weights, {"x": IMAGE}, {"y": OUT}))
    [groups] = [group for group in coupling.groups if group.size == 3]
    small = cut(coupling, keeping(groups, 0, 2)).whole()
    [attribute] = small.graph.node[1].attribute
    assert attribute.i == 2
    new = initializers(small)
    np.testing.assert_array_equal(new["w1"], np.delete(weights["w1"], [4, 5, 6, 7], 0))
    np.testing.assert_array_equal(new["w2"], np.delete(weights["w2"], [2, 3], 0))
    np.testing.assert_array_equal(new["w3"], np.delete(weights["w3"], [2, 3], 1))


def test_a_shared_bias_is_parted_by_copy_on_write() -> None:
    weights = {"w1": conv(4, 2), "w2": conv(4, 4), "w3": conv(2, 4), "b": noise(4)}
    nodes = ["a = Conv(x, w1, b)", "c = Conv(a, w2, b)", "y = Conv(c, w3)"]
    coupling = analyse(build(nodes, weights, {"x": IMAGE}, {"y": OUT}))
    chosen = keeping(group_of(coupling, "w1", 0), 0, 3) | keeping(group_of(coupling, "w2", 0), 1, 2, 3)
    small = cut(coupling, chosen).whole()
    new = initializers(small)
    first, second = (small.graph.node[j].input[2] for j in (0, 1))
    assert {first, second} == {"b", "b.c"}
    np.testing.assert_array_equal(new[first], weights["b"][[0, 3]])
    np.testing.assert_array_equal(new[second], weights["b"][[1, 2, 3]])
    written = plan.make(coupling, chosen, sha256="", criterion="l1", ratio=0.5)
    assert written.initializers["b.c"] == {
        "shape": [4],
        "keep": {"0": [1, 2, 3]},
        "copy_of": "b",
        "users": [["c", 2]],
    }


@pytest.mark.parametrize(
    ("cuts", "names"),
    [
        # the cut that most need keeps the name, or the first; copies are called after their first user
        ([[0, 3], [0, 3], [0, 3]], ["b", "b", "b"]),
        ([[0, 3], [1, 2], [1, 2]], ["b.a__", "b", "b"]),
        ([[0, 3], [1, 2], [0, 3]], ["b", "b.c", "b"]),
        ([[0, 3], [0, 3], [1, 2]], ["b", "b", "b.d_"]),
        ([[0, 3], [1, 2], [1, 3]], ["b", "b.c", "b.d_"]),
        # what stays whole is one more
        ([None, [1, 2], [1, 2]], ["b.a__", "b", "b"]),
        ([[1, 2], None, None], ["b.a__", "b", "b"]),
    ],
)
def test_which_users_of_a_shared_bias_get_a_copy(cuts: list[list[int] | None], names: list[str]) -> None:
    bias, own = noise(4), {f"w{j}": conv(4, 4) for j in (2, 3)}
    weights = {"w1": conv(4, 2), **own, "w4": conv(2, 4), "b": bias, "b.a": noise(1), "b.d": noise(1)}
    nodes = ["a = Conv(x, w1, b)", "c = Conv(a, w2, b)", "d = Conv(c, w3, b)", "y = Conv(d, w4)"]
    nodes.append("b.a_ = Relu(d)")
    coupling = analyse(build(nodes, weights, {"x": IMAGE}, {"y": OUT}))
    chosen: dict[Atom, Mask] = {}
    for j, cut_to in enumerate(cuts, 1):
        chosen |= keeping(group_of(coupling, f"w{j}", 0), *cut_to) if cut_to else {}
    small = cut(coupling, chosen).whole()
    assert [small.graph.node[j].input[2] for j in range(3)] == names
    for name, cut_to in zip(names, cuts, strict=True):
        np.testing.assert_array_equal(initializers(small)[name], bias if cut_to is None else bias[cut_to])
    assert set(initializers(small)) == {*weights, *names}


def test_three_convolutions_sharing_one_bias_are_pruned_and_run() -> None:
    weights = {"w1": conv(8, 2), "w2": conv(8, 8), "w3": conv(8, 8), "w4": conv(2, 8), "b": noise(8)}
    nodes = [
        "a = Conv(x, w1, b)",
        "p = Relu(a)",
        "c = Conv(p, w2, b)",
        "q = Relu(c)",
        "d = Conv(q, w3, b)",
        "y = Conv(d, w4)",
    ]
    coupling = analyse(build(nodes, weights, {"x": IMAGE}, {"y": OUT}))
    chosen = half(coupling)
    assert len(chosen) == 3
    small = cut(coupling, chosen).whole()
    check_model(small, full_check=True)
    assert prove(coupling, chosen, small).error < 1e-6
    assert all(tensor.dims[0] == 4 for tensor in small.graph.initializer if tensor.name.startswith("b"))
    assert len({small.graph.node[j].input[2] for j in (0, 2, 4)}) >= 2


def test_a_bias_that_is_also_an_output_layers_is_copied() -> None:
    """One user may be cut and the other held."""
    weights = {"w1": conv(2, 2), "w2": conv(2, 2), "b": noise(2)}
    coupling = analyse(build(["a = Conv(x, w1, b)", "y = Conv(a, w2, b)"], weights, {"x": IMAGE}, {"y": OUT}))
    small = cut(coupling, keeping(group_of(coupling, "w1", 0), 1)).whole()
    shapes = {n.output[0]: list(initializers(small)[n.input[2]].shape) for n in small.graph.node}
    assert shapes == {"a": [1], "y": [2]}


@pytest.mark.parametrize("form", ["value", "value_floats"])
def test_weights_in_constant_nodes(form: str) -> None:
    bias = noise(6)
    value = numpy_helper.from_array(bias) if form == "value" else bias.tolist()
    constant = helper.make_node("Constant", [], ["b1"], **{form: value})
    model = two_convs([constant, "a = Conv(x, w1, b1)", "y = Conv(a, w2)"])
    del model.graph.initializer[1]
    coupling = analyse(model)
    small = cut(coupling, keeping(group_of(coupling, "w1", 0), 0, 5)).whole()
    assert [n.op_type for n in small.graph.node] == ["Constant", "Conv", "Conv"]
    np.testing.assert_array_equal(numpy_helper.to_array(small.graph.node[0].attribute[0].t), bias[[0, 5]])
    # the model's own constant is left alone
    assert coupling.graph.array("b1").shape == (6,)


def test_initializers_that_are_also_inputs() -> None:
    model = two_convs()
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims))
    coupling = analyse(model)
    assert [value.name for value in coupling.graph.inputs] == ["x"]
    small = cut(coupling, keeping(group_of(coupling, "w1", 0), 0, 5)).whole()
    declared = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in small.graph.input}
    assert declared == {"x": [1, 2, 8, 8], "w1": [2, 2, 1, 1], "b1": [2], "w2": [2, 2, 1, 1]}
    check_model(small, full_check=True)


# Nodes and initializers that nothing uses.


def test_what_was_dead_before_stays() -> None:
    model = two_convs(["a = Conv(x, w1, b1)", "dead = Relu(a)", "y = Conv(a, w2)"], unused=noise(3))
    coupling = analyse(model)
    small = cut(coupling, keeping(group_of(coupling, "w1", 0), 0, 5)).whole()
    assert [n.output[0] for n in small.graph.node] == ["a", "dead", "y"]
    assert "unused" in initializers(small)


def test_what_the_cut_leaves_dead_goes_and_nothing_else() -> None:
    """The operand of Reshape is computed from a shape; once it is wrong, a constant takes its place."""
    weights = {
        "six": np.array([6]),
        "w1": conv(6, 2),
        "w2": noise(384, 3),
        "one": np.array([1]),
        "sixtyfour": np.array([64]),
    }
    nodes: list[Any] = [
        "a = Conv(x, w1)",
        node("n = Mul(six, sixtyfour)", name="count"),
        node("s = Concat(one, n)", axis=0),
        "other = Identity(one)",
        "f = Reshape(a, s)",
        "y = MatMul(f, w2)",
    ]
    model = build(nodes, weights, {"x": IMAGE}, {"y": (1, 3)})
    for name in ("n", "other", "six", "w1", "one", "x", "nothing", "s"):
        kind = TensorProto.FLOAT if name in ("w1", "x") else TensorProto.INT64
        model.graph.value_info.append(helper.make_tensor_value_info(name, kind, None))
    coupling = analyse(model)
    small = cut(coupling, keeping(group_of(coupling, "w1", 0), 0, 5)).whole()
    assert [n.output[0] for n in small.graph.node] == ["a", "other", "f", "y"]
    assert [value.name for value in small.graph.value_info] == ["other", "w1", "one", "x", "nothing"]
    assert set(initializers(small)) == {"w1", "w2", "one", "f.operand1"}
    assert initializers(small)["f.operand1"].tolist() == [1, 128]
    check_model(small, full_check=True)


@pytest.mark.parametrize(
    ("written", "after"),
    [([0, -1], [0, -1]), ([1, 384], [1, 128]), ([-1, 384], [-1, 128]), ([0, 384], [0, 128])],
)
def test_reshape_keeps_its_own_way_of_writing(written: list[int], after: list[int]) -> None:
    weights = {"w1": conv(6, 2), "w2": noise(384, 3), "s": np.array(written)}
    nodes = ["a = Conv(x, w1)", "f = Reshape(a, s)", "y = MatMul(f, w2)"]
    coupling = analyse(build(nodes, weights, {"x": IMAGE}, {"y": (1, 3)}))
    small = cut(coupling, keeping(group_of(coupling, "w1", 0), 0, 5)).whole()
    assert initializers(small)[small.graph.node[1].input[1]].tolist() == after
    assert ("f.operand1" in initializers(small)) == (written != after)


@pytest.mark.parametrize("written", [[0, 6, 64], [-1, 6, 64], [0, 6, -1], [0, 0, -1]])
def test_a_dynamic_reshape_stays_dynamic(written: list[int]) -> None:
    weights = {"w1": conv(6, 2), "s": np.array(written), "w2": noise(6, 3)}
    nodes: list[Any] = [
        "a = Conv(x, w1)",
        "f = Reshape(a, s)",
        node("t = Transpose(f)", perm=[0, 2, 1]),
        "y = MatMul(t, w2)",
    ]
    model = build(nodes, weights, {"x": ("n", 2, 8, 8)}, {"y": ("n", 64, 3)})
    coupling = analyse(model)
    chosen = keeping(group_of(coupling, "w1", 0), 1, 2, 4)
    small = cut(coupling, chosen).whole()
    session = Session(small)
    for batch in (1, 3, 5):
        feeds = random_feeds(coupling.graph.inputs, {"x": (batch, 2, 8, 8)})
        [y] = session.run(feeds)
        assert y.shape == (batch, 64, 3)
    assert prove(coupling, chosen, small).error < 1e-5
    # declared shapes, symbols among them, are as they were
    assert small.graph.input == model.graph.input
    assert small.graph.output == model.graph.output


@pytest.mark.parametrize(("opset", "attributes"), [(17, {}), (18, {"num_outputs": 2})])
def test_split_without_lengths_gets_them(opset: int, attributes: dict[str, Any]) -> None:
    weights = {"w1": conv(8, 2), "w2": conv(2, 4), "w3": conv(2, 4)}
    nodes: list[Any] = [
        "a = Conv(x, w1)",
        node("p, q = Split(a)", axis=1, **attributes),
        "u = Conv(p, w2)",
        "v = Conv(q, w3)",
        "y = Add(u, v)",
    ]
    coupling = analyse(build(nodes, weights, {"x": IMAGE}, {"y": OUT}, opset=opset))
    chosen = keeping(group_of(coupling, "w2", 1), 0) | keeping(group_of(coupling, "w3", 1), 0, 1, 3)
    small = cut(coupling, chosen).whole()
    [lengths] = [small.graph.node[1].input[1]]
    assert initializers(small)[lengths].tolist() == [1, 3]
    assert [attribute.name for attribute in small.graph.node[1].attribute] == ["axis"]
    assert prove(coupling, chosen, small).error < 1e-6


def test_a_frozen_weight_takes_the_place_of_its_nodes() -> None:
    model = zoo.load("d_weightnorm_unfolded-ts17")
    coupling = analyse(model)
    chosen = half(coupling)
    small = cut(coupling, chosen).whole()
    names = [name for name in coupling.graph.frozen if name in initializers(small)]
    assert names
    assert not set(names) & {output for n in small.graph.node for output in n.output}
    written = plan.make(coupling, chosen, sha256="", criterion="l1", ratio=0.5)
    for name in names:
        assert written.initializers[name]["computed"] is True
        np.testing.assert_array_equal(
            initializers(small)[name], taken(coupling.graph.array(name), written.initializers[name]["keep"])
        )
    check_model(small, full_check=True)


C, TIME, SPACE = Atom(4, "c"), Atom(3, "t", "its size varies"), Atom(2, "s", "space")
FIRST_AND_LAST = {C: np.array([True, False, False, True])}


@pytest.mark.parametrize(
    ("axis", "size", "places"),
    [
        (prod(TIME, C), 12, [0, 3, 4, 7, 8, 11]),
        # at another size of the held part there are more rows, or wider ones, or a longer run before
        (prod(TIME, C), 8, [0, 3, 4, 7]),
        (prod(C, TIME), 8, [0, 1, 6, 7]),
        (cat(TIME, C), 9, [0, 1, 2, 3, 4, 5, 8]),
        (cat(C, TIME), 6, [0, 3, 4, 5]),
        (cat(C, TIME, C), 10, [0, 3, 4, 5, 6, 9]),
        (prod(Atom(2, "g"), cat(TIME, C)), 10, [0, 1, 4, 5, 6, 9]),
        # of two held parts the one that is cut in part
        (prod(SPACE, cat(TIME, C)), 10, [0, 1, 4, 5, 6, 9]),
        (cat(SPACE, prod(TIME, C)), 10, [0, 1, 2, 5, 6, 9]),
    ],
)
def test_what_stays_where_a_held_part_varies(axis: Axis, size: int, places: list[int]) -> None:
    free = {C} | {atom for atom in atoms(axis) if atom.name == "g"}
    coupling: Any = SimpleNamespace(axes={"x": (axis,)}, groups=[SimpleNamespace(atom=atom) for atom in free])
    [found] = kept.stays(coupling, "x", FIRST_AND_LAST, (size,))
    [mask] = kept.masks(coupling, "x", FIRST_AND_LAST, (size,))
    assert found is not None
    assert mask is not None
    assert found.tolist() == np.flatnonzero(mask).tolist() == places
    count = kept.size_kept(axis, size, {C: 2}, free)
    assert (count, type(count)) == (len(places), int)


@pytest.mark.parametrize(
    ("axis", "size"),
    [(C, None), (prod(TIME, C), None), (TIME, 5), (prod(TIME, SPACE), 30), (cat(SPACE, TIME), 9), (C, 9)],
)
def test_what_stays_whole(axis: Axis, size: int | None) -> None:
    """All channels of a plan, axes that it does not cut, and atoms whose size is another than it says."""
    plan = {C: np.ones(4, np.bool_)} if size is None else FIRST_AND_LAST
    coupling: Any = SimpleNamespace(axes={"x": (axis,)}, groups=[SimpleNamespace(atom=C)])
    shape = None if size is None else (size,)
    assert kept.stays(coupling, "x", plan, shape) == kept.masks(coupling, "x", plan, shape) == [None]


@pytest.mark.parametrize(
    ("axis", "size", "left"),
    [
        # which of the held parts varies does not matter
        (prod(TIME, C, SPACE), 3 * 5 * 4, 3 * 5 * 2),
        (prod(TIME, C, SPACE, C), 4 * 7 * 4 * 4, 4 * 7 * 2 * 2),
        (cat(TIME, C, SPACE, C), 9 + 4 + 4, 9 + 2 + 2),
        (prod(SPACE, cat(C, TIME)), 2 * (4 + 8), 2 * (2 + 8)),
        (cat(SPACE, prod(TIME, C)), 2 + 5 * 4, 2 + 5 * 2),
    ],
)
def test_how_much_stays_where_several_parts_are_held(axis: Axis, size: int, left: int) -> None:
    found = kept.size_kept(axis, size, {C: 2}, {C})
    assert (found, type(found)) == (left, int)

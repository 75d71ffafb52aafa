"""The proof: right cuts pass it, planted faults do not, and it says what it could not compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_prune import choose, criteria, prune, settings
from onnx_prune.analyse import couple
from onnx_prune.axes.axis import atoms, cat
from onnx_prune.axes.relation import CARRIED, Op, Relation, letters
from onnx_prune.coupling import Coupling
from onnx_prune.cut import cut
from onnx_prune.errors import NotProved, ProofFailed
from onnx_prune.kept import Plan
from onnx_prune.model.graph import Graph
from onnx_prune.proof.compare import difference, varies
from onnx_prune.proof.prove import Proof, prove
from onnx_prune.rules import RULES

Array = np.ndarray[Any, Any]
Size = int | str


def weight(name: str, *shape: int, dtype: str = "float32") -> onnx.TensorProto:
    rng = np.random.default_rng([*name.encode()])
    return numpy_helper.from_array(rng.standard_normal(shape).astype(dtype), name)


def model(
    nodes: Sequence[onnx.NodeProto],
    weights: Sequence[onnx.TensorProto],
    inputs: Mapping[str, Sequence[Size]],
    outputs: Mapping[str, int],
    opset: int = 17,
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A model; `outputs` gives the element type of each."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, out, None) for name, out in outputs.items()],
        weights,
    )
    domains = {node.domain for node in nodes} - {""}
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def conv(x: str, w: str, y: str, **attrs: Any) -> onnx.NodeProto:
    return helper.make_node("Conv", [x, w], [y], **attrs)


def plan_of(coupling: Coupling, ratio: float = 0.5) -> Plan:
    asked = settings.Budget(ratio=ratio, round_to=1)
    groups = choose.candidates(coupling, asked)
    scores = {group.atom: criteria.l1(coupling, group) for group in groups}
    return choose.choose(coupling, scores, asked, groups).plan


def pruned(proto: onnx.ModelProto) -> tuple[Coupling, Plan, onnx.ModelProto]:
    coupling = couple(Graph(proto))
    plan = plan_of(coupling)
    assert plan, [held.why for held in coupling.held]
    return coupling, plan, cut(coupling, plan).whole()


def proved(proto: onnx.ModelProto) -> Proof:
    return prove(*pruned(proto))


IMAGE = {"x": (1, 3, 4, 4)}
FLOAT = {"y": TensorProto.FLOAT}


def concatenated() -> onnx.ModelProto:
    nodes = [
        conv("x", "w1", "a"),
        conv("x", "w2", "b"),
        helper.make_node("Concat", ["a", "b"], ["c"], axis=1),
        conv("c", "w3", "y"),
    ]
    return model(
        nodes, [weight("w1", 4, 3, 1, 1), weight("w2", 6, 3, 1, 1), weight("w3", 5, 10, 1, 1)], IMAGE, FLOAT
    )


def split() -> onnx.ModelProto:
    lengths = numpy_helper.from_array(np.array([4, 6]), "lengths")
    nodes = [
        conv("x", "w1", "c"),
        helper.make_node("Split", ["c", "lengths"], ["a", "b"], axis=1),
        conv("a", "w2", "d"),
        conv("b", "w3", "e"),
        helper.make_node("Add", ["d", "e"], ["y"]),
    ]
    weights = [weight("w1", 10, 3, 1, 1), weight("w2", 5, 4, 1, 1), weight("w3", 5, 6, 1, 1), lengths]
    return model(nodes, weights, IMAGE, FLOAT)


def softmax() -> onnx.ModelProto:
    nodes = [conv("x", "w1", "c"), helper.make_node("Softmax", ["c"], ["s"], axis=1), conv("s", "w2", "y")]
    return model(nodes, [weight("w1", 6, 3, 1, 1), weight("w2", 5, 6, 1, 1)], IMAGE, FLOAT)


def depthwise() -> onnx.ModelProto:
    nodes = [conv("x", "w1", "c"), conv("c", "w2", "d", group=6), conv("d", "w3", "y")]
    weights = [weight("w1", 6, 3, 1, 1), weight("w2", 6, 1, 1, 1), weight("w3", 5, 6, 1, 1)]
    return model(nodes, weights, IMAGE, FLOAT)


def gated() -> onnx.ModelProto:
    nodes = [
        conv("x", "w1", "c"),
        conv("x", "w2", "gate"),
        helper.make_node("Mul", ["c", "gate"], ["d"]),
        conv("d", "w3", "y"),
    ]
    weights = [weight("w1", 6, 3, 1, 1), weight("w2", 1, 3, 1, 1), weight("w3", 5, 6, 1, 1)]
    return model(nodes, weights, IMAGE, FLOAT)


def sigmoid() -> onnx.ModelProto:
    nodes = [conv("x", "w1", "c"), helper.make_node("Sigmoid", ["c"], ["s"]), conv("s", "w2", "y")]
    return model(nodes, [weight("w1", 6, 3, 1, 1), weight("w2", 5, 6, 1, 1)], IMAGE, FLOAT)


def flattened() -> onnx.ModelProto:
    shape = numpy_helper.from_array(np.array([1, 96]), "shape")
    nodes = [
        conv("x", "w1", "c"),
        helper.make_node("Reshape", ["c", "shape"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"]),
    ]
    return model(nodes, [weight("w1", 6, 3, 1, 1), weight("w2", 96, 5), shape], IMAGE, FLOAT)


GRAPHS = {
    "Concat": concatenated,
    "Conv": depthwise,
    "Mul": gated,
    "Reshape": flattened,
    "Sigmoid": sigmoid,
    "Split": split,
}


def swapped(relation: Relation) -> Relation:
    [dims] = relation.results
    assert dims is not None
    a, b = dims[1].parts  # type: ignore[union-attr]
    return replace(relation, results=((dims[0], cat(b, a), *dims[2:]),))


def not_restated(relation: Relation) -> Relation:
    return replace(relation, restate=())


def carried(relation: Relation) -> Relation:
    return replace(relation, zero=CARRIED)


FAULTS = {
    "two parts of Concat swapped": ("Concat", swapped),
    "Split's lengths forgotten": ("Split", not_restated),
    "Conv's group ignored": ("Conv", not_restated),
    "Reshape's shape forgotten": ("Reshape", not_restated),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_right_cut_is_proved(name: str) -> None:
    proof = proved(GRAPHS[name]())
    assert proof.error <= 1e-6
    assert proof.tolerance == 1e-4
    assert proof.outputs == ("y",)


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_fails_the_proof(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op_type, plant = FAULTS[fault]
    right = RULES["", op_type]
    monkeypatch.setitem(RULES, ("", op_type), lambda op: plant(right(op)))
    with pytest.raises(ProofFailed, match=r"cut model (differs|does not run).*this is a bug of onnx-prune"):
        proved(GRAPHS[op_type]())


def test_sigmoid_taken_for_zero_at_zero_fails_the_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """Summed over with no weight in between, the removed channels' 0.5 is missing."""
    nodes = [
        conv("x", "w1", "c"),
        helper.make_node("Sigmoid", ["c"], ["s"]),
        helper.make_node("ReduceSum", ["s", "one"], ["y"], keepdims=0),
    ]
    one = numpy_helper.from_array(np.array([1]), "one")
    proto = model(nodes, [weight("w1", 6, 3, 1, 1), one], IMAGE, FLOAT)
    assert not plan_of(couple(Graph(proto)))
    right = RULES["", "Sigmoid"]
    monkeypatch.setitem(RULES, ("", "Sigmoid"), lambda op: carried(right(op)))
    with pytest.raises(ProofFailed, match="y by"):
        proved(proto)


def test_softmax_over_a_free_axis_fails_the_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(
        "Softmax" in held.why or "graph" in held.why or "space" in held.why
        for held in couple(Graph(softmax())).held
    )
    free = lambda op: (lambda x: Relation((x,), (x,)))(letters(op.shape()))  # noqa: E731 - a rule of one line
    monkeypatch.setitem(RULES, ("", "Softmax"), free)
    with pytest.raises(ProofFailed, match="y by"):
        proved(softmax())


def test_coupling_a_size_one_dim_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The solver refuses to line up 1 with 6: the axis is held, with both sizes."""

    def coupled(op: Op) -> Relation:
        x = letters(op.out())
        return Relation((x, x), (x,), zero=((0, 1),))

    monkeypatch.setitem(RULES, ("", "Mul"), coupled)
    coupling = couple(Graph(gated()))
    plan = plan_of(coupling)
    touched = {m.weight for g in coupling.groups for m in g.members if set(atoms(g.atom)) & plan.keys()}
    assert "w2" not in touched


def test_fault_in_a_small_part_of_an_output_is_seen_at_its_own_scale() -> None:
    """Boxes of 1e4 pixels and scores below 1 in one output: 1e-4 of its largest value is a whole score."""
    nodes = [
        conv("x", "w1", "a"),
        conv("a", "w2", "boxes"),
        conv("x", "w3", "b"),
        conv("b", "w4", "logits"),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
        helper.make_node("Concat", ["boxes", "scores"], ["y"], axis=1),
    ]
    large = numpy_helper.from_array(1e5 * numpy_helper.to_array(weight("w2", 4, 6, 1, 1)), "w2")
    weights = [weight("w1", 6, 3, 1, 1), large, weight("w3", 6, 3, 1, 1), weight("w4", 2, 6, 1, 1)]
    coupling, plan, small = pruned(model(nodes, weights, IMAGE, FLOAT))
    assert prove(coupling, plan, small).inside == 2
    [wrong] = [t for t in small.graph.initializer if t.name == "w4"]
    wrong.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(wrong), 1, axis=1), "w4"))
    with pytest.raises(ProofFailed, match="logits by"):
        prove(coupling, plan, small)


# Dynamic axes, types, random operators.


def test_dynamic_axes_are_proved_at_two_sizes() -> None:
    proto = concatenated()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    assert proved(proto).runs == 2


def test_further_inputs_count_as_runs() -> None:
    coupling, plan, small = pruned(concatenated())
    feeds = [{"x": np.ones((1, 3, 4, 4), np.float32)}]
    assert prove(coupling, plan, small, feeds=feeds).runs == 2


def test_proof_is_the_same_every_time_and_leaves_the_model_alone() -> None:
    coupling, plan, small = pruned(sigmoid())
    before = small.SerializeToString(deterministic=True)
    assert prove(coupling, plan, small) == prove(coupling, plan, small)
    assert small.SerializeToString(deterministic=True) == before


def test_half_precision_is_compared_as_closely_as_single() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w1"], ["c"]), helper.make_node("MatMul", ["c", "w2"], ["y"])]
    weights = [weight("w1", 8, 6, dtype="float16"), weight("w2", 6, 4, dtype="float16")]
    proto = model(nodes, weights, {"x": (2, 8)}, {"y": TensorProto.FLOAT16}, kind=TensorProto.FLOAT16)
    assert proved(proto).tolerance == 1e-4


RANDOM = {
    "RandomNormalLike": helper.make_node("RandomNormalLike", ["c"], ["r"]),
    "RandomUniformLike": helper.make_node("RandomUniformLike", ["c"], ["r"], low=1.0, high=2.0),
    "RandomNormal": helper.make_node("RandomNormal", [], ["r"], shape=[1, 6, 4, 4]),
    "Dropout": helper.make_node("Dropout", ["c", "", "yes"], ["r", "kept"]),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_operators_are_pinned(name: str) -> None:
    nodes = [
        conv("x", "w1", "c"),
        RANDOM[name],
        helper.make_node("Mul", ["c", "r"], ["d"]),
        conv("d", "w2", "y"),
    ]
    yes = numpy_helper.from_array(np.array(True), "yes")
    weights = [weight("w1", 6, 3, 1, 1), weight("w2", 5, 6, 1, 1), yes]
    coupling = couple(Graph(model(nodes, weights, IMAGE, FLOAT)))
    plan = plan_of(coupling)
    assert prove(coupling, plan, cut(coupling, plan).whole()).error <= 1e-6


def test_saturation_is_not_held_against_the_cut() -> None:
    """A gate of 0 to 1 behind sums of 1e5 turns their last bits into thousandths."""
    nodes = [conv("x", "w1", "c"), conv("c", "w2", "d"), helper.make_node("HardSigmoid", ["d"], ["y"])]
    rng = np.random.default_rng(0)
    first = np.abs(rng.standard_normal((512, 3, 1, 1))).astype(np.float32)
    second = 1e4 * rng.standard_normal((64, 512, 1, 1)).astype(np.float32)
    weights = [numpy_helper.from_array(first, "w1"), numpy_helper.from_array(second, "w2")]
    proof = proved(model(nodes, weights, {"x": (1, 3, 32, 32)}, FLOAT))
    assert proof.error > 1e-4
    assert proof.tolerance > proof.error


def test_random_operators_in_bodies_are_seeded() -> None:
    noise = helper.make_node("RandomNormal", [], ["r"], shape=[1, 5, 4, 4])
    body = helper.make_graph([noise], "b", [], [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)])
    nodes = [
        conv("x", "w1", "c"),
        conv("c", "w2", "d"),
        helper.make_node("If", ["yes"], ["n"], then_branch=body, else_branch=body),
        helper.make_node("Add", ["d", "n"], ["y"]),
    ]
    yes = numpy_helper.from_array(np.array(True), "yes")
    weights = [weight("w1", 6, 3, 1, 1), weight("w2", 5, 6, 1, 1), yes]
    assert proved(model(nodes, weights, IMAGE, FLOAT)).error <= 1e-6


def test_indices_that_only_zero_fits() -> None:
    """The table has one row: 1 is out of its range."""
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "i"], ["e"]),
        helper.make_node("MatMul", ["e", "w1"], ["c"]),
        helper.make_node("MatMul", ["c", "w2"], ["y"]),
    ]
    weights = [weight("table", 1, 4), weight("w1", 4, 6), weight("w2", 6, 5)]
    proof = proved(model(nodes, weights, {"x": (7,)}, FLOAT, kind=TensorProto.INT32))
    assert proof.error <= 1e-6


# What an order decides.


def scored(
    *tail: onnx.NodeProto, outputs: Mapping[str, int], extra: Sequence[onnx.TensorProto] = ()
) -> onnx.ModelProto:
    nodes = [conv("x", "w1", "c"), conv("c", "w2", "scores"), *tail]
    return model(nodes, [weight("w1", 6, 3, 1, 1), weight("w2", 5, 6, 1, 1), *extra], IMAGE, outputs)


BEST = helper.make_node("ArgMax", ["scores"], ["i"], axis=2, keepdims=1)
STEPPED: dict[str, tuple[list[onnx.NodeProto], dict[str, int]]] = {
    "an index": ([helper.make_node("ArgMax", ["scores"], ["y"], axis=1)], {"y": TensorProto.INT64}),
    "values and indices": (
        [helper.make_node("TopK", ["scores", "k"], ["y", "i"], axis=1)],
        {"y": TensorProto.FLOAT, "i": TensorProto.INT64},
    ),
    "a threshold": ([helper.make_node("Greater", ["scores", "half"], ["y"])], {"y": TensorProto.BOOL}),
    "what is gathered": ([BEST, helper.make_node("GatherElements", ["scores", "i"], ["y"], axis=2)], FLOAT),
    "how many there are": ([helper.make_node("NonZero", ["scores"], ["y"])], {"y": TensorProto.INT64}),
    "a step": ([helper.make_node("Floor", ["scores"], ["y"])], FLOAT),
}


@pytest.mark.parametrize("name", STEPPED)
def test_what_rounding_turns_over_is_compared(name: str) -> None:
    nodes, outputs = STEPPED[name]
    constants = {"k": np.array([2]), "half": np.array(0.5, np.float32)}
    extra = [numpy_helper.from_array(array, key) for key, array in constants.items()]
    coupling, plan, small = pruned(scored(*nodes, outputs=outputs, extra=extra))
    proof = prove(coupling, plan, small)
    assert (proof.outputs, proof.silent, proof.pieces) == (tuple(outputs), (), None)
    [wrong] = [t for t in small.graph.initializer if t.name == "w2"]
    wrong.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(wrong), 1, axis=1), "w2"))
    with pytest.raises(ProofFailed):
        prove(coupling, plan, small)


def test_a_sequence_is_compared_item_by_item() -> None:
    halves = helper.make_node("SplitToSequence", ["scores"], ["y"], axis=2)
    proto = scored(halves, outputs=FLOAT)
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    proto.graph.output[0].CopyFrom(helper.make_value_info("y", kind))
    coupling, plan, small = pruned(proto)
    assert prove(coupling, plan, small).outputs == ("y",)


def test_an_output_that_says_nothing_is_named() -> None:
    nodes = [
        conv("x", "w1", "c"),
        conv("c", "w2", "y"),
        helper.make_node("Greater", ["y", "far"], ["over"]),
        helper.make_node("NonZero", ["over"], ["z"]),
    ]
    far = numpy_helper.from_array(np.array(1e9, np.float32), "far")
    weights = [weight("w1", 6, 3, 1, 1), weight("w2", 5, 6, 1, 1), far]
    proof = proved(model(nodes, weights, IMAGE, {**FLOAT, "z": TensorProto.INT64}))
    assert (proof.outputs, proof.silent) == (("y",), ("z",))


# What can't be proved.


def test_missing_operator_is_named() -> None:
    nodes = [
        conv("x", "w1", "c"),
        conv("c", "w2", "d"),
        helper.make_node("Bar", ["d"], ["y"], domain="com.foo"),
    ]
    coupling, plan, small = pruned(
        model(nodes, [weight("w1", 6, 3, 1, 1), weight("w2", 5, 6, 1, 1)], IMAGE, FLOAT)
    )
    with pytest.raises(NotProved, match=r"^onnxruntime lacks com\.foo\.Bar$"):
        prove(coupling, plan, small)


def constant() -> onnx.ModelProto:
    """Its answer is zero unless an input is above 1000."""
    nodes = [
        helper.make_node("Greater", ["x", "far"], ["over"]),
        helper.make_node("Where", ["over", "x", "zero"], ["large"]),
        conv("large", "w1", "c"),
        conv("c", "w2", "y"),
    ]
    weights = [weight("w1", 6, 3, 1, 1), weight("w2", 3, 6, 1, 1)]
    for name, value in (("far", 1000), ("zero", 0)):
        weights.append(numpy_helper.from_array(np.array(value, np.float32), name))
    return model(nodes, weights, IMAGE, FLOAT)


def test_inputs_that_it_answers_to_may_be_given() -> None:
    coupling, plan, small = pruned(constant())
    with pytest.raises(NotProved, match=r"^the outputs are empty, constant or not finite on every input"):
        prove(coupling, plan, small)
    x = np.random.default_rng(0).uniform(0, 2000, IMAGE["x"]).astype(np.float32)
    assert prove(coupling, plan, small, feeds=[{"x": x}]).outputs == ("y",)


def test_a_constant_answer_hides_no_cut_that_is_seen_inside() -> None:
    nodes = [
        conv("x", "w1", "c"),
        conv("c", "w2", "d"),
        helper.make_node("Greater", ["x", "far"], ["over"]),
        helper.make_node("Where", ["over", "d", "zero"], ["y"]),
    ]
    numbers = {"far": np.array(1000, np.float32), "zero": np.array(0, np.float32)}
    extra = [numpy_helper.from_array(array, name) for name, array in numbers.items()]
    proof = proved(model(nodes, [weight("w1", 6, 3, 1, 1), weight("w2", 3, 6, 1, 1), *extra], IMAGE, FLOAT))
    assert (proof.outputs, proof.silent, proof.inside) == ((), ("y",), 1)


def test_constant_answers_prove_nothing() -> None:
    zero = numpy_helper.from_array(np.zeros((5, 6, 1, 1), np.float32), "w2")
    proto = model(
        [conv("x", "w1", "c"), conv("c", "w2", "y")], [weight("w1", 6, 3, 1, 1), zero], IMAGE, FLOAT
    )
    with pytest.raises(NotProved, match="constant or not finite"):
        proved(proto)


def test_overflow_is_met_with_smaller_inputs() -> None:
    nodes = [conv("x", "w1", "c"), helper.make_node("Exp", ["c"], ["e"]), conv("e", "w2", "y")]
    large = numpy_helper.from_array(1000 * numpy_helper.to_array(weight("w1", 6, 3, 1, 1)), "w1")
    proof = proved(model(nodes, [large, weight("w2", 5, 6, 1, 1)], IMAGE, FLOAT))
    assert proof.error <= 1e-4


def test_failure_says_what_to_report() -> None:
    coupling, plan, small = pruned(concatenated())
    [wrong] = [t for t in small.graph.initializer if t.name == "w3"]
    wrong.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(wrong), "w3"))
    with pytest.raises(ProofFailed) as caught:
        prove(coupling, plan, small)
    text = str(caught.value)
    assert text.startswith(
        "the cut model differs from the masked original: y by 1.0e+00 of its largest value"
    )
    assert "IR 8, opset ai.onnx 17" in text
    assert onnx.__version__ in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("got", "want", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.0], [1.0, 4.0], 0.5),
        ([np.nan, 2.0], [np.nan, 2.0], 0.0),
        ([np.nan, 2.0], [1.0, 2.0], np.inf),
        ([np.inf, 2.0], [np.inf, 1.0], 1.0),
        ([1.0], [1.0, 2.0], np.inf),
        ([1.0], [0.0], np.inf),
        ([], [], 0.0),
    ],
)
def test_difference_is_relative_to_the_largest_value(
    got: list[float], want: list[float], expected: float
) -> None:
    assert difference(np.array(got), np.array(want)) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.array([1.0, 2.0]), True),
        (np.array([1.0, 1.0]), False),
        (np.array(1.0), True),
        (np.array([np.nan, np.inf]), False),
        (np.array([np.nan, 1.0, 2.0]), True),
        (np.array([1, 1]), True),
        (np.array([]), False),
    ],
)
def test_what_varies(value: Array, expected: bool) -> None:
    assert varies(value) == expected


def test_parts_of_a_folded_weight_are_gone_where_a_mask_stands_for_it() -> None:
    """Before IR version 4 onnxruntime refuses initializers that nobody reads."""
    parts = [weight("v", 6, 4, 3, 3), weight("g", 6, 1, 1, 1), weight("z", 3, 6, 1, 1)]
    nodes = [
        helper.make_node("ReduceL2", ["v"], ["n"], axes=[1, 2, 3]),
        helper.make_node("Div", ["v", "n"], ["u"]),
        helper.make_node("Mul", ["u", "g"], ["w"]),
        helper.make_node("Conv", ["x", "w"], ["h"]),
        helper.make_node("Conv", ["h", "z"], ["y"]),
    ]
    old = model(nodes, parts, {"x": ["n", 4, 8, 8]}, {"y": TensorProto.FLOAT})
    old.ir_version = 3
    proof = prune(old, ratio=0.5, round_to=1).report.proof
    assert isinstance(proof, Proof)
    assert proof.error <= proof.tolerance

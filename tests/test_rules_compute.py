"""The rules of elementwise, linear, normalising, pooling and reducing operators."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

from onnx_prune.axes.axis import Atom
from onnx_prune.axes.pattern import pattern
from onnx_prune.axes.relation import CARRIED, NEVER, Op, Relation, Zero, letters
from onnx_prune.errors import Misfit
from onnx_prune.rules import RULES, relate
from tests.cases_compute import MADE, signed
from tests.commute import Array, Case, RefusedError, check
from tests.node_cases import node_cases

FAMILIES = ("conv", "elementwise", "linear", "norm", "pool", "reduce")
OPERATORS = sorted(
    name
    for (domain, name), function in RULES.items()
    if not domain and function.__module__.rpartition(".")[2] in FAMILIES
)
# Values of these encode positions on every axis, or sizes: nothing can be cut.
ALL_HELD = {"AffineGrid", "MaxUnpool"}


@pytest.mark.parametrize("case", MADE, ids=str)
def test_cutting_commutes_with_running(case: Case) -> None:
    cut = check(case)
    assert case.cut in (None, cut)


@pytest.mark.parametrize("op_type", OPERATORS)
def test_cutting_commutes_on_the_cases_of_onnx(op_type: str) -> None:
    for case in node_cases().get(op_type, []):
        try:
            check(case)
        except RefusedError:
            continue


@pytest.mark.parametrize("op_type", [name for name in OPERATORS if name not in ALL_HELD])
def test_every_rule_lets_something_be_cut(op_type: str) -> None:
    cases = [case for case in MADE if case.op == op_type]
    assert any(check(c, trials=1) for c in cases)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["Add", "Mul", "Less", "Max", "Sub"]),
    mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=4),
)
def test_any_broadcast_commutes(op_type: str, shapes: object) -> None:
    left, right = shapes.input_shapes  # type: ignore[attr-defined]
    check(Case(op_type, [signed(*left), signed(*right, seed=1)], opset=13), trials=1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("abcd", min_size=1, max_size=3), min_size=1, max_size=3), st.data())
def test_any_equation_commutes(terms: list[str], data: st.DataObject) -> None:
    result = "".join(data.draw(st.permutations(sorted(set("".join(terms)))))[: data.draw(st.integers(0, 3))])
    sizes = {"a": 2, "b": 3, "c": 4, "d": 5}
    arrays: list[Array | None] = [signed(*(sizes[c] for c in term)) for term in terms]
    check(Case("Einsum", arrays, {"equation": f"{','.join(terms)}->{result}"}, 12), trials=1)


def test_a_free_axis_of_softmax_is_caught() -> None:
    with pytest.raises(AssertionError):
        check(Case("Softmax", [signed(4, 5)], {"axis": 1}, 13), rule=lambda op: pattern(op, "a b -> a b"))


def test_a_coupled_broadcast_dim_is_caught() -> None:
    def coupled(op: Op) -> Relation:
        a, b = letters(op.shape())
        return Relation(((a, b), (a, b)), ((a, b),))

    with pytest.raises(AssertionError):
        check(Case("Add", [signed(4, 5), signed(4, 1)]), rule=coupled)


def test_an_ignored_group_is_caught() -> None:
    text = "n i *d..., o j *k... -> n o *e..."
    with pytest.raises(AssertionError):
        check(
            Case("Conv", [signed(1, 6, 8), signed(9, 2, 3)], {"group": 3}), rule=lambda op: pattern(op, text)
        )


def test_a_false_zero_is_caught() -> None:
    with pytest.raises(AssertionError, match="not zero"):
        check(Case("Exp", [signed(4, 5)]), rule=lambda op: pattern(op, "a b -> a b", zero=CARRIED))


def test_a_contraction_that_is_a_mean_is_caught() -> None:
    with pytest.raises(AssertionError):
        check(
            Case("ReduceMean", [signed(4, 5)], {"axes": [1]}, 13), rule=lambda op: pattern(op, "a b -> a 1")
        )


FIRST, BOTH = ((0,),), ((0,), (1,))
ZEROS: list[tuple[Op, Zero]] = [
    (Op("Relu", ((4,),), ((4,),)), FIRST),
    (Op("Sigmoid", ((4,),), ((4,),)), NEVER),
    (Op("Clip", ((4,),), ((4,),), {"min": 0.0, "max": 6.0}, opset=10), FIRST),
    (Op("Clip", ((4,),), ((4,),), {"min": 0.1}, opset=10), NEVER),
    (Op("Clip", ((4,), (), None), ((4,),), values=(None, np.float32(0), None)), FIRST),
    (Op("Clip", ((4,), (), None), ((4,),), values=(None, None, None)), NEVER),
    (Op("Clip", ((4,), ()), ((4,),)), NEVER),
    (Op("Dropout", ((4,),), ((4,), (4,))), NEVER),
    (Op("Dropout", ((4,),), ((4,), None)), FIRST),
    (Op("Cast", ((4,),), ((4,),), {"to": onnx.TensorProto.STRING}), NEVER),
    (Op("Add", ((4,), (4,)), ((4,),)), BOTH),
    (Op("Add", ((4,), ()), ((4,),), values=(None, np.float32(0))), FIRST),
    (Op("Max", ((4,), ()), ((4,),), values=(None, np.float32(-1))), FIRST),
    (Op("Min", ((4,), ()), ((4,),), values=(None, np.float32(-1))), BOTH),
    (Op("Mul", ((4,), (4,)), ((4,),)), ((0, 1),)),
    (Op("Pow", ((4,), ()), ((4,),), values=(None, None)), NEVER),
    (Op("Gemm", ((2, 3), (3, 4)), ((2, 4),)), ((0, 1), (2,))),
    (Op("BatchNormalization", ((2, 4), *[(4,)] * 4), ((2, 4), (4,), (4,))), NEVER),
    (Op("TopK", ((2, 4), (1,)), ((2, 2), None)), CARRIED),
    (Op("TopK", ((2, 4), (1,)), ((2, 2), (2, 2))), NEVER),
]


@pytest.mark.parametrize(("op", "zero"), ZEROS)
def test_when_a_masked_channel_is_zero(op: Op, zero: Zero) -> None:
    relation = relate(op)
    assert relation is not None
    assert relation.zero == zero


@pytest.mark.parametrize(
    "op",
    [
        Op("ReduceSum", ((2, 3), (1,)), ((1, 3),), values=(None, None)),
        Op("CumSum", ((2, 3), ()), ((2, 3),), values=(None, None)),
        Op("MaxPool", ((2, 3, 8),), ((2, 3, 4), (2, 3, 4))),
        Op("MaxUnpool", ((2, 3, 4), (2, 3, 4)), ((2, 3, 8),)),
        Op("AffineGrid", ((2, 2, 3), (4,)), ((2, 4, 4, 2),)),
    ],
    ids=lambda op: op.type,
)
def test_what_is_known_only_at_run_time_is_held(op: Op) -> None:
    relation = relate(op)
    assert relation is not None
    axes = [axis for dims in relation.operands + relation.results if dims for axis in dims]
    assert all(isinstance(axis, Atom) and axis.held for axis in axes)


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (Op("Add", ((2, 3), (4,)), ((2, 3),)), r"shape \(4,\) does not broadcast to \(2, 3\)"),
        (Op("Add", ((2, 3), (1, 2, 3)), ((2, 3),)), r"shape \(1, 2, 3\) does not broadcast"),
        (Op("MatMul", ((2, 3), (4, 5)), ((2, 5),)), "inner axes of sizes 3 and 4"),
        (Op("Einsum", ((2,),), ((2,),), {"equation": "a,b->ab"}), "has 2 operands, the node 1"),
        (Op("Einsum", ((2, 3),), ((2,),), {"equation": "a->a"}), "rank 2 does not fit the term 'a'"),
    ],
)
def test_shapes_that_do_not_fit_say_so(op: Op, message: str) -> None:
    with pytest.raises(Misfit, match=message):
        relate(op)


def test_dropped_outputs_and_absent_operands_stay_none() -> None:
    relation = relate(Op("LayerNormalization", ((2, 4), (4,), None), ((2, 4), None, (2, 1))))
    assert relation is not None
    assert str(relation) == "a ~b, ~b, _ -> a ~b, _, a 1"

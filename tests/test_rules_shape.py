"""Rules of data movement: cutting commutes with running, in every form that the opsets know."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_prune.axes.axis import Cat, atoms, keep, size
from onnx_prune.axes.relation import Op, Relation, Shape
from onnx_prune.errors import Misfit
from onnx_prune.rules import RULES, relate
from onnx_prune.rules.reshape import DYNAMIC, UNSTABLE, refine
from tests.commute import Array, Case, RefusedError, check
from tests.node_cases import node_cases
from tests.strategies import plans, views

FAMILIES = ("reshape", "movement", "indexing", "space", "shape_sources")
MINE = sorted(
    name
    for (domain, name), function in RULES.items()
    if not domain and function.__module__.rsplit(".", 1)[-1] in FAMILIES
)
HELD = {
    "Range": "its values count positions",
    "EyeLike": "its values count positions",
    "RandomNormal": "random",
    "RandomUniform": "random",
    "RandomNormalLike": "random",
    "RandomUniformLike": "random",
    "Multinomial": "random",
    "Bernoulli": "random",
}
INT_MAX = 2**63 - 1


def f(*shape: int) -> NDArray[np.float32]:
    return np.asarray(np.random.default_rng(sum(shape)).standard_normal(shape), np.float32)


def i(*values: Any, dtype: Any = np.int64) -> Array:
    return np.array(values, dtype)


def index(high: int, *shape: int) -> Array:
    return np.random.default_rng(high).integers(0, high, shape)


def case(
    op: str, arrays: tuple[Array | None, ...], cut: int, attrs: Mapping[str, Any] | None = None, **rest: Any
) -> Case:
    """A node, and how many atoms its rule must be able to cut."""
    return Case(op, arrays, attrs or {}, cut=cut, **rest)


CASES = [
    case("Reshape", (f(12, 5), i(6, 10)), 3),
    case("Reshape", (f(2, 3, 8, 5), i(2, -1, 5)), 4, opset=7),
    case("Reshape", (f(2, 24, 5), i(0, 4, 6, 5)), 4, opset=14),
    case("Reshape", (f(2, 24, 5), i(0, 4, 6, 5)), 4, unknown=(1,)),
    case("Reshape", (f(1, 3, 4), i(3, 1, 4, 1)), 2),
    case("Reshape", (f(5, 2, 3), i(5, 3, 2)), 1),
    case("Reshape", (f(1), i()), 0),
    case("Reshape", (f(0, 3), i(3, 0)), 0, {"allowzero": 1}),
    case("Flatten", (f(2, 3, 4),), 3, opset=7),
    case("Flatten", (f(2, 3, 4),), 3, {"axis": 0}, opset=13),
    case("Flatten", (f(2, 3, 4),), 3, {"axis": -1}),
    case("Squeeze", (f(1, 3, 1, 4),), 2, opset=7),
    case("Squeeze", (f(1, 3, 1, 4),), 2, {"axes": [0, 2]}, opset=11),
    case("Squeeze", (f(1, 3, 1, 4), i(-2)), 2),
    case("Squeeze", (f(1, 2, 1, 2),), 2),
    case("Squeeze", (f(2, 2),), 0),
    case("Unsqueeze", (f(3, 4),), 2, {"axes": [0, 2]}, opset=7),
    case("Unsqueeze", (f(3, 4), i(1, -1)), 2),
    case("Unsqueeze", (f(), i(0)), 0),
    case("Transpose", (f(2, 3, 4),), 3, opset=7),
    case("Transpose", (f(2, 3, 4),), 3, {"perm": [1, 0, 2]}),
    case("Expand", (f(3, 1), i(2, 1, 6)), 3),
    case("Expand", (f(2, 3, 4), i(4)), 3),
    case("Expand", (f(2, 3, 4), i(1, 1)), 3),
    case("Expand", (f(4, 1, 3, 2), i(4, 5, 3, 2)), 4, unknown=(1,)),
    case("Expand", (f(), i(2, 3)), 2),
    case("Tile", (f(2, 3), i(1, 4)), 3),
    case("Tile", (f(2, 3), i(3, 2)), 4, opset=7),
    case("Concat", (f(2, 3, 4), f(2, 5, 4)), 4, {"axis": 1}, opset=7),
    case("Concat", (f(2, 3), f(2, 3), f(2, 0)), 3, {"axis": -1}),
    case("Concat", (f(3, 2),), 2, {"axis": 0}),
    case("Split", (f(2, 12),), 4, {"axis": 1, "split": [3, 4, 5]}, opset=7, outputs=3),
    case("Split", (f(2, 12),), 4, {"axis": -1}, opset=11, outputs=3),
    case("Split", (f(2, 12), i(3, 4, 5)), 4, {"axis": 1}, opset=13, outputs=3),
    case("Split", (f(2, 12),), 4, {"axis": 1}, opset=13, outputs=3),
    case("Split", (f(2, 12),), 4, {"axis": 1, "num_outputs": 3}, opset=18, outputs=3),
    case("Split", (f(2, 11),), 4, {"axis": 1, "num_outputs": 3}, opset=18, outputs=3),
    case("Split", (f(2, 12), i(3, 4, 5)), 1, {"axis": 1}, opset=18, outputs=3, unknown=(1,)),
    case("Pad", (f(2, 3, 4),), 3, {"pads": [0, 1, 0, 0, 2, 0]}, opset=7),
    case("Pad", (f(2, 3, 4),), 3, {"pads": [0, 1, 0, 0, 2, 0], "value": 1.5}, opset=7),
    case("Pad", (f(2, 3, 4), i(0, 0, 1, 0, 2, 0), np.array(2.0, np.float32)), 3, opset=11),
    case("Pad", (f(2, 3, 4), i(0, 0, 1, 0, 0, 2)), 2, {"mode": "reflect"}, opset=13),
    case("Pad", (f(2, 3, 4), i(0, 0, 1, 0, 0, 2)), 2, {"mode": "edge"}, opset=13),
    case("Pad", (f(2, 3, 4), i(0, 0, 1, 0, 0, 2)), 2, {"mode": "wrap"}, opset=19),
    case("Pad", (f(2, 3, 4), i(0, 0, -1, 0, 0, 0)), 2),
    case("Pad", (f(2, 3, 4), i(1, 2), None, i(-2)), 3, opset=18),
    case("Pad", (f(2, 3, 4), i(1, 2), None, i(-2)), 2, opset=18, unknown=(1,)),
    case("Pad", (f(2, 3, 4), i(1, 2), None, i(-2)), 0, opset=18, unknown=(3,)),
    case("Slice", (f(4, 12),), 4, {"starts": [3], "ends": [8], "axes": [1]}, opset=7),
    case("Slice", (f(4, 12),), 4, {"starts": [0, 3], "ends": [4, -2]}, opset=9),
    case("Slice", (f(4, 12), i(3), i(8), i(1)), 4, opset=10),
    case("Slice", (f(4, 12), i(-9), i(-4), i(-1)), 4),
    case("Slice", (f(4, 12), i(0), i(12), i(1)), 2),
    case("Slice", (f(4, 12), i(0, 6), i(INT_MAX, INT_MAX)), 3),
    case("Slice", (f(4, 12), i(1), i(INT_MAX), i(1), i(3)), 2),
    case("Slice", (f(4, 12), i(0), i(12), i(1), i(4)), 2),
    case("Slice", (f(4, 12), i(-1), i(-INT_MAX), i(1), i(-1)), 1),
    case("Slice", (f(4, 12), i(0), i(12), i(1), i(5)), 1),
    case("Slice", (f(4, 12), i(5), i(5), i(1)), 3),
    case("Slice", (f(4, 12), i(3), i(8), i(1)), 1, unknown=(1,)),
    case("Slice", (f(4, 12), i(3), i(8)), 1, unknown=(2,)),
    case("Slice", (f(4, 12), i(3), i(8), i(1)), 0, unknown=(3,)),
    case("Gather", (f(4, 9), np.array(4)), 3, {"axis": 1}, opset=7),
    case("Gather", (f(4, 9), np.array(-1)), 2, {"axis": 1}),
    case("Gather", (f(4, 9), i(3)), 3, {"axis": -1}),
    case("Gather", (f(4, 9), i(3, 4, 5, 6)), 4, {"axis": 1}),
    case("Gather", (f(4, 9), i(-5, -4, -3)), 4, {"axis": 1}),
    case("Gather", (f(4, 9), i(5, 2, 2)), 2, {"axis": 1}),
    case("Gather", (f(20, 9), index(20, 2, 5)), 3, unknown=(1,)),
    case("Gather", (f(20, 9), np.array(3)), 1, unknown=(1,)),
    case("GatherElements", (f(4, 9, 3), index(9, 4, 5, 3)), 3, {"axis": 1}),
    case("GatherElements", (f(6, 9), index(9, 3, 5)), 3, {"axis": -1}, opset=11),
    case("ScatterElements", (f(4, 9, 3), np.tile([[[1], [5]]], (4, 1, 3)), f(4, 2, 3)), 2, {"axis": 1}),
    case(
        "ScatterElements", (f(6, 9), np.tile([[1, 5]], (3, 1)), f(3, 2)), 2, {"axis": 1, "reduction": "add"}
    ),
    case("Scatter", (f(4, 9), np.tile([[1, 5]], (4, 1)), f(4, 2)), 1, {"axis": 1}, opset=9),
    case("GatherND", (f(3, 9, 4), index(9, 3, 5, 1)), 3, {"batch_dims": 1}),
    case("GatherND", (f(3, 9, 4), index(3, 5, 2)), 2, opset=11),
    case("ScatterND", (f(9, 4, 3), i([1], [5]), f(2, 4, 3)), 2, opset=11),
    case("ScatterND", (f(9, 4), i([1], [1]), f(2, 4)), 1, {"reduction": "add"}, opset=18),
    case("OneHot", (index(5, 3, 4), np.array(5), f(2)), 2, opset=9),
    case("OneHot", (index(5, 3, 4), np.array(5), f(2)), 2, {"axis": 1}),
    case("Compress", (f(3, 4, 5), np.array([True, False, True, True])), 2, {"axis": 1}, opset=9),
    case("Compress", (f(3, 4, 5), np.array([False, True])), 2, {"axis": -1}, opset=11),
    case("Compress", (f(3, 4), np.array([False, True, True])), 0, opset=11),
    case("ReverseSequence", (f(6, 3, 4), i(2, 6, 1)), 2),
    case("ReverseSequence", (f(3, 6, 4), i(2, 6, 1)), 2, {"batch_axis": 0, "time_axis": 1}),
    case("Resize", (f(2, 6, 4, 4), f(4) * 0 + i(1, 1, 2, 2, dtype=np.float32)), 2, opset=10),
    case("Resize", (f(2, 6, 4, 4), f(0), i(1, 1, 2, 2, dtype=np.float32)), 2, {"mode": "linear"}, opset=11),
    case("Resize", (f(2, 6, 4, 4), f(0), i(1, 1, 2, 2, dtype=np.float32)), 2, {"mode": "cubic"}, opset=13),
    case("Resize", (f(2, 6, 4, 4), f(0), i(1, 1, 2, 2, dtype=np.float32)), 0, opset=13, unknown=(2,)),
    case("Resize", (f(2, 6, 4, 4), f(0), f(0), i(2, 6, 7, 5)), 2, {"mode": "linear"}, opset=11),
    case("Resize", (f(2, 6, 4, 4), None, None, i(2, 6, 7, 5)), 2, opset=13, unknown=(3,)),
    case("Resize", (f(2, 6, 4, 4), None, None, i(7, 5)), 2, {"axes": [2, 3]}, opset=18),
    case(
        "Resize",
        (f(2, 6, 4, 4), None, None, i(8, 8)),
        2,
        {"axes": [2, 3], "keep_aspect_ratio_policy": "not_larger"},
        opset=19,
    ),
    case(
        "Resize",
        (f(2, 6, 4, 4), i(0, 0, 0.1, 0.2, 1, 1, 0.6, 0.8, dtype=np.float32), None, i(2, 6, 3, 3)),
        2,
        {
            "mode": "linear",
            "coordinate_transformation_mode": "tf_crop_and_resize",
            "extrapolation_value": 9.0,
        },
    ),
    case("Upsample", (f(2, 6, 4, 4),), 2, {"scales": [1.0, 1.0, 2.0, 2.0]}, opset=7),
    case("Upsample", (f(2, 6, 4, 4), i(1, 1, 2, 2, dtype=np.float32)), 2, opset=9),
    case("DepthToSpace", (f(2, 24, 2, 3),), 2, {"blocksize": 2}, opset=7),
    case("DepthToSpace", (f(2, 24, 2, 3),), 2, {"blocksize": 2, "mode": "DCR"}, opset=11),
    case("DepthToSpace", (f(2, 24, 2, 3),), 2, {"blocksize": 2, "mode": "CRD"}, opset=13),
    case("SpaceToDepth", (f(2, 5, 4, 6),), 2, {"blocksize": 2}, opset=7),
    case("Col2Im", (f(2, 12, 9), i(4, 4), i(2, 2)), 2),
    case("CenterCropPad", (f(3, 6, 9), i(4)), 2, {"axes": [2]}),
    case("ConstantOfShape", (i(3, 4),), 2),
    case("ConstantOfShape", (i(3, 4),), 2, {"value": np.array([2.5], np.float32)}),
    case("ConstantOfShape", (i(),), 0),
    case("Range", (np.array(0), np.array(6), np.array(2)), 0),
    case("EyeLike", (f(3, 4),), 0),
    case("RandomNormal", (), 0, {"shape": [3, 4]}),
    case("RandomUniform", (), 0, {"shape": [3, 4]}),
    case("RandomNormalLike", (f(3, 4),), 0),
    case("RandomUniformLike", (f(3, 4),), 0),
    case("Multinomial", (f(3, 4),), 0, {"sample_size": 5}),
    case("Bernoulli", (np.full((3, 4), 0.5, np.float32),), 0),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cutting_commutes_with_running(case: Case) -> None:
    assert check(case, trials=4) == case.cut


@pytest.mark.parametrize("case", [case for case in CASES if case.opset == 21], ids=str)
def test_newer_opsets_mean_the_same(case: Case) -> None:
    for opset in (23, 26):
        try:
            assert check(replace(case, opset=opset)) == case.cut
        except RefusedError:
            assert case.op == "Multinomial"  # its newest version runs nowhere here


@pytest.mark.parametrize("op_type", MINE)
def test_every_rule_cuts_something(op_type: str) -> None:
    cut = sum(case.cut or 0 for case in CASES if case.op == op_type)
    assert (cut == 0) == (op_type in HELD), HELD.get(op_type, "nothing was ever cut")


@pytest.mark.parametrize("op_type", sorted(set(MINE) - {"RandomNormal", "RandomUniform"}))
def test_onnx_node_cases(op_type: str) -> None:
    """ONNX's own cases; those that nothing here runs are passed over."""
    for case in node_cases().get(op_type, []):
        try:
            check(case)
        except RefusedError:
            continue


def swapped(relation: Relation) -> Relation:
    """The parts of the first operand and the second change places in the result."""
    [[rows, both]] = (dims for dims in relation.results if dims)
    assert isinstance(both, Cat)
    parts = Cat(both.parts[::-1])
    return replace(relation, results=((rows, parts),))


def unfollowed(relation: Relation) -> Relation:
    return replace(relation, restate=())


def other_mode(relation: Relation) -> Relation:
    """What the rule says of the other mode, for a node of this one."""
    op = Op("DepthToSpace", ((2, 24, 2, 3),), ((2, 6, 4, 6),), {"blocksize": 2, "mode": "CRD"})
    other = relate(op)
    assert other is not None
    return other


def zero_everywhere(relation: Relation) -> Relation:
    return replace(relation, zero=())


@pytest.mark.parametrize(
    ("case", "change"),
    [
        (case("Concat", (f(2, 5), f(2, 5)), 3, {"axis": 1}), swapped),
        (case("Split", (f(2, 12), i(3, 4, 5)), 4, {"axis": 1}, outputs=3), unfollowed),
        (case("Split", (f(2, 12),), 4, {"axis": 1}, opset=13, outputs=2), unfollowed),
        (case("DepthToSpace", (f(2, 24, 2, 3),), 2, {"blocksize": 2}), other_mode),
        (case("Reshape", (f(2, 24), i(2, 4, 6)), 3), unfollowed),
        (case("Slice", (f(4, 12), i(3), i(8), i(1)), 4), unfollowed),
        (case("Gather", (f(9, 4), np.array(4)), 3), unfollowed),
        (case("Expand", (f(3, 1), i(3, 6)), 2), unfollowed),
        (case("Expand", (f(3, 1), i(3, 6)), 2), zero_everywhere),
        (case("ConstantOfShape", (i(3, 4),), 2, {"value": np.array([2.5], np.float32)}), zero_everywhere),
        (case("Pad", (f(2, 3), i(0, 1, 0, 2), np.array(2.0, np.float32)), 2), zero_everywhere),
    ],
    ids=lambda value: value.__name__ if callable(value) else str(value),
)
def test_planted_faults_are_caught(case: Case, change: Callable[[Relation], Relation]) -> None:
    def faulty(op: Op) -> Relation:
        relation = relate(op)
        assert relation is not None
        return change(relation)

    check(case)
    with pytest.raises(AssertionError):
        check(case, rule=faulty, trials=4)


def test_no_rule_is_an_error() -> None:
    with pytest.raises(AssertionError, match="no rule for HannWindow"):
        check(Case("HannWindow", (i(5),)))


@given(st.data(), views())
def test_refined_views_are_masked_alike(data: st.DataObject, shapes: tuple[Shape, Shape]) -> None:
    dims = refine(*shapes)
    assert tuple(tuple(map(size, side)) for side in dims) == shapes
    found = dict.fromkeys(atom for side in dims for axis in side for atom in atoms(axis))
    plan = data.draw(plans(atom for atom in found if not atom.held))
    ones = np.ones(1, np.bool_)
    flat = [
        functools.reduce(lambda m, axis: np.logical_and.outer(m, keep(axis, plan)).ravel(), side, ones)
        for side in dims
    ]
    np.testing.assert_array_equal(flat[0], flat[1])


@given(views())
def test_refining_is_symmetric_and_needs_no_more_atoms_than_cuts(shapes: tuple[Shape, Shape]) -> None:
    one, two = refine(*shapes), refine(*shapes[::-1])[::-1]
    assert [str(axis) for side in one for axis in side] == [str(axis) for side in two for axis in side]
    assert refine(shapes[0], shapes[0]) is not None
    assert all(
        not atom.held for side in refine(shapes[0], shapes[0]) for axis in side for atom in atoms(axis)
    )


def said(dims: tuple[Any, Any]) -> tuple[str, str]:
    return " ".join(map(str, dims[0])), " ".join(map(str, dims[1]))


@pytest.mark.parametrize(
    ("shapes", "probe", "expected"),
    [
        (((7, 12), (7, 3, 4)), ((11, 12), (11, 3, 4)), ("*a (b c)", "*a b c")),
        (((56, 9), (7, 8, 9)), ((88, 9), (11, 8, 9)), ("(*a b) c", "*a b c")),
        (((2, 12), (12, 2)), ((3, 12), (12, 3)), ("*x0 *x1", "*x0 *x1")),
        (((7, 5, 6), (35, 6)), ((11, 13, 6), (143, 6)), ("*a *b c", "(*a *b) c")),
        (((6, 4), (4, 6)), None, ("*x0 *x1", "*x0 *x1")),
        (
            ((2, 6), (6, 2)),
            ((2, 9), (9, 2)),
            ("*x0 *x1", "*x0 *x1"),
        ),  # factors at one size alone
        (((), (1, 1)), None, ("", "1 1")),
        (((2, 0), (0, 3)), None, ("*x0 *x1", "*x0 *x1")),
    ],
)
def test_refine_by_hand(
    shapes: tuple[Shape, Shape], probe: tuple[Shape, Shape] | None, expected: tuple[str, str]
) -> None:
    assert said(refine(*shapes, probe)) == expected


def test_refine_says_why() -> None:
    (x, _), _ = refine((6, 4), (4, 6))
    assert [atom.held for atom in atoms(x)] == ["groupings (6 4) and (4 6) do not line up"]
    (x, _), _ = refine((2, 12), (12, 2), ((3, 12), (12, 3)))
    assert [atom.held for atom in atoms(x)] == [UNSTABLE]
    (x, _), _ = refine((7, 12), (7, 3, 4), ((11, 12), (11, 3, 4)))
    assert [atom.held for atom in atoms(x)] == [DYNAMIC]
    with pytest.raises(Misfit, match="different numbers of elements"):
        refine((2, 3), (7,))


def test_reshape_and_resize_look_at_both_assignments() -> None:
    probe = Op("Reshape", ((3, 12), (2,)), ((12, 3),))
    relation = relate(Op("Reshape", ((2, 12), (2,)), ((12, 2),), probe=probe))
    assert str(relation) == "*x0 *x1, _ -> *x0 *x1"
    probe = Op("Resize", ((1, 6, 11), None, None, (3,)), ((1, 6, 8),))
    relation = relate(Op("Resize", ((1, 6, 8), None, None, (3,)), ((1, 6, 8),), probe=probe))
    assert str(relation) == "a b *c, _, _, _ -> a b *c1"


def test_omitted_results_of_split_leave_their_part_on_the_axis() -> None:
    relation = relate(Op("Split", ((2, 7), (2,)), (None, (2, 4)), {"axis": 1}, (None, i(3, 4))))
    assert str(relation) == "a (b0 + b1), _ -> _, a b1"
    relation = relate(Op("Split", ((2, 7),), ((2, 4), None), {"axis": 1, "num_outputs": 2}))
    assert str(relation) == "a (b0 + b1) -> a b0, _"

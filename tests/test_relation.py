"""Patterns: how they are read, how sizes are solved, and what is said when they do not fit."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_prune.axes.axis import Atom, atoms
from onnx_prune.axes.pattern import pattern
from onnx_prune.axes.relation import NEVER, WHOLE, Op, Relation, Restate, Shape, hold, letters, mix, positive
from onnx_prune.errors import Misfit
from onnx_prune.rules import relate


def op(ins: str, outs: str = "", **rest: object) -> Op:
    """A node with shapes written as "2x3 5 _", where _ is one left out."""

    def shapes(text: str) -> tuple[Shape | None, ...]:
        return tuple(None if t == "_" else tuple(map(int, t.split("x"))) for t in text.split())

    return Op("Test", shapes(ins), shapes(outs), **rest)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "ins", "outs", "sizes", "expected", "solved"),
    [
        ("a b -> a b", "2x3", "2x3", {}, "a b -> a b", {"a": 2, "b": 3}),
        ("a b, b c -> a c", "2x3 3x4", "2x4", {}, "a b, b c -> a c", {"c": 4}),
        # one factor given, the other solved
        ("(g i), i -> g", "12 4", "3", {}, "(g i), i -> g", {"g": 3, "i": 4}),
        ("(g i) -> (g i)", "12", "12", {"g": 2}, "(g i) -> (g i)", {"i": 6}),
        # a sum, solved by subtraction
        ("(a + b), a -> b", "7 3", "4", {}, "(a + b), a -> b", {"b": 4}),
        ("(h (d + e)), h, d -> e", "20 2 3", "7", {}, "(h (d + e)), h, d -> e", {"e": 7}),
        # solved only when later dims are known
        ("(a b), b -> a", "6 3", "2", {}, "(a b), b -> a", {"a": 2}),
        # any number of dims, the same number wherever the letter stands
        ("n d... -> d...", "2x3x4x5", "3x4x5", {}, "n d0 d1 d2 -> d0 d1 d2", {"d2": 5}),
        ("n d... -> n d...", "2", "2", {}, "n -> n", {"n": 2}),
        ("*d... ~c -> *d... ~c", "2x3", "2x3", {}, "*d0 ~c -> *d0 ~c", {"c": 3}),
        ("a 1 -> a", "5x1", "5", {}, "a 1 -> a", {"a": 5}),
        # factors of size one disappear
        ("(g i) -> g i", "4", "1x4", {"g": 1}, "i -> g i", {"i": 4}),
        # operands and results that are left out, or that the text does not name
        ("a, b, c -> a, b", "2 _ 4", "2 _", {"b": 1}, "a, _, c -> a, _", {"c": 4}),
        ("a -> a", "2 3", "2 4", {}, "a, _ -> a, _", {"a": 2}),
        ("a, b, c -> a", "2", "2", {"b": 1, "c": 1}, "a -> a", {}),
    ],
)
def test_patterns(
    text: str, ins: str, outs: str, sizes: dict[str, int], expected: str, solved: dict[str, int]
) -> None:
    relation = pattern(op(ins, outs), text, **sizes)
    assert str(relation) == expected
    found = {
        a.name: a.size
        for side in (relation.operands, relation.results)
        for d in side
        if d
        for x in d
        for a in atoms(x)
    }
    assert solved.items() <= found.items()


def test_scalars_are_written_as_empty_brackets() -> None:
    assert str(Relation(((), None), ((Atom(2, "a"),),))) == "(), _ -> a"


def test_a_letter_is_one_atom_wherever_it_stands() -> None:
    relation = pattern(op("6x2 2x4", "6x4"), "(g i) k, k n -> (g i) n", g=2)
    assert relation.operands[0] is not None
    assert relation.results[0] is not None
    assert relation.operands[0][0] == relation.results[0][0]
    assert [atom.name for atom in relation.contracted()] == ["k"]


def test_marks_carry_the_reason() -> None:
    relation = pattern(op("2x3x4", "2x3x4"), "a *b ~c -> a b c", why="because", zero=NEVER)
    [dims] = relation.operands
    assert dims is not None
    a, b, c = (atom for axis in dims for atom in atoms(axis))
    assert (a.held, a.mixed, b.held, b.mixed, c.held, c.mixed) == (
        None,
        None,
        "because",
        None,
        None,
        "because",
    )
    assert relation.zero == NEVER
    [dims] = pattern(op("2", "2"), "*a -> a").results
    assert dims is not None
    assert [atom.held for axis in dims for atom in atoms(axis)] == [WHOLE]


def test_a_misspelt_form_of_restating_is_refused() -> None:
    with pytest.raises(ValueError, match="'size' is no form of Restate: one of sizes, shape"):
        Restate("group", "size", (None,))  # type: ignore[arg-type]


def test_restated_attributes_follow_their_letter() -> None:
    relation = pattern(op("6", "6"), "(g i) -> (g i)", restate={"group": "g"}, g=3)
    [follower] = relation.restate
    assert (follower.target, follower.form) == ("group", "sizes")
    assert follower.axes[0] in set(atoms(relation.operands[0][0]))  # type: ignore[index]


def test_a_lone_group_needs_no_restating() -> None:
    assert pattern(op("6", "6"), "(g i) -> (g i)", restate={"group": "g"}, g=1).restate == ()


@pytest.mark.parametrize(
    ("text", "ins", "outs", "sizes", "message"),
    [
        ("a b -> a", "2x3x4", "2", {}, "a tensor of rank 3 does not fit the pattern"),
        ("a b c d... -> a", "2", "2", {}, "a tensor of rank 1 does not fit the pattern"),
        ("n d... -> d...", "2x3x4", "3", {}, "a tensor of rank 1 does not fit the pattern"),
        ("(g i) -> (g i)", "7", "7", {"g": 2}, "7 is not a multiple of 2"),
        ("(g i) -> (g i)", "7", "7", {"g": 0}, "7 is not a multiple of 0"),
        ("(a b) -> (a b)", "6", "6", {}, "the sizes in '(a b) -> (a b)' can't be told from the shapes"),
        (
            "(a + b) -> (a + b)",
            "6",
            "6",
            {},
            "the sizes in '(a + b) -> (a + b)' can't be told from the shapes",
        ),
        ("a, a -> a", "2 3", "2", {}, "a dim of size 3 does not fit a of size 2"),
        ("a (a b) -> b", "2x6", "4", {}, "a dim of size 4 does not fit b of size 3"),
        ("a 1 -> a", "2x3", "2", {}, "a dim of size 3 does not fit 1 of size 1"),
        ("a -> a", "2", "2", {"a": 3}, "a dim of size 2 does not fit a of size 3"),
    ],
)
def test_what_does_not_fit_says_so(
    text: str, ins: str, outs: str, sizes: dict[str, int], message: str
) -> None:
    with pytest.raises(Misfit) as error:
        pattern(op(ins, outs), text, **sizes)
    assert str(error.value) == message


@pytest.mark.parametrize("text", ["a B -> a", "a - b -> a", "a [b] -> a"])
def test_a_pattern_that_cannot_be_read_is_a_mistake_of_ours(text: str) -> None:
    with pytest.raises(ValueError, match=r"pattern '.*': cannot read '.*'"):
        pattern(op("2x3", "2"), text)


@pytest.mark.parametrize("axis", [2, -3, 1 << 32])  # onnx keeps 32 bits, and finds shapes all the same
def test_an_axis_that_is_not_there_is_no_axis(axis: int) -> None:
    assert [positive(at, 2) for at in (0, 1, -1, -2)] == [0, 1, 1, 0]
    with pytest.raises(Misfit, match=f"^axis {axis} is none of 2$"):
        relate(Op("Concat", ((2, 3), (2, 4)), ((2, 7),), {"axis": axis}))


def test_the_node_answers_for_what_it_has() -> None:
    node = op(
        "2x3 _",
        "4 _",
        attrs={"axis": 1, "pads": (1, 2), "mode": b"nearest", "auto": "SAME"},
        values=(None, np.array([[1, 2]])),
    )
    assert (node.integer("axis"), node.integer("none", 7)) == (1, 7)
    assert (node.integers("pads"), node.integers("none")) == ([1, 2], None)
    assert (node.text("mode"), node.text("auto"), node.text("none", "x")) == ("nearest", "SAME", "x")
    assert (node.has(0), node.has(1), node.has(2)) == (True, False, False)
    assert (node.shape(0), node.out(0)) == ((2, 3), (4,))
    assert (node.const(0), node.const(1), node.const(5)) == (None, [1, 2], None)
    # an attribute in old opsets, an operand in new ones
    assert (node.constant("pads", 1), node.constant("none", 1)) == ([1, 2], [1, 2])


def test_what_the_node_lacks_is_a_misfit() -> None:
    with pytest.raises(Misfit, match=r"^Test has no operand 1$"):
        op("2 _").shape(1)
    with pytest.raises(Misfit, match=r"^Test has no operand 3$"):
        op("2").shape(3)
    with pytest.raises(Misfit, match=r"^Test has no result 1$"):
        op("2", "2 _").out(1)
    with pytest.raises(Misfit, match=r"^Test has no result 0$"):
        op("2").out()


def test_small_helpers() -> None:
    assert (positive(-1, 4), positive(2, 4)) == (3, 2)
    assert [str(atom) for atom in letters((2, 3), "nc")] == ["n", "c"]
    assert [str(atom) for atom in letters((2, 3, 4), "nc")] == ["n", "c", "x2"]
    c = Atom(4, "c")
    assert (hold(c).held, hold(c, "why").held, mix(c, "why").mixed) == (WHOLE, "why", "why")
    assert hold(c) is not c

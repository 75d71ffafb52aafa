"""The solver makes axes equal, or holds them; in whatever order it is told."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnx_prune.axes.axis import Atom, Axis, Bundle, atoms, cat, keep, prod, size, weave
from onnx_prune.axes.unify import EMPTY, TANGLED, UNLIKE, Solver
from tests.strategies import equations, plans, sound_equations


def free(solver: Solver, *axes: Axis) -> list[Atom]:
    """Resolved atoms of the axes that may be cut, each once."""
    found = dict.fromkeys(atom for axis in axes for atom in atoms(solver.resolve(axis)))
    return [atom for atom in found if atom.size > 1 and not solver.held(atom)]


@given(st.data(), equations())
def test_unified_axes_are_masked_alike(data: st.DataObject, pairs: list[tuple[Axis, Axis]]) -> None:
    solver = Solver()
    for left, right in pairs:
        solver.unify(left, right)
    plan = data.draw(plans(free(solver, *(axis for pair in pairs for axis in pair))))
    for left, right in pairs:
        np.testing.assert_array_equal(keep(solver.resolve(left), plan), keep(solver.resolve(right), plan))


@given(equations())
def test_resolved_axes_keep_their_sizes(pairs: list[tuple[Axis, Axis]]) -> None:
    solver = Solver()
    for left, right in pairs:
        solver.unify(left, right)
    assert all(size(solver.resolve(axis)) == size(axis) for pair in pairs for axis in pair)


@given(sound_equations(), st.randoms(use_true_random=False))
def test_order_does_not_matter(pairs: list[tuple[Axis, Axis]], rng: random.Random) -> None:
    """The same positions are held, and the same free positions belong together."""
    shuffled = rng.sample(pairs, len(pairs))
    pictures = []
    for order in (pairs, shuffled):
        solver = Solver()
        for left, right in order:
            solver.unify(left, right)
        axes = [solver.resolve(axis) for pair in pairs for axis in pair]
        # what is held may be written more or less finely: only free atoms are compared
        rows = [[atom for atom in atoms(axis) if atom.size > 1 and not solver.held(atom)] for axis in axes]
        groups = {atom: k for k, atom in enumerate(dict.fromkeys(free(solver, *axes)))}
        pictures.append([[(atom.size, groups[atom]) for atom in row] for row in rows])
    assert pictures[0] == pictures[1]


def test_twelve_by_five_meets_six_by_ten() -> None:
    solver = Solver()
    a, b = prod(Atom(12, "a"), Atom(5, "b")), prod(Atom(6, "c"), Atom(10, "d"))
    solver.unify(a, b)
    assert [atom.size for atom in atoms(solver.resolve(a))] == [6, 2, 5]
    assert solver.resolve(a) == solver.resolve(b)


def test_a_rotation_of_itself_is_held() -> None:
    solver = Solver()
    first, rest = Atom(1, "f"), Atom(999, "r")
    solver.unify(cat(first, rest), cat(rest, first))
    assert solver.held(next(a for a in atoms(solver.resolve(rest)) if a.size > 1)) == TANGLED


def test_groupings_that_do_not_line_up_say_so() -> None:
    solver = Solver()
    a = prod(Atom(2, "a"), Atom(3, "b"))
    solver.unify(a, prod(Atom(3, "c"), Atom(2, "d")))
    assert {solver.held(atom) for atom in atoms(solver.resolve(a))} == {
        "groupings by 3 and by 2 do not line up"
    }


def test_sizes_that_differ_are_held() -> None:
    solver, a, b = Solver(), Atom(2, "a"), Atom(3, "b")
    solver.unify(a, b)
    assert solver.held(a) == solver.held(b) == "axes of sizes 2 and 3 meet"


def test_held_is_absorbing() -> None:
    solver, space = Solver(), Atom(6, "s", "space")
    halves = cat(Atom(2, "a"), Atom(4, "b"))
    solver.unify(space, halves)
    assert solver.resolve(space) is space
    assert {solver.held(atom) for atom in atoms(halves)} == {"space"}


def test_size_one_beside_held_is_wholly_held() -> None:
    solver = Solver()
    axis, other = cat(Atom(5, "a", "space"), Atom(1, "one")), Atom(6, "x")
    solver.unify(axis, other)
    assert solver.resolve(other) is other
    assert solver.held(other) == "space"


def test_of_two_reasons_the_first_is_handed_on() -> None:
    solver, other = Solver(), Atom(5, "x")
    solver.unify(other, cat(Atom(2, "a", "one"), Atom(3, "b", "two")))
    assert solver.held(other) == "one"


def test_zero_sizes_are_held() -> None:
    solver = Solver()
    a, b = prod(Atom(4, "a"), Atom(0, "b")), prod(Atom(0, "c"), Atom(3, "d"))
    solver.unify(a, b)
    assert {solver.held(atom) for atom in atoms(cat(a, b))} == {EMPTY}


def test_mixed_follows_a_definition() -> None:
    solver, c = Solver(), Atom(6, "c", mixed="a mean")
    halves = cat(Atom(2, "a"), Atom(4, "b"))
    solver.unify(halves, c)
    assert {solver.mixed(atom) for atom in atoms(halves)} == {"a mean"}


def test_a_factor_that_stands_twice_is_split_twice() -> None:
    """Once split, it meets the next factors as what it is made of."""
    solver, a = Solver(), Atom(6, "a")
    pairs = prod(Atom(2, "h"), Atom(3, "d"), Atom(2, "k"), Atom(3, "e"))
    assert solver.unify(prod(a, a), pairs) is None
    front, tail = atoms(solver.resolve(a))
    assert (front.size, tail.size) == (2, 3)
    assert solver.resolve(pairs) == prod(front, tail, front, tail)


def test_a_concatenation_of_multiples_is_factored_part_by_part() -> None:
    """(4 + 6) against (e 2): both parts lose pairs, and e is as long as all pairs."""
    solver, p, q, e, d = Solver(), Atom(4, "p"), Atom(6, "q"), Atom(15, "e"), Atom(2, "d")
    assert solver.unify(prod(Atom(3, "o"), cat(p, q)), prod(e, d)) is None
    (_, pair), (_, other) = solver.resolve(p).parts, solver.resolve(q).parts
    assert pair is other is solver.resolve(d)
    assert str(solver.resolve(cat(p, q))) == "((h d) + (h d))"
    assert [atom.size for atom in atoms(solver.resolve(cat(p, q)))] == [2, 2, 3, 2]
    assert [atom.size for atom in atoms(solver.resolve(e))] == [3, 2, 3]


def test_a_concatenation_of_odd_parts_is_not_factored() -> None:
    solver, p, q = Solver(), Atom(3, "p"), Atom(5, "q")
    why = solver.unify(prod(Atom(2), cat(p, q)), prod(Atom(8), Atom(2)))
    assert why == "groupings by 8 and by 2 do not line up" == solver.held(p) == solver.held(q)


def test_weaves_alike_are_made_equal_part_by_part() -> None:
    solver, a, b, c, d = Solver(), *(Atom(3, name) for name in "abcd")
    assert solver.unify(weave([a, b]), weave([c, d])) is None
    assert solver.find(a) is solver.find(c) is not solver.find(b)
    assert solver.find(b) is solver.find(d)
    assert not any(map(solver.held, (a, b, c, d)))


def test_bundles_are_made_equal_part_by_part() -> None:
    solver, a, b, c, d = Solver(), *(Atom(3, name) for name in "abcd")
    assert solver.unify(Bundle((a, b)), Bundle((c, d))) is None
    assert solver.find(a) is solver.find(c) is not solver.find(b)
    assert solver.find(b) is solver.find(d)


def test_weaves_dealt_out_after_others_do_not_line_up() -> None:
    """The same runs of the same sizes, but another's turn."""
    solver, a, b, c, d = Solver(), *(Atom(3, name) for name in "abcd")
    before = [Atom(2, "e"), Atom(1, "f")]
    assert solver.unify(weave([a, b], before), weave([c, d])) == UNLIKE
    assert {solver.held(atom) for atom in (a, b, c, d, *before)} == {UNLIKE}
    solver = Solver()
    assert solver.unify(weave([a, b], before), weave([c, d], before)) is None
    assert solver.find(a) is solver.find(c)


def test_weaves_and_bundles_of_other_shapes_do_not_line_up() -> None:
    for other in (weave([Atom(2), Atom(4)]), Bundle((Atom(6), Atom(6))), prod(Atom(2), Atom(3))):
        solver, a, b = Solver(), Atom(3, "a"), Atom(3, "b")
        assert solver.unify(weave([a, b]), other) == UNLIKE
        assert solver.held(a) == solver.held(b) == UNLIKE
    for turned in (False, True):
        solver, a, b = Solver(), Atom(6, "a"), Atom(6, "b")
        pair = (Bundle((a, b)), cat(Atom(2), Atom(4)))
        assert solver.unify(*(reversed(pair) if turned else pair)) == UNLIKE
        assert solver.held(a) == solver.held(b) == UNLIKE


def test_a_weave_is_no_concatenation_of_its_parts() -> None:
    solver, a, b, c, d = Solver(), *(Atom(2, name) for name in "abcd")
    assert solver.unify(weave([a, b]), cat(c, d)) is None
    first, last = (list(atoms(solver.resolve(part))) for part in (a, b))
    assert list(atoms(solver.resolve(cat(c, d)))) == [first[0], last[0], first[1], last[1]]


def test_what_is_dealt_out_after_itself_is_held() -> None:
    solver, a, parts = Solver(), Atom(4, "a"), [Atom(2), Atom(2)]
    assert solver.unify(a, weave(parts, [a, Atom(4)])) == TANGLED
    assert {solver.held(atom) for atom in (a, *parts)} == {TANGLED}


def test_single_channels_that_hold_what_they_meet_have_to_stay() -> None:
    solver, one = Solver(), Atom(1, "one")
    solver.unify(cat(Atom(5, "a", "space"), one), Atom(6, "x"))
    assert solver.fixed == [one]
    solver, one = Solver(), Atom(1, "one")
    solver.unify(Atom(6, "x"), cat(Atom(5, "a", "space"), one))
    assert solver.fixed == [one]


def test_the_first_reason_is_kept() -> None:
    solver, a, b = Solver(), Atom(3, "a"), Atom(3, "b")
    for why in ("first", "second"):
        solver.hold(a, why)
        solver.mix(b, why)
    assert (solver.held(a), solver.mixed(b)) == ("first", "first")
    assert (solver.held(b), solver.mixed(a)) == (None, None)
    assert solver.unify(a, b) is None
    root = solver.find(b)
    assert (solver.held(root), solver.mixed(root)) == ("first", "first")


def test_what_was_split_is_split_on() -> None:
    """Borders inside products, one of them inside a row: ((2 3) of 6) cut after 4 and after 5."""
    solver, rows, columns = Solver(), Atom(4, "r"), Atom(3, "c")
    first, middle, last = Atom(4, "x"), Atom(3, "y"), Atom(5, "z")
    grid = prod(rows, columns)
    assert solver.unify(grid, cat(first, middle, last)) is None
    whole = solver.resolve(cat(first, middle, last))
    assert size(whole) == 12
    plan = {atom: np.arange(atom.size) % 2 == 0 for atom in free(solver, grid)}
    np.testing.assert_array_equal(keep(solver.resolve(grid), plan), keep(whole, plan))


def test_only_what_is_too_tangled_is_given_up() -> None:
    """64 splits are many, but clear; with one more it is taken for a tangle."""
    for twos, more, why in ((31, [Atom(2), Atom(3)], None), (32, [Atom(5)], TANGLED)):
        fine = [Atom(2, "a") for _ in range(twos + 1)]
        coarse = [Atom(1, "f"), *(Atom(2, "b") for _ in range(twos)), Atom(1, "l")]
        assert Solver().unify(cat(*fine, Atom(5)), cat(*coarse, *more)) == why


def test_what_is_split_keeps_its_letter() -> None:
    solver, c, d = Solver(), Atom(6, "c"), Atom(2, "d")
    solver.unify(cat(c, d), cat(Atom(2, "e"), Atom(4, "f"), Atom(2, "g")))
    assert str(solver.resolve(cat(c, d))) == "(c + c + d)"
    solver, c, d = Solver(), Atom(6, "c"), Atom(2, "d")
    solver.unify(prod(d, c), prod(Atom(2, "e"), Atom(2, "f"), Atom(3, "g")))
    assert str(solver.resolve(prod(d, c))) == "(d c c)"


def test_many_groupings_are_given_up() -> None:
    """Of (4 3) against (2 6) each takes two splits; those after the 64th find no end."""
    for count, why in ((33, None), (34, TANGLED)):
        solver = Solver()
        fours, sixes = ([prod(Atom(a, "a"), Atom(b, "b")) for _ in range(count)] for a, b in ((4, 3), (2, 6)))
        assert solver.unify(cat(*fours), cat(*sixes)) == why
        held = [{solver.held(atom) for atom in atoms(solver.resolve(axis))} for axis in (*fours, *sixes)]
        assert held == ([{None}] * (count - 1) + [{why}]) * 2


def test_borders_inside_a_weave_and_a_product() -> None:
    """A run of a row that holds nothing of one part, and a product cut in the middle of a row."""
    solver, a, b = Solver(), Atom(2, "a"), Atom(2, "b")
    first, rest = Atom(1, "f"), Atom(3, "r")
    assert solver.unify(weave([a, b]), cat(first, rest)) is None
    [ahead] = solver.dealt
    assert [size(solver.resolve(part)) for part in ahead] == [1, 0]
    assert size(solver.resolve(rest)) == 3
    solver, x, y, z = Solver(), *(Atom(2, name) for name in "xyz")
    assert solver.unify(prod(cat(x, y, z), Atom(2, "d")), cat(Atom(4), Atom(8))) is None
    assert not any(map(solver.held, (x, y, z)))


def test_equal_pairs_are_passed_over_and_the_rest_is_not() -> None:
    solver, a, b, c = Solver(), Atom(2, "a"), Atom(3, "b"), Atom(3, "c")
    assert solver.unify(cat(b, a, b), cat(c, a, c)) is None
    assert solver.find(b) is solver.find(c)
    solver = Solver()
    assert solver.unify(cat(a, b), cat(a, c)) is None
    assert solver.find(b) is solver.find(c)


def test_single_channels_are_gathered() -> None:
    """Of all meetings; runs of two are none."""
    solver, ones = Solver(), [Atom(1, "one"), Atom(1, "one")]
    for one in ones:
        solver.unify(cat(Atom(2, "a", "space"), one), Atom(3, "x"))
    assert solver.fixed == ones

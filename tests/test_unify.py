"""The solver makes axes equal, or holds them; in whatever order it is told."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnx_prune.axes.axis import Atom, Axis, atoms, cat, keep, prod, size
from onnx_prune.axes.unify import TANGLED, Solver
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


def test_zero_sizes_are_held() -> None:
    solver = Solver()
    a, b = prod(Atom(4, "a"), Atom(0, "b")), prod(Atom(0, "c"), Atom(3, "d"))
    solver.unify(a, b)
    assert all(solver.held(atom) for atom in atoms(a))


def test_mixed_follows_a_definition() -> None:
    solver, c = Solver(), Atom(6, "c", mixed="a mean")
    halves = cat(Atom(2, "a"), Atom(4, "b"))
    solver.unify(halves, c)
    assert {solver.mixed(atom) for atom in atoms(halves)} == {"a mean"}

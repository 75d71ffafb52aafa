"""Axes by hand and by property: size, keep, count and owner say the same about any axis."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_prune.axes.axis import (
    Atom,
    Axis,
    Bundle,
    Cat,
    Mask,
    Prod,
    Weave,
    atoms,
    bearing,
    cat,
    count,
    firsts,
    keep,
    order,
    owner,
    prod,
    size,
    weave,
)
from tests.strategies import SIZES, axes_of, plans


def mask(*bits: int) -> Mask:
    return np.array(bits, np.bool_)


@st.composite
def any_axis(draw: st.DrawFn) -> Axis:
    return draw(axes_of(draw(st.sampled_from([*SIZES, 8, 12, 24])), [], 3))


A, B, C, ONE = Atom(2, "a"), Atom(3, "b"), Atom(4, "c"), Atom(1, "1")
P, Q, G, H = Atom(3, "p"), Atom(2, "q"), Atom(2, "g"), Atom(2, "h")
ROW = weave([P, Q])  # p0 q0 p1 q1 p2
REST = weave([G, H], [A, ONE])  # h0 g0 h1 g1: two of g's row and one of h's lie before


@pytest.mark.parametrize(
    ("axis", "text", "width"),
    [
        (A, "a", 2),
        (prod(A, B), "(a b)", 6),
        (cat(A, B), "(a + b)", 5),
        (prod(A, cat(B, A)), "(a (b + a))", 10),
        (cat(prod(A, B), B), "((a b) + b)", 9),
        (Atom(4, "c", held="why"), "*c", 4),
        (Atom(4, "c", mixed="why"), "~c", 4),
        (Atom(4, "c", "why", "why"), "*~c", 4),
    ],
)
def test_text_and_size(axis: Axis, text: str, width: int) -> None:
    assert (str(axis), size(axis)) == (text, width)


def test_products_are_flat_and_without_ones() -> None:
    assert prod(A, prod(B, ONE), ONE) == Prod((A, B))
    assert prod(ONE, A) is A
    assert prod(ONE, Atom(1, "other")) is ONE


def test_concatenations_are_flat_and_without_empty_parts() -> None:
    empty = Atom(0, "e")
    assert cat(A, cat(B, empty), empty) == Cat((A, B))
    assert cat(empty, A) is A
    assert cat(empty, Atom(0, "other")) is empty
    assert cat(ONE, A) == Cat((ONE, A))


def test_atoms_are_equal_only_to_themselves() -> None:
    assert Atom(2, "a") != Atom(2, "a")
    assert prod(A, B) == prod(A, B)
    assert len({A, Atom(2, "a"), A}) == 2
    assert list(atoms(prod(A, cat(B, A)))) == [A, B, A]


@pytest.mark.parametrize(
    ("axis", "plan", "stays"),
    [
        (A, {}, (1, 1)),
        (A, {A: mask(0, 1)}, (0, 1)),
        # rows a, columns b: the last part varies fastest
        (prod(A, B), {A: mask(1, 0)}, (1, 1, 1, 0, 0, 0)),
        (prod(A, B), {B: mask(1, 0, 1)}, (1, 0, 1, 1, 0, 1)),
        (prod(A, B), {A: mask(0, 1), B: mask(1, 0, 1)}, (0, 0, 0, 1, 0, 1)),
        (cat(A, B), {B: mask(0, 1, 0)}, (1, 1, 0, 1, 0)),
        # one atom twice: both the row and the column must stay
        (prod(A, A), {A: mask(0, 1)}, (0, 0, 0, 1)),
        (cat(A, A), {A: mask(0, 1)}, (0, 1, 0, 1)),
    ],
)
def test_keep_by_hand(axis: Axis, plan: dict[Atom, Mask], stays: tuple[int, ...]) -> None:
    assert keep(axis, plan).astype(int).tolist() == list(stays)


@pytest.mark.parametrize(
    ("axis", "atom", "pairs"),
    [
        (A, A, [(0, 0), (1, 1)]),
        (A, B, []),
        (prod(A, B), B, [(0, 0), (1, 1), (2, 2), (3, 0), (4, 1), (5, 2)]),
        (cat(B, A), A, [(3, 0), (4, 1)]),
        # position 1 is row 0, column 1: it belongs to both channels
        (prod(A, A), A, [(0, 0), (0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (3, 1), (3, 1)]),
        (cat(A, B, A), A, [(0, 0), (1, 1), (5, 0), (6, 1)]),
        (prod(A, cat(ONE, A), ONE), ONE, [(0, 0), (3, 0)]),
        (prod(B, A, C), A, [(8 * j + 4 * k + i, k) for j in range(3) for k in range(2) for i in range(4)]),
        (prod(A, Atom(0), C), C, []),
        (prod(A, Atom(0), C), A, []),
        # p0 c0 p1 c1 p2 c2 c3
        (ROW, P, [(0, 0), (2, 1), (4, 2)]),
        (weave([P, C]), C, [(1, 0), (3, 1), (5, 2), (6, 3)]),
        (weave([Q, cat(ONE, A)]), A, [(3, 0), (4, 1)]),
        (ROW, A, []),
    ],
)
def test_owner_by_hand(axis: Axis, atom: Atom, pairs: list[tuple[int, int]]) -> None:
    positions, channels = owner(axis, atom)
    assert (positions.dtype, channels.dtype) == (np.intp, np.intp)
    assert sorted(zip(positions.tolist(), channels.tolist(), strict=True)) == pairs


@pytest.mark.parametrize(
    ("axis", "plan", "stays", "places"),
    [
        (ROW, {}, (1, 1, 1, 1, 1), [0, 1, 2, 3, 4]),
        (ROW, {P: mask(1, 0, 1), Q: mask(0, 1)}, (1, 0, 0, 1, 1), [0, 3, 4]),
        # p1 is the first now, then q0, then p2
        (ROW, {P: mask(0, 1, 1), Q: mask(1, 0)}, (0, 1, 1, 0, 1), [2, 1, 4]),
        (REST, {}, (1, 1, 1, 1), [0, 1, 2, 3]),
        (REST, {H: mask(0, 1)}, (0, 1, 1, 1), [2, 1, 3]),
        # one of each before: it is g's turn
        (REST, {A: mask(1, 0), G: mask(1, 0)}, (1, 1, 1, 0), [1, 0, 2]),
        (cat(B, ROW), {P: mask(0, 1, 1), Q: mask(1, 0)}, (1, 1, 1, 0, 1, 1, 0, 1), [0, 1, 2, 5, 4, 7]),
        (cat(ROW, B), {B: mask(1, 0, 1)}, (1, 1, 1, 1, 1, 1, 0, 1), [0, 1, 2, 3, 4, 5, 7]),
        (prod(A, weave([G, H])), {G: mask(0, 1), H: mask(1, 0)}, (0, 1, 1, 0) * 2, [2, 1, 6, 5]),
        (prod(weave([G, H]), A), {G: mask(0, 1), H: mask(1, 0)}, (0, 0, 1, 1, 1, 1, 0, 0), [4, 5, 2, 3]),
    ],
)
def test_weaves_by_hand(
    axis: Axis, plan: dict[Atom, Mask], stays: tuple[int, ...], places: list[int]
) -> None:
    assert keep(axis, plan).astype(int).tolist() == list(stays)
    assert order(axis, plan).tolist() == places
    assert (keep(axis, plan).dtype, order(axis, plan).dtype) == (np.bool_, np.intp)
    assert count(axis, {atom: int(kept.sum()) for atom, kept in plan.items()}) == len(places)


def test_a_weave_says_where_its_channels_are() -> None:
    assert [str(axis) for axis in (ROW, REST)] == ["(p , q)", "(... g , h)"]
    assert [firsts(ROW, at) for at in range(6)] == [[0, 0], [1, 0], [1, 1], [2, 1], [2, 2], [3, 2]]
    assert [firsts(REST, at) for at in range(5)] == [[0, 0], [0, 1], [1, 1], [1, 2], [2, 2]]
    assert list(bearing(prod(P, REST))) == [P, G, H, A, ONE]
    assert list(atoms(REST)) == [G, H]


def test_weaves_of_nothing_are_left_out() -> None:
    empty, other = Atom(0, "e"), Atom(0, "other")
    assert weave([empty, A, other], [A, A, A]) is A
    assert weave([empty, other]) is empty
    assert weave([A, B], [empty, empty]) == weave([A, B]) == Weave((A, B))
    assert weave([ONE, A], [empty, ONE]) == Weave((ONE, A), (empty, ONE))
    assert weave([A, empty, B]) == Weave((A, empty, B))


def test_a_bundle_is_as_its_first_part() -> None:
    """Which of its parts stands at a position depends on another dimension; all keep as many."""
    both = Bundle((A, Atom(2, "c")))
    assert (size(both), count(both, {A: 1}), str(both)) == (2, 1, "(a | c)")
    assert [found.tolist() for found in owner(both, A)] == [[0, 1], [0, 1]]
    assert keep(both, {A: mask(0, 1)}).tolist() == [True, True]
    assert order(both, {A: mask(0, 1)}).tolist() == [0]


@given(any_axis())
def test_an_empty_plan_keeps_everything(axis: Axis) -> None:
    assert keep(axis, {}).dtype == np.bool_
    assert keep(axis, {}).tolist() == [True] * size(axis)
    assert count(axis, {}) == size(axis)


@given(st.data(), any_axis())
def test_count_is_how_many_are_kept(data: st.DataObject, axis: Axis) -> None:
    """True of axes without an atom twice in a product, and of those with one too: rows times columns."""
    plan = data.draw(plans(dict.fromkeys(atoms(axis))))
    counts = {atom: int(kept.sum()) for atom, kept in plan.items()}
    assert keep(axis, plan).sum() == count(axis, counts)


@given(st.data(), any_axis())
def test_a_position_stays_where_all_its_channels_do(data: st.DataObject, axis: Axis) -> None:
    plan = data.draw(plans(dict.fromkeys(atoms(axis))))
    stays = np.ones(size(axis), np.bool_)
    for atom, kept in plan.items():
        positions, channels = owner(axis, atom)
        stays[positions[~kept[channels]]] = False
    np.testing.assert_array_equal(keep(axis, plan), stays)


@given(any_axis())
def test_every_position_has_an_owner_for_each_factor(axis: Axis) -> None:
    owned = np.zeros(size(axis), np.bool_)
    for atom in set(atoms(axis)):
        positions, channels = owner(axis, atom)
        assert channels.size == 0 or (channels.min() >= 0 and channels.max() < atom.size)
        owned[positions] = True
    assert owned.all()

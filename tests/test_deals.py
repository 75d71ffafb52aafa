"""How many channels the parts of shuffles keep: tables by hand."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from onnx_prune.axes.axis import Atom, Axis, Bundle, bearing, cat, prod, weave
from onnx_prune.axes.deals import Deal, Web, webs

A, B, C, D = Atom(4, "a"), Atom(4, "b"), Atom(2, "c"), Atom(6, "d")
FIVE, FOUR, LATER = Atom(5, "five"), Atom(4, "four"), Atom(4, "later")
HELD = Atom(2, "held", "it is shown")


def whole(*parts: Axis) -> Deal:
    return Deal(parts, whole=True)


def names(counts: Mapping[Atom, int] | None) -> dict[str, int] | None:
    return None if counts is None else {atom.name: n for atom, n in counts.items()}


@pytest.mark.parametrize(
    ("deals", "widths", "expected"),
    [
        ([whole(A, B)], {4: 3}, {"a": 3, "b": 3}),
        # so far dealt out: the first may have one more
        ([Deal((FIVE, A))], {9: 4}, {"five": 2, "a": 2}),
        ([Deal((FIVE, A))], {9: 5}, {"five": 3, "a": 2}),
        ([Deal((FIVE, A, B))], {13: 5}, {"five": 2, "a": 2, "b": 1}),
        ([Deal((FIVE, A, B))], {13: 7}, {"five": 3, "a": 2, "b": 2}),
        # end to end: each its share of what is left
        ([whole(cat(C, A), D)], {6: 3}, {"c": 1, "a": 2, "d": 3}),
        ([whole(cat(C, A), D)], {6: 4}, {"c": 1, "a": 3, "d": 4}),
        ([whole(cat(C, HELD, C), D)], {6: 4}, {"c": 1, "d": 4}),
        # later shuffles first: of `a` three stay, and what is before has the rest
        ([whole(cat(C, A), D), whole(A, B)], {6: 4, 4: 3}, {"c": 1, "a": 3, "b": 3, "d": 4}),
        ([whole(cat(A, C), D), whole(A, B)], {6: 5, 4: 3}, {"c": 2, "a": 3, "b": 3, "d": 5}),
        ([whole(cat(C, A), D), whole(A, B)], {6: 6, 4: 3}, None),
        ([whole(cat(C, A), D), whole(A, B)], {6: 2, 4: 3}, None),
        # nothing is left to say of the parts so far, but it has to be right
        (
            [Deal((A, B)), whole(A, FIVE), whole(B, D)],
            {4: 3, 5: 3, 6: 3},
            {"a": 3, "b": 3, "five": 3, "d": 3},
        ),
        ([Deal((A, B)), whole(A, FIVE), whole(B, D)], {4: 3, 5: 4, 6: 3}, None),
        # side by side: as many of each
        ([whole(Bundle((A, B)), LATER)], {4: 1}, {"a": 1, "b": 1, "later": 1}),
        # in turn: 1 + 1 lie before, or 1 + 0, and then it is the other's turn
        (
            [whole(weave([A, C], [FIVE, FOUR]), D), Deal((FIVE, FOUR))],
            {6: 3, 9: 2},
            {"a": 2, "c": 1, "five": 1, "four": 1, "d": 3},
        ),
        (
            [whole(weave([A, C], [FIVE, FOUR]), D), Deal((FIVE, FOUR))],
            {6: 3, 9: 1},
            {"a": 1, "c": 2, "five": 1, "four": 0, "d": 3},
        ),
        ([whole(weave([A, C]), D)], {6: 3}, {"a": 2, "c": 1, "d": 3}),
        # a product says nothing of its factors
        ([whole(prod(C, FIVE), Atom(10))], {10: 10}, None),
        # what is held has to be as many by itself
        ([whole(HELD, C)], {2: 2}, {"c": 2}),
        ([whole(HELD, C)], {2: 1}, None),
    ],
)
def test_counts(deals: list[Deal], widths: dict[int, int], expected: dict[str, int] | None) -> None:
    free = dict.fromkeys(a for deal in deals for part in deal.parts for a in bearing(part) if not a.held)
    assert names(Web(tuple(free), tuple(deals)).counts(widths.__getitem__)) == expected


def test_what_no_shuffle_ties_stays() -> None:
    assert Web((A, B, C), (whole(A, B),)).counts(lambda n: n // 2) == {A: 2, B: 2, C: 2}


@pytest.mark.parametrize(
    ("share", "least", "step", "expected"),
    [
        (0.5, 1, 1, 5),
        (0.25, 1, 1, 3),  # a tie goes upward
        (0.24, 1, 1, 2),
        (0.04, 1, 1, 1),
        (0.5, 6, 1, 6),
        (0.5, 1, 4, 4),  # of 1.25 fours one
        (0.6, 1, 4, 8),  # of 1.5 fours two
        (0.9, 1, 4, 8),
        (0.05, 3, 4, 3),
        (1.0, 1, 1, 9),  # all is no answer
        (1.0, 1, 4, 8),
        (0.9, 10, 8, 10),
    ],
)
def test_counts_near_a_share(share: float, least: int, step: int, expected: int) -> None:
    parts = Atom(10, "p"), Atom(10, "q")
    web = Web(parts, (Deal(parts, whole=True),))
    assert list(web.near(share, lambda n: least, lambda n: step).values()) == [expected, expected]


def test_counts_near_a_share_that_can_not_be_met() -> None:
    """Two that are held are dealt out in turn with two or three of the others."""
    web = Web((A,), (Deal((A, HELD)),))
    assert [web.near(share, lambda n: 1, lambda n: 1)[A] for share in (0.1, 0.5, 0.7, 0.9)] == [2, 2, 2, 3]
    assert not web.pliant
    assert Web((C, A, B), (whole(A, B), Deal((C,)))).pliant


def test_of_two_counts_as_near_it_is_the_smaller() -> None:
    """What stands twice keeps an even number: of 9 asked for 8 or 10."""
    part, twice = Atom(10, "p"), Atom(20, "q")
    web = Web((part, twice), (whole(cat(part, part), twice),))
    assert web.near(0.45, lambda n: 1, lambda n: 1) == {part: 4, twice: 8}


def test_the_leader_is_the_first_of_the_largest() -> None:
    assert Web((C, A, B), ()).leader is A


def test_conditions_with_runs_in_common_make_a_web() -> None:
    first, second, third, alone = whole(A, B), whole(C, HELD), Deal((A, C)), whole(D, Atom(6))
    free, axes = {A, B, C, D}, [(cat(A, B), prod(A, D)), (cat(A, B), HELD, D, cat(C, HELD))]
    found = webs((first, second, alone, third, first, whole(HELD, HELD)), free, axes)
    assert [[atom.name for atom in web.atoms] for web in found] == [["d"], ["a", "b", "c"]]
    assert [web.deals for web in found] == [(alone,), (first, second, third)]
    assert [web.axes for web in found] == [(D,), (cat(A, B),)]
    assert webs((), free, axes) == ()

"""How many channels stay and which, worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnx_prune import criteria
from onnx_prune.choose import Choice, candidates, choose, require_matches
from onnx_prune.coupling import Coupling
from onnx_prune.errors import InputError
from onnx_prune.settings import Budget
from onnx_prune.widths import multiple
from tests.graphs import analyse, build, group_of, groups_of, noise


def chain(*widths: int) -> Coupling:
    """Convolutions c1, c2, ... of these widths, between an input and an output that are held."""
    sizes = [2, *widths, 2]
    weights = {f"c{j}": noise(sizes[j], sizes[j - 1], 1, 1) for j in range(1, len(sizes))}
    nodes = [
        onnx.helper.make_node("Conv", [f"t{j - 1}", f"c{j}"], [f"t{j}"], f"layer/{j}")
        for j in range(1, len(sizes))
    ]
    return analyse(build(nodes, weights, {"t0": (1, 2, 4, 4)}, {f"t{len(sizes) - 1}": (1, 2, 4, 4)}))


def decide(coupling: Coupling, scores: dict[str, Any] | None = None, **budget: Any) -> Choice:
    """What is chosen by L1, or by the scores given for a weight's first dim."""
    asked = Budget(**budget)
    groups = candidates(coupling, asked)
    by = {group.atom: criteria.l1(coupling, group) for group in groups}
    for weight, values in (scores or {}).items():
        by[group_of(coupling, weight, 0).atom] = np.array(values, float)
    return choose(coupling, by, asked, groups)


def kept(coupling: Coupling, choice: Choice, weight: str, dim: int = 0) -> int:
    """How many channels stay of the group on a dim of a weight."""
    group = group_of(coupling, weight, dim)
    return int(choice.plan[group.atom].sum()) if group.atom in choice.plan else group.size


@pytest.mark.parametrize(
    ("n", "ratio", "expected"),
    [
        # n - floor(ratio n), at least one
        (8, 0.5, 4),
        (7, 0.5, 4),
        (3, 0.5, 2),
        (10, 0.3, 7),  # 0.3 * 10 is 2.9999999999999996 in floating point
        (10, 0.29, 8),
        (64, 0.1, 58),
        (4, 0.9, 1),
        (5, 0.99, 1),
        (2, 0.99, 1),
        (6, 0.0, 6),
        (6, 0.1, 6),
    ],
)
def test_counts_without_rounding(n: int, ratio: float, expected: int) -> None:
    coupling = chain(n)
    choice = decide(coupling, ratio=ratio, round_to=1)
    assert kept(coupling, choice, "c1") == expected
    assert (choice.removed, choice.asked_removed) == (n - expected, n - expected)


@pytest.mark.parametrize(
    ("n", "ratio", "round_to", "expected"),
    [
        (64, 0.3, "auto", 48),  # 45 -> 48 of 16s
        (32, 0.3, "auto", 24),  # 23 -> 24 of 8s
        (24, 0.3, "auto", 16),  # 17 -> 16 of 4s
        (24, 0.25, "auto", 20),  # 18 lies between 16 and 20: upward
        (10, 0.1, "auto", 10),  # 9 lies between 8 and all 10, and 12 is above 10: upward
        (10, 0.2, "auto", 8),
        (4, 0.9, "auto", 4),  # 1 -> 4, a width that is a multiple already
        (64, 0.95, "auto", 16),  # 4 -> 16, never 0
        (96, 0.5, "auto", 48),
        (12, 0.5, 1, 6),
        (12, 0.5, 5, 5),
        (12, 0.5, 100, 12),
        (100, 0.5, 32, 64),  # 50 -> 64
        (100, 0.5, 64, 64),
        (100, 0.6, 64, 64),  # 40 -> 64; 0 is no width
    ],
)
def test_rounding(n: int, ratio: float, round_to: Any, expected: int) -> None:
    coupling = chain(n)
    assert kept(coupling, decide(coupling, ratio=ratio, round_to=round_to), "c1") == expected


def test_auto_goes_by_the_width_alone() -> None:
    widths = (4, 31, 32, 63, 64, 1000)
    assert [multiple(n, "auto") for n in widths] == [4, 4, 8, 8, 16, 16]
    assert [multiple(n, 8) for n in widths] == [8] * 6


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ({"ratio": 0.5, "round_to": 1, "min_channels": 6}, 6),
        ({"ratio": 0.5, "round_to": 1, "min_channels": 100}, 8),
        ({"ratio": 0.5, "round_to": 1, "max_ratio": 0.25}, 6),
        ({"ratio": 0.5, "round_to": 1, "max_ratio": 1.0}, 4),
        ({"ratio": 0.5, "round_to": 1, "max_ratio": 0.25, "min_channels": 7}, 7),
        ({"ratio": 0.5, "min_channels": 5}, 8),  # 5 lies nearer to 4, which is too few
        ({"ratio": 0.5, "round_to": 8, "max_ratio": 0.6}, 8),
    ],
)
def test_bounds_hold_after_rounding_too(budget: dict[str, Any], expected: int) -> None:
    coupling = chain(8)
    assert kept(coupling, decide(coupling, **budget), "c1") == expected


def test_the_highest_scores_stay() -> None:
    coupling = chain(6)
    choice = decide(coupling, {"c1": [3, 1, 4, 1, 5, 9]}, round_to=1)
    [mask] = choice.plan.values()
    assert np.flatnonzero(mask).tolist() == [2, 4, 5]


@pytest.mark.parametrize(
    ("scores", "stay"),
    [
        ([1, 1, 1, 1, 1, 1], [0, 1, 2]),
        ([0, 2, 1, 1, 1, 0], [1, 2, 3]),
        ([-1, -2, -3, -1, -1, -1], [0, 3, 4]),
    ],
)
def test_ties_go_to_the_lower_index(scores: list[float], stay: list[int]) -> None:
    coupling = chain(6)
    [mask] = decide(coupling, {"c1": scores}, round_to=1).plan.values()
    assert np.flatnonzero(mask).tolist() == stay


# Products: one factor is cut.


def grouped(groups: int, per_group: int) -> Coupling:
    """A grouped convolution between two plain ones."""
    n = groups * per_group
    weights = {"c1": noise(n, 2, 1, 1), "c2": noise(n, per_group, 1, 1), "c3": noise(2, n, 1, 1)}
    middle = onnx.helper.make_node("Conv", ["a", "c2"], ["b"], group=groups)
    nodes = ["a = Conv(x, c1)", middle, "y = Conv(b, c3)"]
    return analyse(build(nodes, weights, {"x": (1, 2, 4, 4)}, {"y": (1, 2, 4, 4)}))


@pytest.mark.parametrize(
    ("groups", "per_group", "ratio", "cut"),
    [
        (3, 4, 0.5, {4}),  # of 3 groups only 1 can go, of 4 channels 2: nearer to a half
        (4, 3, 0.5, {4}),
        (8, 4, 0.5, {8}),  # both land on the ratio: the factor with more entries
        (4, 8, 0.5, {8}),
        (4, 4, 0.5, {4}),
        (5, 3, 0.34, {3}),  # 1 of 5 is 0.2, 1 of 3 is 0.333
        (5, 3, 0.2, {5}),
    ],
)
def test_one_factor_of_a_product_is_cut(groups: int, per_group: int, ratio: float, cut: set[int]) -> None:
    coupling = grouped(groups, per_group)
    choice = decide(coupling, ratio=ratio, round_to=1)
    assert {atom.size for atom in choice.plan} == cut


def test_a_tie_of_equal_factors_goes_to_the_one_with_fewer_rivals() -> None:
    """The groups of 4 x 4 rule out channels on both sides; those cut, the groups stay."""
    coupling = grouped(4, 4)
    choice = decide(coupling, round_to=1)
    places = {(m.weight, m.dim) for g in choice.groups for m in g.members}
    # inputs and outputs of each group are two groups of channels
    assert len(choice.plan) == 2
    assert {("c2", 0), ("c2", 1)} <= places


@pytest.mark.parametrize(
    ("groups", "per_group", "round_to", "cut", "width"),
    [
        (16, 3, 8, 16, 24),  # 8 of 16 groups
        (6, 4, 8, 6, 16),  # 3 of 6 groups are 12, between 8 and 16: upward
        # 13 x 8: no channels per group meet 16, so groups go; 7 are 56, between 48 and 64: upward
        (13, 8, "auto", 13, 64),
        # 16 x 5: no groups but all meet 16, any number of channels per group does: 3 of 5
        (16, 5, 16, 5, 48),
        # 5 x 3, of 4s: 4 groups are 12, which is far from a half; 2 channels per group are 10, and
        # meet 2, which is enough where no 1 or 2 of them meet 4
        (5, 3, "auto", 3, 10),
    ],
)
def test_rounding_is_of_the_whole_axis(
    groups: int, per_group: int, round_to: Any, cut: int, width: int
) -> None:
    coupling = grouped(groups, per_group)
    choice = decide(coupling, round_to=round_to)
    assert {atom.size for atom in choice.plan} == {cut}
    assert {int(mask.sum()) * groups * per_group // cut for mask in choice.plan.values()} == {width}


def parted() -> Coupling:
    """32 channels, split into 8 + 8 + 16 and joined in another order: no part stands alone on an axis."""
    weights = {"c1": noise(32, 2, 1, 1), "c2": noise(2, 32, 1, 1), "split": np.array([8, 8, 16])}
    split = onnx.helper.make_node("Split", ["a", "split"], ["p", "q", "r"], axis=1)
    join = onnx.helper.make_node("Concat", ["r", "p", "q"], ["j"], axis=1)
    nodes = ["a = Conv(x, c1)", split, join, "y = Conv(j, c2)"]
    return analyse(build(nodes, weights, {"x": (1, 2, 4, 4)}, {"y": (1, 2, 4, 4)}))


@pytest.mark.parametrize(
    ("ratio", "round_to", "widths"),
    [
        (0.3, 8, [6, 6, 12]),  # 24 already
        (0.4, 8, [5, 5, 14]),  # 5 + 5 + 10 = 20 lies between 16 and 24: upward, in the part that can
        (0.5, 8, [4, 4, 8]),
    ],
)
def test_parts_of_an_axis_are_rounded_as_a_sum(ratio: float, round_to: int, widths: list[int]) -> None:
    coupling = parted()
    choice = decide(coupling, ratio=ratio, round_to=round_to)
    assert sorted(int(mask.sum()) for mask in choice.plan.values()) == widths


# --layer-ratio, --ignore, --mixed, barred atoms.


def test_layer_ratios_by_weight_and_by_node_name() -> None:
    coupling = chain(8, 16, 8)
    # t0 -c1-> 8 -c2-> 16 -c3-> 8 -c4->; a group is named by all weights that it stands on
    choice = decide(coupling, round_to=1, layer_ratios=(("c1", 0.25), ("layer/4", 0.0)))
    assert [kept(coupling, choice, f"c{j}") for j in (1, 2, 3)] == [6, 8, 8]


def test_the_last_layer_ratio_that_matches_counts() -> None:
    coupling = chain(8)
    choice = decide(coupling, round_to=1, layer_ratios=(("c*", 0.25), ("c1", 0.75), ("other*", 0.0)))
    assert kept(coupling, choice, "c1") == 2


def test_ignored_groups_stay_whole() -> None:
    coupling = chain(8, 16)
    assert [g.size for g in candidates(coupling, Budget(ignore=("c1",)))] == [16]
    assert candidates(coupling, Budget(ignore=("layer/*",))) == []
    assert len(candidates(coupling, Budget(ignore=("C1",)))) == 2  # case counts


def test_barred_groups_are_no_candidates() -> None:
    coupling = grouped(8, 4)
    [groups] = [g for g in candidates(coupling, Budget()) if g.size == 8]
    assert {g.size for g in candidates(coupling, Budget(), {groups.atom})} == {4}


def test_mixed_groups_only_where_asked() -> None:
    weights = {"w1": noise(4, 8), "gamma": noise(8), "w2": noise(8, 3)}
    nodes = ["a = MatMul(x, w1)", "n = LayerNormalization(a, gamma)", "y = MatMul(n, w2)"]
    coupling = analyse(build(nodes, weights, {"x": (2, 4)}, {"y": (2, 3)}))
    assert groups_of(coupling) == {(8, frozenset({("w1", 1), ("gamma", 0), ("w2", 0)}))}
    assert candidates(coupling, Budget()) == []
    assert [g.size for g in candidates(coupling, Budget(mixed=True))] == [8]


@pytest.mark.parametrize("option", ["ignore", "layer-ratio"])
def test_a_glob_that_matches_nothing_is_refused(option: str) -> None:
    globs: dict[str, Any] = {"ignore": ("c1", "zz*")}
    if option == "layer-ratio":
        globs = {"layer_ratios": (("c1", 0.1), ("zz*", 0.2))}
    with pytest.raises(InputError) as error:
        require_matches(chain(8), Budget(**globs))
    assert str(error.value) == f"--{option} 'zz*' matches no weight and no node; --dry-run -v shows names"


# --global.


def test_ranking_across_groups_by_hand() -> None:
    coupling = chain(4, 4)
    scores = {
        "c1": [1, 2, 3, 6],  # mean 3: 1/3, 2/3, 1, 2
        "c2": [10, 20, 30, 20],  # mean 20: 1/2, 1, 3/2, 1
    }
    # a half of 8 go: 1/3, 1/2, 2/3, and of the three that are 1 the first group's
    choice = decide(coupling, scores, across=True, round_to=1)
    assert np.flatnonzero(choice.plan[group_of(coupling, "c1", 0).atom]).tolist() == [3]
    assert np.flatnonzero(choice.plan[group_of(coupling, "c2", 0).atom]).tolist() == [1, 2, 3]


def test_every_group_keeps_its_least_across_groups() -> None:
    coupling = chain(4, 4)
    scores: dict[str, Any] = {"c1": [1, 1, 1, 1], "c2": [0, 0, 0, 40]}  # c2: 0, 0, 0, 4
    for least, expected in ((1, (3, 1)), (2, (2, 2)), (3, (3, 3))):
        choice = decide(coupling, scores, across=True, round_to=1, min_channels=least)
        assert tuple(kept(coupling, choice, c) for c in ("c1", "c2")) == expected


def test_negative_scores_rank_across_groups_too() -> None:
    coupling = chain(4, 4)
    scores: dict[str, Any] = {"c1": [-4, -3, -2, -1], "c2": [1, 2, 3, 4]}  # over 2.5 each
    choice = decide(coupling, scores, across=True, round_to=1)
    assert tuple(kept(coupling, choice, c) for c in ("c1", "c2")) == (1, 3)


def test_all_scores_zero() -> None:
    coupling = chain(4, 4)
    choice = decide(coupling, {"c1": [0] * 4, "c2": [0] * 4}, across=True, round_to=1)
    assert tuple(kept(coupling, choice, c) for c in ("c1", "c2")) == (1, 3)


def test_a_layer_ratio_stands_outside_the_common_ranking() -> None:
    coupling = chain(4, 4)
    choice = decide(coupling, across=True, round_to=1, layer_ratios=(("c1", 0.25),))
    assert kept(coupling, choice, "c1") == 3

"""Criteria against tables worked out on paper."""

from __future__ import annotations

from math import sqrt
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_prune import criteria
from onnx_prune.choose import candidates, choose
from onnx_prune.coupling import Coupling, Group
from onnx_prune.criteria import CRITERIA
from onnx_prune.errors import InputError
from onnx_prune.settings import CRITERIA_NAMES, Budget
from tests import zoo
from tests.graphs import Array, analyse, build, group_of, noise
from tests.models import small_cnn

ROOT5, ROOT26, ROOT29 = sqrt(5), sqrt(26), sqrt(29)


def column(rows: list[list[float]]) -> Array:
    """A 1x1 kernel, from its matrix (out, in)."""
    return np.array(rows, np.float32)[:, :, None, None]


# Three filters over two inputs, their biases, and the two filters that read them:
#
#     filter   weights     L1   L2        bias   read by    L1   L2
#     0        ( 3, -4)    7    5          1     ( 1, -1)   2    sqrt 2
#     1        ( 6,  0)    6    6         -1     ( 0,  2)   2    2
#     2        ( 1,  1)    2    sqrt 2     4     ( 2,  2)   4    sqrt 8
#     mean                 5                2               8/3
WEIGHTS = {
    "w1": column([[3, -4], [6, 0], [1, 1]]),
    "b1": np.array([1, -1, 4], np.float32),
    "w2": column([[1, 0, 2], [-1, 2, 2]]),
}


def two_convolutions() -> tuple[Coupling, Group]:
    nodes = ["a = Conv(x, w1, b1)", "r = Relu(a)", "y = Conv(r, w2)"]
    coupling = analyse(build(nodes, WEIGHTS, {"x": (1, 2, 4, 4)}, {"y": (1, 2, 4, 4)}))
    [group] = coupling.groups
    return coupling, group


def relative(*norms: float) -> Array:
    return np.array(norms) / np.mean(norms)


@pytest.mark.parametrize(
    ("name", "scores", "ranking"),
    [
        ("l1", [7, 6, 2], [0, 1, 2]),
        ("l2", [5, 6, sqrt(2)], [1, 0, 2]),
        # the mean of the three columns of L1, each over its own mean: (7/5 + 1/2 + 3/4) / 3, ...
        ("group-l1", [2.65 / 3, 2.45 / 3, 3.9 / 3], [2, 0, 1]),
        (
            "group-l2",
            (relative(5, 6, sqrt(2)) + relative(1, 1, 4) + relative(sqrt(2), 2, sqrt(8))) / 3,
            [2, 1, 0],
        ),
        # distances: 0-1 is |(3, 4)| = 5, 0-2 is |(2, 5)| = sqrt 29, 1-2 is |(5, 1)| = sqrt 26
        ("fpgm", [5 + ROOT29, 5 + ROOT26, ROOT29 + ROOT26], [2, 0, 1]),
        # no BatchNormalization here: as l1
        ("bn-scale", [7, 6, 2], [0, 1, 2]),
    ],
)
def test_two_convolutions_by_hand(name: str, scores: list[float], ranking: list[int]) -> None:
    found = CRITERIA[name](*two_convolutions())
    np.testing.assert_allclose(found, scores, rtol=1e-6)
    assert np.argsort(-found, kind="stable").tolist() == ranking


@pytest.mark.parametrize(
    ("name", "kept"),
    [("l1", [0, 1]), ("l2", [0, 1]), ("group-l1", [0, 2]), ("group-l2", [1, 2]), ("fpgm", [0, 2])],
)
def test_the_best_of_the_table_stay(name: str, kept: list[int]) -> None:
    coupling, group = two_convolutions()
    scores = {group.atom: CRITERIA[name](coupling, group)}
    choice = choose(coupling, scores, Budget(ratio=0.4, round_to=1), [group])
    assert np.flatnonzero(choice.plan[group.atom]).tolist() == kept


def test_producers_of_a_residual_add_up() -> None:
    weights = {
        "w1": column([[3, -4], [6, 0], [1, 1]]),
        "w2": column([[0, 0], [1, 1], [2, -8]]),
        "w3": column([[1, 1, 1], [2, 2, 2]]),
    }
    nodes = ["a = Conv(x, w1)", "b = Conv(x, w2)", "s = Add(a, b)", "y = Conv(s, w3)"]
    coupling = analyse(build(nodes, weights, {"x": (1, 2, 4, 4)}, {"y": (1, 2, 4, 4)}))
    [group] = coupling.groups
    np.testing.assert_allclose(criteria.l1(coupling, group), [7, 8, 12])
    # 25 + 0, 36 + 2, 2 + 68
    np.testing.assert_allclose(criteria.l2(coupling, group), [5, sqrt(38), sqrt(70)], rtol=1e-6)


def test_slices_of_a_flattened_map_belong_to_their_channel() -> None:
    """Each of the 3 channels has 2 positions, so that the linear layer reads 6 numbers."""
    linear = np.array([[1, 1, 2, 2, 3, 3], [0, 1, 0, 1, 0, 1]], np.float32)
    weights = {"w1": WEIGHTS["w1"], "w2": linear}
    nodes = ["a = Conv(x, w1)", "f = Flatten(a)", "t = Transpose(w2)", "y = MatMul(f, t)"]
    coupling = analyse(build(nodes, weights, {"x": (1, 2, 1, 2)}, {"y": (1, 2)}))
    [group] = coupling.groups
    # L1 of the reading columns: 1+1+0+1, 2+2+0+1, 3+3+0+1; over their mean 5
    expected = (relative(7, 6, 2) + np.array([3, 5, 7]) / 5) / 2
    np.testing.assert_allclose(criteria.group_l1(coupling, group), expected, rtol=1e-6)


def test_depthwise_filters_do_not_make_channels() -> None:
    weights = {
        "w1": WEIGHTS["w1"],
        "depthwise": np.full((3, 1, 1, 1), 100, np.float32),
        "w2": WEIGHTS["w2"],
    }
    depthwise = onnx.helper.make_node("Conv", ["a", "depthwise"], ["d"], group=3)
    coupling = analyse(
        build(
            ["a = Conv(x, w1)", depthwise, "y = Conv(d, w2)"],
            weights,
            {"x": (1, 2, 4, 4)},
            {"y": (1, 2, 4, 4)},
        )
    )
    [group] = coupling.groups
    np.testing.assert_allclose(criteria.l1(coupling, group), [7, 6, 2])


def test_bn_scale_reads_gamma() -> None:
    stats = {name: np.array(v, np.float32) for name, v in {"mean": [9, 8, 7], "var": [6, 5, 4]}.items()}
    weights = WEIGHTS | stats | {"gamma": np.array([-2, 1, 0.5], np.float32)}
    nodes = ["a = Conv(x, w1)", "n = BatchNormalization(a, gamma, b1, mean, var)", "y = Conv(n, w2)"]
    coupling = analyse(build(nodes, weights, {"x": (1, 2, 4, 4)}, {"y": (1, 2, 4, 4)}))
    [group] = coupling.groups
    np.testing.assert_allclose(criteria.bn_scale(coupling, group), [2, 1, 0.5])


def test_random_is_noise_that_every_run_repeats() -> None:
    first, second = analyse(small_cnn()), analyse(small_cnn())
    scores = [criteria.random(first, group) for group in first.groups]
    again = [criteria.random(second, group) for group in second.groups]
    assert [s.tolist() for s in scores] == [s.tolist() for s in again]
    assert scores[0][:4].tolist() != scores[1][:4].tolist()
    # the numbers of numpy's documented generator, on every machine
    assert scores[0].tolist() == np.random.default_rng([20170217, 0]).random(scores[0].size).tolist()


@pytest.mark.parametrize("name", CRITERIA_NAMES)
def test_every_criterion_answers_for_every_group(name: str) -> None:
    coupling = analyse(zoo.load("f_resnet_groupnorm-jax2onnx21"))
    for group in coupling.groups:
        scores = CRITERIA[name](coupling, group)
        assert scores.shape == (group.size,)
        assert scores.dtype == np.float64
        assert np.isfinite(scores).all()
        assert (scores >= 0).all()


def test_the_command_line_knows_them_all() -> None:
    assert set(CRITERIA_NAMES) == set(CRITERIA)


def test_all_zero_weights_are_scored_zero() -> None:
    weights = {name: np.zeros_like(array) for name, array in WEIGHTS.items()}
    nodes = ["a = Conv(x, w1, b1)", "y = Conv(a, w2)"]
    coupling = analyse(build(nodes, weights, {"x": (1, 2, 4, 4)}, {"y": (1, 2, 4, 4)}))
    for name in set(CRITERIA) - {"random"}:
        assert CRITERIA[name](coupling, coupling.groups[0]).tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", ["a_resnet50-ts17", "a_squeezenet1_1-ts17", "d_unet_convtranspose-ts17-db"])
def test_no_kept_filter_is_smaller_than_a_removed_one(name: str) -> None:
    """On every group whose only producer is one plain convolution, whatever its channels feed."""
    coupling = analyse(zoo.load(name))
    budget = Budget(ratio=0.5, round_to=1)
    groups = candidates(coupling, budget)
    plan = choose(coupling, {g.atom: criteria.l1(coupling, g) for g in groups}, budget, groups).plan
    plain = {
        node.inputs[1]
        for node in coupling.graph.nodes
        if node.op == "Conv" and node.attrs.get("group", 1) == 1
    }
    checked = 0
    for group in groups:
        producers = [m for m in group.members if m.role == "producer"]
        if [m.dim for m in producers] != [0] or producers[0].weight not in plain:
            continue
        weight = coupling.graph.array(producers[0].weight)
        if len(weight) != group.size:
            continue  # one part of the filters
        norms = np.abs(weight.astype(np.float64)).sum(axis=(1, 2, 3))
        kept = plan[group.atom]
        assert norms[kept].min() >= norms[~kept].max()
        checked += 1
    assert checked >= 2


# The user's own scores.


def test_given_scores_are_found_under_the_name_of_a_weight(tmp_path: Path) -> None:
    coupling, group = two_convolutions()
    np.savez(tmp_path / "s.npz", w1=np.array([[0.1], [-3], [2]]))
    assert criteria.given(tmp_path / "s.npz")(coupling, group).tolist() == [0.1, -3, 2]
    assert criteria.given({"w1": np.array([1, 2, 3])})(coupling, group).tolist() == [1, 2, 3]


def test_the_first_producer_with_scores_counts() -> None:
    nodes = ["a = Conv(x, w1)", "b = Conv(x, v1)", "s = Add(a, b)", "y = Conv(s, w2)"]
    weights = WEIGHTS | {"v1": WEIGHTS["w1"]}
    coupling = analyse(build(nodes, weights, {"x": (1, 2, 4, 4)}, {"y": (1, 2, 4, 4)}))
    group = group_of(coupling, "w1", 0)
    assert criteria.given({"v1": np.array([1, 2, 3])})(coupling, group).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"w1": noise(4)}, "scores: w1 has 4 scores, its group has 3 channels"),
        ({"w1": np.array([1, np.nan, 2])}, "scores: w1 has scores that are not finite numbers"),
        ({"w1": np.array([1, np.inf, 2])}, "scores: w1 has scores that are not finite numbers"),
        ({"w1": np.array(["a", "b", "c"])}, "scores: w1 has scores that are not finite numbers"),
        ({"w2": noise(3)}, "scores: none for the group of w1; name one array after one of them"),
        ({}, "scores: none for the group of w1; name one array after one of them"),
    ],
)
def test_given_scores_that_do_not_fit(scores: dict[str, Array], message: str) -> None:
    with pytest.raises(InputError) as error:
        criteria.given(scores)(*two_convolutions())
    assert str(error.value) == message


NO_NUMBERS = "the scores {path} are not an .npz file of numbers; write one with numpy.savez"


def test_files_of_scores_that_cannot_be_read(tmp_path: Path) -> None:
    def message(path: Path) -> str:
        with pytest.raises(InputError) as error:
            criteria.given(path)
        return str(error.value)

    missing, folder, text, array, objects, cut = (tmp_path / name for name in "abcdef")
    folder.mkdir()
    text.write_text("hello")
    with array.open("wb") as file:
        np.save(file, noise(3))
    with objects.open("wb") as file:
        np.savez(file, w1=np.array([{}], object))
    with cut.open("wb") as file:
        np.savez(file, w1=noise(300))
    whole = cut.read_bytes()
    assert message(missing) == f"cannot read the scores {missing}: No such file or directory"
    assert message(folder) == f"cannot read the scores {folder}: Is a directory"
    for path in (text, array, objects):
        assert message(path) == NO_NUMBERS.format(path=path)
    for end in (0, 4, 100, len(whole) - 30):
        cut.write_bytes(whole[:end])
        assert message(cut) == NO_NUMBERS.format(path=cut)
    cut.write_bytes(whole[:100] + b"!" + whole[101:])
    assert message(cut) == NO_NUMBERS.format(path=cut)

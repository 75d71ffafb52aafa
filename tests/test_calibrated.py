"""Calibrated criteria on a table worked out on paper, and on a group that nothing reads."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_prune.calibration import criteria as calibrated
from onnx_prune.calibration.criteria import CALIBRATED, rank
from onnx_prune.calibration.data import Calibration, load
from onnx_prune.coupling import Coupling
from onnx_prune.criteria import CRITERIA
from onnx_prune.settings import CALIBRATED_NAMES, CRITERIA_NAMES
from tests.graphs import Array, analyse, build, node, noise

# Three channels pass an identity; what reads them weighs them (2, 1, 1).  Four samples:
#
#     channel  values          mean square  variance  |w|^2   wanda  flap
#     0        1  1 -1 -1      1            1         4       4      4
#     1        3  3  3  3      9            0         1       9      0
#     2        2 -2  2 -2      4            4         1       4      4
#     sum                      14                             17     8
VALUES = np.array([[1, 3, 2], [1, 3, -2], [-1, 3, 2], [-1, 3, -2]], np.float32)


def three_channels(*nodes: str, **weights: Array) -> tuple[Coupling, Calibration]:
    stored = {"eye": np.eye(3, dtype=np.float32), "w": np.array([[2], [1], [1]], np.float32)}
    model = build(
        ["h = MatMul(x, eye)", *(nodes or ("y = MatMul(h, w)",))],
        stored | weights,
        {"x": ["n", 3]},
        {"y": ["n", "m"]},
    )
    coupling = analyse(model)
    return coupling, load([{"x": VALUES[j : j + 1]} for j in range(4)], coupling.graph, {})


@pytest.mark.parametrize(
    ("name", "scores"),
    [
        ("activation", [1 / 14, 9 / 14, 4 / 14]),
        ("wanda", [4 / 17, 9 / 17, 4 / 17]),
        ("flap", [4 / 8, 0, 4 / 8]),
        # the result varies by 4 + 0 + 4; the bias makes up for channel 1, and of two equals the damping
        # takes the one that varies more
        ("obs", [1, 0, 4 / 8]),
    ],
)
def test_three_channels_by_hand(name: str, scores: list[float]) -> None:
    coupling, data = three_channels()
    found, alone = rank(coupling, coupling.groups, name, data)
    [group] = coupling.groups
    assert not alone
    np.testing.assert_allclose(found[group.atom], scores, rtol=5e-3, atol=1e-3)


@pytest.mark.parametrize("name", CALIBRATED)
def test_two_readers_add_up(name: str) -> None:
    """The second reads channel 2 alone, so that it has a whole share more."""
    only = np.array([[0], [0], [1]], np.float32)
    coupling, data = three_channels("a = MatMul(h, w)", "b = MatMul(h, v)", "y = Add(a, b)", v=only)
    [group] = coupling.groups
    scores = rank(coupling, [group], name, data)[0][group.atom]
    first, second = three_channels(), three_channels("y = MatMul(h, w)", w=only)
    apart = [rank(c, c.groups, name, d)[0][c.groups[0].atom] for c, d in (first, second)]
    if name == "activation":
        np.testing.assert_allclose(scores, 2 * apart[0])
    elif name == "obs":
        assert np.argmax(scores) == 2
    else:
        np.testing.assert_allclose(scores, apart[0] + apart[1])


def test_little_memory_means_more_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = ["a = Relu(h)", "b = MatMul(a, u)", "c = Relu(b)", "y = MatMul(c, w)"]
    coupling, data = three_channels(*nodes, u=noise(3, 3))
    passes = []
    whole = calibrated.measure

    def counted(*args: object, **more: object) -> object:
        passes.append(1)
        return whole(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(calibrated, "measure", counted)
    at_once, _ = rank(coupling, coupling.groups, "obs", data)
    one_by_one, _ = rank(coupling, coupling.groups, "obs", data, memory=1)
    assert len(passes) == 3
    for group in coupling.groups:
        np.testing.assert_array_equal(at_once[group.atom], one_by_one[group.atom])


def test_a_group_that_no_layer_sums_over_is_ranked_by_l1() -> None:
    coupling, data = three_channels("s = ReduceSum(h, last)", "y = Relu(s)", last=np.array([1]))
    [group] = coupling.groups
    found, alone = rank(coupling, [group], "obs", data)
    assert alone == (group,)
    np.testing.assert_array_equal(found[group.atom], CRITERIA["l1"](coupling, group))


def test_a_flattened_image_has_a_column_for_each_pixel() -> None:
    nodes = [node("a = Conv(x, k)"), "r = Relu(a)", node("f = Flatten(r)", axis=1), "y = MatMul(f, w)"]
    weights = {"k": noise(4, 2, 1, 1), "w": noise(16, 3)}
    coupling = analyse(build(nodes, weights, {"x": ["n", 2, 2, 2]}, {"y": ["n", 3]}))
    data = load([{"x": noise(4, 2, 2, 2, seed=j)} for j in range(4)], coupling.graph, {})
    [group] = coupling.groups
    found = rank(coupling, [group], "flap", data)[0][group.atom]
    x = np.concatenate([feed["x"] for feed in data.feeds])
    r = np.maximum(np.einsum("nihw,oi->nohw", x, weights["k"][:, :, 0, 0]), 0)
    energy = (r.reshape(len(r), -1).var(0) * (weights["w"] ** 2).sum(1)).reshape(4, 4).sum(1)
    np.testing.assert_allclose(found, energy / energy.sum(), rtol=1e-5)


def test_each_name_has_a_criterion() -> None:
    assert tuple(CALIBRATED) == CALIBRATED_NAMES
    assert not set(CALIBRATED_NAMES) & set(CRITERIA_NAMES)

"""A masked channel that is divided by zero: infinite, or no number, whatever it is multiplied with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from onnx_prune import criteria
from onnx_prune.axes.axis import Atom
from onnx_prune.choose import candidates, choose
from onnx_prune.coupling import Coupling
from onnx_prune.cut import cut
from onnx_prune.proof.prove import prove
from onnx_prune.settings import Budget
from tests.graphs import analyse, build, noise

WEIGHTS = {
    "w": noise(4, 6),
    "v": noise(6, 3),
    "mean": noise(6, seed=1),
    "deviation": np.abs(noise(6, seed=2)),
    "gamma": noise(6, seed=3),
    "beta": noise(6, seed=4),
}
DIVIDED: dict[str, list[str]] = {
    "a norm written out": [
        "s = Sub(h, mean)",
        "d = Div(s, deviation)",
        "m = Mul(d, gamma)",
        "r = Add(m, beta)",
    ],
    "a logarithm, scaled": ["q = Mul(h, h)", "l = Log(q)", "r = Mul(l, gamma)"],
    "a reciprocal, scaled": ["q = Mul(h, h)", "l = Reciprocal(q)", "r = Mul(l, gamma)"],
    "a logarithm of a sum": ["q = Exp(h)", "z = Mul(q, deviation)", "l = Log(z)", "r = Mul(l, gamma)"],
}


def proved(coupling: Coupling) -> tuple[dict[Atom, object], float]:
    budget = Budget(ratio=0.5, round_to=1)
    groups = candidates(coupling, budget)
    scores = {group.atom: criteria.l1(coupling, group) for group in groups}
    plan = choose(coupling, scores, budget, groups).plan
    return dict(plan), prove(coupling, plan, cut(coupling, plan).whole()).error


@pytest.mark.parametrize("nodes", DIVIDED.values(), ids=DIVIDED)
def test_what_was_divided_by_zero_is_masked_where_it_is_summed(nodes: Sequence[str]) -> None:
    model = build(["h = MatMul(x, w)", *nodes, "y = MatMul(r, v)"], WEIGHTS, {"x": [2, 4]}, {"y": [2, 3]})
    plan, error = proved(analyse(model))
    assert len(plan) == 1
    assert error < 1e-6


def test_a_sum_that_divides_is_masked_at_the_channels_it_sums_over_alone() -> None:
    nodes = ["h = MatMul(x, w)", "p = Reshape(h, pairs)", "g = Sigmoid(p)", "s = ReduceSum(g, last)"]
    nodes += ["d = Div(g, s)", "r = Reshape(d, flat)", "z = Mul(r, h)", "y = MatMul(z, v)"]
    weights = {"w": noise(4, 12), "v": noise(12, 3), "last": np.array([2])}
    weights |= {"pairs": np.array([2, 6, 2]), "flat": np.array([2, 12])}
    plan, error = proved(analyse(build(nodes, weights, {"x": [2, 4]}, {"y": [2, 3]})))
    assert [atom.size for atom in plan] == [6]
    assert error < 1e-6


def test_a_weight_with_an_empty_dim_has_scores() -> None:
    assert criteria.channel_norms(np.zeros((0, 4), np.float32), 1, 1).tolist() == [0, 0, 0, 0]

"""Rules of operators on matrices: cutting commutes with running."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_prune.axes.relation import Op
from onnx_prune.errors import Misfit
from onnx_prune.rules import RULES, relate
from tests.commute import Array, Case, RefusedError, check
from tests.node_cases import node_cases


def f(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


CASES = [
    Case("Trilu", [f(2, 3, 4, 5)], cut=2),
    Case("Trilu", [f(3, 4, 5), np.array(1)], {"upper": 0}, cut=1),
    Case("Trilu", [f(3, 4, 5), np.array(-1)], cut=1, domain="com.microsoft"),
    Case("Det", [f(2, 3, 4, 4)], cut=2),
    Case("Inverse", [np.eye(4, dtype=np.float32) + 0.1 * f(3, 4, 4)], cut=1, domain="com.microsoft"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cutting_commutes_with_running(case: Case) -> None:
    assert check(case) == case.cut


@pytest.mark.parametrize("op", ["Trilu", "Det"])
def test_cutting_commutes_on_the_cases_of_onnx(op: str) -> None:
    for case in node_cases()[op]:
        try:
            check(case, trials=1)
        except RefusedError:
            continue


def test_vectors_are_refused() -> None:
    with pytest.raises(Misfit, match="holds no matrices"):
        relate(Op("Trilu", ((4,),), ((4,),)))


def test_every_rule_of_the_family_is_tested() -> None:
    mine = {key for key, rule in RULES.items() if rule.__module__.endswith(".matrix")}
    assert mine == {(case.domain, case.op) for case in CASES}

"""The rules of com.microsoft's fused operators and norms: cutting commutes with running."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from onnx_prune.axes.relation import NEVER, Op
from onnx_prune.errors import Misfit
from onnx_prune.rules import RULES, relate
from tests.commute import Array, Case, check

MICROSOFT = "com.microsoft"
# Onnxruntime has these for GPUs alone: what their rules say stands in tests/rules, and is not run.
NO_KERNEL = {"BiasAdd", "BiasDropout", "BiasSplitGelu", "GroupNorm", "NhwcConv"}
NO_KERNEL |= {"NhwcFusedConv", "SkipGroupNorm"}
# Rows are looked up by position, and a statistic is taken over the rest.
ALL_MIXED = {"EmbedLayerNormalization", "QEmbedLayerNormalization"}


def f(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def index(high: int, *shape: int) -> Array:
    return np.random.default_rng(high).integers(0, high, shape).astype(np.int32)


def case(
    op: str,
    arrays: Sequence[Array | None],
    cut: int,
    attrs: Mapping[str, Any] | None = None,
    outputs: int = 1,
    domain: str = MICROSOFT,
) -> Case:
    return Case(op, arrays, attrs or {}, 17, outputs, cut=cut, domain=domain)


X, W, B, Z = f(2, 6, 8, 8), f(9, 2, 3, 3), f(9), f(2, 9, 6, 6)
PLAIN = f(9, 6, 3, 3)
A, S = f(2, 3, 4), f(2, 5, 12)
EMBED = index(99, 2, 5), index(2, 2, 5), f(99, 12), f(16, 12), f(2, 12), f(12), f(12)
TABLES = [
    np.random.default_rng(k).integers(0, 255, array.shape).astype(np.uint8)
    for k, array in enumerate(EMBED[2:])
]
QUANTIZED = [*EMBED[:2], *TABLES, None, *[np.float32(0.02)] * 5, *[np.uint8(120)] * 5]
LEAKY = {"activation": "LeakyRelu", "activation_alpha": 0.1, "transB": 1}
ACTIVATIONS: dict[str, dict[str, list[float]]] = {
    "Relu": {},
    "Tanh": {},
    "Sigmoid": {},
    "LeakyRelu": {"activation_params": [0.1]},
    "Clip": {"activation_params": [0.0, 6.0]},
    "HardSigmoid": {"activation_params": [0.2, 0.5]},
}
CASES = [
    *(
        case("FusedConv", (X, W, B), 4, {"group": 3, "activation": name} | activation)
        for name, activation in ACTIVATIONS.items()
    ),
    case("FusedConv", (X, PLAIN, B, Z), 3, {"activation": "Relu"}),
    case("FusedConv", (X, PLAIN), 3, {"activation": "Relu"}),
    case("FusedMatMul", (f(2, 3, 4, 5), f(2, 3, 5, 6)), 5, {"alpha": 0.5}),
    case("FusedMatMul", (f(2, 3, 5, 4), f(3, 5, 6)), 5, {"transA": 1}),
    case("FusedMatMul", (f(2, 3, 4, 5), f(1, 6, 5)), 5, {"transB": 1}),
    case("FusedMatMul", (f(5, 4), f(6, 5)), 3, {"transA": 1, "transB": 1}),
    case("FusedMatMul", (f(4, 2, 3, 5), f(2, 3, 5, 6)), 5, {"transBatchA": 1}),
    case("FusedMatMul", (f(2, 3, 4, 5), f(5, 2, 3, 6)), 5, {"transBatchB": 1}),
    case(
        "FusedMatMul",
        (f(5, 2, 3, 4), f(6, 2, 3, 5)),
        5,
        {f"trans{x}": 1 for x in ("A", "B", "BatchA", "BatchB")},
    ),
    case("FusedMatMul", (f(5), f(5, 6)), 2),
    case("FusedMatMul", (f(2, 4, 5), f(5)), 3),
    case("TransposeMatMul", (f(2, 5, 4), f(2, 5, 6)), 4, {"transA": 1}),
    case("FusedGemm", (f(4, 5), f(5, 6), f(6)), 3, {"activation": "Relu", "alpha": 0.5}),
    case("FusedGemm", (f(4, 5), f(6, 5), f(4, 1)), 3, LEAKY),
    case("FusedGemm", (f(5, 4), f(5, 6)), 3, {"activation": "Sigmoid", "transA": 1}),
    case("Gelu", (A,), 3),
    case("QuickGelu", (A,), 3, {"alpha": 1.5}),
    case("BiasGelu", (A, f(4)), 3),
    case("FastGelu", (A, f(4)), 3),
    case("FastGelu", (A,), 3),
    case("SkipLayerNormalization", (S, f(2, 5, 12), f(12), f(12), f(12)), 2),
    case("SkipLayerNormalization", (S, f(5, 12), f(12)), 2),
    case("SkipLayerNormalization", (S, f(1, 5, 12), f(12), f(12)), 2, outputs=4),
    case("SkipSimplifiedLayerNormalization", (S, f(2, 5, 12), f(12), f(12)), 2, outputs=4),
    case("SkipSimplifiedLayerNormalization", (S, f(2, 5, 12), f(12)), 2),
    case("EmbedLayerNormalization", EMBED, 0, outputs=2),
    case("EmbedLayerNormalization", (*EMBED, index(2, 2, 5)), 0, {"mask_index_type": 1}, outputs=3),
    case("GatedRMSNorm", (S, f(4), f(2, 5, 12)), 3),
    case("GatedRMSNorm", (S, f(12), f(2, 5, 12)), 2, {"activation": "sigmoid"}),
    case("QEmbedLayerNormalization", QUANTIZED, 0, outputs=2),
    case("QEmbedLayerNormalization", [*QUANTIZED[:7], index(2, 2, 5), *QUANTIZED[8:]], 0, outputs=2),
    case("SimplifiedLayerNormalization", (S, f(12)), 2, {"axis": -1}, domain=""),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cutting_commutes_with_running(case: Case) -> None:
    assert check(case) == case.cut


def test_every_rule_of_the_family_is_tested() -> None:
    mine = {key for key, rule in RULES.items() if rule.__module__.endswith((".fused", ".norm_fused"))}
    assert mine == {(case.domain, case.op) for case in CASES} | {(MICROSOFT, op) for op in NO_KERNEL}
    assert {case.op for case in CASES if not case.cut} == ALL_MIXED


@pytest.mark.parametrize("name", [*ACTIVATIONS, "HardSwish", "Mystery"])
def test_an_activation_decides_about_zero(name: str) -> None:
    attrs = {"activation": name} | ACTIVATIONS.get(name, {})
    relation = relate(Op("FusedConv", (X.shape, PLAIN.shape, B.shape), (Z.shape,), attrs), MICROSOFT)
    assert relation is not None
    assert (relation.zero == NEVER) == (name in ("Sigmoid", "HardSigmoid", "Mystery"))


def test_matrices_that_do_not_fit_say_so() -> None:
    with pytest.raises(Misfit, match="inner axes of sizes 3 and 4"):
        relate(Op("FusedMatMul", ((2, 3), (4, 5)), ((2, 5),)), MICROSOFT)
    with pytest.raises(Misfit, match="no batch"):
        relate(Op("FusedMatMul", ((2, 3), (3, 5)), ((2, 5),), {"transBatchA": 1}), MICROSOFT)

"""Rules of recurrences, experts, spectra and com.microsoft's twins: cutting commutes with running."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnx_prune.axes.relation import Op
from onnx_prune.errors import Misfit
from onnx_prune.rules import RULES, relate
from tests.commute import Array, Case, RefusedError, check
from tests.node_cases import node_cases

MICROSOFT = "com.microsoft"
FAMILIES = ("linear_recurrence", "experts", "spectrum", "selected", "vendor", "embedding")
# Results that are positions, or depend on all values at once: nothing may be cut.
HELD = {
    "NegativeLogLikelihoodLoss",
    "NonMaxSuppression",
    "NonZero",
    "SoftmaxCrossEntropyLoss",
    "Unique",
    "Range",
}


def f(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def i(*values: int) -> Array:
    return np.array(values, np.int64)


def vendor(op: str, arrays: list[Any], cut: int, outputs: int = 1, **attrs: Any) -> Case:
    return Case(op, arrays, attrs, 17, outputs, cut=cut, domain=MICROSOFT)


def plain(op: str, arrays: list[Any], cut: int, opset: int = 22, outputs: int = 1, **attrs: Any) -> Case:
    return Case(op, arrays, attrs, opset, outputs, cut=cut)


CONV = [f(2, 6, 5), f(6, 1, 3), f(6)]
HEADS = {"q_num_heads": 6, "kv_num_heads": 3}
QUERIES = [f(2, 5, 24), f(2, 5, 12), f(2, 5, 15)]
STATE, DECAY, RATE = f(2, 3, 4, 5), -np.abs(f(2, 5, 12)), np.abs(f(2, 5, 3))
EXPERTS = [f(7, 8), f(7, 4), f(4, 16, 8), f(4, 16), f(4, 8, 16), f(4, 8)]
GATED = [f(7, 8), f(7, 4), f(4, 32, 8), f(4, 32), f(4, 8, 16), f(4, 8)]
BOXES = np.array([[0, 0, 0.5, 0.5], [0.1, 0.2, 0.9, 0.8]], np.float32)
PICKED = np.random.default_rng(0).integers(0, 3, (4, 2))
TABLE = np.random.default_rng(1).integers(0, 255, (9, 64)).astype(np.uint8)
CASES = [
    *(
        case(name, arrays, 2, outputs=2, activation=activation)
        for name, case in (("CausalConvWithState", vendor),)
        for activation in ("none", "silu")
        for arrays in (CONV, CONV[:2], [*CONV, f(2, 6, 2)])
    ),
    plain("CausalConvWithState", CONV, 2, 27, 2),
    plain("CausalConvWithState", [*CONV, f(2, 6, 2)], 2, 27, 2, activation="silu"),
    *(
        Case("LinearAttention", arrays, HEADS | {"update_rule": rule}, opset, 2, cut=3, domain=domain)
        for domain, opset in ((MICROSOFT, 17), ("", 27))
        for rule, arrays in (
            ("linear", QUERIES),
            ("linear", [*QUERIES, STATE]),
            ("gated", [*QUERIES, STATE, DECAY]),
            ("gated", [*QUERIES, None, DECAY[..., :3]]),
            ("delta", [*QUERIES, STATE, None, RATE]),
            ("gated_delta", [*QUERIES, STATE, DECAY, RATE]),
            ("gated_delta", [*QUERIES, None, DECAY, RATE[..., :1]]),
        )
    ),
    Case("LinearAttention", QUERIES, HEADS | {"update_rule": "linear"}, 27, 1, cut=4),
    Case("LinearAttention", [*QUERIES, STATE], HEADS | {"update_rule": "linear", "scale": 0.3}, 27, 1, cut=4),
    vendor("LinearAttentionGate", [f(2, 5, 4), f(4), f(4)], 3),
    vendor("LinearAttentionGate", [f(2, 5, 4), f(4), f(4), f(2, 5, 4, seed=1)], 3, 2),
    *(vendor("MoE", EXPERTS, 2, activation_type=name, k=2) for name in ("relu", "gelu", "silu", "identity")),
    vendor("MoE", [EXPERTS[0].reshape(1, 7, 8), *EXPERTS[1:]], 2, activation_type="relu", k=1),
    vendor("MoE", GATED, 2, activation_type="swiglu", swiglu_fusion=1, k=2, activation_beta=1.0),
    plain("DFT", [f(2, 6, 8, 1)], 2, 17, axis=2, onesided=1),
    plain("DFT", [f(2, 6, 8, 2)], 2, 19, axis=1, inverse=1),
    plain("DFT", [f(2, 6, 8, 1), None, np.array(1)], 2, 20),
    plain("DFT", [f(2, 6, 8, 1)], 2, 20),
    Case("DFT", [f(2, 6, 8, 1), None, np.array(1)], {}, 20, unknown=(2,), cut=0),
    plain("STFT", [f(3, 64, 1), np.array(8), np.hanning(16).astype(np.float32)], 1, 17),
    plain("STFT", [f(3, 64, 1), np.array(8), None, np.array(16)], 1, 17, onesided=1),
    plain("NonZero", [f(2, 3)], 0),
    plain("Unique", [f(2, 3)], 0, outputs=4, axis=0),
    plain("NonMaxSuppression", [f(1, 6, 4), np.abs(f(1, 2, 6)), np.array([3])], 0),
    plain("NegativeLogLikelihoodLoss", [f(4, 5), i(0, 1, 2, 4), f(5)], 0),
    plain("SoftmaxCrossEntropyLoss", [f(4, 5), i(0, 1, 2, 4)], 0, outputs=2),
    vendor("ExpandDims", [f(3, 4), np.array(1, np.int32)], 2),
    vendor("GatherND", [f(3, 4, 5), PICKED], 2),
    vendor("GridSample", [f(2, 6, 8, 9), f(2, 4, 3, 2)], 2),
    vendor("MatMulInteger16", [f(3, 4).astype(np.int16), f(4, 5).astype(np.int16)], 3),
    vendor("Pad", [f(3, 4), i(0, 1, 0, 2), np.float32(0)], 2, mode="constant"),
    vendor("Range", [np.float32(0), np.float32(5), np.float32(1)], 0),
    vendor("NhwcMaxPool", [np.abs(9 * f(2, 8, 8, 3)).astype(np.uint8)], 2, kernel_shape=[2, 2]),
    vendor("ConvTransposeWithDynamicPads", [f(1, 6, 5, 5), f(6, 4, 3, 3), i(1, 1, 1, 1), f(4)], 2),
    vendor("ConvTransposeWithDynamicPads", [f(1, 6, 5, 5), f(6, 4, 3, 3), i(1, 1, 1, 1), f(8)], 3, group=2),
    vendor("CropAndResize", [f(1, 6, 8, 8), BOXES, np.zeros(2, np.int32), np.array([2, 3], np.int32)], 1),
    vendor("ScaledSiLU", [f(3, 4)], 2, alpha=1.5),
    vendor("ScaledSiLU", [f(3, 4), np.float32(0.5)], 2),
    vendor("GatedAdd", [f(2, 3, 4), f(2, 3, 4, seed=1), f(2, 3, 1)], 3),
    vendor(
        "MatMulBnb4",
        [f(5, 64), np.arange(1024).astype(np.uint8), np.abs(f(32))],
        1,
        K=64,
        N=32,
        block_size=64,
        quant_type=1,
    ),
    *(
        vendor(
            "GatherBlockQuantized", [TABLE, PICKED, *scales], cut, bits=bits, block_size=16, quantize_axis=-1
        )
        for bits, cut, scales in (
            (8, 3, (np.abs(f(9, 4)), 120 + np.abs(f(9, 4)).astype(np.uint8))),
            (8, 2, (np.abs(f(9, 4)),)),
            (4, 2, (np.abs(f(9, 8)), np.full((9, 4), 0x78, np.uint8))),
        )
    ),
    vendor("CDist", [f(5, 3), f(4, 3)], 2, metric="sqeuclidean"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cutting_commutes_with_running(case: Case) -> None:
    assert check(case) == case.cut


@pytest.mark.parametrize("op", sorted({case.op for case in CASES if not case.domain}))
def test_cutting_commutes_on_the_cases_of_onnx(op: str) -> None:
    for case in node_cases().get(op, []):
        try:
            check(case)
        except RefusedError:
            continue


def test_every_rule_of_the_family_is_tested() -> None:
    mine = {key for key, rule in RULES.items() if rule.__module__.rpartition(".")[2] in FAMILIES}
    mine |= {
        (MICROSOFT, name)
        for name in ("ExpandDims", "GatherND", "GridSample", "MatMulInteger16", "Pad", "Range")
    }
    assert mine == {(case.domain, case.op) for case in CASES}
    cut = {case.op for case in CASES if case.cut}
    assert {case.op for case in CASES} - cut == HELD


@pytest.mark.parametrize(
    ("op", "domain", "message"),
    [
        (
            Op("CausalConvWithState", ((2, 5, 6), (6, 1, 3)), ((2, 5, 6),), {"channels_last": 1}),
            MICROSOFT,
            "first",
        ),
        (
            Op("LinearAttention", ((2, 5, 8),) * 3, ((2, 5, 8),), {"q_num_heads": 2, "kv_num_heads": 4}),
            "",
            "serve",
        ),
        (
            Op("LinearAttention", ((2, 5, 8),) * 3, ((2, 5, 8),), {**HEADS, "state_window": 2}),
            MICROSOFT,
            "state",
        ),
        (
            Op("MoE", ((7, 8), (7, 4), (4, 16, 8)), ((7, 8),), {"swiglu_fusion": 3}),
            MICROSOFT,
            "swiglu_fusion 3",
        ),
    ],
)
def test_what_is_not_understood_says_so(op: Op, domain: str, message: str) -> None:
    with pytest.raises(Misfit, match=message):
        relate(op, domain)

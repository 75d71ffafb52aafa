"""The rules of attention, ONNX's own and com.microsoft's: cutting commutes with running."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
import pytest

from onnx_prune.axes.axis import atoms
from onnx_prune.axes.relation import Op
from onnx_prune.errors import Misfit
from onnx_prune.rules import RULES, relate
from tests.commute import Array, Case, RefusedError, check
from tests.node_cases import node_cases

MICROSOFT = "com.microsoft"


def f(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def i(*values: int) -> Array:
    return np.array(values, np.int32)


def own(
    op: str,
    arrays: Sequence[Array | None],
    cut: int,
    attrs: Mapping[str, Any] | None = None,
    outputs: int = 1,
    opset: int = 23,
) -> Case:
    return Case(op, arrays, attrs or {}, opset, outputs, cut=cut)


def fused(op: str, arrays: Sequence[Array | None], cut: int, outputs: int = 1, **attrs: Any) -> Case:
    return Case(op, arrays, attrs, 17, outputs, cut=cut, domain=MICROSOFT)


Q, K, V = f(2, 6, 5, 8), f(2, 3, 7, 8), f(2, 3, 7, 4)
FLAT = f(2, 5, 48), f(2, 7, 24), f(2, 7, 12)
GROUPED = {"q_num_heads": 6, "kv_num_heads": 3}
PAST = f(2, 3, 2, 8), f(2, 3, 2, 4)
OWN = [
    own("Attention", (Q, K, V), 4),
    own("Attention", (Q, K, V), 4, {"scale": 0.1, "softcap": 2.0, "is_causal": 1}),
    own("Attention", FLAT, 4, GROUPED),
    own("Attention", (*FLAT, f(5, 7)), 4, GROUPED),
    own("Attention", (Q, K, V, f(1, 6, 5, 7)), 4),
    own("Attention", (Q, K, V, f(2, 1, 5, 7)), 4),
    own("Attention", (Q, K, V, f(2, 6, 5, 7) > -0.5), 4),
    own("Attention", (f(2, 3, 5, 8), K, V), 3),
    own("Attention", (Q, K, V, f(5, 9), *PAST), 3, outputs=3),
    own("Attention", (*FLAT, f(5, 9), *PAST), 3, GROUPED, outputs=3),
    own("Attention", (*FLAT, None, *PAST), 3, GROUPED | {"is_causal": 1}, outputs=4),
    own("Attention", (Q, K, V, None, None, None, np.array([3, 7])), 4, opset=24),
    own("RotaryEmbedding", (f(2, 3, 5, 8), f(2, 5, 4), f(2, 5, 4)), 1),
    own("RotaryEmbedding", (f(2, 5, 24), f(2, 5, 4), f(2, 5, 4)), 1, {"num_heads": 3}),
    own("RotaryEmbedding", (f(2, 3, 5, 8), f(50, 4), f(50, 4), np.arange(10).reshape(2, 5)), 1),
    own(
        "RotaryEmbedding",
        (f(2, 5, 24), f(2, 5, 2), f(2, 5, 2)),
        1,
        {"num_heads": 3, "rotary_embedding_dim": 4},
    ),
    own("TensorScatter", (f(2, 3, 9, 8), f(2, 3, 2, 8), np.array([1, 4])), 2, opset=24),
    own("TensorScatter", (f(2, 9, 6), f(2, 2, 6)), 1, {"axis": 1, "mode": "circular"}, opset=24),
]
W, B = f(7, 24), f(24)
X, CACHE = f(2, 5, 7), f(2, 2, 2, 3, 4)
EMPTY = f(2, 3, 0, 16), f(2, 3, 0, 16)
NO_BIAS = fused("Attention", (X, W), 4, num_heads=2, unidirectional=1)
MINE = [
    fused("Attention", (X, W, B), 4, num_heads=2),
    NO_BIAS,
    fused("Attention", (X, f(7, 32), f(32)), 4, num_heads=2, qkv_hidden_sizes=[12, 12, 8]),
    fused("Attention", (X, W, B, np.ones((2, 5), np.int32)), 4, num_heads=2, scale=0.3),
    fused("Attention", (X, W, B, i(3, 5)), 4, num_heads=2),
    fused("Attention", (X, W, B, None, None, f(1, 2, 5, 5)), 4, num_heads=2),
    fused("Attention", (X, W, B, None, None, f(2, 1, 5, 5)), 4, num_heads=2),
    fused("Attention", (X, W, B, None, CACHE), 2, 2, num_heads=2, unidirectional=1),
    fused("MultiHeadAttention", (f(2, 5, 12), f(2, 7, 12), f(2, 7, 8)), 3, num_heads=2),
    fused("MultiHeadAttention", (f(2, 5, 12), f(2, 7, 12), f(2, 7, 8), f(32)), 3, num_heads=2, scale=0.3),
    fused("MultiHeadAttention", (f(2, 5, 12), f(2, 3, 7, 4), f(2, 3, 7, 4)), 1, num_heads=3),
    fused("MultiHeadAttention", (f(2, 5, 12), f(2, 7, 12), f(2, 7, 12)), 2, 3, num_heads=3),
    fused(
        "MultiHeadAttention",
        (f(2, 5, 12), f(2, 7, 12), f(2, 7, 12), None, np.ones((2, 7), np.int32), f(2, 3, 5, 7)),
        3,
        num_heads=3,
    ),
    fused(
        "MultiHeadAttention",
        (f(2, 5, 12), f(2, 5, 12), f(2, 5, 12), None, None, None, f(2, 3, 4, 4), f(2, 3, 4, 4)),
        1,
        3,
        num_heads=3,
        unidirectional=1,
    ),
    fused(
        "GroupQueryAttention",
        (f(2, 5, 48), f(2, 5, 24), f(2, 5, 24), f(2, 3, 0, 8), f(2, 3, 0, 8), i(4, 4), np.array(5, np.int32)),
        2,
        3,
        num_heads=6,
        kv_num_heads=3,
    ),
    fused(
        "GroupQueryAttention",
        (f(2, 5, 96), None, None, f(2, 3, 0, 8), f(2, 3, 0, 8), i(4, 4), np.array(5, np.int32)),
        2,
        3,
        num_heads=6,
        kv_num_heads=3,
    ),
    fused(
        "GroupQueryAttention",
        (
            f(2, 5, 96),
            f(2, 5, 48),
            f(2, 5, 48),
            f(2, 3, 0, 16),
            f(2, 3, 0, 16),
            i(4, 4),
            np.array(5, np.int32),
            f(9, 8),
            f(9, 8),
        ),
        2,
        3,
        num_heads=6,
        kv_num_heads=3,
        do_rotary=1,
    ),
    fused("RotaryEmbedding", (f(2, 3, 5, 8), np.array([0]), f(50, 4), f(50, 4)), 1),
    fused("RotaryEmbedding", (f(2, 5, 24), np.array([0]), f(50, 4), f(50, 4)), 1),
    fused(
        "RotaryEmbedding",
        (f(2, 5, 24), np.array([0]), f(50, 2), f(50, 2)),
        1,
        num_heads=3,
        rotary_embedding_dim=4,
    ),
]
BYTES, POINT = np.random.default_rng(0).integers(0, 255, (2, 5, 7)).astype(np.uint8), np.uint8(130)
COLUMNS = np.random.default_rng(1).integers(-90, 90, (7, 24)).astype(np.int8)
SCALES = np.abs(f(24)) / 100
QUANTIZED = [
    fused("QAttention", (BYTES, COLUMNS, B, *arrays), 2, num_heads=2)
    for arrays in (
        (np.float32(0.1), np.float32(0.02), None, POINT, np.int8(3)),
        (np.float32(0.1), np.float32(0.02), i(3, 5), POINT),
        (np.float32(0.1), SCALES, None, POINT, np.zeros(24, np.int8)),
    )
]
CASES = OWN + MINE + QUANTIZED


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cutting_commutes_with_running(case: Case) -> None:
    if case is NO_BIAS and tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 32):
        pytest.skip("onnxruntime below 1.32 ends the process where Attention has no bias")
    assert check(case) == case.cut


@pytest.mark.parametrize("op", ["Attention", "RotaryEmbedding", "TensorScatter"])
def test_cutting_commutes_on_the_cases_of_onnx(op: str) -> None:
    cut = 0
    for case in node_cases()[op]:
        try:
            cut += check(case, trials=1)
        except RefusedError:
            continue
    assert cut


def test_every_rule_of_the_family_is_tested() -> None:
    mine = {key for key, rule in RULES.items() if ".rules.attention" in rule.__module__}
    assert mine == {(case.domain, case.op) for case in CASES if case.cut}


def held(op: Op, domain: str = "") -> set[str]:
    relation = relate(op, domain)
    assert relation is not None
    sides = (*relation.operands, *relation.results)
    return {a.held for dims in sides if dims for axis in dims for a in atoms(axis) if a.held}


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        (((2, 5, 3, 3, 4),), "*b *s h *three *d -> *b *s (h *d)"),
        (((2, 5, 12), (2, 7, 3, 2, 4)), "*b *s (h *d), *b *t h *two *d -> *b *s (h *d)"),
    ],
)
def test_packed_attention_by_its_shapes_alone(shapes: tuple[tuple[int, ...], ...], says: str) -> None:
    """Onnxruntime has no CPU kernel for packed operands of MultiHeadAttention."""
    relation = relate(Op("MultiHeadAttention", shapes, ((2, 5, 12),), {"num_heads": 3}), MICROSOFT)
    assert str(relation) == says
    assert relation is not None
    assert [r.target for r in relation.restate] == ["num_heads", "scale"]


def test_a_head_size_that_is_cached_or_rotated_is_held_and_says_so() -> None:
    shapes = (2, 6, 5, 4), (2, 3, 7, 8), (2, 3, 7, 4)
    cached = Op("Attention", (Q.shape, K.shape, V.shape), shapes)
    assert "the size of a head is summed over, and returned as well" in held(cached)
    turned = Op("Attention", (X.shape, W.shape), ((2, 5, 8),), {"num_heads": 2, "do_rotary": 1})
    assert "the size of a head is rotated by a table" in held(turned, MICROSOFT)


@pytest.mark.parametrize(
    ("op", "domain", "message"),
    [
        (Op("Attention", (Q.shape, (2, 4, 7, 8), (2, 4, 7, 4)), ((2, 6, 5, 4),)), "", "4 key-value heads"),
        (Op("Attention", (X.shape, W.shape), ((2, 5, 8),), {"num_heads": 3}), MICROSOFT, "are not 3 heads"),
        (
            Op("RotaryEmbedding", ((2, 5, 24), (9, 4), (9, 4)), ((2, 5, 24),)),
            "",
            "24 channels are not 0 heads",
        ),
    ],
)
def test_heads_that_do_not_divide_say_so(op: Op, domain: str, message: str) -> None:
    with pytest.raises(Misfit, match=message):
        relate(op, domain)

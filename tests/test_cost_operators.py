"""Multiply-accumulates of single nodes, counted by hand."""

from __future__ import annotations

from typing import Any

import pytest

from onnx_prune.axes.relation import Op, Shape
from onnx_prune.cost import MACS
from onnx_prune.rules import RULES

# Two samples, 5 queries and 7 keys in 3 heads, 8 channels of a query and 4 of a value.
QK, AV = 2 * 3 * 5 * 7 * 8, 2 * 3 * 5 * 7 * 4
BY_HAND: list[tuple[str, tuple[Shape | None, ...], Shape, dict[str, Any], int]] = [
    ("Conv", ((1, 6, 8, 8), (9, 2, 3, 3)), (1, 9, 6, 6), {"group": 3}, 9 * 36 * 2 * 9),
    ("ConvTranspose", ((1, 6, 8), (6, 4, 3)), (1, 8, 10), {"group": 2}, 6 * 8 * 4 * 3),
    ("MatMul", ((2, 3, 5), (5, 7)), (2, 3, 7), {}, 2 * 3 * 5 * 7),
    ("Gemm", ((5, 3), (5, 7), (7,)), (3, 7), {"transA": 1}, 3 * 5 * 7),
    ("Einsum", ((2, 3, 5), (2, 7, 5)), (2, 3, 7), {"equation": "bik,bjk->bij"}, 2 * 3 * 5 * 7),
    ("Einsum", ((4, 2, 3, 5), (5, 7)), (4, 2, 3, 7), {"equation": "...k,kn->...n"}, 4 * 2 * 3 * 5 * 7),
    ("Einsum", ((2, 3),), (3, 2), {"equation": "ij->ji"}, 0),
    ("Attention", ((2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 4)), (2, 3, 5, 4), {}, QK + AV),
    ("Attention", ((2, 5, 24), (2, 7, 24), (2, 7, 12)), (2, 5, 12), {"q_num_heads": 3}, QK + AV),
    (
        "Attention",
        ((2, 3, 5, 8), (2, 3, 4, 8), (2, 3, 4, 4), None, (2, 3, 3, 8), (2, 3, 3, 4)),
        (2, 3, 5, 4),
        {},
        QK + AV,
    ),
    ("com.microsoft.MultiHeadAttention", ((2, 5, 24), (2, 7, 24), (2, 7, 12)), (2, 5, 12), {}, QK + AV),
    ("com.microsoft.MultiHeadAttention", ((2, 5, 24), (2, 3, 7, 8), (2, 3, 7, 8)), (2, 5, 24), {}, 2 * QK),
    ("com.microsoft.MultiHeadAttention", ((2, 7, 3, 3, 8),), (2, 7, 24), {}, 2 * QK * 7 // 5),
    (
        "com.microsoft.GroupQueryAttention",
        ((2, 5, 24), (2, 5, 8), (2, 5, 8), (2, 1, 2, 8), (2, 1, 2, 8)),
        (2, 5, 24),
        {"num_heads": 3, "kv_num_heads": 1},
        2 * QK,
    ),
    (
        "com.microsoft.Attention",
        ((2, 7, 9), (9, 60)),
        (2, 7, 12),
        {"num_heads": 3},
        2 * 7 * 9 * 60 + (QK + AV) * 7 // 5,
    ),
    ("com.microsoft.FusedConv", ((1, 6, 8, 8), (9, 6, 3, 3)), (1, 9, 6, 6), {}, 9 * 36 * 6 * 9),
    ("com.microsoft.NhwcConv", ((1, 8, 8, 6), (9, 6, 3, 3)), (1, 6, 6, 9), {}, 9 * 36 * 6 * 9),
    ("com.microsoft.NhwcFusedConv", ((1, 8, 8, 6), (9, 6, 3, 3)), (1, 6, 6, 9), {}, 9 * 36 * 6 * 9),
    ("com.microsoft.FusedGemm", ((3, 5), (5, 7)), (3, 7), {"activation": "Relu"}, 3 * 5 * 7),
    ("com.microsoft.FusedMatMul", ((2, 5, 3), (2, 5, 7)), (2, 3, 7), {"transA": 1}, 2 * 3 * 5 * 7),
    ("com.microsoft.FusedMatMul", ((5, 2, 3), (2, 5, 7)), (2, 3, 7), {"transA": 1, "transBatchA": 1}, 210),
    ("com.microsoft.FusedMatMul", ((3, 2, 5), (5, 7)), (2, 3, 7), {"transBatchA": 1}, 210),
    ("ConvInteger", ((1, 6, 8, 8), (9, 6, 3, 3), ()), (1, 9, 6, 6), {}, 9 * 36 * 6 * 9),
    ("MatMulInteger", ((2, 3, 5), (5, 7), ()), (2, 3, 7), {}, 2 * 3 * 5 * 7),
    ("QLinearConv", ((1, 6, 8, 8), (), (), (9, 2, 3, 3)), (1, 9, 6, 6), {"group": 3}, 9 * 36 * 2 * 9),
    ("QLinearMatMul", ((2, 3, 5), (), (), (5, 7)), (2, 3, 7), {}, 2 * 3 * 5 * 7),
    ("RNN", ((5, 2, 3), (1, 4, 3), (1, 4, 4)), (5, 1, 2, 4), {}, 5 * 2 * (4 * 3 + 4 * 4)),
    ("GRU", ((5, 2, 3), (1, 12, 3), (1, 12, 4)), (5, 1, 2, 4), {}, 5 * 2 * 3 * (4 * 3 + 4 * 4)),
    ("LSTM", ((5, 2, 3), (2, 16, 3), (2, 16, 4)), (5, 2, 2, 4), {}, 5 * 2 * 2 * 4 * (4 * 3 + 4 * 4)),
    (
        "com.microsoft.DynamicQuantizeLSTM",
        ((5, 2, 3), (1, 3, 16), (1, 4, 16)),
        (5, 1, 2, 4),
        {},
        5 * 2 * 4 * (4 * 3 + 4 * 4),
    ),
    ("com.microsoft.DynamicQuantizeMatMul", ((2, 3, 5), (5, 7)), (2, 3, 7), {}, 2 * 3 * 5 * 7),
    ("com.microsoft.MatMulIntegerToFloat", ((2, 3, 5), (5, 7)), (2, 3, 7), {}, 2 * 3 * 5 * 7),
    ("com.microsoft.MatMulNBits", ((2, 3, 64), (7, 2, 16)), (2, 3, 7), {"K": 64, "N": 7}, 2 * 3 * 64 * 7),
    ("com.microsoft.QGemm", ((5, 3), (), (), (5, 7)), (3, 7), {"transA": 1}, 3 * 5 * 7),
    ("com.microsoft.QLinearConv", ((1, 6, 8), (), (), (9, 6, 3)), (1, 9, 6), {}, 9 * 6 * 6 * 3),
    ("com.microsoft.TransposeMatMul", ((2, 5, 3), (2, 5, 7)), (2, 3, 7), {"transA": 1}, 210),
]


@pytest.mark.parametrize(("name", "ins", "out", "attrs", "count"), BY_HAND)
def test_macs_by_hand(
    name: str, ins: tuple[Shape | None, ...], out: Shape, attrs: dict[str, Any], count: int
) -> None:
    assert MACS[name](Op(name.rpartition(".")[2], ins, (out,), attrs)) == count


def test_every_count_is_of_an_operator_with_a_rule_and_has_a_case() -> None:
    assert MACS.keys() == {row[0] for row in BY_HAND}
    assert {tuple(name.rpartition(".")[::2]) for name in MACS} <= RULES.keys()

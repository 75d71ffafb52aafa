"""Quantized operators: cut in the integer domain, with zero points honoured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_prune.axis import Atom
from onnx_prune.codes import point
from onnx_prune.errors import Misfit
from onnx_prune.graph import Graph
from onnx_prune.mask import masked
from onnx_prune.real import real, unpack
from onnx_prune.relation import Code, Op
from onnx_prune.rules import RULES, relate
from tests.commute import Array, Case, RefusedError, check
from tests.graphs import analyse, build, group_of, halved, initializers, keeping, node, noise
from tests.node_cases import node_cases

OPERATORS = sorted(
    key for key, rule in RULES.items() if rule.__module__.rpartition(".")[2].startswith("quantized")
)
VENDOR = "com.microsoft"


def u8(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng([*shape, seed]).integers(0, 256, shape).astype(np.uint8)


def i8(*shape: int, seed: int = 0) -> NDArray[np.int8]:
    """Seven bits: without VNNI onnxruntime adds pairs of products in 16 bits, which must not overflow."""
    return np.random.default_rng([*shape, seed]).integers(-60, 60, shape).astype(np.int8)


def i32(*shape: int) -> NDArray[np.int32]:
    return np.random.default_rng([*shape]).integers(-500, 500, shape).astype(np.int32)


def scale(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng([*shape]).uniform(0.01, 0.1, shape).astype(np.float32)


S, Z, ZS = np.float32(0.03), np.uint8(117), np.int8(5)
RESULT = (np.float32(0.9), np.uint8(140))


def vendor(op: str, arrays: list[Any], outputs: int = 1, **attrs: Any) -> Case:
    return Case(op, [None if a is None else np.asarray(a) for a in arrays], attrs, 17, outputs, domain=VENDOR)


def plain(op: str, arrays: list[Any], opset: int = 21, outputs: int = 1, **attrs: Any) -> Case:
    return Case(op, [None if a is None else np.asarray(a) for a in arrays], attrs, opset, outputs)


def forms() -> Iterator[Case]:
    for opset in (10, 13, 21):
        yield plain("QuantizeLinear", [noise(3, 4), S, Z], opset)
        yield plain("DequantizeLinear", [u8(3, 4), S, Z], opset)
    yield plain("DequantizeLinear", [i8(3, 4), S])
    yield plain("DequantizeLinear", [i8(3, 4, 2), scale(3), i8(3)], axis=0)
    yield plain("DequantizeLinear", [i8(3, 4, 2), scale(4), i8(4)], axis=-2)
    yield plain("DequantizeLinear", [i32(5), scale(5)], axis=0)
    yield plain("DequantizeLinear", [u8(3, 8), scale(3, 4), u8(3, 4)], axis=1, block_size=2)
    yield plain("DequantizeLinear", [u8(6, 4), scale(2, 4), u8(2, 4)], axis=0, block_size=3)
    yield plain("DequantizeLinear", [u8(5, 4), scale(2, 4), u8(2, 4)], axis=0, block_size=3)
    yield plain("QuantizeLinear", [noise(3, 4), scale(4), u8(4)])
    yield plain("QuantizeLinear", [noise(3, 8), scale(3, 4), u8(3, 4)], axis=1, block_size=2)
    yield plain("DynamicQuantizeLinear", [noise(3, 6)], outputs=3)
    image, kernel = u8(1, 4, 5, 5), i8(6, 4, 3, 3)
    yield plain("QLinearConv", [image, S, Z, kernel, S, ZS, *RESULT, i32(6)])
    yield plain("QLinearConv", [image, S, Z, kernel, scale(6), np.zeros(6, np.int8), *RESULT, i32(6)])
    yield plain("QLinearConv", [image, S, Z, kernel, scale(6), np.zeros(6, np.int8), *RESULT], pads=[1] * 4)
    yield plain("QLinearConv", [image, S, Z, i8(6, 2, 3, 3), S, ZS, *RESULT, i32(6)], group=2)
    yield plain("ConvInteger", [image, u8(6, 4, 3, 3), Z, Z], pads=[1] * 4)
    yield plain("ConvInteger", [image, u8(6, 4, 3, 3), Z])
    yield plain("ConvInteger", [image, u8(6, 4, 3, 3)])
    yield plain("QLinearMatMul", [u8(3, 4), S, Z, i8(4, 6), S, ZS, *RESULT])
    yield plain("QLinearMatMul", [u8(2, 3, 4), S, Z, i8(4, 6), scale(6), i8(6), *RESULT])
    yield plain("QLinearMatMul", [u8(2, 3, 4), S, Z, u8(2, 4, 6), S, Z, *RESULT])
    yield plain("MatMulInteger", [u8(3, 4), i8(4, 6), Z, ZS])
    yield plain("MatMulInteger", [u8(2, 3, 4), i8(4, 6), Z, i8(6)])
    yield plain("MatMulInteger", [u8(3, 4), i8(4, 6)])
    for op in ("QLinearAdd", "QLinearMul"):
        yield vendor(op, [u8(3, 4), S, Z, u8(4), S, np.uint8(9), *RESULT])
        yield vendor(op, [u8(3, 4), S, Z, u8(3, 4, seed=1), np.float32(0.2), Z, *RESULT])
    for op in ("QLinearSigmoid", "QLinearLeakyRelu"):
        yield vendor(op, [u8(3, 4), S, Z, *RESULT], **({"alpha": 0.1} if op != "QLinearSigmoid" else {}))
    yield vendor("QLinearSoftmax", [u8(3, 4), S, Z, np.float32(1 / 256), np.uint8(0)], axis=1, opset=13)
    yield vendor("QLinearGlobalAveragePool", [u8(2, 4, 3, 3), S, Z, *RESULT])
    yield vendor("QLinearGlobalAveragePool", [u8(2, 3, 3, 4), S, Z, *RESULT], channels_last=1)
    yield vendor("QLinearAveragePool", [u8(2, 4, 4, 4), S, Z, *RESULT], kernel_shape=[2, 2])
    yield vendor("QLinearAveragePool", [u8(2, 4, 4, 4), S, Z, *RESULT], kernel_shape=[2, 2], channels_last=1)
    yield vendor("QLinearConcat", [*RESULT, u8(3, 2), S, Z, u8(3, 4), np.float32(0.2), np.uint8(9)], axis=1)
    yield vendor("QLinearWhere", [u8(4) > 100, u8(3, 4), S, Z, u8(3, 4, seed=1), S, np.uint8(3), *RESULT])
    yield vendor("QLinearConv", [u8(1, 5, 5, 4), S, Z, kernel, S, ZS, *RESULT], channels_last=1)
    yield vendor("QGemm", [u8(3, 4), S, Z, i8(4, 6), S, ZS, i32(6), *RESULT], alpha=1.0)
    yield vendor("QGemm", [u8(3, 4), S, Z, i8(6, 4), scale(6), i8(6), i32(6), *RESULT], transB=1)
    yield vendor("QGemm", [u8(3, 4), S, Z, i8(4, 6), S, ZS, i32(6)])
    yield vendor("MatMulIntegerToFloat", [u8(3, 4), i8(4, 6), S, scale(6), Z, i8(6), noise(6)])
    yield vendor("MatMulIntegerToFloat", [u8(3, 4), i8(4, 6), S, S, Z, ZS])
    yield vendor("DynamicQuantizeMatMul", [noise(3, 4), i8(4, 6), scale(6), i8(6), noise(6)])
    yield vendor("DynamicQuantizeMatMul", [noise(3, 4), i8(4, 6), S, ZS])
    yield vendor("QuantizeLinear", [noise(3, 4), S, Z])
    yield vendor("DequantizeLinear", [u8(3, 4), S, Z])
    nbits: dict[str, Any] = {"K": 64, "N": 6, "block_size": 16, "bits": 4}
    blocks, packed = u8(6, 4, 8), u8(6, 2)
    yield vendor("MatMulNBits", [noise(5, 64), blocks, scale(6, 4)], **nbits)
    yield vendor("MatMulNBits", [noise(5, 64), blocks, scale(24)], **nbits)
    yield vendor("MatMulNBits", [noise(2, 5, 64), blocks, scale(24), packed.ravel()], **nbits)
    yield vendor("MatMulNBits", [noise(5, 64), blocks, scale(6, 4), packed], **nbits)
    yield vendor("MatMulNBits", [noise(5, 64), blocks, scale(6, 4), None, None, noise(6)], **nbits)
    odd = {**nbits, "K": 40}
    yield vendor("MatMulNBits", [noise(5, 40), u8(6, 3, 8), scale(6, 3)], **odd)
    yield vendor("MatMulNBits", [noise(5, 40), u8(6, 3, 8), scale(6, 3), packed], **odd)
    eight = {**nbits, "bits": 8}
    yield vendor("MatMulNBits", [noise(5, 64), u8(6, 4, 16), scale(6, 4), u8(6, 4)], **eight)
    lstm = [noise(5, 2, 3), i8(1, 3, 16), i8(1, 4, 16), noise(1, 32), None, None, None, None]
    for form in ((), (16,)):
        points = [np.zeros((1, *form), np.int8), scale(1, *form), np.zeros((1, *form), np.int8)]
        yield vendor("DynamicQuantizeLSTM", [*lstm, scale(1, *form), *points], 3, hidden_size=4)


FORMS = list(forms())


@pytest.mark.parametrize("case", FORMS, ids=str)
def test_cutting_commutes_with_running(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("key", OPERATORS)
def test_every_rule_lets_something_be_cut(key: tuple[str, str]) -> None:
    if key[1] == "QLinearReduceMean":
        pytest.skip("onnxruntime has its schema and no kernel")
    assert any(check(case, trials=1) for case in FORMS if (case.domain, case.op) == key)


@pytest.mark.parametrize("op", [name for domain, name in OPERATORS if not domain])
def test_cutting_commutes_on_the_cases_of_onnx(op: str) -> None:
    for case in node_cases().get(op, []):
        try:
            check(case)
        except RefusedError:
            continue

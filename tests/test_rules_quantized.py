"""Quantized operators: cut in the integer domain, with zero points honoured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_prune.axes.axis import Atom
from onnx_prune.axes.relation import Code, Op
from onnx_prune.codes import point
from onnx_prune.errors import Misfit
from onnx_prune.mask import masked
from onnx_prune.model.graph import Graph
from onnx_prune.real import real, unpack
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
    both = [noise(5, 2, 3), i8(2, 3, 16), i8(2, 4, 16), noise(2, 32), None, None, None, None]
    for form in ((), (16,)):
        points = [np.zeros((2, *form), np.int8), scale(2, *form), np.zeros((2, *form), np.int8)]
        settings = {"hidden_size": 4, "direction": "bidirectional"}
        yield vendor("DynamicQuantizeLSTM", [*both, scale(2, *form), *points], 3, **settings)


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


# Whole graphs.


def q(array: Array, step: float, zero: int, kind: Any = np.uint8) -> Array:
    info = np.iinfo(kind)
    return np.clip(np.round(array / step) + zero, info.min, info.max).astype(kind)


def test_weights_are_cut_as_integers_and_masked_with_their_zero_points() -> None:
    weights = {"w1": q(noise(4, 8), 0.01, 130), "s": np.float32(0.01), "z": np.uint8(130)}
    weights |= {"w2": q(noise(8, 3), 0.01, 7), "z2": np.uint8(7)}
    nodes = ["a = DequantizeLinear(w1, s, z)", "b = DequantizeLinear(w2, s, z2)", "h = MatMul(x, a)"]
    model = build([*nodes, "r = Relu(h)", "y = MatMul(r, b)"], weights, {"x": [5, 4]}, {"y": [5, 3]})
    coupling = analyse(model)
    group = group_of(coupling, "w1", 1)
    blank = initializers(masked(coupling, keeping(group, 0, 1, 2, 5)).whole())
    gone = [3, 4, 6, 7]
    assert (blank["w1"][:, gone] == 130).all()
    assert (blank["w2"][gone] == 7).all()
    sizes, error, small = halved(model)
    assert sizes == {"w1:1": 8}
    assert error <= 1e-6
    assert initializers(small)["w1"].dtype == np.uint8
    assert initializers(small)["w1"].shape == (4, 4)


def test_scores_are_of_what_the_integers_mean() -> None:
    """The channel furthest from zero has the smallest integers."""
    w = np.array([[100, 128, 90], [101, 127, 130]], np.uint8)
    weights = {"w": w, "s": np.float32([0.5, 1, 2]), "z": np.uint8([128, 128, 128]), "v": noise(3, 2)}
    nodes = [node("a = DequantizeLinear(w, s, z)", axis=1), "h = MatMul(x, a)", "y = MatMul(h, v)"]
    coupling = analyse(build(nodes, weights, {"x": [5, 2]}, {"y": [5, 2]}))
    expected = (w.astype(np.float32) - 128) * [0.5, 1, 2]
    np.testing.assert_allclose(real(coupling, "w"), expected)
    assert {m.key.split("\0")[0]: m.role for m in group_of(coupling, "w", 1).members} == {
        "w": "producer",
        "v": "consumer",
        "s": "other",
        "z": "other",
    }


def test_scales_of_an_lstm_lie_along_directions_and_columns() -> None:
    w, s = i8(2, 3, 16), scale(2, 16)
    for scales, dims in ((s, (2, 1, 16)), (s[:, 0], (2, 1, 1))):
        points = np.zeros(scales.shape, np.int8)
        weights = {"w": w, "r": i8(2, 4, 16), "s": scales, "z": points, "v": noise(4, 3)}
        layer = node(f"h = {VENDOR}.DynamicQuantizeLSTM(x, w, r, , , , , , s, z, s, z)", hidden_size=4)
        layer.attribute.append(onnx.helper.make_attribute("direction", "bidirectional"))
        nodes, shape = [layer, "y = MatMul(h, v)"], {"y": [5, 2, 2, 3]}
        model = build(nodes, weights, {"x": [5, 2, 3]}, shape, domains=[VENDOR])
        numbers = real(analyse(model), "w")
        np.testing.assert_allclose(numbers, w.astype(np.float32) * scales.reshape(dims))
        sizes, error, _ = halved(model)
        assert list(sizes.values()) == [4]
        assert error <= 5e-2


def test_packed_weights_are_scored_unpacked() -> None:
    packed, scales = u8(6, 2, 8), scale(6, 2)
    weights = {"w": packed, "s": scales, "out": noise(6, 2)}
    product = node(f"h = {VENDOR}.MatMulNBits(x, w, s)", K=32, N=6, block_size=16, bits=4)
    model = build([product, "y = MatMul(h, out)"], weights, {"x": [3, 32]}, {"y": [3, 2]}, domains=[VENDOR])
    coupling = analyse(model)
    numbers = real(coupling, "w")
    np.testing.assert_allclose(numbers, (unpack(packed, 4).astype(np.float32) - 8) * scales[:, :, None])
    dequantized = numbers.reshape(6, 32)
    from onnx_prune.runtime import Session

    x = noise(3, 32)
    [y] = Session(model).run({"x": x})
    np.testing.assert_allclose(y, x @ dequantized.T @ weights["out"], rtol=1e-4, atol=1e-4)
    _, error, small = halved(model)
    assert error <= 1e-6
    assert next(a.i for a in small.graph.node[0].attribute if a.name == "N") == 3


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "int4"])
def test_narrow_types_come_as_floats(kind: str) -> None:
    from ml_dtypes import bfloat16, int4

    dtype = {"float16": np.float16, "bfloat16": bfloat16, "int4": int4}[kind]
    w = np.array([[1, -2], [3, 4]]).astype(dtype)
    coupling = analyse(build(["y = Cast(w)"], {"w": w}, {}, {"y": [2, 2]}))
    assert real(coupling, "w").dtype == np.float32
    np.testing.assert_array_equal(real(coupling, "w"), [[1, -2], [3, 4]])


def test_a_range_is_taken_over_what_masking_leaves() -> None:
    """A Sigmoid makes 0.5 of a masked channel: the quantizer must not see it."""
    weights = {"w": 3 * noise(4, 8), "v": i8(8, 3), "z": np.int8(0)}
    nodes = [
        "h = MatMul(x, w)",
        "g = Sigmoid(h)",
        "q, s, p = DynamicQuantizeLinear(g)",
        "i = MatMulInteger(q, v, p, z)",
        node("f = Cast(i)", to=TensorProto.FLOAT),
        "y = Mul(f, s)",
    ]
    model = build(nodes, weights, {"x": [5, 4]}, {"y": [5, 3]})
    coupling = analyse(model)
    [bound] = [b for b in coupling.bound if b.node.op == "DynamicQuantizeLinear"]
    assert bound.exposed == (0,)
    _, error, _ = halved(model)
    assert error <= 5e-2


def test_two_zero_points_in_one_tensor_are_masked_where_they_are_read() -> None:
    """Concat joins integers whose zeros differ; each reader fills in its own."""
    step, a, b = np.float32(0.02), np.uint8(10), np.uint8(200)
    weights = {"w1": noise(4, 6), "w2": noise(4, 6), "s": step, "a": a, "b": b}
    weights |= {"v": q(noise(12, 3), 0.02, 0, np.int8), "z": np.int8(0)}
    nodes = [
        *("h1 = MatMul(x, w1)", "h2 = MatMul(x, w2)", "q1 = QuantizeLinear(h1, s, a)"),
        *("q2 = QuantizeLinear(h2, s, b)", "v1 = DequantizeLinear(v, s, z)"),
        *(node("q = Concat(q1, q2)", axis=1), "d = DequantizeLinear(q, s, a)", "y = MatMul(d, v1)"),
    ]
    sizes, error, _ = halved(build(nodes, weights, {"x": [5, 4]}, {"y": [5, 3]}))
    assert sorted(sizes.values()) == [6, 6]
    assert error <= 5e-2


def test_moved_integers_keep_their_zero() -> None:
    """A weight that is transposed before it is read is filled with its reader's zero point."""
    weights = {"w": q(noise(8, 4), 0.02, 100), "s": np.float32(0.02), "z": np.uint8(100), "v": noise(8, 2)}
    nodes = [node("t = Transpose(w)", perm=[1, 0]), "f = DequantizeLinear(t, s, z)", "h = MatMul(x, f)"]
    model = build([*nodes, "y = MatMul(h, v)"], weights, {"x": [5, 4]}, {"y": [5, 2]})
    coupling = analyse(model)
    assert not coupling.bound[-1].exposed
    np.testing.assert_allclose(
        real(coupling, "w"), (weights["w"].astype(np.float32) - 100) * np.float32(0.02)
    )
    _, error, _ = halved(model)
    assert error <= 1e-6


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16])
def test_integers_that_are_not_zero_are_masked_where_they_are_read(kind: Any) -> None:
    weights = {"w": noise(4, 8), "s": np.float32(0.01), "z": kind(3), "v": q(noise(8, 3), 0.01, 3, kind)}
    nodes = [
        "h = MatMul(x, w)",
        "e = Sigmoid(h)",
        "q = QuantizeLinear(e, s, z)",
        "d = DequantizeLinear(q, s, z)",
    ]
    nodes += ["f = DequantizeLinear(v, s, z)", "y = MatMul(d, f)"]
    _, error, _ = halved(build(nodes, weights, {"x": [5, 4]}, {"y": [5, 3]}, opset=21))
    assert error <= 5e-2


def test_blocks_are_cut_whole_or_inside() -> None:
    weights = {"w": u8(12, 3), "s": scale(4, 3), "z": u8(4, 3), "v": noise(2, 12)}
    nodes = [
        "h = MatMul(x, v)",
        node("f = DequantizeLinear(w, s, z)", axis=0, block_size=3),
        "y = MatMul(h, f)",
    ]
    coupling = analyse(build(nodes, weights, {"x": [5, 2]}, {"y": [5, 3]}, opset=21))
    assert {g.size for g in coupling.groups} == {4, 3}
    for group in coupling.groups:
        from onnx_prune import cut
        from onnx_prune.proof.prove import prove

        plan = keeping(group, 0, 2)
        assert prove(coupling, plan, cut.cut(coupling, plan).whole()).error <= 1e-6


def test_small_biases_are_weights_and_not_arithmetic() -> None:
    """int32 biases with a scale of one element, as quantize_static writes them."""
    weights = {"w": noise(4, 8), "b": i32(8), "s": np.float32([0.01]), "v": noise(8, 3)}
    nodes = ["c = DequantizeLinear(b, s)", "h = MatMul(x, w)", "a = Add(h, c)", "y = MatMul(a, v)"]
    coupling = analyse(build(nodes, weights, {"x": [5, 4]}, {"y": [5, 3]}))
    assert ("b", 0) in {(m.weight, m.dim) for m in group_of(coupling, "w", 1).members}


@pytest.mark.parametrize("form", ["QDQ", "QOperator", "dynamic"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_what_the_tools_of_onnxruntime_write(tmp_path: Any, form: str, per_channel: bool) -> None:
    from onnxruntime import quantization as tools

    weights = {
        "k": noise(8, 3, 3, 3),
        "b": noise(8),
        "k2": noise(6, 8, 3, 3),
        "w": noise(6, 10),
        "v": noise(10, 3),
    }
    nodes = [
        *("c = Conv(x, k, b)", "r = Relu(c)", "d = Conv(r, k2)", "p = GlobalAveragePool(d)"),
        *("f = Flatten(p)", "h = MatMul(f, w)", "t = Relu(h)", "y = MatMul(t, v)"),
    ]
    onnx.save(build(nodes, weights, {"x": [2, 3, 8, 8]}, {"y": [2, 3]}), tmp_path / "in.onnx")

    class Reader(tools.CalibrationDataReader):  # type: ignore[misc]
        left = 3

        def get_next(self) -> dict[str, Array] | None:
            self.left -= 1
            return {"x": noise(2, 3, 8, 8, seed=self.left)} if self.left >= 0 else None

    source, target = str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx")
    if form == "dynamic":
        tools.quantize_dynamic(source, target, per_channel=per_channel, reduce_range=True)
    else:
        quant_format = getattr(tools.QuantFormat, form)
        tools.quantize_static(
            source, target, Reader(), quant_format=quant_format, per_channel=per_channel, reduce_range=True
        )
    sizes, error, _small = halved(onnx.load(target))
    assert sorted(sizes.values()) == [6, 8, 10]
    assert error <= 5e-2


# What the rules refuse, and small parts.


@pytest.mark.parametrize(
    ("op", "domain", "message"),
    [
        (Op("QLinearMatMul", ((2, 3), (), (), (3, 4), (5,), (), (), ()), ((2, 4),)), "", r"shape \(5,\)"),
        (Op("MatMulIntegerToFloat", ((2, 3), (3, 4), (), (), (), (), (7,)), ((2, 4),)), VENDOR, "a bias of"),
    ],
)
def test_scales_that_do_not_fit_say_so(op: Op, domain: str, message: str) -> None:
    with pytest.raises(Misfit, match=message):
        relate(op, domain)


def test_an_ordered_or_partial_block_is_held() -> None:
    attrs = {"K": 64, "N": 6, "block_size": 16}
    for shapes, settings in (
        (((5, 64), (6, 4, 8), (6, 4), None, (64,)), attrs),
        (((5, 40), (6, 3, 8), (6, 3)), {**attrs, "K": 40}),
        (((5, 48), (6, 3, 8), (6, 3), (6, 2)), {**attrs, "K": 48}),
    ):
        relation = relate(Op("MatMulNBits", shapes, ((5, 6),), settings), VENDOR)
        assert relation is not None
        assert relation.operands[0] is not None
        inner = relation.operands[0][1]
        assert isinstance(inner, Atom)
        assert inner.held


def test_points_are_numbers_where_they_are_known() -> None:
    graph = Graph(build(["q = QuantizeLinear(x, s, z)"], {"s": S, "z": Z}, {"x": [2]}, {"q": [2]}))
    [found] = graph.nodes
    assert point(found, Code(0, 1, 2), {"z": Z[None]}) == 117
    assert point(found, Code(0, 1, 2), {"z": np.uint8([1, 2])}) == "z"
    assert point(found, Code(0, 1, None), {}) == 0

"""Faults planted in models that round in steps: 8 and 4 bits, half precision, orders. None gets through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_prune.model.graph import Graph
from onnx_prune.model.tensors import read
from onnx_prune.proof.compare import difference
from onnx_prune.proof.prove import Proof, prove
from onnx_prune.proof.reference import Reference
from tests.graphs import build, node, noise
from tools.faults import PLANTERS, Cut, caught, pruned

Array = NDArray[Any]
VENDOR = "com.microsoft"


def eight(array: Array, kind: type[np.integer[Any]] = np.int8) -> Array:
    """Seven bits of the values, so that no kernel saturates."""
    return np.round(array / np.abs(array).max() * 60 + (128 if kind is np.uint8 else 0)).astype(kind)


def scales(*shape: int) -> Array:
    return np.random.default_rng([*shape]).uniform(0.01, 0.03, shape).astype(np.float32)


def points(*shape: int) -> Array:
    return np.random.default_rng([*shape]).integers(100, 150, shape).astype(np.uint8)


STEP, POINT = np.float32(0.02), np.uint8(120)


def qdq_conv() -> onnx.ModelProto:
    """Two convolutions, whose weights have a scale a channel, joined with a third before the last."""
    nodes: list[onnx.NodeProto | str] = [
        node("k1 = DequantizeLinear(w1, s1)", axis=0),
        node("k2 = DequantizeLinear(w2, s2)", axis=0),
        "k3 = DequantizeLinear(w3, s3)",
        "a = Conv(x, k1, b1)",
        "qa = QuantizeLinear(a, step, point)",
        "da = DequantizeLinear(qa, step, point)",
        "c = Conv(x, k2, b2)",
        "qc = QuantizeLinear(c, step, point)",
        "dc = DequantizeLinear(qc, step, point)",
        node("j = Concat(da, dc)", axis=1),
        "y = Conv(j, k3)",
    ]
    weights = {
        "w1": eight(noise(6, 3, 1, 1)),
        "w2": eight(noise(8, 3, 1, 1)),
        "w3": eight(noise(5, 14, 1, 1)),
    }
    codes = {"s1": scales(6), "s2": scales(8), "s3": STEP, "step": STEP, "point": POINT}
    biases = {"b1": noise(6), "b2": noise(8)}
    return build(nodes, weights | codes | biases, {"x": (1, 3, 32, 32)}, {"y": (1, 5, 32, 32)})


def qdq_linear() -> onnx.ModelProto:
    nodes: list[onnx.NodeProto | str] = [
        node("k1 = DequantizeLinear(w1, s1, z1)", axis=1),
        "k2 = DequantizeLinear(w2, s2)",
        "a = MatMul(x, k1)",
        "q = QuantizeLinear(a, step, point)",
        "d = DequantizeLinear(q, step, point)",
        "y = MatMul(d, k2)",
    ]
    weights = {"w1": eight(noise(4, 8), np.uint8), "w2": eight(noise(8, 5))}
    codes = {"s1": scales(8), "z1": points(8), "s2": STEP, "step": STEP, "point": POINT}
    return build(nodes, weights | codes, {"x": (4096, 4)}, {"y": (4096, 5)})


def qlinear_conv() -> onnx.ModelProto:
    nodes: list[onnx.NodeProto | str] = [
        "q = QuantizeLinear(x, step, point)",
        "a = QLinearConv(q, step, point, w1, s1, z1, t1, p1, b1)",
        "b = QLinearConv(a, t1, p1, w2, s2, z2, t2, p2)",
        "y = DequantizeLinear(b, t2, p2)",
    ]
    weights = {
        "w1": eight(noise(6, 3, 1, 1)),
        "w2": eight(noise(5, 6, 1, 1)),
        "b1": points(6).astype(np.int32),
    }
    codes = {"s1": scales(6), "z1": np.zeros(6, np.int8), "s2": STEP, "z2": np.int8(3)}
    images = {"t1": np.float32(0.05), "p1": np.uint8(120), "t2": np.float32(0.03), "p2": np.uint8(130)}
    every = weights | codes | images | {"step": STEP, "point": POINT}
    return build(nodes, every, {"x": (1, 3, 8, 8)}, {"y": (1, 5, 8, 8)})


def qlinear_matmul() -> onnx.ModelProto:
    nodes: list[onnx.NodeProto | str] = [
        "q = QuantizeLinear(x, step, point)",
        "a = QLinearMatMul(q, step, point, w1, s1, z1, t1, p1)",
        "b = QLinearMatMul(a, t1, p1, w2, s2, z2, t2, p2)",
        "y = DequantizeLinear(b, t2, p2)",
    ]
    weights = {"w1": eight(noise(4, 8)), "w2": eight(noise(8, 5))}
    codes = {"s1": scales(8), "z1": np.zeros(8, np.int8), "s2": STEP, "z2": np.int8(3)}
    images = {"t1": np.float32(0.05), "p1": np.uint8(120), "t2": np.float32(0.03), "p2": np.uint8(130)}
    every = weights | codes | images | {"step": STEP, "point": POINT}
    return build(nodes, every, {"x": (64, 4)}, {"y": (64, 5)}, opset=21)


def dynamic_linear() -> onnx.ModelProto:
    """As onnxruntime's dynamic quantization writes it: the range is taken at run time."""
    nodes: list[onnx.NodeProto | str] = []
    for j, (x, y) in enumerate((("x", "r"), ("r", "y"))):
        nodes += [
            f"q{j}, f{j}, p{j} = DynamicQuantizeLinear({x})",
            f"i{j} = MatMulInteger(q{j}, w{j}, p{j}, z{j})",
            f"c{j} = Cast(i{j})",
            f"g{j} = Mul(f{j}, s{j})",
            f"m{j} = Mul(c{j}, g{j})",
            f"{y if j else 'h'} = Add(m{j}, b{j})",
        ]
        nodes[-4] = node(f"c{j} = Cast(i{j})", to=onnx.TensorProto.FLOAT)
    nodes.insert(6, "r = Relu(h)")
    weights = {"w0": eight(noise(4, 8)), "w1": eight(noise(8, 5)), "b0": noise(8), "b1": noise(5)}
    codes = {"s0": scales(8), "z0": points(8).astype(np.int8) // 20, "s1": STEP, "z1": np.int8(-3)}
    return build(nodes, weights | codes, {"x": (4096, 4)}, {"y": (4096, 5)})


def dynamic_conv() -> onnx.ModelProto:
    nodes: list[onnx.NodeProto | str] = [
        "q0, f0, p0 = DynamicQuantizeLinear(x)",
        "i0 = ConvInteger(q0, w0, p0)",
        node("c0 = Cast(i0)", to=onnx.TensorProto.FLOAT),
        "m0 = Mul(c0, f0)",
        "r = Relu(m0)",
        "q1, f1, p1 = DynamicQuantizeLinear(r)",
        "i1 = ConvInteger(q1, w1, p1)",
        node("c1 = Cast(i1)", to=onnx.TensorProto.FLOAT),
        "y = Mul(c1, f1)",
    ]
    weights = {"w0": eight(noise(6, 3, 1, 1)), "w1": eight(noise(5, 6, 1, 1))}
    return build(nodes, weights, {"x": (1, 3, 8, 8)}, {"y": (1, 5, 8, 8)})


def four_bits() -> onnx.ModelProto:
    """MatMulNBits with blocks of 16; the hidden width is four of them."""
    rng = np.random.default_rng(0)

    def packed(*shape: int) -> Array:
        return rng.integers(0, 256, shape).astype(np.uint8)

    nodes: list[onnx.NodeProto | str] = [
        node("h = com.microsoft.MatMulNBits(x, w0, s0, z0)", K=16, N=64, bits=4, block_size=16),
        "r = Relu(h)",
        node("y = com.microsoft.MatMulNBits(r, w1, s1)", K=64, N=6, bits=4, block_size=16),
    ]
    weights = {
        "w0": packed(64, 1, 8),
        "s0": scales(64),
        "z0": packed(64),
        "w1": packed(6, 4, 8),
        "s1": scales(24),
    }
    return build(nodes, weights, {"x": (8, 16)}, {"y": (8, 6)}, domains=[VENDOR])


def half_conv() -> onnx.ModelProto:
    """Sums of 1,024 products in half precision, and two parts joined."""
    nodes: list[onnx.NodeProto | str] = [
        node("h = Cast(x)", to=onnx.TensorProto.FLOAT16),
        "a = Conv(h, w1, b1)",
        "b = Conv(h, w2)",
        node("j = Concat(a, b)", axis=1),
        "r = Relu(j)",
        "c = Conv(r, w3)",
        "e = Sigmoid(c)",
        node("y = Cast(e)", to=onnx.TensorProto.FLOAT),
    ]
    weights = {
        "w1": noise(1024, 3, 1, 1),
        "b1": noise(1024),
        "w2": noise(64, 3, 1, 1),
        "w3": noise(5, 1088, 1, 1) / 40,
    }
    halves = {name: array.astype(np.float16) for name, array in weights.items()}
    return build(nodes, halves, {"x": (1, 3, 32, 32)}, {"y": (1, 5, 32, 32)})


def ordered() -> onnx.ModelProto:
    """A detector in small: the ten best of 64 places, all of them twins, and a second network on those."""
    nodes: list[onnx.NodeProto | str] = [
        node("twins = Concat(x, x)", axis=2),
        "a = Conv(twins, w1, b1)",
        "r = Relu(a)",
        "c = Conv(r, w2)",
        "s = Add(c, tie)",
        "flat = Flatten(s)",
        "best, at = TopK(flat, ten)",
        "rows = Reshape(r, places)",
        "placed = Add(rows, position)",
        node("found = Gather(placed, at)", axis=2),
        "h = Reshape(found, columns)",
        "u = Conv(h, w3, b3)",
        "v = Relu(u)",
        "y = Conv(v, w4)",
    ]
    weights = {"w1": noise(16, 3, 1, 1), "b1": noise(16), "w2": noise(1, 16, 1, 1)}
    head = {"w3": noise(12, 16, 1, 1), "b3": noise(12), "w4": noise(4, 12, 1, 1)}
    shapes = {"ten": np.array([10]), "places": np.array([1, 16, 64]), "columns": np.array([1, 16, 1, 10])}
    places = {"tie": np.zeros((1, 1, 8, 8), np.float32), "position": noise(1, 1, 64)}
    return build(nodes, weights | head | shapes | places, {"x": (1, 3, 4, 8)}, {"y": (1, 4, 1, 10)})


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    f.__name__: f
    for f in (
        qdq_conv,
        qdq_linear,
        qlinear_conv,
        qlinear_matmul,
        dynamic_linear,
        dynamic_conv,
        four_bits,
        half_conv,
        ordered,
    )
}


def cut(name: str) -> Cut:
    found = pruned(Graph(MODELS[name]()))
    assert found is not None
    return found


def proved(found: Cut, small: onnx.ModelProto | None = None) -> Proof:
    return prove(found.coupling, found.plan, small or found.small)


@pytest.mark.parametrize("name", MODELS)
def test_no_planted_fault_is_proved(name: str) -> None:
    right = cut(name)
    assert proved(right).error <= 1e-4
    planted = [(kind, *fault) for kind, plant in PLANTERS.items() for fault in plant(right)]
    assert {kind for kind, _, _ in planted} >= {"rolled"}
    passed = [f"{kind} {where}" for kind, where, make in planted if not caught(right, make())]
    assert not passed


NUDGED = {"qdq_conv": "b1", "qdq_linear": "s1", "dynamic_linear": "b0", "ordered": "tie"}


@pytest.mark.parametrize("name", NUDGED)
def test_a_rounding_that_becomes_a_jump_is_no_fault(name: str) -> None:
    """A change far below the limit moves places and steps of a scale, and with them the outputs."""
    right = cut(name)
    [tensor] = [t for t in right.small.graph.initializer if t.name == NUDGED[name]]
    value = read(tensor)
    term = np.random.default_rng(0).uniform(0, 1e-7, value.shape)
    nudged = right.changed(tensor.name, (value * (1 + 5e-5) + term).astype(value.dtype))
    proof = proved(right, nudged)
    assert proof.pieces
    assert proof.error <= proof.tolerance == 1e-4
    wrong = Cut(right.coupling, right.plan, nudged)
    assert all(caught(wrong, make()) for _, make in PLANTERS["rolled"](wrong))


def test_half_precision_is_compared_in_single() -> None:
    right = cut("half_conv")
    reference = Reference(right.coupling, right.plan, None)
    names, at = reference.names(), reference.parting(right.small)
    assert at == ("c",)  # a Sigmoid reads it
    runs = reference.runs()
    [(_, coarse)] = reference.answers(right.small, runs)
    [(run, fine)] = reference.answers(right.small, reference.parted(runs, at), at)
    k = names.index("c")
    assert (coarse[k].dtype, fine[k].dtype) == (np.float16, np.float32)
    assert difference(coarse[k], runs[0].want[k]) > 1e-5
    assert difference(fine[k], run.want[k]) < 1e-6


def test_factors_are_halved_where_the_cpu_saturates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_prune.proof.reference.saturates", lambda: True)
    right = cut("qlinear_conv")
    reference = Reference(right.coupling, right.plan, None)
    at = reference.parting(right.small)
    assert at == ()
    runs = list(reference.parted(reference.runs(), at))
    [(_, small_answer)] = reference.answers(right.small, runs, at)
    [(_, small_whole)] = reference.answers(right.small, runs)
    assert difference(small_answer, runs[0].want) == 0
    assert difference(small_whole, runs[0].want) > 0

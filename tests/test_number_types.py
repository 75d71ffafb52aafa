"""One small network in every type of number that weights are stored in: cut, proved, bits untouched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_prune.pipeline import prune
from onnx_prune.plan import Plan
from tests.graphs import Array, initializers, node, noise

WEIGHTS = {"w": noise(32, 64), "b": noise(64), "v": noise(64, 4)}
PLAIN = ["h = MatMul(x, w)", "a = Add(h, b)", "r = Relu(a)", "y = MatMul(r, v)"]
WIDENED = ["h = MatMul(x, wf)", "a = Add(h, bf)", "r = Relu(a)", "y = MatMul(r, vf)"]
CODED = ["h = MatMul(x, wf)", "a = Add(h, b)", "r = Relu(a)", "y = MatMul(r, vf)"]
# Shape of the scales, axis and block size of each weight.
LAYOUTS: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    "one scale": (((), 1, 0), ((), 1, 0)),
    "a scale a column": (((64,), 1, 0), ((4,), 1, 0)),
    "blocks along the hidden layer": (((32, 4), 1, 16), ((4, 4), 0, 16)),
    "blocks along the rest": (((2, 64), 0, 16), ((64, 2), 1, 2)),
}


def network(
    nodes: list[str | onnx.NodeProto],
    weights: dict[str, Array],
    kind: int = TensorProto.FLOAT,
    *,
    opset: int = 21,
    fed: tuple[str, ...] = (),
) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info("x", kind, [5, 32])]
    for name in fed:
        own = helper.np_dtype_to_tensor_dtype(weights[name].dtype)
        inputs.append(helper.make_tensor_value_info(name, own, weights[name].shape))
    graph = helper.make_graph(
        [node(n) if isinstance(n, str) else n for n in nodes],
        "numbers",
        inputs,
        [helper.make_tensor_value_info("y", kind, [5, 4])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=11)


def stored_as(kind: Any) -> dict[str, Array]:
    return {name: array.astype(kind) for name, array in WEIGHTS.items()}


def integers(kind: str, layout: str) -> onnx.ModelProto:
    """Integers of two or four bits that DequantizeLinear reads."""
    rng = np.random.default_rng(0)
    info = ml_dtypes.iinfo(kind)
    weights: dict[str, Array] = {"b": WEIGHTS["b"]}
    reads = []
    for name, (scales, axis, block) in zip("wv", LAYOUTS[layout], strict=True):
        shape = WEIGHTS[name].shape
        weights[name] = rng.integers(info.min, info.max, shape, endpoint=True).astype(kind)
        weights[f"{name}s"] = rng.uniform(0.05, 0.1, scales).astype(np.float32)
        weights[f"{name}z"] = rng.integers(info.min, info.max, scales, endpoint=True).astype(kind)
        attrs = {"axis": axis} | ({"block_size": block} if block else {})
        reads.append(node(f"{name}f = DequantizeLinear({name}, {name}s, {name}z)", **attrs))
    return network([*reads, *CODED], weights, opset=21 if "4" in kind else 25)


def models() -> Iterator[Any]:
    yield pytest.param(network([*PLAIN], stored_as(np.float64), TensorProto.DOUBLE), 1e-12, id="double")
    half = stored_as(np.float16)
    yield pytest.param(network([*PLAIN], half, TensorProto.FLOAT16), 2e-3, id="half")
    fed = network([*PLAIN], half, TensorProto.FLOAT16, fed=("w", "b", "v"))
    yield pytest.param(fed, 2e-3, id="half, and inputs as well")
    casts = [node(f"{name}f = Cast({name})", to=TensorProto.FLOAT) for name in WEIGHTS]
    wide = network([*casts, *WIDENED], stored_as(ml_dtypes.bfloat16))
    yield pytest.param(wide, 1e-5, id="bfloat16 behind Cast")
    for kind in ("float8_e4m3fn", "float8_e5m2"):
        eighths = {name: (8 * WEIGHTS[name]).astype(kind) for name in "wv"}
        reads = ["wf = DequantizeLinear(w, s)", "vf = DequantizeLinear(v, s)"]
        weights = eighths | {"b": WEIGHTS["b"], "s": np.float32(1 / 8)}
        yield pytest.param(network([*reads, *CODED], weights), 1e-5, id=kind)
    for kind in ("int4", "uint4", "int2", "uint2"):
        for layout in LAYOUTS:
            yield pytest.param(integers(kind, layout), 1e-5, id=f"{kind}, {layout}")


def kept(plan: Plan, name: str, array: Array) -> Array:
    for axis, channels in plan.initializers[name]["keep"].items():
        array = np.take(array, channels, int(axis))
    return array


@pytest.mark.parametrize(("model", "tolerance"), list(models()))
def test_weights_are_cut_as_they_are_stored(model: onnx.ModelProto, tolerance: float) -> None:
    result = prune(model)
    assert result.model is not None
    assert result.report.proof is not None
    assert result.report.proof.error <= tolerance
    [group] = result.report.groups
    assert group.kept == group.size // 2  # inside every block, where these lie along it
    before, after = initializers(model), initializers(result.model)
    for name in WEIGHTS:
        assert after[name].dtype == before[name].dtype
        np.testing.assert_array_equal(after[name], kept(result.plan, name, before[name]))
        for value in result.model.graph.input:
            if value.name == name:
                assert tuple(d.dim_value for d in value.type.tensor_type.shape.dim) == after[name].shape


def test_what_no_kernel_runs_is_proved_in_single_precision() -> None:
    """Onnxruntime multiplies no bfloat16 on the CPU."""
    result = prune(network([*PLAIN], stored_as(ml_dtypes.bfloat16), TensorProto.BFLOAT16))
    assert result.report.proof is not None
    assert result.report.proof.single
    assert [(group.size, group.kept) for group in result.report.groups] == [(64, 32)]

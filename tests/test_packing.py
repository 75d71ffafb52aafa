"""Weights whose values share bytes (MatMulNBits): what goes means zero, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_prune.errors import InputError
from onnx_prune.model import files
from onnx_prune.runtime import Session
from onnx_prune.sparse.report import LeftAlone
from onnx_prune.sparse.sparsify import sparsify
from onnx_prune.sparse.sparsity import Sparsity
from onnx_prune.sparse.ticket import ticket
from onnx_prune.sparse.weights import PACKED
from tests.graphs import Array, build, initializers, node, noise

CALL = "com.microsoft.MatMulNBits"
ROWS, BLOCK = 6, 16


def integers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).integers(0, 256, shape).astype(np.uint8)


def packed(inner: int = 64, bits: int = 4, zero: Array | None = None, flat: bool = False) -> onnx.ModelProto:
    """One product of 6 outputs; scales may be a vector."""
    blocks = -(-inner // BLOCK)
    scales = np.abs(noise(ROWS, blocks))
    weights = {"w": integers(ROWS, blocks, BLOCK * bits // 8), "s": scales.ravel() if flat else scales}
    operands = "x, w, s"
    if zero is not None:
        weights["z"], operands = zero, "x, w, s, z"
    product = node(f"y = {CALL}({operands})", K=inner, N=ROWS, bits=bits, block_size=BLOCK)
    inputs: dict[str, Any] = {"x": (5, inner)}
    return build([product], weights, inputs, {"y": (5, ROWS)}, domains=["com.microsoft"])


def by_hand(model: onnx.ModelProto | None, inner: int, bits: int) -> tuple[Array, Array, Array, Array]:
    """The integers, their zero points and scales, one at a time, and the bits that fill up the last block."""
    assert model is not None
    found = initializers(model)
    blocks, each = -(-inner // BLOCK), 8 // bits
    zero = found.get("z")
    scale = found["s"].reshape(ROWS, blocks)
    values, points = np.zeros((2, ROWS, blocks * BLOCK), int)
    scales = np.zeros((ROWS, blocks * BLOCK))
    for n in range(ROWS):
        for k in range(blocks * BLOCK):
            b, at = divmod(k, BLOCK)
            values[n, k] = (int(found["w"][n, b, at // each]) >> bits * (at % each)) % (1 << bits)
            scales[n, k] = scale[n, b]
            if zero is None:
                points[n, k] = 1 << (bits - 1)
            elif zero.dtype == np.uint8:
                points[n, k] = (int(zero.reshape(ROWS, -1)[n, b // each]) >> bits * (b % each)) % (1 << bits)
            else:
                points[n, k] = zero[n, b]
    return values[:, :inner], points[:, :inner], scales[:, :inner], values[:, inner:]


CASES = [
    pytest.param(64, 4, None, False, id="the middle means zero"),
    pytest.param(64, 4, None, True, id="scales in a vector"),
    pytest.param(64, 4, integers(ROWS, 2), False, id="zero points"),
    pytest.param(64, 4, integers(ROWS * 2), True, id="zero points in a vector"),
    pytest.param(40, 4, None, False, id="a block that is not full"),
    pytest.param(40, 4, integers(ROWS, 2), False, id="a block that is not full, zero points"),
    pytest.param(64, 8, None, False, id="eight bits"),
    pytest.param(64, 8, integers(ROWS, 4), False, id="eight bits, zero points"),
    pytest.param(64, 4, np.float32(integers(ROWS, 4) % 16), False, id="zero points as floats"),
]


@pytest.mark.parametrize(("inner", "bits", "zero", "flat"), CASES)
def test_what_goes_means_zero(inner: int, bits: int, zero: Array | None, flat: bool) -> None:
    model = packed(inner, bits, zero, flat)
    result = sparsify(model, asked=Sparsity(ratio=0.6))
    values, points, scales, rest = by_hand(model, inner, bits)
    new, same_points, _, same_rest = by_hand(result.model, inner, bits)
    size, count = ROWS * inner, round(0.6 * ROWS * inner)
    [layer] = result.report.layers
    assert (layer.shape, layer.size, layer.asked, layer.zeros) == ((ROWS, inner), size, count, count)
    assert layer.zeros_before == (values == points).sum()
    assert (new == points).sum() == count
    keep = result.mask.bits["w"].keep()
    assert np.array_equal(new, np.where(keep, values, points))
    assert np.array_equal(points, same_points)
    assert np.array_equal(rest, same_rest)
    magnitude = np.abs(values - points) * scales
    assert magnitude[~keep].max() <= magnitude[keep].min() * (1 + 1e-6)
    assert result.report.zeros <= result.report.size <= result.report.params
    assert result.report.untouched == len(model.graph.initializer) - 1
    x = noise(5, inner)
    assert result.model is not None
    [got] = Session(result.model).run({"x": x})
    want = x @ (np.where(keep, values - points, 0) * scales).T
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("criterion", ["magnitude", "lamp", "erk", "random"])
def test_every_criterion(criterion: str) -> None:
    result = sparsify(packed(), asked=Sparsity(ratio=0.5, criterion=criterion))
    assert (result.report.zeros, result.report.asked) == (192, 192)


@pytest.mark.parametrize("pattern", ["2:4", "block:2x4", "channel"])
def test_every_pattern(pattern: str) -> None:
    ratio = None if pattern == "2:4" else 0.5
    result = sparsify(packed(), asked=Sparsity(pattern=pattern, ratio=ratio))
    new, points, _, _ = by_hand(result.model, 64, 4)
    gone = new == points
    assert result.report.asked == 192
    if pattern == "2:4":
        assert (gone.reshape(-1, 4).sum(1) >= 2).all()
    elif pattern == "channel":
        assert gone.all(axis=1).sum() == 3
    else:
        assert gone.reshape(3, 2, 16, 4).transpose(0, 2, 1, 3).all(axis=(2, 3)).sum() == 24


def test_scores_of_the_user_have_the_shape_of_the_matrix() -> None:
    scores = np.arange(ROWS * 40.0).reshape(ROWS, 40)
    model = packed(40)
    values, points, _, _ = by_hand(model, 40, 4)
    result = sparsify(model, asked=Sparsity(ratio=0.5, scores={"w": scores}))
    ranked = np.where(values == points, -np.inf, scores)
    assert ranked[~result.mask.bits["w"].keep()].max() <= ranked[result.mask.bits["w"].keep()].min()
    with pytest.raises(InputError, match=r"scores: 'w' has \[6, 48\], its weight \[6, 40\]"):
        sparsify(model, asked=Sparsity(ratio=0.5, scores={"w": np.zeros((6, 48))}))


def test_files_masks_and_tickets(tmp_path: Path) -> None:
    source, out, mask = tmp_path / "in.onnx", tmp_path / "out.onnx", tmp_path / "m.npz"
    onnx.save(packed(40), source)
    first = sparsify(source, out, Sparsity(ratio=0.5, validate=False), save_mask=mask)
    assert first.model is None
    again = sparsify(source, asked=Sparsity(apply_mask=mask))
    assert again.model is not None
    assert np.array_equal(initializers(onnx.load(out))["w"], initializers(again.model)["w"])
    further = sparsify(out, asked=Sparsity(ratio=0.8, parent_mask=mask))
    assert (further.report.zeros, further.report.layers[0].zeros_before) == (192, 120)
    with pytest.raises(InputError, match=r"'w' has shape \[6, 64\], the mask says \[6, 40\]"):
        sparsify(packed(64), asked=Sparsity(apply_mask=mask))
    made = ticket(source, source, asked=Sparsity(ratio=0.5), reinit=1)
    new, points, _, _ = by_hand(made.model, 40, 4)
    assert (made.kept, made.size) == (120, 240)
    assert np.array_equal(new[~made.mask.bits["w"].keep()], points[~made.mask.bits["w"].keep()])


def test_external_data_are_alike(tmp_path: Path) -> None:
    source, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    files.save(packed(1024), source, external="always")
    outside = sparsify(source, out, Sparsity(ratio=0.5))
    inside = sparsify(packed(1024), asked=Sparsity(ratio=0.5))
    assert (tmp_path / "out.onnx.data").exists()
    assert inside.model is not None
    assert np.array_equal(initializers(onnx.load(out))["w"], initializers(inside.model)["w"])
    assert outside.report.storage == inside.report.storage
    assert outside.report.storage.dense == ROWS * 512


def ordered() -> onnx.ModelProto:
    """Blocks in another order than what they are multiplied with."""
    model = packed()
    order = onnx.numpy_helper.from_array(np.arange(64, dtype=np.int32) // BLOCK, "g")
    model.graph.initializer.append(order)
    model.graph.node[0].input.extend(["", "g"])
    return model


def computed() -> onnx.ModelProto:
    """Zero points made at run time."""
    model = packed(zero=integers(ROWS, 2))
    cast = onnx.helper.make_node("Mul", ["z", "one"], ["z2"])
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.uint8(1), "one"))
    model.graph.node.insert(0, cast)
    model.graph.node[1].input[3] = "z2"
    return model


def shared() -> onnx.ModelProto:
    """Two layers that may mean other numbers by the same bytes."""
    model = packed()
    twin = onnx.NodeProto()
    twin.CopyFrom(model.graph.node[0])
    twin.output[0] = "y2"
    model.graph.node.append(twin)
    model.graph.output.append(onnx.helper.make_tensor_value_info("y2", onnx.TensorProto.FLOAT, (5, ROWS)))
    return model


def between() -> onnx.ModelProto:
    """A zero point that is no integer."""
    return packed(zero=np.full((ROWS, 4), 7.5, np.float32))


@pytest.mark.parametrize("make", [ordered, computed, shared, between])
def test_bytes_whose_zero_is_not_known_are_left_alone(make: Any) -> None:
    model = make()
    model.graph.node.append(node("o = MatMul(y, v)"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(noise(ROWS, 4), "v"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("o", onnx.TensorProto.FLOAT, (5, 4)))
    report = sparsify(model, asked=Sparsity(ratio=0.5)).report
    assert [layer.name for layer in report.layers] == ["v"]
    assert report.left_alone == (LeftAlone("w", ROWS * 4 * 8, PACKED),)

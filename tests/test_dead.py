"""Channels that say nothing are removed, and the answers stay as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_prune.cut import cut
from onnx_prune.dead import remove as pipeline
from onnx_prune.dead.clean import Dead, dead
from onnx_prune.dead.remove import remove_dead
from onnx_prune.errors import NothingToPrune, ProofFailed
from onnx_prune.model.graph import Graph
from onnx_prune.pipeline import Result
from onnx_prune.runtime import Session
from tests.graphs import Array, analyse, build, initializers, node, noise

PADS = [1, 1, 1, 1]


def params(model: onnx.ModelProto | None) -> int:
    assert model is not None
    return Graph(model).params()


def same(model: onnx.ModelProto, result: Result) -> None:
    """The answers are equal to 1e-5 of the largest."""
    assert result.model is not None
    rng = np.random.default_rng(7)
    shape = [d.dim_value or 3 for d in model.graph.input[0].type.tensor_type.shape.dim]
    feeds = {model.graph.input[0].name: rng.standard_normal(shape).astype(np.float32)}
    for want, got in zip(Session(model).run(feeds), Session(result.model).run(feeds), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def zeroed(array: Array, channels: list[int]) -> Array:
    array = array.copy()
    array[channels] = 0
    return array


def structured(model: onnx.ModelProto, weight: str, channels: list[int]) -> int:
    """Parameters left where these channels of a weight are cut, whatever they say."""
    coupling = analyse(model)
    [group] = [g for g in coupling.groups if any((m.weight, m.dim) == (weight, 0) for m in g.members)]
    plan = {group.atom: ~np.isin(np.arange(group.size), channels)}
    return params(cut(coupling, plan).whole())


def test_zero_filters_with_zero_biases() -> None:
    dead_ones = [1, 4, 5]
    weights = {
        "w1": zeroed(noise(8, 3, 3, 3), dead_ones),
        "b1": zeroed(noise(8), dead_ones),
        "w2": noise(4, 8, 3, 3),
    }
    nodes = [node("a = Conv(x, w1, b1)", pads=PADS), "r = Relu(a)", node("y = Conv(r, w2)", pads=PADS)]
    model = build(nodes, weights, {"x": ("n", 3, 6, 6)}, {"y": ("n", 4, 6, 6)})
    result = remove_dead(model)
    same(model, result)
    assert params(result.model) == structured(model, "w1", dead_ones)
    assert not result.report.notes


# Two filters of zeros make their biases, 3 and -1, and a ReLU 3 and 0 of them: what the next layer makes
# of 3 in the first goes into its bias.
def test_a_constant_goes_into_the_next_bias() -> None:
    first = zeroed(noise(4, 2, 1, 1), [0, 2])
    second = noise(3, 4, 2, 2)
    weights = {"w1": first, "b1": np.array([3, 0.5, -1, 0.5], np.float32), "w2": second, "b2": noise(3)}
    nodes = ["a = Conv(x, w1, b1)", "r = Relu(a)", "y = Conv(r, w2, b2)"]
    model = build(nodes, weights, {"x": ("n", 2, 5, 5)}, {"y": ("n", 3, 4, 4)})
    result = remove_dead(model)
    same(model, result)
    assert result.model is not None
    after = initializers(result.model)
    np.testing.assert_allclose(after["b2"], weights["b2"] + 3 * second[:, 0].sum((1, 2)), rtol=1e-6)
    assert np.array_equal(after["w2"], second[:, [1, 3]])
    assert params(result.model) == structured(model, "w1", [0, 2])
    assert result.report.notes == ("1 constant channel went into the biases of the layers that read them",)


@pytest.mark.parametrize(
    ("layer", "weight", "more"),
    [
        (node("y = Gemm(r, w2, b2)", transB=1, beta=0.5, alpha=2.0), noise(3, 4), {"b2": noise(3)}),
        (node("y = Gemm(r, w2)"), noise(4, 3), {}),
        (node("y = MatMul(r, w2)"), noise(4, 3), {}),
    ],
)
def test_products_with_and_without_biases(
    layer: onnx.NodeProto, weight: Array, more: dict[str, Array]
) -> None:
    weights = {"w1": zeroed(noise(4, 5), [0, 2]), "b1": noise(4), "w2": weight, **more}
    nodes = [node("a = Gemm(x, w1, b1)", transB=1), "r = Sigmoid(a)", layer]
    model = build(nodes, weights, {"x": ("n", 5)}, {"y": ("n", 3)})
    result = remove_dead(model)
    same(model, result)
    assert result.model is not None
    assert 2 in initializers(result.model)["w2"].shape


def test_a_padded_convolution_keeps_a_constant() -> None:
    weights = {"w1": zeroed(noise(4, 2, 1, 1), [0, 2]), "b1": np.array([3, 1, -1, 1], np.float32)}
    nodes = ["a = Conv(x, w1, b1)", "r = Relu(a)", node("y = Conv(r, w2)", pads=PADS)]
    model = build(nodes, weights | {"w2": noise(3, 4, 3, 3)}, {"x": ("n", 2, 5, 5)}, {"y": ("n", 3, 5, 5)})
    result = remove_dead(model)
    same(model, result)
    [group] = result.report.groups
    assert group.kept == 3  # the one that is zero after the ReLU went
    [note] = result.report.notes
    assert note == "1 constant channel stay: a padded convolution reads them, and zeros beside them"


def residual(dead_ones: list[int], *, clean: bool) -> onnx.ModelProto:
    """BatchNorm, ReLU, a depthwise convolution, a residual and a concatenation."""
    rng = np.random.default_rng(3)
    keep = np.ones(6, np.float32)
    keep[dead_ones] = 0 if clean else 1

    def norm(n: int, mask: Array) -> dict[str, Array]:
        scale, shift = rng.uniform(0.5, 1.5, n), rng.uniform(-0.5, 0.5, n)
        mean, var = rng.standard_normal(n), rng.uniform(0.5, 1.5, n)
        return {
            "s": (scale * mask).astype(np.float32),
            "o": (shift * mask).astype(np.float32),
            "m": mean.astype(np.float32),
            "v": var.astype(np.float32),
        }

    weights = {
        "w0": zeroed(noise(6, 3, 3, 3), dead_ones),
        "w1": zeroed(noise(6, 6, 3, 3), dead_ones),
        "wd": zeroed(noise(6, 1, 3, 3), dead_ones),
        "w2": noise(4, 12, 1, 1),
        "wl": noise(5, 4),
    }
    weights |= {f"{key}{j}": value for j in (0, 1, 2) for key, value in norm(6, keep).items()}
    nodes = [
        node("c0 = Conv(x, w0)", pads=PADS),
        "n0 = BatchNormalization(c0, s0, o0, m0, v0)",
        "r0 = Relu(n0)",
        node("c1 = Conv(r0, w1)", pads=PADS),
        "n1 = BatchNormalization(c1, s1, o1, m1, v1)",
        "sum = Add(r0, n1)",
        "r1 = Relu(sum)",
        node("d = Conv(r1, wd)", group=6, pads=PADS),
        "n2 = BatchNormalization(d, s2, o2, m2, v2)",
        "r2 = Relu(n2)",
        node("cat = Concat(r1, r2)", axis=1),
        "c2 = Conv(cat, w2)",
        "p = GlobalAveragePool(c2)",
        "f = Flatten(p)",
        node("y = Gemm(f, wl)", transB=1),
    ]
    return build(nodes, weights, {"x": ("n", 3, 8, 8)}, {"y": ("n", 5)})


def test_a_network_as_the_structured_cut() -> None:
    for seed in range(3):
        chosen = sorted(np.random.default_rng(seed).choice(6, 3, replace=False).tolist())
        model = residual(chosen, clean=True)
        result = remove_dead(model)
        same(model, result)
        assert params(result.model) == structured(model, "w0", chosen)


def test_norms_that_shift_zeros_are_respected() -> None:
    model = residual([1, 4], clean=False)
    result = remove_dead(model)
    same(model, result)
    assert result.report.after.params < result.report.before.params


def test_a_scale_of_zero_makes_a_constant_of_anything() -> None:
    ones = np.ones(4, np.float32)
    weights = {
        "w1": noise(4, 2, 1, 1),
        "s": np.array([0, 1, 1, 1], np.float32),
        "o": ones,
        "m": 0 * ones,
        "v": ones,
        "w2": noise(3, 4, 1, 1),
    }
    nodes = ["a = Conv(x, w1)", "n = BatchNormalization(a, s, o, m, v)", "y = Conv(n, w2)"]
    model = build(nodes, weights, {"x": ("n", 2, 5, 5)}, {"y": ("n", 3, 5, 5)})
    result = remove_dead(model)
    same(model, result)
    assert [(g.size, g.kept) for g in result.report.groups] == [(4, 3)]


def test_a_channel_that_nobody_reads_goes() -> None:
    second = noise(3, 4, 1, 1)
    second[:, 1] = 0
    nodes = ["a = Conv(x, w1)", "r = Relu(a)", "y = Conv(r, w2)"]
    weights = {"w1": noise(4, 2, 1, 1), "w2": second}
    model = build(nodes, weights, {"x": ("n", 2, 5, 5)}, {"y": ("n", 3, 5, 5)})
    result = remove_dead(model)
    same(model, result)
    assert params(result.model) == structured(model, "w1", [1])


def test_one_channel_stays() -> None:
    weights = {"w1": np.zeros((4, 5), np.float32), "b1": noise(4), "w2": noise(3, 4)}
    nodes = [node("a = Gemm(x, w1, b1)", transB=1), "r = Relu(a)", node("y = Gemm(r, w2)", transB=1)]
    model = build(nodes, weights, {"x": ("n", 5)}, {"y": ("n", 3)})
    result = remove_dead(model)
    same(model, result)
    assert [(g.size, g.kept) for g in result.report.groups] == [(4, 1)]


def test_a_shared_bias_gets_a_copy() -> None:
    weights = {
        "w1": zeroed(noise(4, 4), [0]),
        "b": np.full(4, 2, np.float32),
        "w2": noise(4, 4),
        "w3": noise(4, 4),
    }
    nodes = [node(f"h{j} = Gemm({x}, w{j}, b)", transB=1) for j, x in ((1, "x"), (2, "h1"), (3, "h2"))]
    model = build([*nodes, "y = Relu(h3)"], weights, {"x": ("n", 4)}, {"y": ("n", 4)})
    same(model, remove_dead(model))


def test_a_constant_that_is_none_beside_the_border_stays() -> None:
    """The depthwise convolution of a constant is one in the middle alone."""
    weights = {
        "w1": zeroed(noise(4, 2, 1, 1), [0]),
        "b1": np.full(4, 2, np.float32),
        "wd": noise(4, 1, 3, 3),
        "w2": noise(3, 4, 1, 1),
    }
    nodes = ["a = Conv(x, w1, b1)", node("d = Conv(a, wd)", group=4, pads=PADS), "y = Conv(d, w2)"]
    model = build(nodes, weights, {"x": ("n", 2, 5, 5)}, {"y": ("n", 3, 5, 5)})
    assert dead(analyse(model)).plan == {}


def test_halves_of_one_axis_are_told_apart() -> None:
    first = zeroed(noise(8, 3, 1, 1), [1, 2])
    weights = {"w1": first, "w2": noise(5, 4, 1, 1), "w3": noise(5, 4, 1, 1)}
    nodes = [
        "a = Conv(x, w1)",
        "r = Relu(a)",
        node("p, q = Split(r)", axis=1),
        "b = Conv(p, w2)",
        "s = Sigmoid(q)",
        "c = Conv(s, w3)",
        "y = Add(b, c)",
    ]
    model = build(nodes, weights, {"x": ("n", 3, 4, 4)}, {"y": ("n", 5, 4, 4)}, opset=11)
    result = remove_dead(model)
    same(model, result)
    assert [(g.size, g.kept) for g in result.report.groups] == [(4, 2)]


def test_nothing_is_dead() -> None:
    nodes = [node("a = Gemm(x, w1)", transB=1), "r = Relu(a)", node("y = Gemm(r, w2)", transB=1)]
    model = build(nodes, {"w1": noise(4, 5), "w2": noise(3, 4)}, {"x": ("n", 5)}, {"y": ("n", 3)})
    with pytest.raises(NothingToPrune) as error:
        remove_dead(model)
    assert str(error.value) == "nothing to prune: no channel is zero or constant"


def test_an_answer_that_moves_is_a_bug(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weights = {"w1": zeroed(noise(4, 5), [0]), "b1": noise(4), "w2": noise(4, 3)}
    nodes = [node("a = Gemm(x, w1, b1)", transB=1), "r = Sigmoid(a)", "y = MatMul(r, w2)"]
    model = build(nodes, weights, {"x": ("n", 5)}, {"y": ("n", 3)})

    def forgetful(*args: Any) -> Dead:
        found = dead(*args)
        added = next(t for t in found.model.graph.initializer if t.name == "y.bias")
        added.CopyFrom(onnx.numpy_helper.from_array(np.zeros(3, np.float32), "y.bias"))
        return found

    monkeypatch.setattr(pipeline, "dead", forgetful)
    with pytest.raises(ProofFailed, match="output y moved by"):
        remove_dead(model, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()

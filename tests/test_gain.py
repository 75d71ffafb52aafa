"""How far errors of layers reach, on a sum of two branches by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_prune.calibration.criteria import rank
from onnx_prune.calibration.data import Calibration, load
from onnx_prune.calibration.gain import gains, relative, weights
from onnx_prune.calibration.linear import Linear, linear
from onnx_prune.coupling import Coupling
from tests.graphs import Array, analyse, build, node, noise

FLOAT = onnx.TensorProto.FLOAT


def branches(
    *, share: float = 3.0, end: onnx.NodeProto | str = "y = Add(a, b)", kind: int = FLOAT
) -> tuple[Coupling, Calibration, list[Linear]]:
    """Two layers that read the same, the second `share` times as large, and their sum."""
    wide = noise(4, 200)
    model = build(
        ["a = MatMul(x, u)", "b = MatMul(x, v)", end],
        {"u": wide, "v": np.float32(share) * wide[:, ::-1]},
        {"x": ["n", 4]},
        {"y": ["n", "m"]},
    )
    model.graph.output[0].type.tensor_type.elem_type = kind
    coupling = analyse(model)
    rng = np.random.default_rng(0)
    sets = [{"x": rng.standard_normal((32, 4)).astype(np.float32)} for _ in range(2)]
    layers = [linear(coupling.graph, each) for each in coupling.graph.nodes]
    return coupling, load(sets, coupling.graph, {}), [layer for layer in layers if layer is not None]


def test_a_layer_that_makes_more_of_a_sum_has_more_of_the_gain() -> None:
    coupling, data, layers = branches()
    found = gains(coupling.graph, layers, data)
    inputs = data.feeds[0]["x"]
    parts = [inputs @ coupling.graph.array(name) for name in ("u", "v")]
    whole = sum(parts).var(0).mean()
    for layer, part in zip(layers, parts, strict=True):
        assert found[layer.node.index] == pytest.approx(part.var(0).mean() / whole, rel=0.1)


def test_the_last_layer_passes_all_on() -> None:
    coupling, data, layers = branches(end="y = Identity(b)")
    found = gains(coupling.graph, layers[1:], data)
    assert list(found.values()) == [pytest.approx(1.0, rel=0.1)]


def test_the_same_on_every_run() -> None:
    coupling, data, layers = branches()
    assert gains(coupling.graph, layers, data) == gains(coupling.graph, layers, data)


def test_outputs_that_are_no_floats_say_nothing() -> None:
    coupling, data, layers = branches(end=node("y = ArgMax(a)", axis=1), kind=onnx.TensorProto.INT64)
    found = gains(coupling.graph, layers[:1], data)
    assert found == {layers[0].node.index: 0.0}
    assert weights(found) == {layers[0].node.index: 1.0}


@pytest.mark.parametrize(
    ("after", "error"),
    [
        (np.array([[2.0], [3.0]]), 0.5),
        (np.array([[1.0], [np.nan]]), 0.0),
        (np.array([[1.0], [3.0], [3.0]]), 0.0),
    ],
)
def test_errors_of_outputs_by_hand(after: Array, error: float) -> None:
    """Outputs 1 and 3 vary by 1; one that is off by 1 in two samples is off by a half."""
    assert relative([[np.array([[1.0], [3.0]])]], [[after]]) == error


def test_weights_change_curves_and_not_the_order() -> None:
    nodes = ["h = MatMul(x, u)", "r = Relu(h)", "a = MatMul(r, v)", "b = MatMul(r, w)", "y = Add(a, b)"]
    model = build(
        nodes,
        {"u": noise(4, 6), "v": noise(6, 3), "w": np.float32(0.1) * noise(6, 3, seed=1)},
        {"x": ["n", 4]},
        {"y": ["n", "m"]},
    )
    coupling = analyse(model)
    rng = np.random.default_rng(0)
    sets = [{"x": rng.standard_normal((200, 4)).astype(np.float32)} for _ in range(2)]
    data = load(sets, coupling.graph, {})
    groups = [group for group in coupling.groups if group.size == 6]
    alike, weighed = (rank(coupling, groups, "obs", data, compared=flag)[0] for flag in (False, True))
    for group in groups:
        assert (np.argsort(alike[group.atom]) == np.argsort(weighed[group.atom])).all()
        assert weighed[group.atom].max() < alike[group.atom].max()

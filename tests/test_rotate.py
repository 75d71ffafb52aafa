"""Products whose factors get another basis: the model answers the same, and the first channels carry most."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_prune import prune
from onnx_prune.calibration.data import Calibration
from onnx_prune.calibration.rotate import rotate
from onnx_prune.cut import cut
from onnx_prune.errors import InputError
from onnx_prune.runtime import Session
from tests.graphs import Array, analyse, build, initializers, keeping, node, noise

ROWS, HEADS, SIZE = 40, 2, 6
WIDTH = HEADS * SIZE
X = {"x": np.concatenate([half := noise(1, ROWS // 2, 8), -half], axis=1)}  # of mean zero


def split(name: str, perm: list[int], width: int = HEADS) -> list[onnx.NodeProto | str]:
    """Heads of a projection, with its bias."""
    return [
        f"{name}m = MatMul(x, w{name})",
        f"{name}a = Add({name}m, b{name})",
        f"{name}r = Reshape({name}a, {'shape' if width == HEADS else 'single'})",
        node(f"{name}h = Transpose({name}r)", perm=perm),
    ]


def attention(
    *, queries: list[Any] | None = None, values: str = "Identity(vh)", keys: int = HEADS
) -> onnx.ModelProto:
    """Heads with or without something between a projection and its product."""
    nodes = [
        *split("q", [0, 2, 1, 3]),
        *split("k", [0, 2, 3, 1], keys),
        *split("v", [0, 2, 1, 3]),
        *(queries or ["qn = Identity(qh)"]),
        f"vn = {values}",
        "logits = MatMul(qn, kh)",
        "scaled = Div(logits, root)",
        node("p = Softmax(scaled)", axis=-1),
        "o = MatMul(p, vn)",
        node("t = Transpose(o)", perm=[0, 2, 1, 3]),
        "f = Reshape(t, flat)",
        "y = MatMul(f, wo)",
    ]
    weights = {f"w{name}": noise(8, WIDTH, seed=j) for j, name in enumerate("qkv")}
    weights |= {f"b{name}": noise(WIDTH, seed=j) for j, name in enumerate("qkv")}
    if keys == 1:
        weights |= {"wk": noise(8, SIZE), "bk": noise(SIZE)}
    weights |= {"wo": noise(WIDTH, 8), "root": np.array(2.0, np.float32), "gain": noise(SIZE)}
    weights |= {"turn": noise(ROWS, 1), "tiny": np.array(1e-5, np.float32)}
    weights |= {
        name: np.array(sizes, np.int64)
        for name, sizes in (
            ("shape", [0, 0, HEADS, SIZE]),
            ("single", [0, 0, 1, SIZE]),
            ("flat", [0, 0, WIDTH]),
        )
    }
    return build(nodes, weights, {"x": ["n", ROWS, 8]}, {"y": ["n", ROWS, 8]})


def turned(model: onnx.ModelProto, feeds: dict[str, Array]) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The model in its new basis, and the scores."""
    coupling = analyse(model)
    groups = [group for group in coupling.groups if group.atom not in coupling.heads]
    found = rotate(coupling, groups, Calibration((feeds,), 1, "data"))
    return (model, {}) if found is None else (found.model, dict(found.scores))


def test_attention_answers_the_same_in_another_basis() -> None:
    model = attention()
    before = model.SerializeToString()
    other, scores = turned(model, X)
    assert {name: len(score) for name, score in scores.items()} == {"wq:1": SIZE, "wv:1": SIZE}
    assert model.SerializeToString() == before != other.SerializeToString()
    [want], [got] = Session(model).run(X), Session(other).run(X)
    assert np.abs(got - want).max() < 1e-5 * np.abs(want).max()


PRODUCTS = {
    "queries and keys": build(
        [*split("q", [0, 2, 1, 3]), *split("k", [0, 2, 3, 1]), "y = MatMul(qh, kh)"],
        {"wq": noise(8, WIDTH), "wk": noise(8, WIDTH, seed=1), "bq": noise(WIDTH)}
        | {"bk": np.zeros(WIDTH, np.float32), "shape": np.array([0, 0, HEADS, SIZE], np.int64)},
        {"x": ["n", ROWS, 8]},
        {"y": ["n", HEADS, ROWS, ROWS]},
    ),
    "two projections": build(
        ["h = MatMul(x, w1)", "y = MatMul(h, w2)"],
        {"w1": noise(8, SIZE), "w2": noise(SIZE, 5)},
        {"x": ["n", ROWS, 8]},
        {"y": ["n", ROWS, 5]},
    ),
    "weights on the left": build(
        ["t = Transpose(x)", "s = Squeeze(t)", "h = MatMul(w1, s)", "y = MatMul(w2, h)"],
        {"w1": noise(SIZE, 8), "w2": noise(5, SIZE)},
        {"x": [1, ROWS, 8]},
        {"y": [5, ROWS]},
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("kept", [1, 3, 5])
def test_scores_are_the_error_of_the_cut(name: str, kept: int) -> None:
    other, scores = turned(PRODUCTS[name], X)
    [[group, score]] = scores.items()
    coupling = analyse(other)
    [found] = [g for g in coupling.groups if g.name == group]
    small = cut(coupling, keeping(found, *range(kept))).whole()
    [want], [got] = Session(other).run(X), Session(small).run(X)
    error = np.square(got - want, dtype=np.float64).sum() / np.square(want, dtype=np.float64).sum()
    assert error == pytest.approx(score[kept], abs=1e-6)
    assert score[0] == pytest.approx(1)
    assert (np.diff(score) <= 1e-12).all()


BETWEEN: dict[str, tuple[onnx.ModelProto, set[str]]] = {
    "positions": (attention(queries=["qn = Mul(qh, turn)"]), {"wv:1"}),
    "a gain for each dim": (attention(queries=["qn = Mul(qh, gain)"]), {"wv:1"}),
    "a norm": (
        attention(
            queries=[
                "sq = Mul(qh, qh)",
                node("ms = ReduceMean(sq)", axes=[-1]),
                "e = Add(ms, tiny)",
                "rms = Sqrt(e)",
                "qn = Div(qh, rms)",
            ]
        ),
        {"wv:1"},
    ),
    "an activation": (attention(values="Relu(vh)"), {"wq:1"}),
    "a key that two queries share": (attention(keys=1), {"wv:1"}),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_what_lies_between_sets_the_basis(name: str) -> None:
    model, free = BETWEEN[name]
    assert turned(model, X)[1].keys() == free


@pytest.mark.parametrize("read", ["Identity(qh)", "Relu(qh)"])
def test_a_tensor_that_is_read_elsewhere_sets_the_basis(read: str) -> None:
    model = attention()
    model.graph.node.extend([node(f"seen = {read}"), node("z = MatMul(seen, wz)")])
    model.graph.initializer.append(onnx.numpy_helper.from_array(noise(SIZE, 3), "wz"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("z", 1, None))
    assert "wq:1" in {group.name for group in analyse(model).groups}
    assert turned(model, X)[1].keys() == {"wv:1"}


def test_weights_behind_a_transpose_get_the_same_basis() -> None:
    folded, names = attention(), ["wq", "wk", "wv", "wo"]
    moved = attention()
    for tensor in moved.graph.initializer:
        if tensor.name in names:
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).T, tensor.name))
    for product in moved.graph.node:
        product.input[:] = [f"{name}t" if name in names else name for name in product.input]
    for name in reversed(names):
        moved.graph.node.insert(0, node(f"{name}t = Transpose({name})", perm=[1, 0]))
    (one, scores), (other, moved_scores) = turned(folded, X), turned(moved, X)
    assert {name: score.tolist() for name, score in moved_scores.items()} == {
        name.replace(":1", ":0"): score.tolist() for name, score in scores.items()
    }
    found = initializers(other)
    for name, value in initializers(one).items():
        same = found[name].T if name in names else found[name]
        assert np.abs(same - value).max() <= 1e-5 * np.abs(value).max()
    data = [{"x": noise(1, ROWS, 8, seed=j)} for j in range(8)]
    options: dict[str, Any] = {"data": data, "ratio": 0.5, "attention": "dims", "round_to": 1}
    smaller = [prune(model, **options).model for model in (folded, moved)]
    [want], [got] = (Session(model).run(X) for model in smaller if model is not None)
    assert np.abs(got - want).max() < 1e-5 * np.abs(want).max()


def test_half_of_the_dims_cost_less_than_by_selection() -> None:
    data = [{"x": noise(1, ROWS, 8, seed=j)} for j in range(12)]
    options: dict[str, Any] = {"data": data, "ratio": 0.5, "attention": "dims", "round_to": 1}
    ours = prune(attention(), **options).report
    theirs = prune(attention(), criterion="wanda", **options).report
    assert ours.drift is not None
    assert theirs.drift is not None
    assert ours.proof is not None
    assert ours.drift.relative_error < 0.8 * theirs.drift.relative_error
    assert any("2 groups turned" in note for note in ours.notes)


def test_a_plan_in_another_basis_is_replayed_in_it(tmp_path: Path) -> None:
    data, plan = [{"x": noise(1, ROWS, 8, seed=j)} for j in range(8)], tmp_path / "plan.json"
    options: dict[str, Any] = {"attention": "dims", "round_to": 1}
    made = prune(attention(), data=data, save_plan=plan, **options)
    again = prune(attention(), data=data, apply_plan=plan)
    assert [row.get("turned") for row in made.plan.groups] == [True, True]
    assert again.plan.groups == made.plan.groups
    assert made.model is not None
    assert again.model is not None
    assert made.model.graph == again.model.graph
    with pytest.raises(InputError) as caught:
        prune(attention(), apply_plan=plan)
    assert str(caught.value) == (
        f"the plan {plan} keeps the first channels of wq:1 in a basis that calibration data gave: give "
        "--data, with --criterion obs and --recover lstsq, as when it was made"
    )

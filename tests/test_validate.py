"""Drift and latency by hand, signatures, the user's samples and every message about them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_prune import runtime, samples
from onnx_prune.errors import InputError, ProofFailed
from onnx_prune.runtime import RunError, Session, missing_operators
from onnx_prune.validate import LEAST_RUNS, MOST_RUNS, measure_drift, measure_latency, same_signature

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def scaling(
    factor: Sequence[float], op: str = "Mul", shape: Sequence[int | str] = ("n", 2), out: int = FLOAT
) -> onnx.ModelProto:
    """One node: x op factor."""
    weight = numpy_helper.from_array(np.array(factor, np.float32), "w")
    nodes = [helper.make_node(op, ["x", "w"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", out, shape)],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


X = {"x": np.array([[1, 2], [3, 1]], np.float32)}


# Drift.


def test_drift_by_hand() -> None:
    """Outputs [[1 2] [3 1]] and [[1 1] [3 .5]]: |a - b| sums to 1.5, |a| to 7."""
    drift = measure_drift(scaling([1, 1]), scaling([1, 0.5]), [X])
    assert drift is not None
    assert drift.relative_error == pytest.approx(1.5 / 7)
    assert drift.cosine == pytest.approx((1 + 2 + 9 + 0.5) / np.sqrt(15 * 11.25))
    assert drift.top1 == 0.5  # the first row's winner is now a tie, which the lower index takes
    assert (drift.samples, drift.source) == (2, "random inputs")


def test_drift_sums_over_all_sets() -> None:
    """The mean is over samples, not over sets of unequal size."""
    sets = [{"x": X["x"][:1]}, {"x": np.repeat(X["x"][1:], 3, 0)}]
    drift = measure_drift(scaling([1, 1]), scaling([1, 0.5]), sets, "mine.npz")
    assert drift is not None
    assert drift.relative_error == pytest.approx((1 + 3 * 0.5) / (3 + 3 * 4))
    assert (drift.top1, drift.samples, drift.source) == (0.75, 4, "mine.npz")


def test_equal_models_do_not_drift() -> None:
    drift = measure_drift(scaling([1, 1]), scaling([1, 1]), [X])
    assert drift is not None
    assert (drift.relative_error, drift.top1) == (0, 1)
    assert drift.cosine == pytest.approx(1)


def test_all_zero_outputs() -> None:
    zero = measure_drift(scaling([0, 0]), scaling([0, 0]), [X])
    assert zero is not None
    assert (zero.relative_error, zero.cosine) == (0, 1)
    gone = measure_drift(scaling([0, 0]), scaling([1, 1]), [X])
    assert gone is not None
    assert (gone.relative_error, gone.cosine) == (np.inf, 0)


def test_no_class_scores_no_top1() -> None:
    drift = measure_drift(scaling([1], shape=("n", 1)), scaling([1], shape=("n", 1)), [{"x": X["x"][:, :1]}])
    assert drift is not None
    assert drift.top1 is None


def test_only_float_outputs_drift() -> None:
    proto = scaling([1, 1], "Greater", out=TensorProto.BOOL)
    assert measure_drift(proto, proto, [X]) is None


def test_new_infinities_are_a_bug() -> None:
    with pytest.raises(ProofFailed, match="output y is finite in the original and not in the pruned model"):
        measure_drift(scaling([1, 1], "Div"), scaling([0, 1], "Div"), [X])


# Latency.


class Clock:
    """A clock that every reading moves on by a step."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        """The next reading."""
        self.now += self.step
        return self.now


@pytest.mark.parametrize(("step", "runs"), [(1.0, LEAST_RUNS), (1e-6, MOST_RUNS), (0.05, 13)])
def test_latency_runs_within_its_budget(step: float, runs: int) -> None:
    """Two readings a model in every round, and from the fifth round on one for the budget."""
    latency = measure_latency(scaling([1, 1]), scaling([1, 1]), X, threads=1, clock=Clock(step))
    assert latency.runs == runs
    assert latency.threads == 1
    assert latency.before_ms == pytest.approx(1e3 * step)
    assert latency.after_min_ms == pytest.approx(1e3 * step)
    assert latency.speedup == pytest.approx(1)


def test_models_are_timed_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    first, second = scaling([1, 1]), scaling([2, 2])
    run = Session.run

    def noted(self: Session, *args: Any) -> Any:
        result = run(self, *args)
        order.append("A" if result[0][0, 0] == 1 else "B")
        return result

    monkeypatch.setattr(Session, "run", noted)
    measure_latency(first, second, X, clock=Clock(1.0))
    assert "".join(order) == "AABB" + "ABBA" * 2 + "AB"


# Signature.


def test_same_signature_is_silent() -> None:
    same_signature(scaling([1, 1]), scaling([2, 2]))


def test_renamed_output_is_a_bug() -> None:
    other = scaling([1, 1])
    other.graph.output[0].name = "z"
    with pytest.raises(ProofFailed, match="the outputs were y and now are z"):
        same_signature(scaling([1, 1]), other)


@pytest.mark.parametrize("other", [scaling([1, 1], shape=(3, 2)), scaling([1, 1], out=INT64)])
def test_other_shape_or_type_is_a_bug(other: onnx.ModelProto) -> None:
    with pytest.raises(ProofFailed, match="has another type or shape than before the cut"):
        same_signature(scaling([1, 1]), other)


def test_initializers_among_the_inputs_may_be_cut() -> None:
    models = [scaling([1, 1]), scaling([1])]
    for model, n in zip(models, (2, 1), strict=True):
        model.graph.input.append(helper.make_tensor_value_info("w", FLOAT, [n]))
    same_signature(*models)


# Samples.


def inputs(**shapes: Sequence[int | str]) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in shapes.items()]


def saved(folder: Path, **arrays: Any) -> Path:
    path = folder / "feeds.npz"
    np.savez(path, **arrays)
    return path


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def sizes(batches: list[dict[str, Any]]) -> list[int]:
    return [len(batch["x"]) for batch in batches]


def test_dynamic_batch_runs_in_chunks(tmp_path: Path) -> None:
    data = floats(19, 2)
    batches = samples.load(saved(tmp_path, x=data), inputs(x=["n", 2]))
    assert sizes(batches) == [8, 8, 3]
    assert np.array_equal(np.concatenate([b["x"] for b in batches]), data)


def test_static_batch_is_respected(tmp_path: Path) -> None:
    assert sizes(samples.load(saved(tmp_path, x=floats(5, 2)), inputs(x=[2, 2]))) == [2, 2]


def test_inputs_go_together_and_others_are_left_out(tmp_path: Path) -> None:
    path = saved(tmp_path, x=floats(3, 2), z=floats(3, 4), unused=floats(1))
    [batch] = samples.load(path, inputs(x=["n", 2], z=["n", "m"]))
    assert {name: array.shape for name, array in batch.items()} == {"x": (3, 2), "z": (3, 4)}


def test_single_input_takes_any_name(tmp_path: Path) -> None:
    [batch] = samples.load(saved(tmp_path, images=floats(3, 2)), inputs(x=["n", 2]))
    assert batch["x"].shape == (3, 2)


@pytest.mark.parametrize(
    ("arrays", "shapes", "message"),
    [
        ({"x": floats(3, 2)}, {"x": ["n", 2], "z": ["n", 2]}, "no array for input z; the file has x"),
        ({}, {"x": ["n", 2]}, "no array for input x; the file has none"),
        ({"x": floats(3, 5)}, {"x": ["n", 2]}, r"input x is \(n, 2\), the file has \(3, 5\)"),
        ({"x": floats(3)}, {"x": ["n", 2]}, r"input x is \(n, 2\), the file has \(3,\)"),
        ({"x": floats(3, 2).astype(float)}, {"x": ["n", 2]}, "input x is float32, the file has float64"),
        ({"x": floats(0, 2)}, {"x": ["n", 2]}, "no samples"),
        ({"x": floats(3, 2)}, {"x": [4, 2]}, "3 samples, but the model takes 4 at a time"),
        (
            {"x": floats(3, 2), "z": floats(4, 2)},
            {"x": ["n", 2], "z": ["n", 2]},
            "inputs have different numbers of samples: x 3, z 4",
        ),
        (
            {"x": floats(6, 2), "z": floats(6, 2)},
            {"x": [2, 2], "z": [3, 2]},
            r"the inputs' first dims differ \(\[2, 3\]\), they can't be stacked",
        ),
    ],
)
def test_samples_that_do_not_fit(
    tmp_path: Path, arrays: dict[str, Any], shapes: dict[str, list[int | str]], message: str
) -> None:
    path = saved(tmp_path, **arrays)
    with pytest.raises(InputError, match=message) as caught:
        samples.load(path, inputs(**shapes))
    assert str(caught.value).startswith(f"{path}: ")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        samples.load(tmp_path / "none.npz", inputs(x=[1]))


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a directory"):
        samples.load(tmp_path, inputs(x=[1]))


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 broken"])
def test_other_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "feeds.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"is not an \.npz file"):
        samples.load(path, inputs(x=[1]))


def test_npy_file(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", floats(3))
    with pytest.raises(InputError, match=r"holds one array; an \.npz file is needed"):
        samples.load(tmp_path / "one.npy", inputs(x=[1]))


def test_pickles_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, x=np.array([{}], object))
    with pytest.raises(InputError, match="without pickle"):
        samples.load(path, inputs(x=[1]))


@pytest.mark.parametrize(("batch", "sets"), [(1, 8), (3, 3), (8, 1), (20, 1)])
def test_random_batches_make_eight_samples(batch: int, sets: int) -> None:
    feeds = list(samples.random_batches(inputs(x=["n", 2]), {"x": (batch, 2)}))
    assert len(feeds) == sets
    assert sets == 1 or not np.array_equal(feeds[0]["x"], feeds[1]["x"])


# Sessions.


def test_large_weights_are_handed_over_as_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_INLINE", 0)
    monkeypatch.setattr(runtime, "_LARGE", 4)
    model = scaling([2, 3])
    before = model.SerializeToString()
    for optimize in (False, True):
        [y] = Session(model, optimize=optimize).run({"x": np.ones((1, 2), np.float32)})
        assert y.tolist() == [[2, 3]]
    assert model.SerializeToString() == before


@pytest.mark.parametrize(
    ("op", "domain", "opset", "expected"),
    [
        ("Bar", "com.foo", 17, "com.foo.Bar"),
        ("Frob", "", 17, "Frob"),
        ("Bar", "com.microsoft", 17, "com.microsoft.Bar"),
    ],
)
def test_missing_operators_are_named(op: str, domain: str, opset: int, expected: str) -> None:
    model = scaling([1, 1])
    model.graph.node[0].op_type, model.graph.node[0].domain = op, domain
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    with pytest.raises(RunError, match="onnxruntime refuses the model") as caught:
        Session(model)
    assert missing_operators(caught.value) == [expected]
    assert "\n" not in str(caught.value)


def test_missing_implementation_is_named() -> None:
    model = scaling([1, 1])
    kind = TensorProto.BFLOAT16
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = kind
    model.graph.node[0].CopyFrom(helper.make_node("Acos", ["x"], ["y"]))
    model.opset_import[0].version = 22
    with pytest.raises(RunError) as caught:
        Session(model)
    assert missing_operators(caught.value) == ["Acos"]

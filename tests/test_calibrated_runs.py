"""Whole runs with calibration data on the trained network that ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_prune import prune
from onnx_prune.errors import InputError, NotProved
from onnx_prune.pipeline import Result
from onnx_prune.runtime import Session
from onnx_prune.show import as_json
from tests.graphs import Array, build, noise
from tests.zoo import MODELS

TRAINED = MODELS / "fmnist_resnet20.onnx"


def sample(name: str, start: int, stop: int) -> Array:
    with np.load(MODELS / "fmnist_sample.npz") as file:
        return ((file[name][start:stop] / 255 - file["mean"]) / file["std"]).astype(np.float32)


def right(model: onnx.ModelProto | None) -> float:
    assert model is not None
    with np.load(MODELS / "fmnist_sample.npz") as file:
        labels = file["labels"][:500]
    answers = Session(model, optimize=True).run({"image": sample("test", 0, 500)})[0]
    return float((answers.argmax(1) == labels).mean())


def test_most_of_the_accuracy_comes_back() -> None:
    """Half of all channels, 64 images without labels: 94 % dense on these, 10 % as cut."""
    result = prune(TRAINED, data=[{"image": sample("calibration", 0, 64)}], round_to=1)
    report = result.report
    assert right(result.model) > 0.87
    assert (report.criterion, result.plan.criterion) == ("obs", "obs")
    assert report.proof is not None
    assert report.recovery is not None
    assert report.drift is not None
    assert report.drift_cut is not None
    assert report.recovery.number("refitted") == len(report.recovery.layers) == 21
    assert report.drift.cosine > 0.95 > report.drift_cut.cosine
    assert report.drift.source == "data"
    assert '"method": "lstsq"' in as_json(report)


def small(**options: Any) -> Result:
    """Two layers with a Sigmoid between."""
    model = build(
        ["h = Gemm(x, w1, b1)", "r = Sigmoid(h)", "y = Gemm(r, w2)"],
        {"w1": noise(5, 16), "b1": noise(16), "w2": noise(16, 3)},
        {"x": ["n", 5]},
        {"y": ["n", 3]},
    )
    return prune(model, **options)


def test_the_same_data_give_the_same_weights() -> None:
    first, second = (small(data="synthetic").model for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.SerializeToString() == second.SerializeToString()


def test_synthetic_data_are_called_so() -> None:
    report = small(data="synthetic").report
    assert report.recovery is not None
    assert report.recovery.synthetic
    assert report.drift is not None
    assert report.drift.source == "synthetic inputs"


def test_data_without_recovery() -> None:
    report = small(data="synthetic", recover="none", criterion="flap").report
    assert (report.recovery, report.drift_cut, report.criterion) == (None, None, "flap")


def test_recovery_of_an_unproved_model() -> None:
    report = small(data="synthetic", validate=False).report
    assert report.recovery is not None
    assert (report.proof, report.drift, report.drift_cut) == (None, None, None)


def test_recovery_after_a_plan(tmp_path: Path) -> None:
    small(save_plan=tmp_path / "plan.json")
    report = small(apply_plan=tmp_path / "plan.json", data="synthetic").report
    assert report.criterion == "l1"
    assert report.recovery is not None


def test_top_1_is_counted(tmp_path: Path) -> None:
    x = noise(8, 5)
    np.savez(tmp_path / "labels.npz", x=x, labels=np.zeros(8, int))
    accuracy = small(evaluate=tmp_path / "labels.npz").report.accuracy
    assert accuracy is not None
    assert accuracy.samples == 8


def test_few_samples_are_remarked_upon() -> None:
    report = small(data=[{"x": noise(5, 5)}]).report
    assert "5 samples to calibrate on are few: from 64 on more is recovered" in report.notes


def test_nothing_to_mend() -> None:
    report = small(data="synthetic", recover="bn").report
    assert "--recover bn found no layer that it could mend" in report.notes


def test_a_model_that_draws_random_numbers() -> None:
    model = build(
        ["d = RandomNormalLike(x)", "h = Add(x, d)", "a = MatMul(h, w1)", "r = Relu(a)", "y = MatMul(r, w2)"],
        {"w1": noise(5, 16), "w2": noise(16, 3)},
        {"x": ["n", 5]},
        {"y": ["n", 3]},
    )
    with pytest.raises(InputError, match="can't be recovered: it draws random numbers; --recover none"):
        prune(model, data=[{"x": noise(99, 5)}])


def test_what_runs_of_a_model_that_does_not_is_recovered() -> None:
    model = build(
        ["a = MatMul(x, w1)", "r = Relu(a)", "q = odd.Foo(x)", "h = MatMul(r, w2)", "y = Add(h, q)"],
        {"w1": noise(5, 16), "w2": noise(16, 3)},
        {"x": ["n", 5]},
        {"y": ["n", 3]},
        domains=["odd"],
    )
    with pytest.raises(NotProved, match=r"onnxruntime lacks odd\.Foo"):
        prune(model, data=[{"x": noise(99, 5)}])
    recovery = prune(model, data=[{"x": noise(99, 5)}], validate=False).report.recovery
    assert recovery is not None
    assert [(layer.layer, layer.kind) for layer in recovery.layers] == [("w2", "refitted")]

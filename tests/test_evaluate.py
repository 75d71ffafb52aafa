"""Top-1 by hand, and every message about labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_prune.calibration.evaluate import Accuracy, evaluate
from onnx_prune.errors import InputError
from onnx_prune.model.graph import Graph
from tests.graphs import Array, build

# Four samples of two classes as one-hot vectors; the second model takes 1 for 0.
SAMPLES = np.eye(2, dtype=np.float32)[[0, 1, 1, 0]]


def classifier(weight: Array, batch: int | str = "n", output: str = "y = MatMul(x, w)") -> onnx.ModelProto:
    return build([output], {"w": weight}, {"x": [batch, 2]}, {"y": [batch, 2]})


def saved(tmp_path: Path, **arrays: Array) -> Path:
    np.savez(tmp_path / "labels.npz", **arrays)
    return tmp_path / "labels.npz"


GOOD, BAD = np.eye(2, dtype=np.float32), np.array([[0, 1], [0, 1]], np.float32)


@pytest.mark.parametrize("batch", ["n", 2])
def test_four_samples_by_hand(tmp_path: Path, batch: int | str) -> None:
    path = saved(tmp_path, x=SAMPLES, labels=np.array([0, 1, 1, 1]))
    found = evaluate(Graph(classifier(GOOD, batch)), classifier(BAD, batch), path)
    assert found == Accuracy(0.75, 0.75, 4, str(path))
    path = saved(tmp_path, x=SAMPLES, labels=np.array([[0], [1], [1], [0]], np.uint8))
    assert evaluate(Graph(classifier(GOOD, batch)), classifier(BAD, batch), path).after == 0.5


def test_what_does_not_fill_a_batch_is_left_out(tmp_path: Path) -> None:
    path = saved(tmp_path, x=SAMPLES, labels=np.array([0, 1, 1, 1]))
    assert evaluate(Graph(classifier(GOOD, 3)), classifier(GOOD, 3), path).samples == 3


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": SAMPLES}, "no array 'labels'; the file has x"),
        (
            {"x": SAMPLES, "labels": np.zeros(4)},
            r"'labels' is float64 of shape \(4,\); whole numbers are needed",
        ),
        ({"x": SAMPLES, "labels": np.zeros(3, int)}, r"of shape \(3,\); .* one for each of 4 samples"),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, arrays: dict[str, Array], message: str) -> None:
    model = classifier(GOOD)
    with pytest.raises(InputError, match=message):
        evaluate(Graph(model), model, saved(tmp_path, **arrays))


def test_a_model_without_scores(tmp_path: Path) -> None:
    model = classifier(GOOD, output="y = ReduceSum(x)")
    path = saved(tmp_path, x=SAMPLES, labels=np.zeros(4, int))
    with pytest.raises(InputError, match="no output of the model has a score for each class of each sample"):
        evaluate(Graph(model), model, path)

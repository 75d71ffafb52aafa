"""A lottery experiment from end to end: a small MLP on scikit-learn's digits, three rounds, and controls.

    python -m tools.lottery [--seeds 5] [--share 0.5]

Needs scikit-learn, for its data alone.  The network is trained here in NumPy and exported to ONNX after
each round; masks and tickets are made by `onnx_prune` from the files.  Each round trains the ticket of
the round before from the initial weights.  Controls at the last round: as many weights of every layer at
random, and the same mask on other initial weights.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_prune.sparse import maskfile
from onnx_prune.sparse.sparsity import Sparsity
from onnx_prune.sparse.ticket import ticket

Array = NDArray[Any]
Weights = dict[str, Array]
SIZES = (64, 64, 32, 10)
EPOCHS, BATCH, RATE, MOMENTUM, ROUNDS = 40, 32, 0.05, 0.9, 3


@dataclass(frozen=True)
class Digits:
    """Images and labels, to train on and to test on."""

    x: Array
    y: Array
    test_x: Array
    test_y: Array


def digits() -> Digits:
    """1,797 images of 8 by 8 pixels; a third of them, the same ones every time, is for testing."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x, y = data.data[order].astype(np.float32) / 16, data.target[order]
    return Digits(x[600:], y[600:], x[:600], y[:600])


def initial(seed: int) -> Weights:
    """He et al. 2015's normal initialisation, biases zero."""
    rng = np.random.default_rng([seed, 1])
    weights: Weights = {}
    for j, (rows, columns) in enumerate(pairwise(SIZES)):
        weights[f"w{j}"] = (rng.standard_normal((rows, columns)) * np.sqrt(2 / rows)).astype(np.float32)
        weights[f"b{j}"] = np.zeros(columns, np.float32)
    return weights


def forward(weights: Weights, x: Array) -> list[Array]:
    """The input and the output of every layer."""
    values = [x]
    for j in range(len(SIZES) - 1):
        h = values[-1] @ weights[f"w{j}"] + weights[f"b{j}"]
        values.append(h if j == len(SIZES) - 2 else np.maximum(h, 0))
    return values


def train(weights: Weights, data: Digits, masks: Mapping[str, Array], seed: int) -> Weights:
    """Stochastic gradient descent with momentum on the cross-entropy; what is masked stays zero."""
    rng = np.random.default_rng([seed, 2])
    weights = {name: array.copy() for name, array in weights.items()}
    speed = {name: np.zeros_like(array) for name, array in weights.items()}
    for _ in range(EPOCHS):
        order = rng.permutation(len(data.x))
        for first in range(0, len(order), BATCH):
            batch = order[first : first + BATCH]
            values = forward(weights, data.x[batch])
            logits = values[-1] - values[-1].max(1, keepdims=True)
            slope = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            slope[np.arange(len(batch)), data.y[batch]] -= 1
            slope /= len(batch)
            for j in reversed(range(len(SIZES) - 1)):
                down = values[j].T @ slope, slope.sum(0)
                slope = (slope @ weights[f"w{j}"].T) * (values[j] > 0)
                for name, gradient in zip((f"w{j}", f"b{j}"), down, strict=True):
                    speed[name] = MOMENTUM * speed[name] - RATE * gradient
                    weights[name] += speed[name]
                    if name in masks:
                        weights[name] *= masks[name]
    return weights


def accuracy(weights: Weights, data: Digits) -> float:
    """Fraction of the test images that are named rightly."""
    return float((forward(weights, data.test_x)[-1].argmax(1) == data.test_y).mean())


def export(weights: Weights, path: Path) -> Path:
    """The network as a model."""
    last = len(SIZES) - 2
    nodes, value = [], "image"
    for j in range(len(SIZES) - 1):
        nodes.append(helper.make_node("Gemm", [value, f"w{j}", f"b{j}"], [f"h{j}"], f"layer{j}"))
        value = f"h{j}"
        if j < last:
            nodes.append(helper.make_node("Relu", [value], [f"r{j}"]))
            value = f"r{j}"
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", SIZES[0]])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["n", SIZES[-1]])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def weights_of(model: onnx.ModelProto) -> Weights:
    """The stored weights of a model."""
    return {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in model.graph.initializer}


def experiment(seed: int, data: Digits, share: float, folder: Path) -> dict[str, float]:
    """Accuracies of the dense network, of the ticket of each round, and of the controls."""
    start = initial(seed)
    first = export(start, folder / "initial.onnx")
    weights = train(start, data, {}, seed)
    found = {"dense": accuracy(weights, data)}
    parent: Path | None = None
    for j in range(1, ROUNDS + 1):
        trained = export(weights, folder / f"trained-{j}.onnx")
        asked = Sparsity(ratio=1 - (1 - share) ** j, parent_mask=parent)
        parent = folder / f"mask-{j}.npz"
        won = ticket(trained, first, asked=asked, save_mask=parent)
        weights = _retrain(won.model, data, parent, seed)
        found[f"ticket, round {j}"] = accuracy(weights, data)
        if j == ROUNDS:
            for name, control in (
                ("random mask", {"random_mask": seed}),
                ("re-initialised", {"reinit": seed}),
            ):
                file = folder / "control.npz"
                made = ticket(trained, first, asked=asked, save_mask=file, **control)
                found[name] = accuracy(_retrain(made.model, data, file, seed), data)
    return found


def _retrain(model: onnx.ModelProto, data: Digits, mask: Path, seed: int) -> Weights:
    keep = {name: bits.keep() for name, bits in maskfile.read(mask).bits.items()}
    return train(weights_of(model), data, keep, seed)


@click.command(help=__doc__)
@click.option("--seeds", default=5)
@click.option("--share", default=0.5, help="Of what remains goes in every round.")
def main(seeds: int, share: float) -> None:
    """Print a line a network: mean, least and most over the seeds."""
    data = digits()
    runs = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(experiment(seed, data, share, Path(folder)))
    print(f"{seeds} seeds, {ROUNDS} rounds, {share:.0%} of what remains in each")
    print("| network | weights left | accuracy: mean (least to most) |\n|---|---|---|")
    for name in runs[0]:
        values = np.array([run[name] for run in runs])
        rounds = 0 if name == "dense" else int(name[-1]) if name[-1].isdigit() else ROUNDS
        left = (1 - share) ** rounds
        print(f"| {name} | {left:.1%} | {values.mean():.1%} ({values.min():.1%} to {values.max():.1%}) |")


if __name__ == "__main__":
    main()

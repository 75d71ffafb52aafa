"""Small models, as files, for the tests of files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnx_prune.model import files

FLOAT = TensorProto.FLOAT
OUTSIDE = 2048  # elements of a tensor that goes to the data file


def value(name: str) -> onnx.ValueInfoProto:
    """A float tensor's name and type."""
    return helper.make_tensor_value_info(name, FLOAT, [OUTSIDE])


def weight(name: str, fill: float = 1.0, size: int = OUTSIDE) -> TensorProto:
    """An initializer with one value everywhere."""
    return numpy_helper.from_array(np.full(size, fill, np.float32), name)


def build(nodes: list[NodeProto] | None = None, **fields: object) -> ModelProto:
    """A model that computes (x + w) * s, or what `nodes` say."""
    if nodes is None:
        nodes = [
            helper.make_node("Add", ["x", "w"], ["a"], "add"),
            helper.make_node("Mul", ["a", "s"], ["y"]),
        ]
    initializers = fields.pop("initializers", [weight("w"), weight("s", 2.0, 1)])
    graph = helper.make_graph(nodes, "g", [value("x")], [value("y")], initializers)
    options = {"opset_imports": [helper.make_opsetid("", 17)], "ir_version": 8} | fields
    return helper.make_model(graph, **options)


def write(folder: Path, model: ModelProto, name: str = "in.onnx") -> Path:
    """The model as one file."""
    (folder / name).write_bytes(model.SerializeToString())
    return folder / name


def write_external(folder: Path, name: str = "in.onnx", fill: float = 1.0) -> Path:
    """The model of `build` with its data beside it."""
    files.save(build(initializers=[weight("w", fill), weight("s", 2.0, 1)]), folder / name, external="always")
    return folder / name


def run(path: Path) -> float:
    """The first element that onnxruntime computes for x = 0."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return float(session.run(None, {"x": np.zeros(OUTSIDE, np.float32)})[0][0])


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(os.listdir(folder))


@contextmanager
def as_nobody() -> Iterator[Path]:
    """A folder of one's own, without the powers of root."""
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as folder:
        if root:
            os.chown(folder, 65534, 65534)
            os.setresuid(65534, 65534, 0)
        try:
            yield Path(folder)
        finally:
            if root:
                os.setresuid(0, 0, 0)

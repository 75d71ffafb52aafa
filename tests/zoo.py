"""The shipped models: real topologies whose large weights are drawn anew when they are unpacked.

A packed model is an xz-compressed ModelProto.  Its metadata entry `zoo.weights` lists the tensors
that travel without data, as [position, mean, standard deviation, least, greatest]; `zoo.inputs`
describes valid inputs.  Tensors count in the order of the record: a graph's initializers, then
those in the attributes of its nodes, subgraphs where they stand.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

MODELS = Path(__file__).parent.parent / "models"
_SUFFIX = ".zoo.xz"
NAMES = sorted(path.name.removesuffix(_SUFFIX) for path in MODELS.glob("*" + _SUFFIX))


@cache
def _packed(name: str) -> tuple[bytes, list[list[float]], dict[str, dict[str, Any]]]:
    """The structure without its notes, and the two notes."""
    model = onnx.ModelProto.FromString(lzma.decompress((MODELS / (name + _SUFFIX)).read_bytes()))
    notes = {e.key: json.loads(e.value) for e in model.metadata_props if e.key.startswith("zoo.")}
    own = [entry for entry in model.metadata_props if not entry.key.startswith("zoo.")]
    del model.metadata_props[:]
    model.metadata_props.extend(own)
    return model.SerializeToString(), notes["zoo.weights"], notes["zoo.inputs"]


def load(name: str) -> onnx.ModelProto:
    """A new copy of a shipped model; the same weights on every machine."""
    structure, weights, _ = _packed(name)
    model = onnx.ModelProto.FromString(structure)
    seed = int.from_bytes(hashlib.sha256(f"{name}{_SUFFIX}".encode()).digest()[:4])
    found = list(_tensors(model.graph))
    for position, mean, spread, least, greatest in weights:
        tensor = found[int(position)]
        noise = np.random.default_rng([seed, int(position)]).standard_normal(tuple(tensor.dims), np.float32)
        values = np.clip(noise * np.float32(spread) + np.float32(mean), least, greatest)
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        tensor.raw_data = values.astype(kind).tobytes()
    return model


def feeds(name: str, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Valid inputs for a shipped model."""
    rng = np.random.default_rng(seed)
    return {key: _draw(spec, rng) for key, spec in _packed(name)[2].items()}


def _draw(spec: dict[str, Any], rng: np.random.Generator) -> NDArray[Any]:
    shape = spec["shape"]
    if "values" in spec:
        values = np.reshape(spec["values"], shape)
    elif "mean" in spec:
        values = rng.normal(spec["mean"], spec["std"], shape)
    else:
        values = rng.integers(spec["low"], spec["high"], shape, endpoint=True)
    return values.astype(spec["dtype"])


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _tensors(inner)

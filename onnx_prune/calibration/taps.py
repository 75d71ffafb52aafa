"""Values inside a model, read while inputs stream through it.

Only the nodes that a wanted tensor needs are run, and onnxruntime runs them as they stand: its own
rewriting could fold a tensor away or change it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune.model import tensors
from onnx_prune.model.graph import read
from onnx_prune.runtime import Feeds, Session

Array = NDArray[Any]


def stream(
    model: onnx.ModelProto, names: Sequence[str], feeds: Iterable[Feeds], folder: Path | None = None
) -> Iterator[dict[str, Array]]:
    """The values of some tensors for one set of inputs after another.

    Args:
        model: the model; it is not changed.
        names: tensors wanted: results of nodes, or the graph's inputs.
        feeds: sets of inputs.
        folder: where external data are.

    Yields:
        For each set of inputs the tensors by name.

    Raises:
        RunError: onnxruntime can't run the model.
    """
    given = {value.name for value in model.graph.input}
    inner = [name for name in dict.fromkeys(names) if name not in given]
    session = Session(part(model, model.graph.input, inner), folder) if inner else None
    for feed in feeds:
        values = dict(zip(inner, session.run(_needed(feed, session), inner), strict=True)) if session else {}
        yield {name: values[name] if name in values else feed[name] for name in names}


def _needed(feed: Feeds, session: Session) -> Feeds:
    return {name: value for name, value in feed.items() if name in session.inputs}


def part(
    model: onnx.ModelProto,
    given: Iterable[onnx.ValueInfoProto],
    wanted: Sequence[str],
    nodes: Sequence[onnx.NodeProto] | None = None,
) -> onnx.ModelProto:
    """The part of a model that computes some tensors from others.

    Args:
        model: the model.
        given: the tensors it may start from, with their types; those not needed are left out.
        wanted: the tensors that it ends in.
        nodes: the nodes to choose from, in order; all of the model's by default.
    """
    sources = {value.name: value for value in given}
    needed = set(wanted)
    chosen = []
    for node in reversed(model.graph.node if nodes is None else nodes):
        if not needed.isdisjoint(name for name in node.output if name not in sources):
            chosen.append(node)
            needed.update(read(onnx.GraphProto(node=[node])))
    smaller = onnx.ModelProto()
    tensors.copy_fields(model, smaller, skip=("graph", "training_info", "metadata_props"))
    graph = smaller.graph
    graph.name = model.graph.name
    graph.node.extend(reversed(chosen))
    stored: set[str] = set()
    for tensor in model.graph.initializer:
        if tensor.name in needed:
            graph.initializer.append(tensor)
            stored.add(tensor.name)
    graph.input.extend(v for name, v in sources.items() if name in needed and name not in stored)
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    return smaller


def described(values: Mapping[str, Array], names: Collection[str]) -> list[onnx.ValueInfoProto]:
    """Tensors of any shape, as inputs of a part of a model."""
    return [
        onnx.helper.make_tensor_value_info(name, _kind(values[name]), None)
        for name in names
        if isinstance(values[name], np.ndarray)
    ]


def _kind(value: Array) -> int:
    if value.dtype.kind in "OU":
        return int(onnx.TensorProto.STRING)
    return int(onnx.helper.np_dtype_to_tensor_dtype(value.dtype))

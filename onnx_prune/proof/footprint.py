"""How much memory a model takes when it is run, estimated from its shapes."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod as product

import onnx
from onnx import helper

from onnx_prune.coupling import Coupling
from onnx_prune.model import tensors

_FLOAT = onnx.TensorProto.FLOAT
LIBRARIES = 200 << 20  # bytes of memory that Python, onnx and onnxruntime take before any model


def footprint(coupling: Coupling) -> int:
    """Bytes of memory that a run of the whole model takes: its weights, and what is alive at a time."""
    return LIBRARIES + bytes_of(coupling, coupling.graph.initializers) + alive(coupling)


def together(coupling: Coupling, small: onnx.ModelProto) -> int:
    """Bytes of memory that the original and the cut model take side by side, optimised.

    onnxruntime lays weights out anew; a mapped file it gives back then, what it was handed it can't.
    """
    stored = coupling.graph.initializers
    copies = 1 if any(map(tensors.is_external, stored.values())) else 2
    after = sum(map(tensors.nbytes, small.graph.initializer))
    return LIBRARIES + copies * bytes_of(coupling, stored) + 2 * after + alive(coupling)


def alive(coupling: Coupling) -> int:
    """Bytes of the tensors between nodes, at the node where most are still to be read."""
    graph = coupling.graph
    last = {name: node.index for node in graph.nodes for name in node.inputs}
    gone: dict[int, list[str]] = {}
    for name, index in last.items():
        gone.setdefault(index, []).append(name)
    now = most = bytes_of(coupling, [value.name for value in graph.inputs])
    made: set[str] = {value.name for value in graph.inputs}
    for node in graph.nodes:
        if node.op != "Constant":
            made.update(node.outputs)
            now += bytes_of(coupling, node.outputs)
        most = max(most, now)
        now -= bytes_of(coupling, [name for name in gone.get(node.index, ()) if name in made])
    return most


def bytes_of(coupling: Coupling, names: Iterable[str]) -> int:
    """Bytes of some tensors at the analysed shapes; nothing for those of unknown shape."""
    known, types = coupling.shapes.known, coupling.shapes.types
    stored = coupling.graph.initializers
    return sum(
        tensors.nbytes(stored[name])
        if name in stored
        else product(known[name]) * helper.tensor_dtype_to_np_dtype(types.get(name, _FLOAT)).itemsize
        for name in names
        if name in stored or name in known
    )

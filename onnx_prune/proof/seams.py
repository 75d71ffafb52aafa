"""Two models compared from seam to seam, so that no rounding gets the chance to become a jump.

A *seam* is a tensor of floats that an operator reads which jumps (`onnx_prune.proof.order`).  There each
model is cut in two: what it computes is an output, to be compared, and what follows reads an input instead,
which both models are fed alike: with what the masked original computed.  So every piece of the cut model
has to answer, up to rounding, what the same piece of the masked original answers to the same question,
and if all pieces do, so does the whole, but for jumps that rounding explains.

Half precision is a jump at every operator, and its sums are as coarse as a small fault; in both models it
is widened to single precision.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from onnx_prune.model import tensors
from onnx_prune.proof.order import HALVES

Array = NDArray[Any]
_PREFIX = "onnx_prune.own."
_TYPED = {"dtype", "output_datatype", "output_dtype", "precision", "stash_type", "to"}
_HALF = {helper.tensor_dtype_to_np_dtype(kind).name for kind in HALVES}
_SINGLE = onnx.TensorProto.FLOAT
Seams = tuple[str, ...] | None


def own(name: str, at: Collection[str] | None) -> str:
    """How a tensor that the model computes is called once it is opened."""
    return _PREFIX + name if at and name in at else name


def opened(model: onnx.ModelProto, kinds: Mapping[str, int]) -> None:
    """Part the model at its seams, in place: whoever reads one reads an input of that name.

    Args:
        model: a cut or masked model; it has the original's node outputs.
        kinds: the seams, all of them results of nodes, with their element types
            (of half precision: before it was widened).
    """
    at = frozenset(kinds)
    graph = model.graph
    for node in graph.node:
        node.output[:] = [own(name, at) for name in node.output]
    for value in graph.output:
        value.name = own(value.name, at)
    for name, kind in kinds.items():
        kind = _SINGLE if kind in HALVES else kind
        graph.input.append(helper.make_tensor_value_info(name, kind, None))
    del graph.value_info[:]


def widened(model: onnx.ModelProto, folder: Path | None) -> None:
    """Compute in single precision, in place, what is computed in half."""
    for tensor in tensors.tensors(model.graph):
        if tensor.data_type in HALVES:
            array = tensors.read(tensor, folder).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    for graph in _graphs(model.graph):
        del graph.value_info[:]
        for value in (*graph.input, *graph.output):
            _widen(value.type)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.name in _TYPED and attribute.i in HALVES:
                    attribute.i = _SINGLE


def settled(model: onnx.ModelProto, values: Mapping[str, Array]) -> None:
    """Let what the model computes of constants be stored, in place, as it was in half precision.

    The cut stores some of it, such as one over the root of a head's size, and it was rounded.

    Args:
        model: a widened model.
        values: by the name of a result.
    """
    for node in model.graph.node:
        for k, name in enumerate(node.output):
            if name in values:
                node.output[k] = own(name, values)
                model.graph.initializer.append(onnx.numpy_helper.from_array(_single(values[name]), name))


def halved(model: onnx.ModelProto, factors: Mapping[str, Sequence[int]], folder: Path | None) -> None:
    """Halve signed 8-bit factors and their zero points, in place.

    On CPUs that saturate sums of two products in 16 bits, factors of 7 bits stay clear of it.

    Args:
        model: a cut or masked model.
        factors: by a node's first result, operands that are factors or zero points.
        folder: where external data are.
    """
    names = {
        node.input[k]
        for node in model.graph.node
        for k in factors.get(node.output[0], ())
        if k < len(node.input)
    }
    for tensor in model.graph.initializer:
        if tensor.name in names and tensor.data_type == onnx.TensorProto.INT8:
            tensors.fill(tensor, tensors.read(tensor, folder) >> 1)


def single(feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs for a widened model."""
    return {name: _single(value) for name, value in feeds.items()}


def _single(value: Any) -> Any:
    if isinstance(value, list):
        return [_single(item) for item in value]
    return value.astype(np.float32) if value.dtype.name in _HALF else value


def _widen(kind: onnx.TypeProto) -> None:
    if kind.HasField("tensor_type") and kind.tensor_type.elem_type in HALVES:
        kind.tensor_type.elem_type = _SINGLE
    for field in ("sequence_type", "optional_type"):
        if kind.HasField(field):
            _widen(getattr(kind, field).elem_type)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _graphs(body)

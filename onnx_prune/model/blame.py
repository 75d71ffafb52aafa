"""Whose fault it is that a model cannot be worked on: asked only after something went wrong."""

from __future__ import annotations

from pathlib import Path

import onnx

from onnx_prune.model import tensors
from onnx_prune.runtime import RunError, Session, missing_operators

_LARGE = 1024  # bytes of a weight that the checker need not see


def fault(model: onnx.ModelProto, folder: Path | None = None) -> str:
    """What onnxruntime finds wrong with a model, or onnx if that lacks operators; "" if nothing.

    Example:
        >>> from onnx import helper
        >>> nodes = [helper.make_node("Concat", ["x"], ["y"])]
        >>> graph = helper.make_graph(nodes, "g", [onnx.ValueInfoProto(name="x")], [])
        >>> print(fault(helper.make_model(graph)).split(":")[0])
        onnxruntime refuses the model
    """
    try:
        Session(model, folder)
    except RunError as error:
        if not missing_operators(error):
            return str(error)
    else:
        return ""
    try:
        onnx.checker.check_model(_light(model))
    except Exception as error:  # the checker's own, and whatever protobuf says of what it cannot serialize
        return f"onnx finds it invalid: {' '.join(str(error).split())[:300]}"
    return ""


def _light(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its large weights as inputs."""
    light = onnx.ModelProto()
    tensors.copy_fields(model, light, skip=("graph",))
    tensors.copy_fields(model.graph, light.graph, skip=("initializer",))
    there = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if not tensors.is_outside(tensor) and tensors.nbytes(tensor) < _LARGE:
            light.graph.initializer.append(tensor)
        elif tensor.name not in there:
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            light.graph.input.append(info)
    return light

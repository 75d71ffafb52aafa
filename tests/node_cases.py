"""ONNX's own cases of single nodes, collected once a process (it takes some 15 seconds)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases


@dataclass(frozen=True)
class NodeCase:
    """One node with its operands, ready for `commute.check`."""

    name: str
    op_type: str
    domain: str
    arrays: tuple[NDArray[Any] | None, ...]
    attrs: dict[str, Any]
    opset: int
    outputs: int


@cache
def node_cases() -> dict[tuple[str, str], list[NodeCase]]:
    """All cases of one node whose operands are plain tensors, by domain and operator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        collected = collect_testcases(None)
    found: dict[tuple[str, str], list[NodeCase]] = {}
    for case in collected:
        if case.model is None or not case.data_sets or len(case.model.graph.node) != 1:
            continue
        graph = case.model.graph
        [node] = graph.node
        feeds = dict(zip((value.name for value in graph.input), case.data_sets[0][0], strict=True))
        given = [feeds.get(name) for name in node.input]
        if not all(value is None or isinstance(value, np.ndarray | np.generic) for value in given):
            continue
        arrays = tuple(None if value is None else np.asarray(value) for value in given)
        attrs: dict[str, Any] = {}
        for attribute in node.attribute:
            value = helper.get_attribute_value(attribute)
            tensor = attribute.type == AttributeProto.TENSOR
            attrs[attribute.name] = numpy_helper.to_array(value) if tensor else value
        opset = next((imp.version for imp in case.model.opset_import if not imp.domain), 21)
        entry = NodeCase(case.name, node.op_type, node.domain, arrays, attrs, opset, len(node.output))
        found.setdefault((node.domain, node.op_type), []).append(entry)
    return found

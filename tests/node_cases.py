"""ONNX's own cases of single nodes, collected once a process (it takes some 15 seconds)."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases

from tests.commute import Case

_OLDEST = 7
_PLAIN = "biufO"  # types that numpy and onnxruntime exchange without help


@cache
def node_cases() -> dict[str, list[Case]]:
    """All cases of one node of ONNX's own domain whose operands are plain tensors, by operator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        collected = collect_testcases(None)
    found: dict[str, list[Case]] = {}
    for made in collected:
        if made.model is None or not made.data_sets or len(made.model.graph.node) != 1:
            continue
        graph = made.model.graph
        [node] = graph.node
        feeds = dict(zip((value.name for value in graph.input), made.data_sets[0][0], strict=False))
        if node.domain or any(name and name not in feeds for name in node.input):
            continue
        given = [
            numpy_helper.to_array(value) if isinstance(value, TensorProto) else value
            for value in map(feeds.get, node.input)
        ]
        if not all(
            a is None or (isinstance(a, np.ndarray | np.generic) and a.dtype.kind in _PLAIN) for a in given
        ):
            continue
        attrs: dict[str, Any] = {}
        for attribute in node.attribute:
            value = helper.get_attribute_value(attribute)
            tensor = attribute.type == AttributeProto.TENSOR
            attrs[attribute.name] = numpy_helper.to_array(value) if tensor else value
        # a case has the version in which its operator last changed, which may be before the oldest we read
        opset = max([_OLDEST, *(o.version for o in made.model.opset_import if not o.domain)])
        case = Case(node.op_type, given, attrs, opset, len(node.output))
        found.setdefault(node.op_type, []).append(case)
    return found

"""Which tensors hold integers that stand for numbers, and how they are read.

A quantized tensor is zero where it equals its zero point.  Rules say, operand by operand, how they
read integers (`relation.Code`); here that is collected for stored weights, so that masking can fill
in what means zero and criteria can score what the integers mean.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import prod as product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_prune.axes.relation import CARRIED, Code, Relation
from onnx_prune.model.nodes import Node

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Coded:
    """How one tensor is read, with its reader's operands by name ("" where there is none).

    Attributes:
        code: what the reader's rule says.
        scale: name of the scales.
        zero: name of the zero points.
        node: the reader.
    """

    code: Code
    scale: str
    zero: str
    node: Node


def moves(relation: Relation) -> bool:
    """Whether a node passes integers on as they are: it only moves, selects or compares them."""
    return relation.zero == CARRIED and not relation.reads and not relation.writes


def coded(node: Node, code: Code) -> Coded:
    """A node's way to read an operand or write a result."""
    return Coded(code, _name(node, code.scale), _name(node, code.zero), node)


def _name(node: Node, k: int | None) -> str:
    if k is None:
        return ""
    names: Sequence[str] = node.inputs if k >= 0 else node.outputs
    k = k if k >= 0 else ~k
    return names[k] if k < len(names) else ""


def point(node: Node, code: Code, values: Mapping[str, Array]) -> Hashable:
    """What stands for zero: a number where it is known, else the name of the tensor that says it.

    Two tensors with the same point mean zero by the same integer.
    """
    name = _name(node, code.zero)
    known = values.get(name)
    if not name or (known is not None and known.size == 0):
        return 0
    if known is not None and bool((known == known.flat[0]).all()):
        return int(known.flat[0])
    return name


def spread(values: Array, code: Code, shape: tuple[int, ...]) -> Array:
    """Scales or zero points written out so that they broadcast against the tensor they are for.

    >>> from onnx_prune.axes.relation import Code
    >>> spread(np.array([1, 2]), Code(0, 1, 2, axis=0), (2, 3)).shape
    (2, 1)
    >>> spread(np.array([[1, 2]]), Code(0, 1, 2, axis=1, block=2), (1, 4))
    array([[1, 1, 2, 2]])
    """
    if code.axis is None or values.size == 1:
        return values.reshape(()) if values.size == 1 else values
    if isinstance(code.axis, int) and values.ndim == len(shape):
        return np.repeat(values, code.block, code.axis).take(range(shape[code.axis]), code.axis)
    return values.reshape(lying(code.axis, values.shape, len(shape)))


def lying(axis: int | tuple[int, ...], shape: tuple[int, ...], rank: int) -> list[int]:
    """The dims of scales of `shape` that lie along one or more dims of a tensor of `rank` dims.

    >>> lying(1, (5,), 3), lying((0, 2), (2, 7), 3)
    ([1, 5, 1], [2, 1, 7])
    """
    dims = [1] * rank
    axes, sizes = ((axis,), (product(shape),)) if isinstance(axis, int) else (axis, shape)
    for j, n in zip(axes, sizes, strict=True):
        dims[j] = n
    return dims

"""Nodes that are a matrix product of their input's rows with constant weights.

A row is what one result is computed from: a patch of a convolution's input, a vector that a Gemm or
MatMul reads.  Whatever the operator, results are `rows @ matrix.T + bias`, for each group of a grouped
convolution on its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from math import ceil
from math import prod as product
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from onnx_prune.model.graph import Graph
from onnx_prune.model.nodes import Node

Array = NDArray[Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Linear(ABC):
    """A node as a matrix product.

    Attributes:
        node: the node.
        data: index of the operand that is computed at run time.
        weight: index of the constant operand.
        bias: index of the bias operand, None where the operator has none.
        groups: problems side by side, each with inputs and results of its own.
        stored: name of the weight as it is stored; the operand itself, or what a Transpose makes it from.
    """

    node: Node
    data: int
    weight: int
    bias: int | None
    groups: int
    stored: str

    @property
    def source(self) -> str:
        """Name of the tensor that rows are read from."""
        return self.node.inputs[self.data]

    @property
    def result(self) -> str:
        """Name of the result."""
        return self.node.outputs[0]

    @property
    @abstractmethod
    def geometry(self) -> tuple[object, ...]:
        """All that decides which rows are read from a tensor: nodes that agree in it share them."""

    @abstractmethod
    def count(self, shape: Shape) -> int:
        """How many rows an input of this shape has."""

    @abstractmethod
    def rows(self, x: Array, pick: Array | None = None) -> Array:
        """The rows of the input `x`, shape (groups, rows, width), or those with the indices `pick`."""

    @abstractmethod
    def results(self, y: Array, pick: Array | None = None) -> Array:
        """The result `y` in the order of the rows, shape (groups, rows, results)."""

    @abstractmethod
    def matrix(self, weight: Array) -> Array:
        """The weight as matrices, shape (groups, results, width)."""

    @abstractmethod
    def fold(self, matrix: Array, shape: Shape) -> Array:
        """Matrices in the layout in which the weight is stored; undoes `matrix`."""

    @abstractmethod
    def columns(self, dim: int, shape: Shape) -> Array:
        """For each column of the matrices the position on dim `dim` of a weight of this shape."""

    @abstractmethod
    def inner(self, shape: Shape) -> int:
        """The dim of a weight of this shape that carries the channels which are summed over."""

    def inner_operand(self, shape: Shape) -> int:
        """The same dim in the operand that the node reads."""
        dim = self.inner(shape)
        return dim if self.stored == self.node.inputs[self.weight] else len(shape) - 1 - dim

    @abstractmethod
    def results_of(self, shape: Shape) -> int:
        """How many results a row has, all groups together, for a weight of this shape."""

    @property
    def scale(self) -> float:
        """What the operator multiplies its bias with."""
        return 1.0

    def spread(self, bias: Array) -> Array:
        """A bias, shape (results,), in the shape in which it is added to the result."""
        return bias


@dataclass(frozen=True)
class Convolution(Linear):
    """Rows are patches (im2col).

    Attributes:
        kernel: extents of the kernel.
        strides: steps of the windows.
        dilations: steps inside of a window.
        pads: zeros before and after each space dim, as ONNX lists them; empty for `auto_pad`.
        same: "UPPER" or "LOWER" where `auto_pad` says so.
    """

    kernel: Shape
    strides: Shape
    dilations: Shape
    pads: Shape
    same: str

    @property
    def geometry(self) -> tuple[object, ...]:
        """See `Linear`."""
        return self.groups, self.kernel, self.strides, self.dilations, self.pads, self.same

    def _padding(self, space: Shape) -> list[tuple[int, int]]:
        """Zeros before and after each space dim."""
        if not self.same:
            return list(zip(self.pads, self.pads[len(space) :], strict=False))
        found = []
        for n, k, s, d in zip(space, self.kernel, self.strides, self.dilations, strict=True):
            total = max((ceil(n / s) - 1) * s + (k - 1) * d + 1 - n, 0)
            less = total // 2
            found.append((less, total - less) if self.same == "UPPER" else (total - less, less))
        return found

    def _spread_out(self, space: Shape) -> Shape:
        """Space dims of the result."""
        padded = (n + sum(pair) for n, pair in zip(space, self._padding(space), strict=True))
        return tuple(
            (n - (k - 1) * d - 1) // s + 1
            for n, k, s, d in zip(padded, self.kernel, self.strides, self.dilations, strict=True)
        )

    def count(self, shape: Shape) -> int:
        """See `Linear`."""
        return shape[0] * product(self._spread_out(shape[2:]))

    def rows(self, x: Array, pick: Array | None = None) -> Array:
        """See `Linear`."""
        rank = len(self.kernel)
        padding = self._padding(x.shape[2:])
        padded = np.pad(x, [(0, 0), (0, 0), *padding]) if any(map(any, padding)) else x
        extents = tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))
        windows = sliding_window_view(padded, extents, tuple(range(2, 2 + rank)))
        steps = [slice(None, None, step) for step in (*self.strides, *self.dilations)]
        windows = windows[(slice(None), slice(None), *steps)]  # (n, channels, *space, *kernel)
        patches = _at_places(windows, rank, pick)
        return patches.reshape(len(patches), self.groups, -1).transpose(1, 0, 2)

    def results(self, y: Array, pick: Array | None = None) -> Array:
        """See `Linear`."""
        found = _at_places(y, y.ndim - 2, pick)
        return found.reshape(len(found), self.groups, -1).transpose(1, 0, 2)

    def matrix(self, weight: Array) -> Array:
        """See `Linear`."""
        return weight.reshape(self.groups, weight.shape[0] // self.groups, -1)

    def fold(self, matrix: Array, shape: Shape) -> Array:
        """See `Linear`."""
        return matrix.reshape(shape)

    def columns(self, dim: int, shape: Shape) -> Array:
        """See `Linear`."""
        grid = np.indices(shape[1:])[dim - 1]
        return np.asarray(grid.ravel())

    def inner(self, shape: Shape) -> int:
        """See `Linear`."""
        return 1

    def results_of(self, shape: Shape) -> int:
        """See `Linear`."""
        return shape[0]


def _at_places(array: Array, rank: int, pick: Array | None) -> Array:
    """What stands at each place (n, *space) of (n, channels, *space, *rest): (places, channels, *rest)."""
    if pick is None:
        moved = np.moveaxis(array, 1, 1 + rank)
        return moved.reshape(-1, *moved.shape[1 + rank :])
    sample, *space = np.unravel_index(pick, (len(array), *array.shape[2 : 2 + rank]))
    at: tuple[Any, ...] = (sample, slice(None), *space)
    return np.asarray(array[at])


@dataclass(frozen=True)
class Product(Linear):
    """Rows are vectors along the axis that is summed over.

    Attributes:
        turned: whether the input has that axis last but one.
        weight_turned: whether the weight is stored (width, results), not (results, width).
        result_turned: whether the result has its own axis last but one.
        alpha: what the product is multiplied with.
        beta: what the bias is multiplied with.
    """

    turned: bool
    weight_turned: bool
    result_turned: bool
    alpha: float = 1.0
    beta: float = 1.0

    @property
    def geometry(self) -> tuple[object, ...]:
        """See `Linear`."""
        return (self.turned,)

    @property
    def scale(self) -> float:
        """See `Linear`."""
        return self.beta

    def count(self, shape: Shape) -> int:
        """See `Linear`."""
        return product(shape) // max(1, shape[-2] if self.turned and len(shape) > 1 else shape[-1])

    def rows(self, x: Array, pick: Array | None = None) -> Array:
        """See `Linear`."""
        return _vectors(x, self.turned, pick)

    def results(self, y: Array, pick: Array | None = None) -> Array:
        """See `Linear`."""
        return _vectors(y, self.result_turned, pick)

    def matrix(self, weight: Array) -> Array:
        """See `Linear`."""
        flat = weight.reshape(weight.shape[-2:])
        return (self.alpha * (flat.T if self.weight_turned else flat))[None]

    def fold(self, matrix: Array, shape: Shape) -> Array:
        """See `Linear`."""
        flat = matrix[0].T if self.weight_turned else matrix[0]
        return np.reshape(flat / self.alpha, shape)

    def columns(self, dim: int, shape: Shape) -> Array:
        """See `Linear`."""
        return np.arange(shape[dim])

    def inner(self, shape: Shape) -> int:
        """See `Linear`."""
        return len(shape) - (2 if self.weight_turned else 1)

    def results_of(self, shape: Shape) -> int:
        """See `Linear`."""
        return shape[-1] if self.weight_turned else shape[-2]

    def spread(self, bias: Array) -> Array:
        """See `Linear`."""
        return bias[:, None] if self.result_turned else bias


def _vectors(array: Array, turned: bool, pick: Array | None) -> Array:
    if turned and array.ndim > 1:
        array = array.swapaxes(-1, -2)
    flat = array.reshape(-1, array.shape[-1])
    return (flat if pick is None else flat[pick])[None]


def _conv(node: Node, data: int, dims: Shape, stored: str) -> Linear | None:
    kernel = dims[2:]
    attrs, ones = node.attrs, (1,) * len(kernel)
    auto = attrs.get("auto_pad", b"NOTSET").decode()
    return Convolution(
        node,
        data,
        1,
        2,
        int(attrs.get("group", 1)),
        stored,
        kernel,
        tuple(attrs.get("strides", ones)),
        tuple(attrs.get("dilations", ones)),
        tuple(attrs.get("pads", ())) if auto == "NOTSET" and "pads" in attrs else (0,) * 2 * len(kernel),
        auto.removeprefix("SAME_") if auto.startswith("SAME_") else "",
    )


def _gemm(node: Node, data: int, dims: Shape, stored: str) -> Linear | None:
    turned = [bool(node.attrs.get(name, 0)) for name in ("transA", "transB")]
    left = data == 0
    return Product(
        node,
        data,
        1 - data,
        2,
        1,
        stored,
        turned=turned[0] if left else not turned[1],
        weight_turned=not turned[1] if left else turned[0],
        result_turned=not left,
        alpha=float(node.attrs.get("alpha", 1.0)),
        beta=float(node.attrs.get("beta", 1.0)),
    )


def _matmul(node: Node, data: int, dims: Shape, stored: str) -> Linear | None:
    """A stack of different matrices is no single product, and a vector no matrix."""
    if product(dims[:-2]) != 1 or len(dims) < 2:
        return None
    left = data == 0
    return Product(
        node, data, 1 - data, None, 1, stored, turned=not left, weight_turned=left, result_turned=not left
    )


# By operator: the operands of which one is the weight, and how to read the node.
_READERS: dict[str, tuple[tuple[int, ...], Callable[[Node, int, Shape, str], Linear | None]]] = {
    "Conv": ((1,), _conv),
    "Gemm": ((0, 1), _gemm),
    "MatMul": ((0, 1), _matmul),
}
OPERATORS: Collection[str] = _READERS.keys()
_MATRICES = ("Gemm", "MatMul")


def linear(graph: Graph, node: Node, *, behind: bool = False) -> Linear | None:
    """The node as a matrix product, None where it is none, or both or none of its factors are constant.

    Nor are nodes inside of bodies: what they read is not seen from outside.

    Args:
        graph: the node's graph.
        node: the node.
        behind: whether a matrix that a Transpose makes from a constant is one as well.
    """
    if node.inner:
        return None
    places, reader = _READERS.get(node.op, ((), _conv))
    stored = {k: _stored(graph, node.inputs[k], behind and node.op in _MATRICES) for k in places}
    constant = [k for k in places if stored[k]]
    if len(constant) != 1 or node.inputs[1 - constant[0]] in graph.weights:
        return None
    name = stored[constant[0]]
    found = reader(node, 1 - constant[0], graph.dims(name), name)
    if isinstance(found, Product) and name != node.inputs[found.weight]:
        return replace(found, weight_turned=not found.weight_turned)
    return found


def _stored(graph: Graph, name: str, behind: bool) -> str:
    """The constant that an operand is, or that a Transpose turns into it for nobody else; "" without one."""
    if name in graph.weights:
        return name
    maker = graph.makers.get(name) if behind else None
    if maker is None or maker.op != "Transpose" or maker.inner or len(graph.uses.get(name, ())) != 1:
        return ""
    source = maker.inputs[0]
    return source if source in graph.weights and len(graph.dims(source)) == 2 and _turns(maker) else ""


def _turns(transpose: Node) -> bool:
    return list(transpose.attrs.get("perm", (1, 0))) == [1, 0]

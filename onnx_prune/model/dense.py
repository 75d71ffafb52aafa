"""Sparse tensors written out: to the pruner, and in what it writes, a zero is a weight like any other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, SparseTensorProto, TensorProto

from onnx_prune.errors import InputError
from onnx_prune.model import tensors
from onnx_prune.model.memory import require_fits
from onnx_prune.model.nodes import bodies_of, within

_INTEGERS = {TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64}


def check(sparse: SparseTensorProto, folder: Path | None) -> None:
    """Require that a sparse tensor says one value for each of its places, in order.

    Args:
        sparse: the tensor.
        folder: where external data are; None if the model has no folder.

    Raises:
        InputError: it does not, or is too large to be written out.

    Example:
        >>> from onnx import helper
        >>> values = helper.make_tensor("w", TensorProto.FLOAT, [1], [2.0])
        >>> places = helper.make_tensor("", TensorProto.INT64, [1], [6])
        >>> check(helper.make_sparse_tensor(values, places, [2, 3]), None)
        Traceback (most recent call last):
        onnx_prune.errors.InputError: sparse tensor 'w': index 6 is not inside its dims [2, 3]; \
re-export the model
    """
    _places(sparse, folder)


def read(sparse: SparseTensorProto, folder: Path | None = None) -> NDArray[Any]:
    """All values of a sparse tensor; what it does not store is zero, or an empty string.

    Places are one index each into the row-major elements, or one for each dimension (ONNX IR specification,
    `SparseTensorProto`).

    Args:
        sparse: the tensor.
        folder: where external data are; None if the model has no folder.

    Raises:
        InputError: as `check` does.

    Example:
        >>> from onnx import helper
        >>> values = helper.make_tensor("w", TensorProto.FLOAT, [2], [2.0, 3.0])
        >>> linear = helper.make_tensor("", TensorProto.INT64, [2], [1, 5])
        >>> read(helper.make_sparse_tensor(values, linear, [2, 3])).tolist()
        [[0.0, 2.0, 0.0], [0.0, 0.0, 3.0]]
        >>> places = helper.make_tensor("", TensorProto.INT64, [2, 2], [0, 1, 1, 2])
        >>> read(helper.make_sparse_tensor(values, places, [2, 3])).tolist()
        [[0.0, 2.0, 0.0], [0.0, 0.0, 3.0]]
    """
    places, values = _places(sparse, folder), tensors.read(sparse.values, folder)
    size = int(math.prod(sparse.dims))
    whole = np.full(size, "", object) if values.dtype.kind == "O" else np.zeros(size, values.dtype)
    whole[places] = values
    return whole.reshape(tuple(sparse.dims))


def written_out(model: ModelProto, folder: Path | None = None) -> tuple[ModelProto, list[str]]:
    """The model with what its graph stores sparsely stored densely, in bodies and Constant nodes too.

    Args:
        model: the model, which stays as it is.
        folder: where external data are.

    Returns:
        The model itself, or a copy of it where anything is sparse, and the names of what is.

    Raises:
        InputError: as `check` does.

    Example:
        >>> from onnx import helper
        >>> model = ModelProto()
        >>> values = helper.make_tensor("w", TensorProto.FLOAT, [1], [2.0])
        >>> places = helper.make_tensor("", TensorProto.INT64, [1], [1])
        >>> model.graph.sparse_initializer.extend([helper.make_sparse_tensor(values, places, [2])])
        >>> dense, names = written_out(model)
        >>> names, tensors.read(dense.graph.initializer[0]), len(model.graph.initializer)
        (['w'], array([0., 2.], dtype=float32), 0)
    """
    if not any(True for _ in tensors.sparse(model.graph)):
        return model, []
    copy = ModelProto()
    copy.CopyFrom(model)
    names = []
    for graph in _graphs(copy.graph):
        for sparse in graph.sparse_initializer:
            graph.initializer.append(_dense(sparse, folder))
            names.append(sparse.values.name)
        del graph.sparse_initializer[:]
        for node in graph.node:
            for attribute in node.attribute if node.op_type == "Constant" else ():
                if attribute.name == "sparse_value":
                    attribute.t.CopyFrom(_dense(attribute.sparse_tensor, folder))
                    attribute.name, attribute.type = "value", AttributeProto.TENSOR
                    attribute.ClearField("sparse_tensor")
                    names.append(node.output[0])
    return copy, names


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and the bodies in it."""
    yield graph
    for node in within(graph.node):
        yield from bodies_of(node)


def _dense(sparse: SparseTensorProto, folder: Path | None) -> TensorProto:
    tensor = TensorProto(name=sparse.values.name, data_type=sparse.values.data_type)
    tensors.fill(tensor, read(sparse, folder))
    return tensor


def _places(sparse: SparseTensorProto, folder: Path | None) -> NDArray[np.int64]:
    """Where in the row-major elements the values belong."""
    values, indices, dims = sparse.values, sparse.indices, list(sparse.dims)
    whole = TensorProto(name=values.name, data_type=values.data_type, dims=dims)
    tensors.nbytes(whole)  # which refuses dims that nothing has
    require_fits({values.name: tuple(dims)}, {values.name: values.data_type})
    for tensor in (values, indices) if sparse.HasField("indices") else (values,):
        tensors.check(tensor, folder)
    if len(values.dims) != 1:
        raise _wrong(sparse, f"its values have dims {list(values.dims)}, not one dimension")
    count = values.dims[0]
    if count == 0:
        return np.zeros(0, np.int64)
    if indices.data_type not in _INTEGERS:
        raise _wrong(sparse, "its indices are not signed integers")
    if list(indices.dims) not in ([count], [count, len(dims)]):
        want = f"{[count]} or {[count, len(dims)]}"
        raise _wrong(sparse, f"its indices have dims {list(indices.dims)}, {count} values need {want}")
    places = tensors.read(indices, folder).astype(np.int64)
    bounds = np.array(dims if places.ndim == 2 else [math.prod(dims)], np.int64)
    rows = places.reshape(count, len(bounds))
    outside = ((rows < 0) | (rows >= bounds)).any(axis=1)
    if outside.any():
        index = places[int(outside.argmax())].tolist()
        raise _wrong(sparse, f"index {index} is not inside its dims {dims}")
    linear = np.zeros(count, np.int64)
    for column, bound in zip(rows.T, bounds.tolist(), strict=True):
        linear = linear * bound + column
    falling = linear[1:] <= linear[:-1]
    if falling.any():
        index = places[int(falling.argmax()) + 1].tolist()
        raise _wrong(sparse, f"its index {index} is not above the one before it")
    return linear


def _wrong(sparse: SparseTensorProto, why: str) -> InputError:
    return InputError(f"sparse tensor {sparse.values.name!r}: {why}; re-export the model")

"""What zeros are worth on the disk: plain, compressed, and stored sparsely."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from math import prod as product
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune.draft import Draft
from onnx_prune.model import tensors

Array = NDArray[Any]
_INDEX = 8  # bytes of an index: SparseTensorProto has int64 alone
GZ_BELOW = 1 << 26  # bytes of weights up to which compressing them is worth the wait
_KINDS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16}


@dataclass(frozen=True, slots=True)
class Storage:
    """Bytes of the weights that take part.

    Attributes:
        dense: as they are stored.
        gz: compressed by zlib, as gzip does; None where there are too many to try.
        gz_before: the same before they were pruned.
        zstd: compressed by Zstandard; None where there are too many to try, or no package for it.
        zstd_before: the same before they were pruned.
        sparse: each tensor as `SparseTensorProto` where that is smaller.
        break_even: the density below which it is, for the element type that most weights have.
    """

    dense: int
    gz: int | None
    gz_before: int | None
    zstd: int | None
    zstd_before: int | None
    sparse: int
    break_even: float


def break_even(kind: int) -> float:
    """The density below which values with their indices take fewer bytes than all values.

    Args:
        kind: the element type.

    Example:
        >>> round(break_even(onnx.TensorProto.FLOAT), 3), break_even(onnx.TensorProto.FLOAT16)
        (0.333, 0.2)
    """
    width = tensors.dtype_of(onnx.TensorProto(data_type=kind)).itemsize
    return width / (width + _INDEX)


def sparse_bytes(tensor: onnx.TensorProto, zeros: int) -> int:
    """Bytes of a tensor's values and indices without its zeros, or of all values where that is less."""
    width = tensors.dtype_of(tensor).itemsize
    dense, count = tensors.nbytes(tensor), product(tensor.dims) - zeros
    return min(dense, count * (width + _INDEX)) if tensor.data_type in _KINDS else dense


def compressed(arrays: Iterable[Array]) -> tuple[int, int | None]:
    """Bytes of arrays compressed one after the other, by zlib and by Zstandard, both at their default level.

    Zstandard is Python's own from 3.14 on, and the extra `zstd` before; None without it.
    """
    gz, zstd, squeeze = 0, 0, _zstd()
    for array in arrays:
        data = tensors.payload(array).data
        gz += len(zlib.compress(data, 6))
        zstd += 0 if squeeze is None else len(squeeze(data))
    return gz, None if squeeze is None else zstd


def _zstd() -> Callable[[memoryview], bytes] | None:
    """What compresses by Zstandard, where there is such a thing."""
    for module in ("compression.zstd", "backports.zstd"):
        with suppress(ImportError):
            squeeze: Callable[[memoryview], bytes] = import_module(module).compress
            return squeeze
    return None


def store_sparsely(draft: Draft, names: Collection[str]) -> list[str]:
    """Make sparse initializers of the tensors that take fewer bytes so.

    Tensors that are inputs too stay as they are: a sparse one cannot be overridden.

    Args:
        draft: the model; it is changed.
        names: of those that take part.

    Returns:
        Names of the tensors that are stored sparsely now.
    """
    graph = draft.model.graph
    inputs = {value.name for value in graph.input}
    found: set[str] = set()
    for tensor in graph.initializer:
        name = tensor.name
        if name not in names or name in inputs or tensor.data_type not in _KINDS:
            continue
        make = draft.content.get(name)
        array = make() if make is not None else tensors.read(tensor)
        if sparse_bytes(tensor, int((array == 0).sum())) < tensors.nbytes(tensor):
            graph.sparse_initializer.append(_sparse(name, array))
            draft.content.pop(name, None)
            found.add(name)
    for j in reversed(range(len(graph.initializer))):
        if graph.initializer[j].name in found:
            del graph.initializer[j]
    return sorted(found)


def _sparse(name: str, array: Array) -> onnx.SparseTensorProto:
    flat = array.reshape(-1)
    places = np.flatnonzero(flat)
    sparse = onnx.SparseTensorProto(dims=array.shape)
    sparse.values.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(flat[places]), name))
    sparse.indices.CopyFrom(onnx.numpy_helper.from_array(places.astype(np.int64), f"{name}.indices"))
    return sparse

"""What stored weights stand for: criteria score numbers, not the integers that encode them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_prune.codes import Coded, spread
from onnx_prune.coupling import Coupling
from onnx_prune.model.graph import Graph, weight_of

Array = NDArray[Any]


def real(coupling: Coupling, key: str) -> Array:
    """The numbers that a weight stands for, in the weight's own dims.

    A weight that an operator reads through scales and zero points is dequantized, as far as these are
    stored; half precision comes as float32.  Packed bytes come as one number a value, so that the
    last dim is longer than the stored one.

    Args:
        coupling: the analysed graph.
        key: the weight's key in `Coupling.axes`.
    """
    graph = coupling.graph
    array, found = graph.array(weight_of(key)), coupling.codes.get(key)
    if found is not None:
        return _packed(graph, array, found) if found.code.bits else _dequantized(graph, array, found)
    return numbers(array)


def numbers(values: Array) -> Array:
    """Values of any float type, those of ml_dtypes too, as floats that numpy computes with.

    >>> numbers(np.array([1, 2], np.float16))
    array([1., 2.], dtype=float32)
    """
    # what comes from ml_dtypes is of numpy's kind "V"
    return values.astype(np.float32) if values.dtype.kind == "V" or values.dtype == np.float16 else values


def _stored(graph: Graph, name: str, default: float) -> Array:
    return graph.array(name).astype(np.float32) if name in graph.weights else np.array([default], np.float32)


def _dequantized(graph: Graph, array: Array, found: Coded) -> Array:
    zero = spread(_stored(graph, found.zero, 0), found.code, array.shape)
    scale = spread(_stored(graph, found.scale, 1), found.code, array.shape)
    return np.asarray((array.astype(np.float32) - zero) * scale)


def _packed(graph: Graph, array: Array, found: Coded) -> Array:
    """MatMulNBits: rows of blocks; the default zero point is the middle of the range."""
    rows, blocks = array.shape[:2]
    scale = _stored(graph, found.scale, 1)
    scale = scale.reshape(rows, blocks, 1) if scale.size == rows * blocks else scale.reshape(1, 1, 1)
    values = unpack(array, found.code.bits)[..., : found.code.block].astype(np.float32)
    return np.asarray((values - points(graph, array.shape, found)) * scale)


def points(graph: Graph, dims: tuple[int, ...], found: Coded) -> Array:
    """The zero points of packed bytes, to be broadcast against rows, blocks and values.

    Args:
        graph: the graph.
        dims: of the packed tensor.
        found: how it is read.
    """
    rows, blocks = dims[:2]
    bits = found.code.bits
    if found.zero not in graph.weights:
        return np.full((1, 1, 1), 1 << (bits - 1), np.float32)
    zeros = graph.array(found.zero)
    packed = zeros.dtype == np.uint8
    zeros = unpack(zeros.reshape(rows, -1), bits)[:, :blocks] if packed else zeros.reshape(rows, blocks)
    return zeros.astype(np.float32)[:, :, None]


def unpack(array: Array, bits: int) -> Array:
    """Unsigned values of `bits` bits from bytes along the last dim, the low bits first.

    >>> unpack(np.array([0x21, 0x43], np.uint8), 4)
    array([1, 2, 3, 4], dtype=uint8)
    >>> unpack(np.array([0b10_001_000, 0b1], np.uint8), 3)
    array([0, 1, 6, 0, 0], dtype=uint8)
    """
    if 8 % bits == 0:  # in a fifth of the memory
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        low = np.uint8((1 << bits) - 1)
        return np.asarray((array[..., None] >> shifts) & low).reshape(*array.shape[:-1], -1)
    plain = np.unpackbits(array, axis=-1, bitorder="little")
    length = plain.shape[-1] // bits * bits
    grouped = plain[..., :length].reshape(*array.shape[:-1], -1, bits)
    return np.asarray(np.packbits(grouped, axis=-1, bitorder="little")[..., 0])


def pack(values: Array, bits: int) -> Array:
    """What `unpack` was given, where values fill whole bytes: of 1, 2, 4 or 8 bits.

    >>> pack(np.array([1, 2, 3, 4], np.uint8), 4).tolist() == [0x21, 0x43]
    True
    """
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    grouped = values.reshape(*values.shape[:-1], -1, len(shifts)) << shifts
    return np.asarray(np.bitwise_or.reduce(grouped, axis=-1))

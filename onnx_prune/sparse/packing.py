"""Weights whose values share bytes, in rows of blocks with a scale and a zero point each (MatMulNBits).

To the pruner such a tensor is a matrix of integers, one an element; a weight that goes becomes its block's
zero point, and what fills up the last block keeps its bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_prune.coupling import Coupling
from onnx_prune.real import pack, points, unpack
from onnx_prune.sparse.orientation import Layout

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Packing:
    """How values share the bytes of a tensor, which has the dims rows, blocks, bytes of a block.

    Attributes:
        bits: width of a value; the first is in the lowest bits of a byte.
        block: values that share a scale.
        rows: of values.
        row: values in each; the last block may have room for more.

    Example:
        >>> packing = Packing(4, 2, 1, 3)
        >>> stored = np.array([[[0x21], [0x43]]], np.uint8)
        >>> packing.values(stored)
        array([[1, 2, 3]], dtype=uint8)
        >>> [hex(byte) for byte in packing.stored(np.uint8([[8, 2, 8]]), stored).ravel()]
        ['0x28', '0x48']
    """

    bits: int
    block: int
    rows: int
    row: int

    @property
    def layout(self) -> Layout:
        """How the values lie."""
        return Layout((((self.rows, "out"),), ((self.row, "sum"),)))

    def spread(self, blocks: Array) -> Array:
        """From one element a block, or all values of each block, to one a value of shape (rows, row)."""
        wide = np.broadcast_to(blocks, (self.rows, -(-self.row // self.block), self.block))
        return wide.reshape(self.rows, -1)[:, : self.row]

    def values(self, stored: Array) -> Array:
        """The integers, shape (rows, row), of a tensor's bytes."""
        return self.spread(unpack(stored, self.bits)[..., : self.block])

    def stored(self, values: Array, before: Array) -> Array:
        """The bytes with other integers.

        Args:
            values: shape (rows, row).
            before: the bytes as they were.
        """
        whole = unpack(before, self.bits)
        flat = whole[..., : self.block].reshape(self.rows, -1)
        flat[:, : self.row] = values
        whole[..., : self.block] = flat.reshape(self.rows, -1, self.block)
        return pack(whole, self.bits)


def packing(coupling: Coupling, name: str) -> Packing | None:
    """How the values of a stored tensor share bytes; None if they don't, or if their zeros are not known.

    Args:
        coupling: the analysed model.
        name: of the tensor.
    """
    found, graph = coupling.codes.get(name), coupling.graph
    if found is None or not found.code.row or 8 % found.code.bits:
        return None
    outside = {found.scale, found.zero} - graph.weights.keys() - {""}
    if outside or found.node.inputs[found.code.at] != name:
        return None
    if not np.isin(points(graph, graph.dims(name), found), np.arange(1 << found.code.bits)).all():
        return None  # a float between two integers
    return Packing(found.code.bits, found.code.block, graph.dims(name)[0], found.code.row)

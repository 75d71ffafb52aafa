"""The stored tensors that take part, by name or path: their bytes, the numbers they mean, and their zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune.coupling import Coupling
from onnx_prune.errors import InputError
from onnx_prune.mask import fill
from onnx_prune.model import tensors
from onnx_prune.real import points, real
from onnx_prune.sparse.bits import Bits
from onnx_prune.sparse.packing import Packing, packing
from onnx_prune.words import plain

Array = NDArray[Any]
Bool = NDArray[np.bool_]


class Stored:
    """Reads one tensor at a time; nothing is kept.

    Args:
        coupling: the analysed model.
    """

    def __init__(self, coupling: Coupling) -> None:
        self._coupling = coupling

    def proto(self, name: str) -> onnx.TensorProto:
        """The record of a tensor."""
        return self._coupling.graph.weights[name]

    def __contains__(self, name: str) -> bool:
        graph = self._coupling.graph
        return name in graph.weights and name not in graph.frozen

    def array(self, name: str) -> Array:
        """The values as they are stored: do not write into them."""
        return tensors.read(self.proto(name), self._coupling.graph.folder)

    def real(self, name: str) -> Array:
        """The numbers that they stand for, floats that numpy itself has."""
        return real(self._coupling, name)

    def plain(self, name: str) -> bool:
        """Whether these numbers are the stored values, not what a reader makes of them."""
        return name not in self._coupling.codes

    def zero(self, name: str) -> Array:
        """What means zero in it, to be broadcast: its zero points where it is quantized."""
        return fill(self._coupling, name).astype(tensors.dtype_of(self.proto(name)))

    def zeros(self, name: str, array: Array | None = None) -> Bool:
        """Where it is zero.

        Args:
            name: of the tensor.
            array: other values of it.
        """
        array = self.array(name) if array is None else array
        return np.asarray(array == self.zero(name))


class Unpacked(Stored):
    """As `Stored`, but values that share bytes come one an element (`onnx_prune.sparse.packing`)."""

    def packing(self, name: str) -> Packing | None:
        """How the values of a tensor share bytes, None if they don't."""
        return packing(self._coupling, name)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that masks of a tensor have."""
        found = self.packing(name)
        return tuple(self.proto(name).dims) if found is None else found.layout.shape

    def array(self, name: str) -> Array:
        """See `Stored.array`."""
        array, found = super().array(name), self.packing(name)
        return array if found is None else found.values(array)

    def real(self, name: str) -> Array:
        """See `Stored.real`."""
        array, found = super().real(name), self.packing(name)
        return array if found is None else found.spread(array)

    def zero(self, name: str) -> Array:
        """See `Stored.zero`."""
        found = self.packing(name)
        if found is None:
            return super().zero(name)
        points_of = points(self._coupling.graph, tuple(self.proto(name).dims), self._coupling.codes[name])
        return found.spread(points_of).astype(np.uint8)


def require_fit(coupling: Coupling, masks: Mapping[str, Bits], where: str) -> None:
    """Require that a model has the tensors of a mask.

    Args:
        coupling: the analysed model.
        masks: of each tensor.
        where: the mask's file, for the message.

    Raises:
        InputError: one is missing, or has another shape.
    """
    stored = Unpacked(coupling)
    for name, bits in masks.items():
        if name not in stored:
            raise InputError(f"{where}: the model has no initializer {plain(name)!r}; is it another network?")
        shape = stored.shape(name)
        if shape != bits.shape:
            raise InputError(
                f"{where}: {plain(name)!r} has shape {list(shape)}, the mask says {list(bits.shape)}"
            )
    if not masks:
        raise InputError(f"{where}: the mask has no tensors")

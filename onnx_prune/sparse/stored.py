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
from onnx_prune.real import real
from onnx_prune.sparse.bits import Bits
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


def require_fit(coupling: Coupling, masks: Mapping[str, Bits], where: str) -> None:
    """Require that a model has the tensors of a mask.

    Args:
        coupling: the analysed model.
        masks: of each tensor.
        where: the mask's file, for the message.

    Raises:
        InputError: one is missing, or has another shape.
    """
    stored = Stored(coupling)
    for name, bits in masks.items():
        if name not in stored:
            raise InputError(f"{where}: the model has no initializer {plain(name)!r}; is it another network?")
        shape = tuple(stored.proto(name).dims)
        if shape != bits.shape:
            raise InputError(
                f"{where}: {plain(name)!r} has shape {list(shape)}, the mask says {list(bits.shape)}"
            )
    if not masks:
        raise InputError(f"{where}: the mask has no tensors")
